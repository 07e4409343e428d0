"""The batches of a run: its sources mixed, and encoded in background processes, step after step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mutua.data.collate import IGNORE, cut_to_turns, encode, supervised_positions
from mutua.data.flip import flipped, is_flipped
from mutua.data.mixture import Draw, Mixture
from mutua.data.order import InOrder, drawn_order, in_order
from mutua.data.readers import Source
from mutua.data.sample import Sample
from mutua.models import MutuaProcessor
from mutua.roles import Modality, TokenRoles
from mutua.training.recipe import Recipe
from mutua.training.samples import SAMPLE_ERRORS, SampleCounts, Skip
from mutua.training.signals import detach_worker

MicroBatch = dict[str, Tensor]


@dataclass(frozen=True)
class StepBatch:
    """What one optimizer step takes.

    Attributes:
        micro_batches: what the model's forward takes, each; none at all where every sample had to be skipped.
        sample_ids: of all samples in them.
        supervised_tokens: of the whole step, whichever share of it this is: what the loss is divided by.
        skips: the samples that were left out.
        counts: by source, what was drawn, skipped and cut in this step.
    """

    micro_batches: tuple[MicroBatch, ...]
    sample_ids: tuple[str, ...]
    supervised_tokens: int
    skips: tuple[Skip, ...] = ()
    counts: tuple[SampleCounts, ...] = ()

    def pin_memory(self) -> StepBatch:
        """With its tensors in page-locked memory, from where a GPU copies beside its work. `DataLoader` calls this."""
        pinned = tuple({name: tensor.pin_memory() for name, tensor in batch.items()} for batch in self.micro_batches)
        return replace(self, micro_batches=pinned)

    def share(self, rank: int, ranks: int) -> StepBatch:
        """The rows of every micro-batch that are `rank`'s (counted from 0): each rank-th one, with its images.

        All ranks get the same number of micro-batches, so they do the same number of forward passes: where one has
        fewer rows than there are ranks, those left over get its first row with nothing supervised.
        """
        return replace(self, micro_batches=tuple(_share(batch, rank, ranks) for batch in self.micro_batches))


def _share(batch: MicroBatch, rank: int, ranks: int) -> MicroBatch:
    rows = list(range(rank, len(batch["input_ids"]), ranks))
    not_by_row = ("pixel_values", "supervised_positions")
    share = {name: tensor[rows or [0]] for name, tensor in batch.items() if name not in not_by_row}
    if not rows:
        share["labels"] = torch.full_like(share["labels"], IGNORE)
    share["supervised_positions"] = supervised_positions(share["labels"])
    if "pixel_values" in batch:
        images_B = TokenRoles.from_codes(batch["token_type_ids"]).count_items(Modality.IMAGE)
        owned = batch["pixel_values"].split(images_B.tolist())
        share["pixel_values"] = torch.cat([owned[row] for row in rows or [0]])
        if not len(share["pixel_values"]):
            del share["pixel_values"]
    return share


class _Steps(Dataset):
    """The batch of a step, a pure function of the recipe and the step. Samples that cannot be used are left out."""

    def __init__(
        self, mixture: Mixture, processor: MutuaProcessor, recipe: Recipe, max_tokens: int | None, pixels: torch.dtype
    ) -> None:
        self.mixture, self.processor, self.pixels = mixture, processor, pixels
        self.max_tokens, self.cuts = max_tokens, recipe.data.too_long == "cut"
        self.order = recipe.data.order
        self.flips = [weighted.flip for weighted in recipe.data.train]
        self.micro_batch_size = recipe.train.micro_batch_size or recipe.train.batch_size

    def __getitem__(self, step: int) -> StepBatch:
        draws, size = self.mixture.draws(step), self.micro_batch_size
        drawn = Counter(draw.place for draw in draws)
        counts = [SampleCounts(drawn[place]) for place in range(len(self.mixture.sources))]
        skips: list[Skip] = []
        micro_batches, ids = [], []
        for start in range(0, len(draws), size):
            some, samples = draws[start : start + size], []
            for draw, read in zip(some, self.mixture.read(some, SAMPLE_ERRORS), strict=True):
                if isinstance(read, Sample):
                    read = self._as_drawn(read, draw)
                if isinstance(read, Sample):
                    samples.append((draw.place, read))
                else:
                    skips.append(Skip(draw.place, getattr(read, "sample_id", "") or f"sample {draw.index}", str(read)))
            batch, used = self._encode(samples, skips, counts)
            if batch is not None:
                micro_batches.append(self._finish(batch))
                ids += [sample.id for sample in used]
        for skip in skips:
            counts[skip.source] += SampleCounts(too_long=1) if skip.too_long else SampleCounts(bad=1)
        supervised = sum(len(batch["supervised_positions"]) for batch in micro_batches)
        return StepBatch(tuple(micro_batches), tuple(ids), supervised, tuple(skips), tuple(counts))

    def _as_drawn(self, sample: Sample, draw: Draw) -> Sample | Exception:
        """The sample as this draw of it shows it, mirrored or in another order, or why a picture cannot be mirrored."""
        key = f"{self.mixture.seed}/{draw.place}/{draw.index}"
        share = self.flips[draw.place]
        if share and is_flipped(key, draw.epoch, share):
            try:
                sample = flipped(sample)
            except SAMPLE_ERRORS as error:
                return error
        if self.order is None:
            return sample
        return in_order(sample, drawn_order(key, draw.epoch) if self.order == "both" else self.order)

    def _encode(
        self, samples: Sequence[tuple[int, Sample]], skips: list[Skip], counts: list[SampleCounts]
    ) -> tuple[MicroBatch | None, list[Sample]]:
        """One micro-batch of what can be used. All at once first; where that fails, each sample is looked at alone."""
        used = [sample for _, sample in samples]
        try:
            batch = encode(used, self.processor) if used else None
            fits = batch is not None and bool(self._is_usable(batch).all())
        except SAMPLE_ERRORS:
            fits = False
        if fits or not used:
            return batch, used
        used = []
        for place, sample in samples:
            checked = self._check(place, sample)
            if isinstance(checked, Skip):
                skips.append(checked)
            else:
                used.append(checked)
                if checked is not sample:
                    counts[place] += SampleCounts(cut=1)
        return (encode(used, self.processor) if used else None), used

    def _check(self, place: int, sample: Sample) -> Sample | Skip:
        """The sample if it can be used, a shorter one where it is cut, or why it is skipped."""
        try:
            batch = encode([sample], self.processor)
            tokens = batch["input_ids"].shape[1]
            if self.max_tokens is not None and tokens > self.max_tokens:
                shorter = cut_to_turns(sample, self.processor, self.max_tokens) if self.cuts else None
                reason = f"{tokens} tokens, and data.max_tokens allows {self.max_tokens}"
                return shorter or Skip(place, sample.id, reason, too_long=True)
            if not len(supervised_positions(batch["labels"])):
                raise ValueError("no token is supervised, for it holds no reply: give it an assistant message")
        except SAMPLE_ERRORS as error:
            return Skip(place, sample.id, str(error))
        return sample

    def _is_usable(self, batch: MicroBatch) -> Tensor:
        """(B,) whether a row is no longer than allowed and has something to learn from."""
        is_usable_B = (batch["labels"][:, 1:] != IGNORE).any(-1)
        if self.max_tokens is not None:
            is_usable_B &= batch["attention_mask"].sum(-1) <= self.max_tokens
        return is_usable_B

    def _finish(self, batch: MicroBatch) -> MicroBatch:
        """With what the loss needs, and pixels in the type that the vision encoder would round them to anyway."""
        if "pixel_values" in batch:
            batch["pixel_values"] = batch["pixel_values"].to(self.pixels)
        return {**batch, "supervised_positions": supervised_positions(batch["labels"])}


def open_mixture(recipe: Recipe) -> Mixture:
    """The recipe's sources, opened: which samples make up which step."""
    sources = [open_source(f"data.train.{place}", weighted.source) for place, weighted in enumerate(recipe.data.train)]
    weights = [weighted.weight for weighted in recipe.data.train]
    return Mixture(sources, weights, recipe.seeds.order, recipe.train.batch_size)


