"""The batches of a run: its sources mixed, and encoded in background processes, step after step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mutua.data.collate import IGNORE, encode
from mutua.data.mixture import Mixture
from mutua.models import MutuaProcessor
from mutua.training.recipe import Recipe, TrainSettings
from mutua.training.signals import detach_worker


@dataclass(frozen=True)
class StepBatch:
    """What one optimizer step takes: micro-batches, the ids of all samples, and how many tokens are supervised."""

    micro_batches: tuple[dict[str, Tensor], ...]
    sample_ids: tuple[str, ...]
    supervised_tokens: int


class _Steps(Dataset):
    def __init__(self, mixture: Mixture, processor: MutuaProcessor, settings: TrainSettings) -> None:
        self.mixture, self.processor = mixture, processor
        self.micro_batch_size = settings.micro_batch_size or settings.batch_size

    def __getitem__(self, step: int) -> StepBatch | Exception:
        try:
            return self._batch(step)
        except (ValueError, OSError) as error:
            # Handed over rather than raised: the loader would bury the message under a worker's traceback.
            return error

    def _batch(self, step: int) -> StepBatch:
        samples, size = self.mixture[step], self.micro_batch_size
        micro_batches = tuple(encode(samples[i : i + size], self.processor) for i in range(0, len(samples), size))
        # The first token of a row follows nothing, so it cannot be predicted.
        supervised = sum(int((batch["labels"][:, 1:] != IGNORE).sum()) for batch in micro_batches)
        ids = tuple(sample.id for sample in samples)
        if supervised == 0:
            raise ValueError(
                f"step {step + 1}: no token is supervised, none of the samples {', '.join(ids)} holds a reply; give "
                "them assistant messages or leave them out"
            )
        return StepBatch(micro_batches, ids, supervised)


def open_mixture(recipe: Recipe) -> Mixture:
    """The recipe's sources, opened: which samples make up which step."""
    sources = [weighted.source.open() for weighted in recipe.data.train]
    weights = [weighted.weight for weighted in recipe.data.train]
    return Mixture(sources, weights, recipe.seed, recipe.train.batch_size)


def batches(mixture: Mixture, processor: MutuaProcessor, settings: TrainSettings, start: int) -> Iterator[StepBatch]:
    """The batches of the steps from `start` (counted from 0) to the end of the run.

    Raises:
        ValueError, OSError: a sample cannot be read or encoded, or a batch has nothing to learn from.
    """
    loader: DataLoader = DataLoader(
        _Steps(mixture, processor, settings),
        sampler=range(start, settings.steps),
        batch_size=None,
        num_workers=settings.workers,
        worker_init_fn=detach_worker,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # its own, or the loader would draw from the generator that dropout uses
    )
    for batch in loader:
        if isinstance(batch, Exception):
            raise batch
        yield batch
