"""A training run from recipe to finished model: `train` tells the story, the rest of the package has the parts."""

from __future__ import annotations

import gc
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import PreTrainedModel

from mutua.console import LastingConsole
from mutua.folders import FolderError
from mutua.models.longest_text import longest_text
from mutua.training import checkpoint
from mutua.training.batches import batches, open_evaluation, open_mixture
from mutua.training.build import model_to_train, sharded_model
from mutua.training.checkpoint import Progress
from mutua.training.export import changed_versions, write_model
from mutua.training.fingerprint import expect_same_data, fingerprint
from mutua.training.log import NoLog, RunLog
from mutua.training.loggers import expect_loggers
from mutua.training.lora import Adapters, is_adapter
from mutua.training.memory_check import expect_memory
from mutua.training.optimizer import build_optimizer
from mutua.training.precision import compile_layers, recompute_activations, uses_bf16
from mutua.training.recipe import Recipe
from mutua.training.run import Run
from mutua.training.run_folder import RunFolder, open_run
from mutua.training.samples import SampleCounts, source_names
from mutua.training.saving import Saver
from mutua.training.shards import expect_processes, weights_of
from mutua.training.signals import StopRequest
from mutua.training.step import Stepper, TrainingError
from mutua.unlocking import policy_of
from mutua.world import World, find_world, folder_of_all


@dataclass(frozen=True)
class TrainResult:
    """How a run ended.

    Attributes:
        folder: the finished model, for `from_pretrained`; None if the run was interrupted.
        step: optimizer steps done.
        metrics: "train": the last line of the log; "evaluation": by source, what `Accuracy.summary` gives.
        interrupted: whether a signal stopped it; the same call goes on.
    """

    folder: Path | None
    step: int
    metrics: dict[str, Any]
    interrupted: bool


def train(recipe: Recipe, console: Console | None = None) -> TrainResult:
    """Trains what the recipe says, resuming by itself where `recipe.output` holds an unfinished run of it.

    Args:
        console: what the run speaks through; None: stdout, and where nobody reads that any more, nothing.

    Raises:
        RecipeError: `recipe.output` holds a run of another recipe, or is in use.
        ValueError, OSError: a setting or a sample that cannot work, with its place.
        TrainingError: the loss is not finite, too many samples cannot be used, or the data are others than before.
        FolderError: the disk is full.
    """
    speaker = console or LastingConsole()

    def say(text: str, style: str | None = None) -> None:
        speaker.print(text, style=style, markup=False, soft_wrap=True)

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # or tokenizers warns in every data worker
    world = find_world()
    with ExitStack() as held:
        if not world.is_first:
            speaker = Console(quiet=True)
        expect_processes(recipe.train, world.size)
        folder = world.first(lambda: held.enter_context(open_run(recipe)))
        if (finished := world.first(lambda: folder.finished(recipe.train.steps))) is not None:
            say(
                f"This run is finished: {folder.model}. Raise train.steps to go on from there, choose another output "
                "to train again, or measure it as you like: mutua eval."
            )
            return TrainResult(folder.model, finished["step"], finished["metrics"], interrupted=False)

        world.first(lambda: expect_loggers(recipe.train.loggers))

        # 1. Seed of the fresh weights. That of the data's order is the mixture's, and dropout's comes before training.
        torch.manual_seed(recipe.seeds.weights)

        # 2. Data: which samples make up which step.
        mixture, evaluation = open_mixture(recipe), open_evaluation(recipe)
        names = source_names(recipe)
        fingerprints = [fingerprint(source) for source in mixture.sources]

        # 3. Model: the newest checkpoint's, or where the recipe starts; some of it frozen, adapters in it if asked for.
        newest, progress = world.first(lambda: folder.newest_checkpoint(lambda text: say(text, "yellow")))
        if newest is not None:
            expect_same_data(newest, fingerprints, names)
        if world.size == 1:
            model, processor, adapters = model_to_train(recipe, mixture, newest, say)
            model.to(world.device)  # type: ignore[arg-type]
        else:
            model, processor, adapters = sharded_model(recipe, mixture, newest, folder, world, say)
        if recipe.train.gradient_checkpointing:
            recompute_activations(model, recipe.train.compile)
        if recipe.train.compile:
            compile_layers(model)
        expect_memory(recipe, model)
        say(_introduction(recipe, model, adapters, world))

        # 4. Optimizer.
        optimizer = build_optimizer(model, recipe.train)
        stepper = Stepper(model, optimizer, recipe.train, world)

        # 5. Seed of dropout, or resume: optimizer and random generators, once nothing else draws from them.
        torch.manual_seed(recipe.seeds.dropout + world.rank)
        if newest is not None:
            if not checkpoint.restore(newest, model, optimizer, world):
                say("Another number of processes than before: the samples are the same, dropout draws anew.", "yellow")
            say(f"Resuming from {newest}.")
            if changes := changed_versions(newest, recipe):
                say(f"Losses may differ in the last digits, versions have changed: {changes}.", "yellow")

        # Until here there was nothing to save, so a signal just ended it.
        with (
            _log(folder, recipe, progress, speaker, world) as log,
            StopRequest() as stop,
            _no_search_through_the_old(),
            Saver(world, recipe.train.async_checkpoints, lambda text: say(text, "red")) as saver,
        ):
            run = Run(
                recipe=recipe,
                folder=folder,
                model=model,
                processor=processor,
                adapters=adapters,
                stepper=stepper,
                log=log,
                stop=stop,
                saver=saver,
                source_names=names,
                fingerprints=fingerprints,
                evaluation=evaluation,
                world=world,
                saved=progress.step,
            )

            # 6. and 7. Train, and evaluate where the recipe says so.
            run.evaluate_if_due(progress.step)  # the run before may have been stopped in the middle of it
            first = progress.step
            feed = batches(
                mixture,
                processor,
                recipe,
                progress.step,
                max_tokens=longest_text(model.config.get_text_config()),
                pixels=torch.bfloat16 if stepper.bf16 else torch.float32,
                rank=world.rank,
                ranks=world.size,
            )
            text_id = int(getattr(model.config, "image_token_id", None) == 0)
            try:
                while progress.step < recipe.train.steps and not world.any(stop.requested or saver.has_failed):
                    chance, started = checkpoint.generators(), time.perf_counter()
                    batch = next(feed).joined(world, text_id)
                    counts = run.count_samples(batch, progress)
                    loss, correct = stepper.backward(batch)
                    found = stepper.update(progress.step, batch, loss, correct)
                    progress = Progress(
                        step=progress.step + 1,
                        samples=progress.samples + batch.samples,
                        seconds=progress.seconds + time.perf_counter() - started,
                        counts=counts,
                    )
                    chance = checkpoint.generators()
                    run.finish_step(progress, found)
            except Exception as error:
                # Several processes save together, so only what ends them all at the same place.
                is_shared = world.size == 1 or isinstance(error, TrainingError)
                if is_shared and stepper.begun == progress.step - first and not isinstance(error, FolderError):
                    checkpoint.restore_generators(chance)
                    run.save_what_is_done(progress, say)
                raise

            # 8. Interrupted: save, and say how to go on.
            if progress.step < recipe.train.steps or run.broke_off:
                run.save_checkpoint(progress)
                saver.wait()
                say(
                    f"Stopped at step {progress.step} of {recipe.train.steps}"
                    f"{', in its evaluation' if run.broke_off else ''}. Run the same command again to go on from there."
                )
                return TrainResult(None, progress.step, run.metrics(progress), interrupted=True)

            # 9. Finished: the model, adapters merged, with its recipe and its results beside it.
            saver.wait()
            metrics = run.metrics(progress)
            record = {**run.record(progress), "metrics": metrics}
            if adapters is None:
                with folder_of_all(world, folder.new_model) as partial:
                    write_model(partial, model, weights_of(model), processor, recipe, record, world)
            else:  # merged where they are whole: in one process
                world.first(lambda: run.write_merged(record))
            world.first(folder.place_results)
        say(_summary(folder, progress, log))
        return TrainResult(folder.model, progress.step, metrics, interrupted=False)


