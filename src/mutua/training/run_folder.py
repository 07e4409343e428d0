"""The folder of a run: what is in it, whose run it is, and where that run stands.

recipe.yaml           the recipe, every default written out
log.jsonl             one line per logged step          evaluations.jsonl   one line per evaluation
tensorboard/          the same, for TensorBoard
checkpoints/          step-000500/ ...
adapter/              what a run with `train.lora` trained, as PEFT reads it
model/                the finished model; it is there if and only if the run is finished
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mutua.folders import remove_leftovers
from mutua.training.checkpoint import CheckpointError, Progress, checkpoints, read_progress
from mutua.training.recipe import Recipe
from mutua.training.recipe_file import RecipeError, dump_recipe, load_recipe

# Keys that do not change what is computed, only where it goes and how often it is written down.
_FREE = ("output", "train.workers", "train.log_every", "train.checkpoint_every", "train.keep_checkpoints")


class RunFolder:
    """The paths of a run. `open_run` makes one that is safe to write to."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.recipe = root / "recipe.yaml"
        self.log = root / "log.jsonl"
        self.evaluations = root / "evaluations.jsonl"
        self.tensorboard = root / "tensorboard"
        self.checkpoints = root / "checkpoints"
        self.adapter = root / "adapter"
        self.model = root / "model"

    def checkpoint(self, step: int) -> Path:
        return self.checkpoints / f"step-{step:06d}"

    def finished(self) -> dict[str, Any] | None:
        """The `run.json` of a finished run, None while there is none."""
        path = self.model / "run.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def newest_checkpoint(self, warn: Callable[[str], None]) -> tuple[Path | None, Progress]:
        """The newest checkpoint that is whole. Damaged ones are reported and set aside under another name."""
        for folder in reversed(checkpoints(self.checkpoints)):
            try:
                return folder, read_progress(folder)
            except CheckpointError as error:
                aside = folder.with_name(folder.name + ".damaged")
                shutil.rmtree(aside, ignore_errors=True)
                folder.rename(aside)
                warn(f"{error}. Set aside as {aside.name}; trying the checkpoint before it.")
        return None, Progress()


@contextmanager
def open_run(recipe: Recipe) -> Iterator[RunFolder]:
    """The folder of `recipe.output`, locked for this process, cleaned of what a killed process left half done.

    Raises:
        RecipeError: the folder holds a run of another recipe, or another process is at work in it.
    """
    folder = RunFolder(recipe.output)
    folder.root.mkdir(parents=True, exist_ok=True)
    with (folder.root / ".lock").open("a") as lock:
        try:
            # The system lets go of it even after kill -9. Not flock: data workers would inherit that, and they outlive
            # a killed trainer by seconds.
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # POSIX allows either
            raise RecipeError(
                f"output: another process is training in {folder.root}; wait for it, or choose another output"
            ) from None
        # With no checkpoint there is nothing to go on from: a recipe that failed at its start may be mended.
        if folder.recipe.is_file() and (folder.finished() or checkpoints(folder.checkpoints)):
            _expect_same(load_recipe(folder.recipe), recipe)
        remove_leftovers(folder.root)
        remove_leftovers(folder.checkpoints)
        if not folder.finished():
            shutil.rmtree(folder.adapter, ignore_errors=True)
        partial = folder.recipe.with_name("recipe.yaml.new")
        partial.write_text(dump_recipe(recipe), encoding="utf-8")
        partial.replace(folder.recipe)
        yield folder


def _expect_same(old: Recipe, new: Recipe) -> None:
    """Refuses to go on with a run under another recipe, naming the first key that differs."""
    before, now = _flat(old.model_dump(mode="json")), _flat(new.model_dump(mode="json"))
    for key in [*now, *before]:
        if key not in _FREE and before.get(key) != now.get(key):
            raise RecipeError(
                f"{key}: {now.get(key)!r}, but the run in {new.output} has {before.get(key)!r}. Choose another output "
                f"for the new run, or remove {new.output} to start over"
            )


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
