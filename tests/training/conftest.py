"""A run small enough to be repeated many times: a model of 50,000 weights, batches of four."""

from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console

from mutua.training import Recipe, load_recipe

SMALL = """
name: small
seed: 3
output: {output}
model:
  preset: tiny
  vision: {{hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 64, image_size: 16}}
  text: {{hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 64, attention_dropout: 0.1}}
data:
  train:
    - {{weight: 3, source: {{type: scenes, split: train, size: 50}}}}
    - {{weight: 1, source: {{type: easy-vqa, split: train}}}}
  tokenizer_texts: 40
train: {{steps: 9, batch_size: 4, micro_batch_size: 3, learning_rate: 1e-3, warmup_steps: 2,
         workers: 0, log_every: 1, checkpoint_every: 4}}
evaluate:
  sources: {{scenes: {{type: scenes, split: test, size: 20}}}}
  every: 3
  limit: 4
"""


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def recipe_in() -> Callable[..., Recipe]:
    """`recipe_in(folder, "key=value", ...)`: the small recipe with its output in `folder / "run"`."""

    def make(folder: Path, *overrides: str) -> Recipe:
        path = folder / "small.yaml"
        path.write_text(SMALL.format(output=folder / "run"), encoding="utf-8")
        return load_recipe(path, overrides)

    return make


@pytest.fixture
def console() -> Console:
    """Its `file.getvalue()` is all that was printed."""
    return Console(file=StringIO(), width=200)
