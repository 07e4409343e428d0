"""Training: a recipe in, a model out, exactly reproducible and interruptible at any moment."""

from mutua.training.checkpoint import CheckpointError
from mutua.training.loop import TrainResult, train
from mutua.training.recipe import Recipe
from mutua.training.recipe_file import RecipeError, dump_recipe, load_recipe
from mutua.training.step import TrainingError

__all__ = [
    "CheckpointError",
    "Recipe",
    "RecipeError",
    "TrainResult",
    "TrainingError",
    "dump_recipe",
    "load_recipe",
    "train",
]
