"""How large the batches of a run will be, from a look at the first samples of each source, or by assumption."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mutua.data.collate import encode, supervised_positions
from mutua.data.limits import SampleLimits
from mutua.data.packing import images_of, share_rows
from mutua.data.sample import Sample
from mutua.models import MutuaConfig, MutuaProcessor
from mutua.training.batches import open_mixture, open_sources
from mutua.training.build import texts_of_mixture
from mutua.training.dry_run import Shape
from mutua.training.model_settings import TinyModel
from mutua.training.recipe import Recipe
from mutua.training.samples import SAMPLE_ERRORS, sample_limits, source_names

LOOKED_AT = 16
"""Samples of a source."""

TEXTS = 1000
"""Texts that a tokenizer learns from here, where the recipe says more: its vocabulary has its size by then."""

_ASSUMED_TEXT = 256  # tokens of a sample beside its picture


@dataclass(frozen=True)
class SampleShape:
    """Tokens, pictures and supervised tokens of a sample."""

    tokens: int
    images: int
    supervised: int


@dataclass(frozen=True)
class SourceLook:
    """What is known of a source.

    Attributes:
        name: as reports have it.
        weight: its share of the samples, relative to the others'.
        samples: how many it has; None where it was not opened.
        shapes: of some of its samples, or one that is assumed.
        assumed: why, in words; None where samples were looked at.
    """

    name: str
    weight: float
    samples: int | None
    shapes: tuple[SampleShape, ...]
    assumed: str | None = None

    @property
    def tokens(self) -> float:
        """Of a sample, the mean."""
        return sum(shape.tokens for shape in self.shapes) / len(self.shapes)


@dataclass(frozen=True)
class BatchShape:
    """A step of a run.

    Attributes:
        micro: what a forward pass of one process takes, where its rows are longest.
        micro_batches: of each process.
        samples: over all processes.
        tokens_of_step: of all samples, without padding.
        images_of_process: pictures of one process's share.
    """

    micro: Shape
    micro_batches: int
    samples: int
    tokens_of_step: float
    images_of_process: int


def texts_of(recipe: Recipe) -> Iterator[str]:
    """What a tokenizer that belongs to the run learns from; nothing is read where there is none."""
    if isinstance(recipe.model, TinyModel):
        limit = min(TEXTS, recipe.data.tokenizer_texts)
        yield from texts_of_mixture(open_mixture(recipe), limit)


def look_at_sources(
    recipe: Recipe, config: MutuaConfig, processor: MutuaProcessor, tokens: int | None, longest: int | None
) -> tuple[SourceLook, ...]:
    """Each source of the mixture, in order.

    Args:
        tokens: of every sample; then no source is opened.
        longest: tokens that the language model has positions for; None where there is no such limit.

    Raises:
        ValueError: so few tokens have no room for a picture; or none of the samples looked at is any use.
    """
    if tokens is not None and tokens < config.num_image_tokens + 2:
        raise ValueError(f"--tokens {tokens}: a picture alone takes {config.num_image_tokens}; give more.")
    looks = []
    limits = sample_limits(recipe.data, longest)
    for name, weighted in zip(source_names(recipe), recipe.data.train, strict=True):
        if tokens is not None:
            look = SourceLook(name, weighted.weight, None, (_shape_of(tokens, config),), "as --tokens says")
        else:
            try:
                source = open_sources({name: weighted.source})[name]
            except ValueError as error:
                usual = config.num_image_tokens + _ASSUMED_TEXT
                usual = usual if limits.tokens is None else min(usual, limits.tokens)
                look = SourceLook(name, weighted.weight, None, (_shape_of(usual, config),), _reason(name, error))
            else:
                shapes = _look(name, source, processor, limits)
                look = SourceLook(name, weighted.weight, len(source), shapes)
        looks.append(look)
    return tuple(looks)


def batch_shape(recipe: Recipe, looks: Sequence[SourceLook], processes: int) -> BatchShape:
    """A step of the run in so many processes, its samples as those that were looked at."""
    size, packing = recipe.train.batch_size, recipe.data.packing
    share = -(-size // processes)
    drawn = _drawn(looks, share)
    micro = min(recipe.train.micro_batch_size or share, share)
    mean = sum(look.weight * look.tokens for look in looks) / sum(look.weight for look in looks)
    images = sum(shape.images for shape in drawn)
    if packing is None:
        rows, length = share, max(shape.tokens for look in looks for shape in look.shapes)
    else:
        lengths, counts = [shape.tokens for shape in drawn], [shape.images for shape in drawn]
        shared = share_rows(lengths, counts, tokens=packing.tokens, max_images=packing.max_images)
        rows, length = len(shared), max(sum(lengths[place] for place in row) for row in shared)
    micro = min(micro, rows)
    supervised = sum(shape.supervised for shape in drawn)
    of_micro = Shape(micro, length, -(-images * micro // rows), -(-supervised * micro // rows))
    return BatchShape(of_micro, -(-rows // micro), size, size * mean, images)


def _look(
    name: str, source: Sequence[Sample], processor: MutuaProcessor, limits: SampleLimits
) -> tuple[SampleShape, ...]:
    """Of the first samples of a source, those that a run would use, as it would use them."""
    shapes: list[SampleShape] = []
    reason = "it is empty"
    for index in range(min(LOOKED_AT, len(source))):
        try:
            sample = source[index]
            _, batch = limits.fit(sample, encode([sample], processor), processor)
        except SAMPLE_ERRORS as error:
            reason = str(error)
            continue
        tokens, images = batch["input_ids"].shape[1], int(images_of(batch["token_type_ids"]))
        shapes.append(SampleShape(tokens, images, len(supervised_positions(batch["labels"]))))
    if not shapes:
        raise ValueError(f"{name}: none of its first samples can be used: {reason}; mutua data check looks at them all")
    return tuple(shapes)


def _reason(name: str, error: ValueError) -> str:
    return str(error).removeprefix(f"{name}: ")


def _shape_of(tokens: int, config: MutuaConfig) -> SampleShape:
    """Assumed: one picture, and of the text behind it half a reply."""
    return SampleShape(tokens, 1, max(1, (tokens - config.num_image_tokens) // 2))


def _drawn(looks: Sequence[SourceLook], count: int) -> list[SampleShape]:
    """So many samples, from the sources by their weights, in turn from those that were looked at."""
    total, due, drawn = sum(look.weight for look in looks), [0.0] * len(looks), []
    taken = [0] * len(looks)
    for _ in range(count):
        due = [waited + look.weight / total for waited, look in zip(due, looks, strict=True)]
        place = max(range(len(looks)), key=due.__getitem__)
        due[place] -= 1
        shapes = looks[place].shapes
        drawn.append(shapes[taken[place] % len(shapes)])
        taken[place] += 1
    return drawn
