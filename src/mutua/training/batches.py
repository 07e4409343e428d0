"""The batches of a run: its sources mixed, and encoded in background processes, step after step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mutua.data.collate import IGNORE, encode, role_codes, supervised_positions
from mutua.data.flip import flipped, is_flipped
from mutua.data.limits import SampleLimits, UnfitError
from mutua.data.mixture import Draw, Mixture, shuffled
from mutua.data.order import InOrder, drawn_order, in_order
from mutua.data.packing import images_of, pack_rows, share_rows
from mutua.data.readers import Source
from mutua.data.sample import Sample
from mutua.roles import TokenRoles
from mutua.training.recipe import Recipe
from mutua.training.samples import SAMPLE_ERRORS, SampleCounts, Skip, sample_limits, source_names
from mutua.training.signals import detach_worker
from mutua.world import World

MicroBatch = dict[str, Tensor]


@dataclass(frozen=True)
class StepBatch:
    """What one optimizer step takes, or one process's share of it.

    Attributes:
        micro_batches: what the model's forward takes, each; none at all where every sample had to be skipped.
        sample_ids: of all samples in them.
        supervised_tokens: what the loss is divided by: those in them, or once `joined` those of the whole step.
        tokens, places: in all their rows, and with the padding; once `joined`, in the whole step.
        skips: the samples that were left out.
        counts: by source, what was drawn, skipped and cut; once `joined`, in the whole step.
    """

    micro_batches: tuple[MicroBatch, ...]
    sample_ids: tuple[str, ...]
    supervised_tokens: int
    tokens: int = 0
    places: int = 0
    skips: tuple[Skip, ...] = ()
    counts: tuple[SampleCounts, ...] = ()

    def pin_memory(self) -> StepBatch:
        """With its tensors in page-locked memory, from where a GPU copies beside its work. `DataLoader` calls this."""
        pinned = tuple({name: tensor.pin_memory() for name, tensor in batch.items()} for batch in self.micro_batches)
        return replace(self, micro_batches=pinned)

    @property
    def utilisation(self) -> float:
        """The share of all places in its rows that hold a token and no padding; 1 where there are none."""
        return self.tokens / self.places if self.places else 1.0

    @property
    def samples(self) -> int:
        """Those that are used."""
        return sum(counts.drawn - counts.bad - counts.too_long for counts in self.counts)

    def joined(self, world: World, text_id: int) -> StepBatch:
        """This process's share, with the numbers of the whole step, and every process with as many micro-batches.

        Args:
            text_id: a token that stands for no image.
        """
        if world.size == 1:
            return self
        own = self.supervised_tokens, self.tokens, self.places
        numbers = [*own, *(number for counts in self.counts for number in vars(counts).values())]
        supervised, tokens, places, *counted = world.sums(numbers)
        fields = len(vars(self.counts[0]))
        counts = tuple(SampleCounts(*counted[i : i + fields]) for i in range(0, len(counted), fields))
        skips = self.skips
        if any(one.bad or one.too_long for one in counts):
            skips = tuple(world.lists(list(skips)))
        missing = world.largest(len(self.micro_batches)) - len(self.micro_batches)
        micro_batches = (*self.micro_batches, *[_nothing_to_learn(text_id)] * missing)
        return StepBatch(micro_batches, self.sample_ids, supervised, tokens, places, skips, counts)


def _nothing_to_learn(text_id: int) -> MicroBatch:
    """A row of text without a reply. Processes that share a model take equally many forward passes."""
    zeros_BN = torch.zeros(1, 2, dtype=torch.long)
    roles = TokenRoles.from_responses(zeros_BN.bool(), zeros_BN, zeros_BN)
    labels_BN = torch.full_like(zeros_BN, IGNORE)
    return {
        "input_ids": torch.full_like(zeros_BN, text_id),
        "attention_mask": torch.ones_like(zeros_BN),
        "token_type_ids": roles.to_codes(),
        "labels": labels_BN,
        "supervised_positions": supervised_positions(labels_BN),
    }


class _Steps(Dataset):
    """The batch of a step, a pure function of the recipe and the step. Samples that cannot be used are left out."""

    def __init__(
        self,
        mixture: Mixture,
        processor: Any,
        recipe: Recipe,
        limits: SampleLimits,
        pixels: torch.dtype,
        rank: int,
        ranks: int,
    ) -> None:
        self.mixture, self.processor, self.pixels, self.rank, self.ranks = mixture, processor, pixels, rank, ranks
        self.limits, self.order, self.packing = limits, recipe.data.order, recipe.data.packing
        self.flips = [weighted.flip for weighted in recipe.data.train]
        self.micro_batch_size = recipe.train.micro_batch_size or recipe.train.batch_size

    def __getitem__(self, step: int) -> StepBatch:
        draws = self._share(self.mixture.draws(step), step)
        size = self.micro_batch_size if self.packing is None else len(draws)  # any two of a step may share a row
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
                micro_batches += [self._finish(some) for some in self._rows(batch)]
                ids += [sample.id for sample in used]
        for skip in skips:
            counts[skip.source] += SampleCounts(too_long=1) if skip.too_long else SampleCounts(bad=1)
        supervised = sum(len(batch["supervised_positions"]) for batch in micro_batches)
        masks = [batch["attention_mask"] for batch in micro_batches]
        tokens, places = sum(int(mask.sum()) for mask in masks), sum(mask.numel() for mask in masks)
        return StepBatch(tuple(micro_batches), tuple(ids), supervised, tokens, places, tuple(skips), tuple(counts))

    def _share(self, draws: list[Draw], step: int) -> list[Draw]:
        """This process's draws of a step. In the mixture's order, sources and processes could go round in step, and
        each process meet one source only, with samples of its length."""
        if self.ranks == 1:
            return draws
        mine = range(self.rank, len(draws), self.ranks)
        return [draws[shuffled(place, len(draws), f"{self.mixture.seed}/{step}/share")] for place in mine]

    def _rows(self, batch: MicroBatch) -> list[MicroBatch]:
        """The batch as it is, or packed into micro-batches."""
        if self.packing is None:
            return [batch]
        lengths, images = batch["attention_mask"].sum(-1).tolist(), images_of(role_codes(batch)).tolist()
        rows = share_rows(lengths, images, tokens=self.packing.tokens, max_images=self.packing.max_images)
        pad = self.processor.tokenizer.pad_token_id
        size = self.micro_batch_size
        return [pack_rows(batch, rows[start : start + size], pad) for start in range(0, len(rows), size)]

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
            fits = batch is not None and bool(self.limits.are_met(batch).all())
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
            return self.limits.fit(sample, encode([sample], self.processor), self.processor)[0]
        except SAMPLE_ERRORS as error:
            return Skip(place, sample.id, str(error), too_long=isinstance(error, UnfitError) and error.kind == "long")

    def _finish(self, batch: MicroBatch) -> MicroBatch:
        """With what the loss needs, and pixels in the type that the vision encoder would round them to anyway."""
        if "pixel_values" in batch:
            batch["pixel_values"] = batch["pixel_values"].to(self.pixels)
        return {**batch, "supervised_positions": supervised_positions(batch["labels"])}


def open_mixture(recipe: Recipe) -> Mixture:
    """The recipe's sources, opened: which samples make up which step."""
    sources = open_sources(
        {name: one.source for name, one in zip(source_names(recipe), recipe.data.train, strict=True)}
    )
    weights = [weighted.weight for weighted in recipe.data.train]
    return Mixture(list(sources.values()), weights, recipe.seeds.order, recipe.train.batch_size)