def open_evaluation(recipe: Recipe) -> dict[str, Sequence[Sample]]:
    """What the recipe evaluates on, by name. A first look at each, so that hours of training do not end at a wrong
    path: ValueError names the key."""
    sources = {}
    for name, settings in recipe.evaluate.sources.items():
        key = f"evaluate.sources.{name}"
        sources[name] = source = open_source(key, settings)
        if not len(source):
            raise ValueError(f"{key}: it holds no samples to evaluate on")
        try:
            source[0].answer  # noqa: B018 (raises where there is none)
        except SAMPLE_ERRORS as error:
            raise ValueError(f"{key}: {error}") from None
        if recipe.evaluate.order is not None:
            sources[name] = InOrder(source, recipe.evaluate.order)
    return sources


def open_source(key: str, settings: Source) -> Sequence[Sample]:
    """The source of a recipe. ValueError, which names the key, where it cannot be opened."""
    try:
        return settings.open()
    except SAMPLE_ERRORS as error:
        raise ValueError(f"{key}: {error}") from None


def batches(
    mixture: Mixture,
    processor: MutuaProcessor,
    recipe: Recipe,
    start: int,
    *,
    max_tokens: int | None = None,
    pixels: torch.dtype = torch.float32,
) -> Iterator[StepBatch]:
    """The batches of the steps from `start` (counted from 0) to the end of the run.

    Args:
        max_tokens: longer samples are treated as `data.too_long` says.
        pixels: the type in which pictures travel.
    """
    return iter(
        DataLoader(
            _Steps(mixture, processor, recipe, max_tokens, pixels),
            sampler=range(start, recipe.train.steps),
            batch_size=None,
            num_workers=recipe.train.workers,
            worker_init_fn=detach_worker,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # its own, or the loader would draw from the generator that dropout uses
        )
    )
