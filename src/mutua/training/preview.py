"""What a run would train on first, without training."""

from __future__ import annotations

from typing import Any

from mutua.models.longest_text import longest_text
from mutua.training.batches import StepBatch, batches, open_mixture
from mutua.training.build import build_model
from mutua.training.recipe import Recipe
from mutua.unlocking import policy_of


def first_step(recipe: Recipe) -> tuple[str, Any, StepBatch]:
    """The first batch of a run, with the policy and the processor of its model.

    Raises:
        ValueError, OSError: a setting that cannot work, with its place.
    """
    mixture = open_mixture(recipe)
    model, processor = build_model(recipe.model, mixture, recipe.data.tokenizer_texts)
    alone = recipe.model_copy(update={"train": recipe.train.model_copy(update={"workers": 0})})
    longest = longest_text(model.config.get_text_config())
    return str(policy_of(model)), processor, next(batches(mixture, processor, alone, 0, max_tokens=longest))
