"""Images before or after the text of their message: the order in which a prompt shows them.

Under a causal policy, text sees the images before it, and they do not see it; with the text first it is the other way
round. Training on both is the dual-order training of arXiv 2503.02597.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from itertools import pairwise
from typing import Literal, TypeAlias

from mutua.data.bulk import read_samples
from mutua.data.sample import ImagePart, Message, Part, Sample, TextPart
from mutua.data.samples import Samples

Order: TypeAlias = Literal["image-first", "text-first"]


def in_order(sample: Sample, order: Order) -> Sample:
    """The sample with the images of each user message before or after all of its text, in their own order.

    The sample itself where that is so already.
    """
    messages = tuple(_in_order(message, order) for message in sample.messages)
    if all(new is old for new, old in zip(messages, sample.messages, strict=True)):
        return sample
    return sample.model_copy(update={"messages": messages})


def _in_order(message: Message, order: Order) -> Message:
    is_image_first = order == "image-first"
    # Sorting keeps the order of parts that are equal in this.
    content = sorted(message.content, key=lambda part: isinstance(part, ImagePart) != is_image_first)
    if all(new is old for new, old in zip(content, message.content, strict=True)):
        return message
    return message.model_copy(update={"content": tuple(_apart(content, message.content))})


def _apart(content: Sequence[Part], before: Sequence[Part]) -> Iterator[Part]:
    """Texts that an image stood between keep a line break between them: templates put nothing there."""
    followed = {(id(one), id(other)) for one, other in pairwise(before)}
    for one, other in pairwise(content):
        if isinstance(one, TextPart) and isinstance(other, TextPart) and (id(one), id(other)) not in followed:
            is_apart = one.text[-1:].isspace() or other.text[:1].isspace()
            yield one if is_apart else one.model_copy(update={"text": f"{one.text}\n"})
        else:
            yield one
    yield content[-1]


def drawn_order(sample_key: str, epoch: int) -> Order:
    """Half of the samples each way, and each sample the other way in the next epoch."""
    first = blake2b(sample_key.encode(), digest_size=1).digest()[0]
    return "image-first" if (first + epoch) % 2 else "text-first"


class InOrder(Samples):
    """A source whose samples are all in one order."""

    def __init__(self, source: Sequence[Sample], order: Order) -> None:
        self.source, self.order = source, order

    def __len__(self) -> int:
        return len(self.source)

    def _sample(self, index: int) -> Sample:
        return in_order(self.source[index], self.order)

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        return [in_order(sample, self.order) for sample in read_samples(self.source, indices)]
