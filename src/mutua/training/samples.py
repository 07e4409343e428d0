"""Samples that a run cannot use: counted by source, and how many of them are too many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mutua.data.limits import SampleLimits
from mutua.training.recipe import DataSettings, Recipe

SAMPLE_ERRORS = (ValueError, OSError)
"""What reading or encoding a sample raises where the sample is at fault. Any other error ends the run."""

ALWAYS_TOLERATED = 10
"""Bad samples of a source that never end a run, unless `data.max_bad_share` is 0: so few say nothing of the share."""


@dataclass(frozen=True)
class Skip:
    """A sample that is left out of a step: the place of its source in `data.train`, its id there, and why."""

    source: int
    id: str
    reason: str
    too_long: bool = False


def sample_limits(data: DataSettings, longest: int | None) -> SampleLimits:
    """The limits of a recipe for a language model of so many positions (None: as many as you like): of several the
    tightest, and a packed row, too, holds whole samples."""
    in_row, images = (None, None) if data.packing is None else (data.packing.tokens, data.packing.max_images)
    given = [(data.max_tokens, "data.max_tokens"), (longest, "the language model"), (in_row, "data.packing.tokens")]
    allowed = [(tokens, key) for tokens, key in given if tokens is not None]
    tokens, key = min(allowed, key=lambda one: one[0], default=(None, "data.max_tokens"))
    return SampleLimits(tokens, images, key, data.too_long == "cut")


@dataclass(frozen=True)
class SampleCounts:
    """Of one source, over the run so far: samples drawn, skipped as bad, skipped as too long, and cut."""

    drawn: int = 0
    bad: int = 0
    too_long: int = 0
    cut: int = 0

    def __add__(self, other: SampleCounts) -> SampleCounts:
        return SampleCounts(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    def too_many(self, max_bad_share: float) -> bool:
        """Whether the run has to stop: above the share, or nothing of the source is any use."""
        allowed = max(ALWAYS_TOLERATED, max_bad_share * self.drawn) if max_bad_share else 0
        return self.bad > allowed or self.drawn == self.bad + self.too_long > ALWAYS_TOLERATED


def source_names(recipe: Recipe) -> list[str]:
    """What reports call the sources of the mixture."""
    names = []
    for place, weighted in enumerate(recipe.data.train):
        where = getattr(weighted.source, "path", None) or getattr(weighted.source, "split", "")
        names.append(f"data.train.{place} ({weighted.source.type} {where})")
    return names


def add_counts(before: Sequence[SampleCounts], more: Sequence[SampleCounts]) -> tuple[SampleCounts, ...]:
    """By source; `before` is empty at the start of a run."""
    return tuple(a + b for a, b in zip(before, more, strict=True)) if before else tuple(more)


def too_many_skips(
    step: int, names: Sequence[str], counts: Sequence[SampleCounts], skips: Sequence[Skip], settings: DataSettings
) -> str | None:
    """Why the run has to stop at `step` (counted from 1), None if it may go on."""
    for skip in reversed(skips):
        of_source = counts[skip.source]
        if of_source.drawn == of_source.too_long > ALWAYS_TOLERATED:
            return (
                f"step {step}: all {of_source.drawn} samples drawn from {names[skip.source]} are too long, the last "
                f"{skip.id}: {skip.reason}. Allow more in the recipe, where that "
                "is what limits them, or set data.too_long to cut, and choose another output"
            )
        if of_source.too_many(settings.max_bad_share):
            return (
                f"step {step}: {of_source.bad + of_source.too_long} of the {of_source.drawn} samples drawn from "
                f"{names[skip.source]} cannot be used, and data.max_bad_share is {settings.max_bad_share}. The last "
                f"one is {skip.id}: {skip.reason}. quarantine.jsonl lists them all. Mend the data and choose another "
                "output, or raise data.max_bad_share and run the same command again"
            )
    return None
