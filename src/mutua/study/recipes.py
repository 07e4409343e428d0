"""The training recipes of a study's arms: everything that is not an arm's own is the same for all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from mutua.data.readers import Source
from mutua.data.sample import Sample
from mutua.study.plan import Arm, Task
from mutua.training.recipe import Recipe

# A language model's sizes by task. The usual 0.02 for fresh weights is made for widths in the thousands; at these it
# is far below 1 / sqrt(width), and nothing is learned for a long time.
_TEXT: dict[Task, dict[str, Any]] = {
    "grid": {"hidden_size": 96, "intermediate_size": 256, "num_attention_heads": 4, "initializer_range": 0.1},
    "scenes": {"hidden_size": 128, "intermediate_size": 384, "num_attention_heads": 4, "initializer_range": 0.09},
}
# The encoder of grid scenes has no layers: it sees every patch by itself, and whatever relates patches is up to the
# language model.
_GRID_VISION = {"hidden_size": 96, "intermediate_size": 192, "num_attention_heads": 4, "num_hidden_layers": 0}
_PIXELS_A_CELL = 8

_MANY = 10_000_000  # samples of a source that never ends: drawn when they are met
_SCENES = 60_000  # so many pictures that their features fit into memory
_CACHE_MB = 2_500

BATCH: dict[Task, int] = {"grid": 128, "scenes": 64}
ENCODER_STEPS: dict[Task, int] = {"grid": 300, "scenes": 600}
_VALIDATIONS = 10  # points of a learning curve
_VALIDATION_SIZE = 600
TEST_SIZE = 3000


def encoder_recipe(task: Task, side: int, folder: Path) -> Recipe:
    """The vision encoder that all arms of a task share, frozen: it learns from captions, under causal attention.

    A caption follows its picture, so no policy would let the picture look ahead: the encoder knows of none.
    """
    if task == "grid":
        source: dict[str, Any] = {**_grid_source("train", _MANY, side), "seed": 1, "families": ["describe"]}
    else:
        source = {"type": "scenes", "split": "train", "size": _MANY, "seed": 1, "families": ["describe"]}
    text = {**_TEXT[task], "num_hidden_layers": 2}
    return Recipe.model_validate(
        {
            "name": f"encoder-{task}-{side}",
            "output": folder,
            "model": {"preset": "tiny", "attention_policy": "causal", "text": text, "vision": _vision(task, side)},
            "data": {"train": [{"source": source}]},
            "train": {**_schedule(ENCODER_STEPS[task]), "batch_size": 64},
        }
    )


def stage_recipes(arm: Arm, folder: Path, encoder: Path | None) -> list[Recipe]:
    """The stages of an arm, each from the model of the one before, in `stage-1`, `stage-2` ... of the folder.

    Args:
        encoder: the folder of the model whose vision encoder the arm takes over, frozen; None: it trains its own.
    """
    recipes: list[Recipe] = []
    for number, order in enumerate(arm.stages, 1):
        steps = arm.steps // len(arm.stages)
        start: dict[str, Any] = {"path": recipes[-1].output / "model"} if recipes else _fresh_model(arm, encoder)
        train = {**_schedule(steps), "batch_size": BATCH[arm.task]}
        if encoder is not None:
            train |= {"freeze": ["model.vision_tower.*"], "cache_vision_mb": _CACHE_MB if arm.task == "scenes" else 0}
        recipes.append(
            Recipe.model_validate(
                {
                    "name": f"{arm.name}-{number}" if len(arm.stages) > 1 else arm.name,
                    "seed": {"weights": arm.seed, "order": arm.seed + 1000 * (number - 1), "dropout": arm.seed},
                    "output": folder / f"stage-{number}",
                    "model": start,
                    "data": {"order": order, "train": _sources(arm)},
                    "train": train,
                    "evaluate": {
                        "sources": _validation(arm),
                        "every": max(1, steps * len(arm.stages) // _VALIDATIONS),
                        "limit": _VALIDATION_SIZE,
                        "batch_size": 200,
                    },
                }
            )
        )
    return recipes


def _fresh_model(arm: Arm, encoder: Path | None) -> dict[str, Any]:
    latents = arm.side * arm.side
    resampler = {"type": "resampler", "latents": latents, "depth": 1, "heads": 4, "head_dim": 24}
    text = {**_TEXT[arm.task], "num_hidden_layers": arm.layers, "model_type": arm.backbone}
    return {
        "preset": "tiny",
        "attention_policy": arm.policy,
        "vision": str(encoder) if encoder else _vision(arm.task, arm.side),
        "connector": resampler if arm.connector == "resampler" else arm.connector,
        "text": text,
    }


def _vision(task: Task, side: int) -> dict[str, Any]:
    """Sizes of a fresh encoder; the preset's own are those for scenes."""
    if task == "scenes":
        return {}
    return {**_GRID_VISION, "image_size": _PIXELS_A_CELL * side, "patch_size": _PIXELS_A_CELL}


def _sources(arm: Arm) -> list[dict[str, Any]]:
    if arm.task == "grid":
        return [{"source": _grid_source("train", _MANY, arm.side) | _questions(arm)}]
    asked = {"type": "scenes", "split": "train", "size": _SCENES, "seed": 2}
    return [{"weight": 4, "source": asked}, {"weight": 1, "source": {"type": "easy-vqa", "split": "train"}}]


def _validation(arm: Arm) -> dict[str, dict[str, Any]]:
    """What settings are chosen on, and what learning curves are drawn of: never the test split."""
    if arm.task == "grid":
        return {"grid": _grid_source("validation", _VALIDATION_SIZE, arm.side) | _questions(arm)}
    # Scenes have two splits: these are of the training split, from a seed that no arm trains on.
    return {"scenes": {"type": "scenes", "split": "train", "size": _VALIDATION_SIZE, "seed": 3}}


def test_sources(arm: Arm) -> dict[str, dict[str, Any]]:
    """What an arm is measured on once, when it is trained; by task."""
    if arm.task == "grid":
        sources = {"grid": _grid_source("test", TEST_SIZE, arm.side) | _questions(arm)}
        if arm.questions == "own":
            families = ["pope-random", "pope-popular", "pope-adversarial"]
            sources["pope"] = {**_grid_source("test", TEST_SIZE, arm.side), "families": families}
        return sources
    return {
        "scenes": {"type": "scenes", "split": "test", "size": 5000, "seed": 1},
        "easy-vqa": {"type": "easy-vqa", "split": "test"},
    }


def open_source(settings: dict[str, Any]) -> Sequence[Sample]:
    """The samples of a source, by its settings as a recipe has them."""
    source: Source = TypeAdapter(Source).validate_python(settings)
    return source.open()


def _questions(arm: Arm) -> dict[str, Any]:
    asked: dict[str, dict[str, Any]] = {
        "own": {},
        "shuffled": {"shuffled": True},
        "blind": {"families": ["blind"]},
    }
    return asked[arm.questions]


def _grid_source(split: str, size: int, side: int) -> dict[str, Any]:
    return {"type": "grid", "split": split, "size": size, "side": side}


def _schedule(steps: int) -> dict[str, Any]:
    return {
        "steps": steps,
        "learning_rate": 2.0e-3,
        "warmup_steps": max(1, steps // 10),
        "weight_decay": 0.01,
        "floor": 0.0,
        "precision": "fp32",
        "workers": 0,
        "log_every": max(1, steps // 50),
        "checkpoint_every": max(1, steps // 4),
        "keep_checkpoints": 1,
    }
