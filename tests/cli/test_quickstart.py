"""The first run: everything that it leaves, and that a second time makes what is missing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from small_studies import in_this_process, small  # noqa: F401 (fixtures)
from typer.testing import CliRunner

from mutua.cli import app
from mutua.study import first_run
from mutua.study.first_run import trial_recipe
from mutua.study.plan import PAIR, Arm
from mutua.study.recipes import stage_recipes
from mutua.training import load_recipe

RECIPE = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"


@pytest.fixture
def short(small, in_this_process, monkeypatch) -> None:  # noqa: F811
    """So few steps that nothing is learned."""
    monkeypatch.setattr(first_run, "STEPS", 4)
    monkeypatch.setattr(first_run, "FEWEST_STEPS", 2)
    monkeypatch.setattr(first_run, "_TRIAL_STEPS", 2)
    monkeypatch.setattr("mutua.study.first_run.run_jobs", in_this_process)


def quickstart(folder: Path) -> str:
    done = CliRunner().invoke(app, ["quickstart", "--output", str(folder), "--seed", "3"])
    assert done.exit_code == 0, done.output
    return done.output


def test_it_leaves_models_table_figures_and_commands(short, tmp_path):
    folder = tmp_path / "out [1]"
    said = quickstart(folder)
    assert {path.name for path in folder.iterdir()} == {
        *("live", "results.json", "comparison.png", "scene.png", "look.png")
    }
    results = json.loads((folder / "results.json").read_text())
    assert (results["seed"], results["steps"], set(results["answers"])) == (3, 4, set(PAIR))
    for word in ("difference in points", "attribute", "exists", "relation", "overall", "samples a second and core"):
        assert word in said
    assert f"mutua ask {folder / 'scene.png'} " in said
    assert Image.open(folder / "scene.png").size == (32, 32)

    # Again: what is there stays, what is missing is made.
    before = (folder / "live" / "mma" / "stage-1" / "model" / "model.safetensors").stat().st_mtime_ns
    shutil.rmtree(folder / "live" / "causal")
    assert "measuring the speed" not in quickstart(folder)
    assert (folder / "live" / "mma" / "stage-1" / "model" / "model.safetensors").stat().st_mtime_ns == before
    assert json.loads((folder / "results.json").read_text())["answers"] == results["answers"]


def test_steps_are_fitted_to_the_time(short, monkeypatch, tmp_path):
    said: list[str] = []
    monkeypatch.setattr(first_run, "_seconds_a_step", lambda recipe: 0.1)
    assert first_run._steps_within(tmp_path / "much", first_run.OTHER_SECONDS + 100, said.append) == 4
    monkeypatch.setattr(first_run, "_seconds_a_step", lambda recipe: 1000.0)
    assert first_run._steps_within(tmp_path / "little", 100, said.append) == 2
    assert "the fewest that show anything" in said[-1]


def test_the_arms_differ_in_the_policy_alone():
    causal, mma = (stage_recipes(Arm(policy, 5), Path("x"), None)[0].model_dump() for policy in PAIR)
    assert causal.pop("name") != mma.pop("name")
    assert causal["model"].pop("attention_policy") == "causal"
    assert mma["model"].pop("attention_policy") == "mma"
    assert causal == mma
    trial = trial_recipe("mma", Path("x"))
    assert trial.model.attention_policy == "mma"
    assert trial.train.batch_size == mma["train"]["batch_size"]


def test_the_recipe_of_the_repository_is_what_it_trains():
    (arm,) = stage_recipes(Arm("mma", steps=first_run.STEPS), Path("runs"), None)
    mine = load_recipe(RECIPE)
    assert mine.model_copy(update={"name": arm.name, "output": arm.output}) == arm
