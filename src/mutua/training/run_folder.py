"""The folder of a run: what is in it, whose run it is, and where that run stands.

recipe.yaml           the recipe, every default written out
log.jsonl             one line per logged step          evaluations.jsonl   one line per evaluation
quarantine.jsonl      one line per sample that was skipped
*.jsonl.step-000500   those of a run of which no checkpoint was whole, up to that step
tensorboard/          the same, for TensorBoard        loggers/             what the other loggers keep
checkpoints/          step-000500/ ...
adapter/              what a run with `train.lora` trained, as PEFT reads it
start/                what several processes read their shards of, where it is in no folder yet
start-adapters/       with `train.lora`, what they begin to train
model/                the finished model. A run is finished if the model has all steps of the recipe: one that is
                      continued with more steps keeps its model until the new one is whole
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from mutua.folders import PARTIAL, FolderError, lock_file, remove_leftovers, replace_file
from mutua.training.checkpoint import CheckpointError, Progress, checkpoints, read_progress
from mutua.training.recipe import Recipe
from mutua.training.recipe_file import RecipeError, dump_recipe, load_recipe

# Keys that do not change what is computed, only where it goes, how often it is written down, when it is given up...
_MAY_CHANGE = (
    *("output", "train.workers", "train.log_every", "train.checkpoint_every", "train.keep_checkpoints"),
    "train.async_checkpoints",
    "data.max_bad_share",
    # ... and how much memory it takes, which may change the last digits.
    *("train.micro_batch_size", "train.gradient_checkpointing", "train.cache_vision_mb", "train.replicas"),
    "train.compile",
)
# What is measured changes nothing of what is trained, so a wrong path can be put right; nor does where it is drawn.
_MAY_CHANGE_WHOLE = ("evaluate.", "train.loggers")

_RECORD = "run.json"
_LOCK = ".lock"  # stays, and so tells that a run was here, even one that failed before its first line of the log


class RunFolder:
    """The paths of a run. `open_run` makes one that is safe to write to."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.recipe = root / "recipe.yaml"
        self.log = root / "log.jsonl"
        self.evaluations = root / "evaluations.jsonl"
        self.quarantine = root / "quarantine.jsonl"
        self.tensorboard = root / "tensorboard"
        self.loggers = root / "loggers"
        self.checkpoints = root / "checkpoints"
        self.adapter = root / "adapter"
        self.model = root / "model"
        self.start, self.start_adapters = root / "start", root / "start-adapters"
        self.new_adapter, self.new_model = root / "adapter.new", root / "model.new"
        self.lock = root / _LOCK

    def expect_own(self) -> None:
        """Raises RecipeError where the folder holds something that a run would write, and no run wrote it."""
        if os.path.lexists(self.root) and not self.root.is_dir():
            what = "is a link that leads nowhere" if self.root.is_symlink() else "is a file"
            raise RecipeError(f"output: {self.root} {what}; name a folder")
        files = (self.lock, self.recipe, self.log, self.evaluations, self.quarantine)
        folders = (
            *(self.start, self.start_adapters, self.tensorboard, self.loggers, self.checkpoints),
            *(self.adapter, self.model, self.new_adapter, self.new_model),
        )
        if not self.lock.is_file():
            for path in (*files, *folders):
                if os.path.lexists(path):
                    raise RecipeError(
                        f"output: {path} is there, and no run wrote it ({self.lock} would tell), but this one would; "
                        "choose another output"
                    )
        for path in (*files, *folders):
            if path.exists() and path.is_dir() != (path in folders):
                kinds = ("a file", "a folder") if path in folders else ("a folder", "a file")
                raise RecipeError(
                    f"output: {path} is {kinds[0]} where a run has {kinds[1]}; move it away, or choose another output"
                )
        if self.model.is_dir() and not (self.model / _RECORD).is_file():
            raise RecipeError(f"output: {self.model} is there, and no run made it; choose another output")

    def checkpoint(self, step: int) -> Path:
        return self.checkpoints / f"step-{step:06d}"

    def finished(self, steps: int) -> dict[str, Any] | None:
        """The `run.json` of the model if it has `steps` steps, else None. RecipeError where it is damaged."""
        path = self.model / _RECORD
        if not path.is_file():
            return None
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            return {"step": steps, "metrics": record["metrics"]} if record["step"] == steps else None
        except (ValueError, KeyError, TypeError) as error:
            raise RecipeError(
                f"output: {path} is damaged ({error!r}); remove {self.model}, and the same command makes it anew from "
                "the last checkpoint"
            ) from error

    def place_results(self) -> None:
        """Puts new results where the old ones are, once the new model is whole. Cut short anywhere, it can be done
        again, and then does the rest."""
        if self.new_model.is_dir():
            for new, place in ((self.new_adapter, self.adapter), (self.new_model, self.model)):
                if not new.is_dir():
                    continue
                if place.is_dir():
                    place.rename(place.with_name(f"{place.name}.old{PARTIAL}"))
                new.rename(place)
        shutil.rmtree(self.new_adapter, ignore_errors=True)  # of a model that never became whole
        remove_leftovers(self.root)

    def newest_checkpoint(self, warn: Callable[[str], None]) -> tuple[Path | None, Progress]:
        """The newest checkpoint that is whole. Damaged ones are reported and set aside under another name, and the
        logs, too, where none is whole.

        Raises:
            OSError: one cannot be read, and stays as it is.
        """
        found, kept = checkpoints(self.checkpoints), list[Path]()
        for left, folder in reversed(list(enumerate(found))):
            try:
                return folder, read_progress(folder)
            except CheckpointError as error:
                if not left:  # before the last checkpoint is gone: cut short, this is done again
                    kept = self._keep_logs(found[-1].name)
                aside = folder.with_name(folder.name + ".damaged")
                shutil.rmtree(aside, ignore_errors=True)
                folder.rename(aside)
                warn(f"{error}. Set aside as {aside}{'; trying the checkpoint before it' if left else ''}.")
        if found:
            warn(
                f"None of the {len(found)} checkpoints is whole: this run starts over, from step 0. "
                f"Its logs are kept as {', '.join(path.name for path in kept) or 'they are: there are none'}."
            )
        return None, Progress()

    def _keep_logs(self, end: str) -> list[Path]:
        """Sets the logs of a run that starts over aside, under names that are free: it would empty them."""
        kept = []
        for path in (self.log, self.evaluations, self.quarantine):
            if path.is_file():
                names = (path.with_name(f"{path.name}.{end}{f'-{again}' if again else ''}") for again in count())
                kept.append(path.rename(next(name for name in names if not name.exists())))
        return kept


