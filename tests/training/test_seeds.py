"""Each seed moves its own source of chance and no other."""

from __future__ import annotations

import json
import os
import signal
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from training_runs import at_step, expect_equal, expect_resumed

from mutua.training import RecipeError, train
from mutua.training.batches import StepBatch
from mutua.training.step import Stepper

SEEDS = {"weights": 1, "order": 2, "dropout": 3}
SHORT = ("train.steps=2", "train.warmup_steps=1", "evaluate.sources={}", "data.tokenizer_texts=400")


def seeds(**other: int) -> str:
    return f"seed={json.dumps({**SEEDS, **other})}"


def run(folder: Path, recipe_in, monkeypatch: pytest.MonkeyPatch, **other: int) -> dict[str, Any]:
    """What a run began with: its weights, the samples of its first step, their loss, and how it drew from chance."""
    folder.mkdir()
    seen: dict[str, Any] = {}
    backward = Stepper.backward

    def watch(self: Stepper, batch: StepBatch) -> Any:
        if "order" not in seen:
            seen["weights"] = self.model.model.language_model.layers[0].mlp.up_proj.weight.detach().clone()
            seen["order"], seen["dropout"] = batch.sample_ids, torch.get_rng_state()
        return backward(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "backward", watch)
        train(recipe_in(folder, seeds(**other), *SHORT), Console(quiet=True))
    return seen


def same(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def test_each_seed_moves_one_thing(tmp_path: Path, recipe_in, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(tmp_path / "first", recipe_in, monkeypatch)
    for name in SEEDS:
        other = run(tmp_path / name, recipe_in, monkeypatch, **{name: 7})
        assert {key for key in first if not same(first[key], other[key])} == {name}
    record = json.loads((tmp_path / "order" / "run" / "model" / "run.json").read_text())
    assert record["seed"] == {**SEEDS, "order": 7}


def test_stopped_and_resumed(tmp_path: Path, recipe_in, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout is on in these runs."""
    for name in "ab":
        (tmp_path / name).mkdir()
        recipe = recipe_in(tmp_path / name, seeds())
        if name == "b":
            at_step(monkeypatch, 5, lambda _: os.kill(os.getpid(), signal.SIGINT))
            assert train(recipe, Console(quiet=True)).interrupted
        console = Console(file=StringIO(), width=300)
        train(recipe, console)
    expect_resumed(console)
    expect_equal(tmp_path / "b" / "run", tmp_path / "a" / "run")
    with pytest.raises(RecipeError, match=r"seed\.weights: 9, but"):
        train(recipe_in(tmp_path / "b", seeds(weights=9)), Console(quiet=True))
