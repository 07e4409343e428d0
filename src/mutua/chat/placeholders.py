"""Which tokens stand for pictures, clips and sounds, and where one picture ends and the next begins.

A chat template writes one placeholder a picture; the processor expands it to as many tokens as the picture has
features, with separators of the model's own around and between them. A token whose embedding is replaced by a feature
has the modality of its id; a separator is text.

Shape suffixes: B batch, N tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from mutua.chat.template import Span
from mutua.roles import Modality

_MODALITIES = {"image": Modality.IMAGE, "video": Modality.VIDEO, "audio": Modality.AUDIO}


def placeholders_of(processor: Any) -> dict[str, Modality]:
    """What a chat template writes for a picture, a clip or a sound, by the processor's own attributes."""
    texts = {getattr(processor, f"{name}_token", None): modality for name, modality in _MODALITIES.items()}
    return {text: modality for text, modality in texts.items() if text is not None}


def part_types_of(processor: Any) -> list[str]:
    """The types of content parts that a processor has an input for."""
    return ["text", *(name for name in _MODALITIES if getattr(processor, f"{name}_token", None) is not None)]


def feature_ids_of(processor: Any) -> dict[int, Modality]:
    """The ids of tokens whose embeddings are replaced by features, and of what.

    The tokenizer's word counts before the processor's, whose `image_token_id` may be the token that opens an image
    (Gemma 3). Clips that are expanded to image tokens (InternVL, SmolVLM) are images by their ids.
    """
    found: dict[int, Modality] = {}
    for name, modality in _MODALITIES.items():
        token = getattr(processor, f"{name}_token", None)
        index = getattr(processor.tokenizer, f"{name}_token_id", None)
        if index is None:
            index = getattr(processor, f"{name}_token_id", None)
        if index is None and token is not None:
            index = processor.tokenizer.get_vocab().get(token)
        if index is not None:
            found.setdefault(index, modality)
    return found


def modalities_of(ids_BN: Tensor, features: Mapping[int, Modality]) -> Tensor:
    """The modality of every token, by its id, (B, N)."""
    modality_BN = torch.full_like(ids_BN, int(Modality.TEXT))
    for index, modality in features.items():
        modality_BN = torch.where(ids_BN == index, int(modality), modality_BN)
    return modality_BN


def runs_of(ids: Sequence[int], features: Mapping[int, Modality]) -> list[Span]:
    """The runs (start, stop) of feature tokens of one id."""
    starts = [place for place, index in enumerate(ids) if index in features and (place == 0 or ids[place - 1] != index)]
    runs = []
    for start in starts:
        stop = start + 1
        while stop < len(ids) and ids[stop] == ids[start]:
            stop += 1
        runs.append((start, stop))
    return runs


_PROBE_SIZES = ((64, 64), (160, 64), (64, 240))  # pixels; of three shapes, as tiles and grids follow the shape


@dataclass(frozen=True)
class ImageForm:
    """How the tokens of one image look, learned from a processor by expanding probe images.

    Attributes:
        openings: the added tokens that may stand directly before an image's first feature token.
        closing: those that stand directly behind its last.
        length: feature tokens of an image, where probes of several shapes have the same number; else None.
    """

    openings: frozenset[tuple[int, ...]]
    closing: tuple[int, ...]
    length: int | None

    @classmethod
    @lru_cache(maxsize=8)
    def learn(cls, processor: Any) -> ImageForm:
        """Raises ValueError where probes differ in how they close."""
        image_ids = {index: m for index, m in feature_ids_of(processor).items() if m == Modality.IMAGE}
        added = processor.tokenizer.added_tokens_decoder.keys()
        openings, closings, lengths = set(), set(), set()
        for size in _PROBE_SIZES:
            out = processor(text=[processor.image_token], images=[[Image.new("RGB", size)]], add_special_tokens=False)
            ids = [int(index) for index in out["input_ids"][0]]
            places = [place for place, index in enumerate(ids) if index in image_ids]
            opening, closing = ids[: places[0]], ids[places[-1] + 1 :]
            texts = [place for place, index in enumerate(opening) if index not in added]
            openings.add(tuple(opening[texts[-1] + 1 if texts else 0 :]))
            closings.add(tuple(closing[: next((p for p, i in enumerate(closing) if i not in added), len(closing))]))
            lengths.add(len(places))
        if len(closings) > 1:
            raise ValueError(f"images of this processor end in several ways, {sorted(closings)}: give begins_item_BN.")
        return cls(frozenset(openings), closings.pop(), lengths.pop() if len(lengths) == 1 else None)

    def beginnings(self, ids: Sequence[int], runs: Sequence[Span]) -> list[int]:
        """The place of every image's first feature token, given the runs of feature tokens of images.

        With a fixed number of tokens an image, every so many; else a new image begins where, between two runs, one
        image is closed and another opened. Of two images with nothing at all between them, neither is known to end.
        """
        places = [place for start, stop in runs for place in range(start, stop)]
        if self.length is not None and len(places) % self.length == 0:
            return places[:: self.length]
        between = [tuple(ids[stop:start]) for (_, stop), (start, _) in pairwise(runs)]
        return [start for nth, (start, _) in enumerate(runs) if nth == 0 or self._parts(between[nth - 1])]

    def _parts(self, gap: tuple[int, ...]) -> bool:
        """Whether the tokens between two runs close an image and open another."""
        if gap[: len(self.closing)] != self.closing:
            return False
        rest = gap[len(self.closing) :]
        return any(not opening or rest[-len(opening) :] == opening for opening in self.openings)


def beginnings(ids: Sequence[int], features: Mapping[int, Modality], images: ImageForm | None) -> list[int]:
    """The place of the first feature token of every image; of other modalities, of every run."""
    runs = runs_of(ids, features)
    of_images = [run for run in runs if features[ids[run[0]]] == Modality.IMAGE]
    if images is None or not of_images:
        return [start for start, _ in runs]
    others = [start for start, _ in runs if features[ids[start]] != Modality.IMAGE]
    return sorted([*images.beginnings(ids, of_images), *others])
