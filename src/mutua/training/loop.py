"""A training run from its recipe to a finished model. `train` tells the story; the rest of the package has the parts."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from mutua.data.mixture import Mixture
from mutua.evaluation.accuracy import evaluate
from mutua.models import MutuaForConditionalGeneration, MutuaProcessor
from mutua.training import checkpoint
from mutua.training.batches import batches
from mutua.training.build import build_model, freeze, load_model
from mutua.training.checkpoint import Progress
from mutua.training.export import write_model
from mutua.training.log import RunLog
from mutua.training.optimizer import build_optimizer
from mutua.training.recipe import Recipe
from mutua.training.run_folder import RunFolder, open_run
from mutua.training.signals import StopRequest
from mutua.training.step import Stepper, uses_bf16


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

    Raises:
        RecipeError: `recipe.output` holds a run of another recipe, or is in use.
        ValueError, OSError: a setting or a sample that cannot work, with its place.
        TrainingError: the loss is not finite.
        CheckpointError: the disk is full.
    """
    console = console or Console()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # or tokenizers warns in every data worker
    with open_run(recipe) as folder, StopRequest() as stop:
        if (finished := folder.finished()) is not None:
            console.print(f"This run is finished: {folder.model}. Choose another output to train again.")
            return TrainResult(folder.model, finished["step"], finished["metrics"], interrupted=False)

        # 1. Seed: the one source of chance. The order of the data derives from it too, apart from the step.
        torch.manual_seed(recipe.seed)

        # 2. Data: which samples make up which step.
        sources = [weighted.source.open() for weighted in recipe.data.train]
        weights = [weighted.weight for weighted in recipe.data.train]
        mixture = Mixture(sources, weights, recipe.seed, recipe.train.batch_size)

        # 3. Model: the newest checkpoint's, or where the recipe starts.
        newest, progress = folder.newest_checkpoint(console)
        if newest is not None:
            model, processor = load_model(newest)
        else:
            model, processor = build_model(recipe.model, mixture, recipe.data.tokenizer_texts)
        freeze(model, recipe.train.freeze)
        if recipe.train.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model.to(device)
        _introduce(recipe, model, device, console)

        # 4. Optimizer.
        optimizer = build_optimizer(model, recipe.train)
        stepper = Stepper(model, optimizer, recipe.train, device)

        # 5. Resume: optimizer and random generators, once nothing draws from them any more.
        if newest is not None:
            checkpoint.restore(newest, model, optimizer)
            console.print(f"Resuming from {newest}.")

        with RunLog(folder, recipe.name, recipe.train.steps, progress, console) as log:
            run = _Run(recipe, folder, model, processor, stepper, log, stop, saved=progress.step)

            # 6. and 7. Train, and evaluate where the recipe says so.
            progress = run.evaluate_if_due(progress)
            feed = batches(mixture, processor, recipe.train, progress.step)
            while progress.step < recipe.train.steps and not stop.requested:
                progress = run.step(feed, progress)

            # 8. Interrupted: save, and say how to go on.
            if stop.requested:
                run.save_checkpoint(progress)
                console.print(
                    f"Stopped at step {progress.step} of {recipe.train.steps}, saved in "
                    f"{folder.checkpoint(progress.step)}. Run the same command again to go on from there."
                )
                return TrainResult(None, progress.step, run.metrics(), interrupted=True)

            # 9. Finished: the model, with its recipe and its results beside it.
            metrics = run.metrics()
            with checkpoint.whole_folder(folder.model) as partial:
                write_model(partial, model, processor, recipe, {**vars(progress), "metrics": metrics})
        console.print(f"Finished: {folder.model}")
        return TrainResult(folder.model, progress.step, metrics, interrupted=False)
