"""A model on disk, with all it takes to know how it came about: its recipe, its seed, the versions that made it."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

import mutua
from mutua.models import MutuaForConditionalGeneration
from mutua.quiet import quiet
from mutua.training.recipe import Recipe
from mutua.training.recipe_file import dump_recipe
from mutua.training.shards import write_weights
from mutua.world import World


def versions(recipe: Recipe) -> dict[str, str]:
    """Of everything that the numbers of a run may depend on."""
    adapters = {} if recipe.train.lora is None else {"peft": version("peft")}
    return {
        "mutua": mutua.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        **adapters,
    }


def changed_versions(folder: Path, recipe: Recipe) -> str:
    """How the versions that wrote `folder` differ from those here, as "torch 2.6.0 -> 2.7.0, ..."; "" if not at all."""
    written, here = json.loads((folder / "run.json").read_text(encoding="utf-8"))["versions"], versions(recipe)
    return ", ".join(f"{name} {written[name]} -> {now}" for name, now in here.items() if written[name] != now)


def write_model(
    folder: Path,
    model: PreTrainedModel,
    weights: Mapping[str, Tensor],
    processor: Any,
    recipe: Recipe,
    run: dict[str, Any],
    world: World,
) -> None:
    """Model and processor as `from_pretrained` reads them, and the run's record beside them: by all processes.

    Args:
        model: one of Mutua's own, or an unlocked one of others, which one process holds whole.
        weights: the model's, as `weights_of` gave them, now or earlier.
    """

    def write_rest() -> None:
        if isinstance(model, MutuaForConditionalGeneration):
            model.save_all_but_weights(folder)
        else:  # Transformers knows the names that its weights have on disk
            with quiet():
                model.save_pretrained(folder, state_dict=dict(weights))
        processor.save_pretrained(folder)
        write_record(folder, world, recipe, run)

    world.first(write_rest)
    if isinstance(model, MutuaForConditionalGeneration):
        write_weights(folder, weights, world)


def write_record(folder: Path, world: World, recipe: Recipe, run: dict[str, Any]) -> None:
    """`recipe.yaml`, and `run` with versions as `run.json`."""
    (folder / "recipe.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    is_gpu = world.device.type == "cuda"
    name = torch.cuda.get_device_name(world.device) if is_gpu else f"cpu ({platform.machine()})"
    if world.size > 1:
        name = f"{world.size} x {name}"
    record = {
        "name": recipe.name,
        "seed": recipe.model_dump()["seed"],
        **run,
        "device": name,
        "versions": versions(recipe),
    }
    (folder / "run.json").write_text(json.dumps(record, indent=2), encoding="utf-8")
