"""`mutua look`: the file that it draws, and what it says beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from tiny_model import make_model, save_model
from typer.testing import Result
from what_users_read import mutua

SCENE = Path(__file__).parents[2] / "docs/images/scene.png"
QUESTION = "what colour is the object left of the small red circle?"


def look(*words: object) -> Result:
    return mutua("look", SCENE, QUESTION, *words)


def test_policies_side_by_side(tmp_path):
    done = look("-p", "mma", "-p", "causal", "--answer", "Blue", "-o", tmp_path / "look.png")
    assert done.exit_code == 0, done.output
    assert "mma: blue" in done.stdout.splitlines()
    assert "causal: " in done.stdout
    assert Image.open(tmp_path / "look.png").width > 1200


def test_models_side_by_side(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("mutua.inspection.draw_looks.draw_looks", lambda *given: drawn.append(given))
    for name, policy in (("a", "mma"), ("b", "causal")):
        save_model(tmp_path / name, make_model(policy))
    monkeypatch.chdir(tmp_path)
    done = look("-m", "a", "-m", "b", "--max-new-tokens", 2, "-o", "look.svg")
    assert done.exit_code == 0, done.output
    ((_, picture, question, maps, answers),) = drawn
    assert (picture.size, question) == ((64, 64), QUESTION)
    assert list(maps) == list(answers) == ["a (mma)", "b (causal)"]
    assert maps["a (mma)"].shape == (4, 4)
    assert answers["a (mma)"].is_right is None
    assert "cut after 2 tokens" in done.stderr


@pytest.mark.parametrize("connector", ["resampler"])
def test_a_model_that_keeps_no_grid(tmp_path, connector):
    model = save_model(tmp_path / "model", make_model("mma", connector=connector))
    done = look("-m", model, "-o", tmp_path / "look.png")
    assert done.exit_code == 1
    assert "take a model with the connector 'mlp'" in " ".join(done.stderr.split())
    assert not (tmp_path / "look.png").exists()
