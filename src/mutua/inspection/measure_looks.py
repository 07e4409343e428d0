"""What a model does with pictures, in numbers: what sees the question, what moves with it, where the answer looks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mutua.data.answer_box import Box, KnowsWhere
from mutua.data.sample import Sample
from mutua.evaluation.accuracy import spread
from mutua.inspection.attention_weights import AttentionWeights, attention_weights, image_to_question
from mutua.inspection.looks import keeps_patch_grid, where_it_looks
from mutua.inspection.movement import movement
from mutua.inspection.pointing import chance, points_at
from mutua.inspection.question_tokens import encode_asked
from mutua.models import MutuaProcessor

TO_QUESTION = "image to question"
COSINE, RELATIVE = "image movement, cosine", "image movement, relative L2"
POINTING, POINTING_BEST, POINTING_ROLLOUT = "pointing", "pointing, best layer", "pointing, rollout"
POINTING_CHANCE, POINTED = "pointing, chance", "pointing, questions"

_BATCH = 16


class LookRow(NamedTuple):
    """One number.

    Attributes:
        layer: of the language model, counted from 1; 0 is what goes into the first one; None means all of them.
        head: counted from 1; None is the mean over all.
        measure: one of the names above.
        value: a share from 0 to 1, a distance from 0 to 2, or for `POINTED` a count.
    """

    layer: int | None
    head: int | None
    measure: str
    value: float


def measure_looks(
    model: Any,
    processor: MutuaProcessor,
    source: Sequence[Sample],
    limit: int | None = None,
    validation: Sequence[Sample] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[LookRow]:
    """The numbers of a model on a source whose samples have a picture and a question each.

    - `TO_QUESTION`: the share of an image token's attention that goes to the question, by layer and head.
    - `COSINE`, `RELATIVE`: how far the states of image tokens move, by layer, if the question of another sample stands
      in the place of the own one.
    - `POINTING`, by layer, and `POINTING_ROLLOUT`: how often the patch that is looked at most, as the answer begins,
      lies on the cell of the object that it rests on; `POINTING_CHANCE` is what a random patch would reach, and
      `POINTED` the number of questions: those whose answer rests on one object. Left out where the source does not
      know where that is (`mutua.data.answer_box.KnowsWhere`) and for a connector that keeps no patch grid.
    - `POINTING_BEST`: of the layer that points best on `validation`.

    Args:
        limit: how many samples to take of each source, spread evenly over it; None takes all.
        validation: samples of another split to choose the layer on; None chooses none.
        progress: called after every batch with (samples done, samples in all).

    Raises:
        ValueError: fewer than two different questions, or samples without exactly one picture.
    """
    indices = spread(len(source), limit)
    others = _other_questions([source[index].question for index in indices])
    shares, cosines, distances = [], [], []
    pointing = _Pointing(model, source)
    for first in range(0, len(indices), _BATCH):
        some = indices[first : first + _BATCH]
        conversations = [source[index].prompt() for index in some]
        asked = encode_asked(conversations, processor)
        attention = attention_weights(model, asked.inputs)
        shares.append(image_to_question(attention, asked.is_question_BN))
        moved = movement(model, processor, conversations, others[first : first + _BATCH])
        cosines.append(moved.cosine_BS)
        distances.append(moved.relative_BS)
        pointing.add(attention, some)
        if progress is not None:
            progress(first + len(some), len(indices))
    rows = [
        LookRow(layer, head, TO_QUESTION, value)
        for layer, by_head in enumerate(torch.cat(shares).mean(0).tolist(), 1)
        for head, value in enumerate(by_head, 1)
    ]
    for measure, batches in ((COSINE, cosines), (RELATIVE, distances)):
        rows += [LookRow(layer, None, measure, x) for layer, x in enumerate(torch.cat(batches).mean(0).tolist())]
    if not pointing.boxes:
        return rows
    by_layer = pointing.by_layer()
    rows += [LookRow(layer, None, POINTING, value) for layer, value in enumerate(by_layer, 1)]
    if validation is not None:
        best = _best_layer(model, processor, validation, limit)
        rows.append(LookRow(best, None, POINTING_BEST, by_layer[best - 1]))
    rows.append(LookRow(None, None, POINTING_ROLLOUT, pointing.rollout()))
    rows.append(LookRow(None, None, POINTING_CHANCE, pointing.chance()))
    return [*rows, LookRow(None, None, POINTED, len(pointing.boxes))]


class _Pointing:
    """Where a model looked, beside where it should have, as far as that is known."""

    def __init__(self, model: Any, source: Sequence[Sample]) -> None:
        self.model, self.source = model, source
        self.is_known = isinstance(source, KnowsWhere) and keeps_patch_grid(model.config)
        self.boxes: list[Box] = []
        self.maps_LSS: list[Tensor] = []
        self.rollouts_SS: list[Tensor] = []

    def add(self, attention: AttentionWeights, indices: Sequence[int]) -> None:
        """The maps of samples, in the order of the rows; those whose answer rests on one object are kept."""
        if not (self.is_known and isinstance(self.source, KnowsWhere)):
            return
        looks = where_it_looks(self.model, attention)
        for index, maps_LSS, rollout_SS in zip(indices, looks.by_layer_BLSS, looks.rollout_BSS, strict=True):
            if (box := self.source.where(index)) is not None:
                self.boxes.append(box)
                self.maps_LSS.append(maps_LSS)
                self.rollouts_SS.append(rollout_SS)

    def by_layer(self) -> list[float]:
        return [self._share(maps_SS) for maps_SS in zip(*self.maps_LSS, strict=True)]

    def rollout(self) -> float:
        return self._share(self.rollouts_SS)

    def chance(self) -> float:
        return sum(chance(box, len(self.rollouts_SS[0])) for box in self.boxes) / len(self.boxes)

    def _share(self, maps_SS: Sequence[Tensor]) -> float:
        pairs = zip(maps_SS, self.boxes, strict=True)
        return sum(points_at(map_SS, box) for map_SS, box in pairs) / len(self.boxes)


def _best_layer(model: Any, processor: MutuaProcessor, source: Sequence[Sample], limit: int | None) -> int:
    """The layer, from 1, whose most attended patch lies on the object most often."""
    pointing = _Pointing(model, source)
    indices = spread(len(source), limit)
    for first in range(0, len(indices), _BATCH):
        some = indices[first : first + _BATCH]
        inputs = encode_asked([source[index].prompt() for index in some], processor).inputs
        pointing.add(attention_weights(model, inputs), some)
    if not pointing.boxes:
        raise ValueError("the validation samples do not say where an answer is to be seen: no layer can be chosen.")
    by_layer = pointing.by_layer()
    return 1 + by_layer.index(max(by_layer))


def _other_questions(questions: Sequence[str]) -> list[str]:
    """For every question the next one that is another."""
    if len(set(questions)) < 2:
        raise ValueError(
            f"{len(questions)} samples with {len(set(questions))} different questions: to see what moves with the "
            "question, at least two are needed; take more samples."
        )
    turned = [*questions, *questions]
    return [
        next(other for other in turned[place + 1 :] if other != question) for place, question in enumerate(questions)
    ]
