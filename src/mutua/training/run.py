"""A run under way: what is due between two steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from mutua.data.sample import Sample
from mutua.evaluation.accuracy import evaluate
from mutua.folders import whole_folder
from mutua.models.generate import NotFiniteError
from mutua.training import checkpoint
from mutua.training.batches import StepBatch
from mutua.training.build import adapted_model
from mutua.training.checkpoint import Progress
from mutua.training.export import write_model, write_record
from mutua.training.log import NoLog, RunLog
from mutua.training.lora import Adapters
from mutua.training.precision import uncompiled
from mutua.training.recipe import Recipe
from mutua.training.run_folder import RunFolder
from mutua.training.samples import SampleCounts, add_counts, too_many_skips
from mutua.training.saving import Saver
from mutua.training.shards import local, weights_of
from mutua.training.signals import StopRequest
from mutua.training.step import NOT_FINITE, StepMetrics, Stepper, TrainingError
from mutua.world import World, folder_of_all


class _Stopped(Exception):
    """Breaks off an evaluation."""


@dataclass
class Run:
    """What a step touches."""

    recipe: Recipe
    folder: RunFolder
    model: Any
    processor: Any
    adapters: Adapters | None
    stepper: Stepper
    log: RunLog | NoLog
    stop: StopRequest
    saver: Saver
    source_names: list[str]
    fingerprints: list[dict[str, Any]]  # of the sources
    evaluation: dict[str, Sequence[Sample]]
    world: World
    saved: int  # the step of the newest checkpoint
    broke_off: bool = False  # a signal came during the last evaluation, which is to be done on resuming

    @cached_property
    def saved_processor(self) -> Any:
        """One for a thread that saves it: a tokenizer cannot be asked and saved at once."""
        return deepcopy(self.processor)

    def count_samples(self, batch: StepBatch, progress: Progress) -> tuple[SampleCounts, ...]:
        """The counts with those of the next step. Too many samples that cannot be used end the run, saved."""
        counts = add_counts(progress.counts, batch.counts)
        self.log.skipped(progress.step + 1, batch.skips, self.source_names)
        problem = too_many_skips(progress.step + 1, self.source_names, counts, batch.skips, self.recipe.data)
        if problem is not None:
            self.save_checkpoint(progress)
            self.saver.wait()
            raise TrainingError(problem)
        return counts

    def finish_step(self, progress: Progress, metrics: StepMetrics | None) -> None:
        """What is due after a step: a line of the log, a checkpoint, an evaluation."""
        settings = self.recipe.train
        is_last = progress.step == settings.steps
        self.log.step(progress, metrics, record=is_last or progress.step % settings.log_every == 0)
        if is_last or progress.step % settings.checkpoint_every == 0:
            self.save_checkpoint(progress)
        self.evaluate_if_due(progress.step)

    def save_what_is_done(self, progress: Progress, say: Callable[[str, str], None]) -> None:
        """Before an error ends the run, with the state that the last whole step left, if it is of any use."""
        are_finite = all(bool(torch.isfinite(local(weight)).all()) for weight in self.stepper.trained)
        if self.world.any(not are_finite):
            return
        try:
            self.save_checkpoint(progress)
            self.saver.wait()
        except Exception as error:  # the one that ends the run is told after it
            say(f"Step {progress.step} could not be saved: {error}", "yellow")
        else:
            say(f"Step {progress.step} is saved: once mended, the same command goes on from there.", "yellow")

    def save_checkpoint(self, progress: Progress) -> None:
        if progress.step == self.saved:
            return
        adapters, record = self.adapters, self.record(progress)
        weights, state = self.saver.keep(
            weights_of(self.model) if adapters is None else adapters.weights(),
            checkpoint.trainer_state(self.model, self.stepper.optimizer),
        )

        def write(world: World) -> None:
            with folder_of_all(world, self.folder.checkpoint(progress.step)) as partial:
                if adapters is None:
                    write_model(partial, self.model, weights, self.saved_processor, self.recipe, record, world)
                else:
                    world.first(lambda: adapters.save(partial, weights))
                    world.first(lambda: write_record(partial, world, self.recipe, record))
                checkpoint.seal(partial, state, progress, world)
            world.first(lambda: checkpoint.prune(self.folder.checkpoints, self.recipe.train.keep_checkpoints))

        self.saver.save(write)
        self.saved = progress.step

    def write_merged(self, record: dict[str, Any]) -> None:
        """Adapters in PEFT's format, and the model with them merged into its weights. By the first process alone."""
        model, processor, adapters = self.model, self.processor, self.adapters
        if self.world.size > 1:
            model, processor, adapters = adapted_model(self.recipe, self.folder, self.folder.checkpoint(self.saved))
        assert adapters is not None
        with whole_folder(self.folder.new_adapter) as partial:
            adapters.export(partial)
        adapters.merge()
        with whole_folder(self.folder.new_model) as partial:
            alone = World(device=self.world.device)
            write_model(partial, model, weights_of(model), processor, self.recipe, record, alone)

    def record(self, progress: Progress) -> dict[str, Any]:
        """Where the run stands, and what its sources are and gave so far."""
        reached = {"step": progress.step, "samples": progress.samples, "seconds": progress.seconds}
        sources = zip(self.source_names, self.fingerprints, progress.counts, strict=True)
        return {**reached, "sources": [{"name": name, **found, **vars(counts)} for name, found, counts in sources]}

    def evaluate_if_due(self, step: int) -> None:
        """Evaluates on every source, unless the log has it already. A signal breaks it off, to be done on resuming."""
        settings = self.recipe.evaluate
        is_due = step == self.recipe.train.steps or (settings.every > 0 and step > 0 and step % settings.every == 0)
        if not settings.sources or not is_due:
            return
        last = self.world.first(lambda: self.log.evaluations.last)
        if last is not None and last["step"] == step:
            return
        results = {}
        for name, samples in self.evaluation.items():
            with self.log.watch(name) as show:

                def report(done: int, total: int, show: Callable[[int, int], None] = show) -> None:
                    show(done, total)
                    if self.world.any(self.stop.requested):
                        raise _Stopped

                try:
                    with self.stepper.precision(), uncompiled():
                        accuracy = evaluate(
                            self.model,
                            self.processor,
                            samples,
                            batch_size=settings.batch_size,
                            limit=settings.limit,
                            max_new_tokens=settings.max_new_tokens,
                            progress=report,
                        )
                except _Stopped:
                    self.broke_off = True
                    return
                except NotFiniteError as error:
                    raise TrainingError(f"step {step}, evaluating {name}: {error} {NOT_FINITE}") from error
            results[name] = accuracy.summary()
        self.log.evaluation(step, results)

    def metrics(self, progress: Progress) -> dict[str, Any]:
        """The last line of the log, and the evaluation of this step, if there was one."""
        last = self.log.evaluations.last
        is_of_now = last is not None and last["step"] == progress.step
        return {"train": self.log.training.last, "evaluation": last["results"] if last and is_of_now else {}}
