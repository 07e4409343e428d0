"""The paper's comparison, short: everything that it leaves, and that a second time makes what is missing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from mutua.cli import app, quickstart

SHORT = {"steps": 2, "batch_size": 2, "warmup_steps": 0, "workers": 0, "checkpoint_every": 2}


@pytest.fixture
def short(tmp_path, monkeypatch) -> Path:
    """The two recipes, with two steps each."""
    for name in ("quickstart-captions", "quickstart"):
        recipe = yaml.safe_load(quickstart.find_recipe(name).read_text())
        recipe["train"] |= SHORT
        recipe["data"]["tokenizer_texts"] = 50
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
    monkeypatch.setattr(quickstart, "find_recipe", lambda name: tmp_path / f"{name}.yaml")
    guess = dict.fromkeys(("attribute", "exists", "count", "compare", "relation", "shape", "colour", "absent"), 0.5)
    monkeypatch.setattr("mutua.evaluation.blind_guess", lambda source: guess)  # ten seconds
    return tmp_path / "out [1]"


def test_it_leaves_models_table_figure_and_answer(short):
    done = CliRunner().invoke(app, ["quickstart", "--output", str(short), "--limit", "4"])
    assert done.exit_code == 0, done.output
    assert {path.name for path in short.iterdir()} == {
        *("captions", "mma", "causal"),
        *("results.json", "accuracy.png", "scene.png"),
    }
    assert json.loads((short / "results.json").read_text())["scenes"]["mma"]["overall"]["blind_guess"] == 0.5
    assert f"mutua ask {short / 'scene.png'} " in done.stdout
    assert "overall" in done.stdout
    shutil.rmtree(short / "causal")
    (short / "results.json").unlink()
    assert CliRunner().invoke(app, ["quickstart", "--output", str(short), "--limit", "4"]).exit_code == 0
