"""How often a model's answer is the expected one: overall and by family, each with its uncertainty."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mutua.data.bulk import read_samples
from mutua.data.collate import named
from mutua.data.sample import Sample
from mutua.respond import GREEDY, respond

MAX_NEW_TOKENS = 16
"""Of a reply that is compared with an expected answer of a few words."""

_READ_AHEAD = 8  # batches
_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class Score:
    """`correct` answers out of `total`."""

    correct: int
    total: int

    @property
    def accuracy(self) -> float:
        """0 to 1; nan where nothing was asked."""
        return self.correct / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of Wilson (JASA 22, 1927), which holds for few samples and near 0 and 1 too."""
        if not self.total:
            return 0.0, 1.0
        z, n, p = 1.959963984540054, self.total, self.accuracy
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))  # in floats, p may lie beside it

    def summary(self) -> dict[str, Any]:
        low, high = self.interval
        return {"correct": self.correct, "total": self.total, "accuracy": self.accuracy, "low": low, "high": high}


def is_right(answer: str, expected: str) -> bool:
    """Equal but for case and surrounding space."""
    return answer.strip().casefold() == expected.strip().casefold()


@dataclass(frozen=True)
class Record:
    """One question and what the model made of it."""

    id: str
    family: str
    question: str
    expected: str
    answer: str
    is_cut: bool = False  # by the limit on new tokens

    @property
    def is_correct(self) -> bool:
        return is_right(self.answer, self.expected)


@dataclass(frozen=True)
class Accuracy:
    """The result of an evaluation. `records` are in the order of the samples."""

    records: tuple[Record, ...]

    @property
    def overall(self) -> Score:
        return _score(self.records)

    @property
    def families(self) -> dict[str, Score]:
        """By family, in order of first appearance; samples with no family are under "other"."""
        grouped: dict[str, list[Record]] = {}
        for record in self.records:
            grouped.setdefault(record.family or "other", []).append(record)
        return {family: _score(records) for family, records in grouped.items()}

    @property
    def cut(self) -> int:
        """How many answers the limit on new tokens cut: these can only be wrong."""
        return sum(record.is_cut for record in self.records)

    def summary(self) -> dict[str, Any]:
        """All scores as plain JSON values; the records are left out."""
        families = {family: score.summary() for family, score in self.families.items()}
        return {"overall": self.overall.summary(), "families": families, "cut": self.cut}


def _score(records: Sequence[Record]) -> Score:
    return Score(sum(record.is_correct for record in records), len(records))


def evaluate(
    model: Any,
    processor: Any,
    samples: Sequence[Sample],
    *,
    batch_size: int = 64,
    limit: int | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    progress: Callable[[int, int], None] | None = None,
) -> Accuracy:
    """Lets the model answer every sample's prompt greedily and compares with the sample's answer.

    Args:
        model, processor: of Mutua's own or of others, as `open_model` gives them.
        samples: each ends with an assistant message, the expected answer.
        limit: how many samples to take, spread evenly over `samples`; None takes all.
        max_new_tokens: of each reply, whatever the expected answer is.
        progress: called after every batch with (samples done, samples in all).

    Raises:
        ValueError: a sample has no answer or cannot be encoded, or there are no samples.
    """
    indices = spread(len(samples), limit)
    if not indices:
        raise ValueError("nothing to evaluate: the source holds no samples, or limit is 0")
    records: dict[int, Record] = {}
    was_training = model.training
    model.eval()
    try:
        # A few batches are read at a time, so that few pictures are open at once.
        for first in range(0, len(indices), _READ_AHEAD * batch_size):
            some = indices[first : first + _READ_AHEAD * batch_size]
            read = read_samples(samples, some)

            def show(done: int, before: int = first) -> None:
                if progress is not None:
                    progress(before + done, len(indices))

            answers = respond(
                model,
                processor,
                [sample.prompt() for sample in read],
                max_new_tokens=max_new_tokens,
                batch_size=batch_size,
                names=[named(sample) for sample in read],
                progress=show,
                **GREEDY,
            )
            for index, sample, said in zip(some, read, answers, strict=True):
                records[index] = Record(
                    sample.id, sample.family, sample.question, sample.answer, said.text, said.finish_reason == "length"
                )
    finally:
        model.train(was_training)
    return Accuracy(tuple(records[index] for index in indices))


def spread(size: int, limit: int | None) -> list[int]:
    """`limit` indices below `size`: one from each of `limit` equal stretches, in order.

    The place within the stretch moves by the golden ratio, because with a fixed step a source that deals its families
    in turn would be met at one family only.
    """
    if limit is None or limit >= size:
        return list(range(size))
    starts = [i * size // limit for i in range(limit + 1)]
    return [starts[i] + int(i * _GOLDEN % 1 * (starts[i + 1] - starts[i])) for i in range(limit)]