def open_evaluation(recipe: Recipe) -> dict[str, Sequence[Sample]]:
    """What the recipe evaluates on, by name. A first look at each, so that hours of training do not end at a wrong
    path: ValueError names the key."""
    keys = {name: f"evaluate.sources.{name}" for name in recipe.evaluate.sources}
    opened = open_sources({keys[name]: settings for name, settings in recipe.evaluate.sources.items()})
    sources = {}
    for name, key in keys.items():
        sources[name] = source = opened[key]
        if not len(source):
            raise ValueError(f"{key}: it holds no samples to evaluate on")
        try:
            source[0].answer  # noqa: B018 (raises where there is none)
        except SAMPLE_ERRORS as error:
            raise ValueError(f"{key}: {error}") from None
        if recipe.evaluate.order is not None:
            sources[name] = InOrder(source, recipe.evaluate.order)
    return sources


def open_sources(settings: Mapping[str, Source]) -> dict[str, Sequence[Sample]]:
    """The sources of a recipe, by their keys. ValueError with a line for each that cannot be opened."""
    sources: dict[str, Sequence[Sample]] = {}
    problems = []
    for key, one in settings.items():
        try:
            sources[key] = one.open()
        except SAMPLE_ERRORS as error:
            problems.append(f"{key}: {error}")
    if problems:
        raise ValueError("\n".join(problems))
    return sources


def batches(
    mixture: Mixture,
    processor: Any,
    recipe: Recipe,
    start: int,
    *,
    max_tokens: int | None = None,
    pixels: torch.dtype = torch.float32,
    rank: int = 0,
    ranks: int = 1,
) -> Iterator[StepBatch]:
    """The batches of the steps from `start` (counted from 0) to the end of the run.

    Args:
        max_tokens: that the language model has positions for. Samples longer than that, or than the recipe allows, are
            treated as `data.too_long` says.
        pixels: the type in which pictures travel.
        rank, ranks: of each step, this process's share of the samples (counted from 0).
    """
    return iter(
        DataLoader(
            _Steps(mixture, processor, recipe, sample_limits(recipe.data, max_tokens), pixels, rank, ranks),
            sampler=range(start, recipe.train.steps),
            batch_size=None,
            num_workers=recipe.train.workers,
            worker_init_fn=detach_worker,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # its own, or the loader would draw from the generator that dropout uses
        )
    )
