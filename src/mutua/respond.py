"""The one way to have a model answer: `mutua ask`, `mutua eval`, the study and the adapters for others all come here.

Works for every model of Transformers that generates text from pictures and text, with its processor.

Shape suffixes: B batch, N tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from torch import Tensor
from transformers import BatchFeature

from mutua.images import open_image
from mutua.models.processing import MutuaProcessor

Conversation: TypeAlias = Sequence[Mapping[str, Any]]
"""Messages in Transformers' chat format, pictures in their parts; the last one is from the user."""


@dataclass(frozen=True)
class Answer:
    """What a model said.

    Attributes:
        text: without control tokens and surrounding space; may be empty.
        finish_reason: "stop" where the model ended its reply, "length" where the limit on new tokens cut it.
        tokens: how many were said, the one that ends the reply included.
    """

    text: str
    finish_reason: Literal["stop", "length"]
    tokens: int


GREEDY: dict[str, Any] = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0}
"""Of `generate`, for answers that are measured: the likeliest token each time, whatever the model's own generation
config says for chats. A penalty on repetition, say, would fall on the letters of the options, too."""


def respond(
    model: Any,
    processor: Any,
    conversations: Sequence[Conversation],
    *,
    max_new_tokens: int,
    batch_size: int = 64,
    names: Sequence[str] = (),
    progress: Callable[[int], None] | None = None,
    **generate: Any,
) -> list[Answer]:
    """The model's next message in each conversation, in their order; greedy unless `generate` says otherwise.

    Args:
        conversations: those of like length share a batch, so that little of it is padding.
        max_new_tokens: of each reply. Never taken from an expected answer: a model that does not know when to stop
            would be helped by it.
        names: of the conversations, for errors; without them none is named.
        progress: called after every batch with the number of conversations done.
        **generate: for the model's `generate`.

    Raises:
        ValueError: a conversation cannot be encoded; the message names it.
    """
    answers: list[Answer | None] = [None] * len(conversations)
    by_length = sorted(range(len(conversations)), key=lambda place: length(conversations[place]))
    for start in range(0, len(by_length), batch_size):
        batch = by_length[start : start + batch_size]
        asked = [conversations[place] for place in batch]
        inputs = encode_conversations(asked, processor, [names[place] for place in batch] if names else ())
        replies = _generate(model, processor, inputs, max_new_tokens=max_new_tokens, **generate)
        for place, answer in zip(batch, replies, strict=True):
            answers[place] = answer
        if progress is not None:
            progress(start + len(batch))
    return [answer for answer in answers if answer is not None]


def length(conversation: Conversation) -> tuple[int, int]:
    """A conversation's length as far as it shows without a tokenizer: images, then characters."""
    parts = [part for message in conversation for part in _parts(message)]
    return sum(part["type"] == "image" for part in parts), sum(len(part.get("text", "")) for part in parts)


def _parts(message: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def encode_conversations(
    conversations: Sequence[Conversation], processor: Any, names: Sequence[str] = ()
) -> BatchFeature:
    """The processor's tensors for conversations that wait for a reply, padded on the left as `generate` needs them.

    Raises:
        ValueError: one cannot be encoded; the message begins with its name, if it has one.
    """
    try:
        return processor.apply_chat_template(
            chats_for(processor, conversations),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding_side": "left", "padding": True},
        )
    except ValueError as error:
        if len(conversations) == 1:
            raise ValueError(f"{names[0]}: {error}" if names and names[0] else str(error)) from error
        for place, conversation in enumerate(conversations):
            encode_conversations([conversation], processor, names[place : place + 1])
        raise


def chats_for(processor: Any, conversations: Sequence[Conversation]) -> list[list[Mapping[str, Any]]]:
    """Conversations for a processor's chat template, with pictures read as our own processor reads them: others would
    take transparency and a camera's turn otherwise, and fetch a URL.

    Raises:
        ImageError: a picture cannot be used.
    """
    if isinstance(processor, MutuaProcessor):
        return [list(conversation) for conversation in conversations]
    return [[_opened(message) for message in conversation] for conversation in conversations]


def _opened(message: Mapping[str, Any]) -> Mapping[str, Any]:
    content = message["content"]
    if isinstance(content, str):
        return message
    return {**message, "content": [_opened_part(part) for part in content]}


def _opened_part(part: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**part, "image": open_image(part["image"])} if "image" in part else part


def _generate(model: Any, processor: Any, inputs: BatchFeature, **generate: Any) -> list[Answer]:
    options = {"do_sample": False, **generate, "return_dict_in_generate": False}
    said_BN = model.generate(**to_model(model, inputs), **options)[:, inputs["input_ids"].shape[1] :]
    ends = generate.get("eos_token_id", model.generation_config.eos_token_id)
    ids = set(ends if isinstance(ends, (list, tuple)) else [ends])
    texts = processor.batch_decode(said_BN, skip_special_tokens=True)
    return [_answer(text, row, ids) for text, row in zip(texts, said_BN, strict=True)]


def to_model(model: Any, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inputs on the model's device, pixels in its precision."""
    return dict(BatchFeature(dict(inputs)).to(model.device, dtype=model.dtype))


def _answer(text: str, said_N: Tensor, ends: set[int]) -> Answer:
    """What a row says; behind the token that ends a reply there is only padding."""
    ids = said_N.tolist()
    end = next((place for place, token in enumerate(ids) if token in ends), None)
    if end is None:
        return Answer(text.strip(), "length", len(ids))
    return Answer(text.strip(), "stop", end + 1)