def _summary(folder: RunFolder, progress: Progress, log: RunLog | NoLog) -> str:
    """What a finished run did, and where things are, in a few lines."""
    minutes, seconds = divmod(round(progress.seconds), 60)
    rate = progress.samples / progress.seconds if progress.seconds else 0.0
    logged = (log.training.first, log.training.last)
    by_step = {line["step"]: line["loss"] for line in logged if line and line["loss"] is not None}
    losses = [f"{loss:.4f}" for loss in by_step.values()]
    lines = [
        f"Finished: {folder.model}",
        f"{progress.step} steps, {progress.samples} samples in {minutes} min {seconds} s ({rate:.0f} a second), "
        f"loss {' -> '.join(losses) or 'unknown: no sample of the logged steps can be used'}",
        f"log: {' and '.join([str(folder.log), *log.places])}   checkpoints: {folder.checkpoints}",
    ]
    left_out = sum(progress.counts, SampleCounts())
    if left_out.bad or left_out.too_long:
        lines.append(f"left out: {left_out.bad} bad samples, {left_out.too_long} too long; see {folder.quarantine}")
    return "\n".join(lines)


@contextmanager
def _no_search_through_the_old() -> Iterator[None]:
    """Spares the garbage collector what is there already: every batch makes it look through all of that again, which
    takes a sixth of the time of a small batch."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _log(folder: RunFolder, recipe: Recipe, progress: Progress, console: Console, world: World) -> RunLog | NoLog:
    """The first process speaks for all. Whatever is wrong with the files ends all."""
    made: list[RunLog] = []
    world.first(lambda: made.append(RunLog(folder, recipe, progress, console)))
    return made[0] if made else NoLog()


def _introduction(recipe: Recipe, model: PreTrainedModel, adapters: Adapters | None, world: World) -> str:
    """One line on what is about to be trained."""
    trained: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = adapters.description if adapters and is_adapter(name) else ".".join(name.split(".")[:2])
            trained[part] += parameter.numel()
    parts = ", ".join(f"{part}: {size:,}" for part, size in trained.items())
    arithmetic = "bf16" if uses_bf16(recipe.train, world.device) else "fp32"
    place = world.device.type if world.size == 1 else f"{world.size} x {world.device.type}"
    return (
        f"{recipe.name}: {sum(p.numel() for p in model.parameters()):,} weights, {trained.total():,} of them trained "
        f"({parts}), policy {policy_of(model)}, {arithmetic} on {place}, {recipe.train.steps} steps "
        f"of {recipe.train.batch_size} samples"
        + (f", packed into rows of at most {packing.tokens} tokens" if (packing := recipe.data.packing) else "")
    )