@contextmanager
def open_run(recipe: Recipe) -> Iterator[RunFolder]:
    """The folder of `recipe.output`, locked for this process, cleaned of what a killed process left half done.

    Raises:
        RecipeError: the folder holds a run of another recipe, or another process is at work in it.
    """
    folder = RunFolder(recipe.output)
    with ExitStack() as stack:
        with _blamed_on_output(folder):
            folder.expect_own()
            folder.root.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(folder.lock.open("a"))
        try:
            lock_file(lock)
        except FolderError as error:
            raise RecipeError(f"output: {error}") from None
        # With no checkpoint there is nothing to go on from: a recipe that failed at its start may be mended.
        if folder.recipe.is_file() and (folder.model.is_dir() or checkpoints(folder.checkpoints)):
            _expect_same(folder, load_recipe(folder.recipe), recipe)
            if (of_model := folder.model / "recipe.yaml").is_file():  # it may have come from elsewhere
                _expect_same(folder, load_recipe(of_model), recipe)
        remove_leftovers(folder.root)
        remove_leftovers(folder.checkpoints)
        folder.place_results()
        if folder.finished(recipe.train.steps) is None:  # else the recipe stays that of what was done
            with _blamed_on_output(folder):
                replace_file(folder.recipe, dump_recipe(recipe))
        yield folder


@contextmanager
def _blamed_on_output(folder: RunFolder) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RecipeError(
            f"output: {folder.root} cannot be written ({error.strerror}); choose another output, or make room there"
        ) from error


def _expect_same(folder: RunFolder, old: Recipe, new: Recipe) -> None:
    """Refuses to go on with a run under another recipe, naming the first key that differs.

    Once a run is finished it may get more steps.
    """
    goes_on = new.train.steps > old.train.steps and folder.finished(old.train.steps) is not None
    if goes_on and not checkpoints(folder.checkpoints):
        raise RecipeError(
            f"train.steps: {new.train.steps}, but the finished run in {new.output} has no checkpoint to go on from; "
            f"choose another output and start from its model (model.path: {folder.model})"
        )
    may_change = (*_MAY_CHANGE, "train.steps") if goes_on else _MAY_CHANGE
    if found := first_difference(old, new, lambda key: key in may_change or key.startswith(_MAY_CHANGE_WHOLE)):
        key, before, now = found
        raise RecipeError(
            f"{key}: {now!r}, but the run in {new.output} has {before!r}. Choose another output for the new run, or "
            f"remove {new.output} to start over"
        )


def first_difference(old: Recipe, new: Recipe, may_differ: Callable[[str], bool]) -> tuple[str, Any, Any] | None:
    """The first dotted key that differs and must not, with its old and its new value."""
    before, now = _flat(old.model_dump(mode="json")), _flat(new.model_dump(mode="json"))
    for key in [*now, *before]:
        if not may_differ(key) and before.get(key) != now.get(key):
            return key, before.get(key), now.get(key)
    return None


def _flat(content: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings and lists as one mapping with dotted keys."""
    items = content.items() if isinstance(content, dict) else enumerate(content)
    flat: dict[str, Any] = {}
    for key, value in items:
        if isinstance(value, dict | list) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
