"""The folder of a run: what is in it, whose run it is, and where that run stands.

    recipe.yaml           the recipe, every default written out
    log.jsonl             one line per logged step          evaluations.jsonl   one line per evaluation
    tensorboard/          the same, for TensorBoard
    checkpoints/          step-000500/ ...
    model/                the finished model; it is there if and only if the run is finished
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from mutua.training import checkpoint
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
        self.model = root / "model"

    def checkpoint(self, step: int) -> Path:
        return self.checkpoints / f"step-{step:06d}"

    def finished(self) -> dict[str, Any] | None:
        """The `run.json` of a finished run, None while there is none."""
        path = self.model / "run.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def newest_checkpoint(self, console: Console) -> tuple[Path | None, checkpoint.Progress]:
        """The newest checkpoint that is whole. Damaged ones are reported and set aside under another name."""
        for folder in reversed(checkpoint.checkpoints(self.checkpoints)):
            try:
                return folder, checkpoint.read_progress(folder)
            except checkpoint.CheckpointError as error:
                aside = folder.with_name(folder.name + ".damaged")
                shutil.rmtree(aside, ignore_errors=True)
                folder.rename(aside)
                console.print(f"[yellow]{error}. Set aside as {aside.name}; trying the checkpoint before it.")
        return None, checkpoint.Progress()


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
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system lets go of it even after kill -9
        except BlockingIOError:
            raise RecipeError(
                f"output: another process is training in {folder.root}; wait for it, or choose another output"
            ) from None
        if folder.recipe.is_file():
            _expect_same(load_recipe(folder.recipe), recipe)
        checkpoint.remove_leftovers(folder.root)
        checkpoint.remove_leftovers(folder.checkpoints)
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
