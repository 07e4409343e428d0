"""Whether a batch can be held at all, found by arithmetic before it is drawn."""

from __future__ import annotations

from typing import Any

from mutua.memory import physical_memory
from mutua.models import MutuaForConditionalGeneration
from mutua.models.vision import image_side
from mutua.training.recipe import Recipe

_BYTES = 4  # of a colour of a pixel, in fp32


def expect_memory(recipe: Recipe, model: Any) -> None:
    """Raises ValueError where the pictures of one step, one a sample, take more memory than the machine has."""
    if not isinstance(model, MutuaForConditionalGeneration):
        return  # of a model of others it is not known how large pictures become
    side = image_side(model.config.vision_config, model.config.image_size)
    needed = recipe.train.batch_size * 3 * side * side * _BYTES
    there = physical_memory()
    if needed > there:
        raise ValueError(
            f"train.batch_size: {recipe.train.batch_size} pictures of {side} x {side} take {needed / 2**30:.0f} GiB, "
            f"and this machine has {there / 2**30:.0f}: lower it"
        )
