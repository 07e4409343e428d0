"""The first run: everything that it leaves, and that a second time makes what is missing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from small_studies import in_this_process, small  # noqa: F401 (fixtures)
from what_users_read import mutua

from mutua.models.model_folder import NAMED
from mutua.study import first_run, packaged_pair
from mutua.study.first_run import trial_recipe
from mutua.study.plan import PAIR, Arm
from mutua.study.pool import Job
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
    monkeypatch.setattr(packaged_pair, "QUESTIONS", 5)
    monkeypatch.setattr(packaged_pair, "run_jobs", ask_here)


def ask_here(jobs: Sequence[Job], *_: object) -> None:
    """Stands in for `run_jobs`."""
    for job in jobs:
        done = mutua(*job.arguments[1:])
        assert done.exit_code == 0, done.output


def quickstart(folder: Path) -> str:
    done = mutua("quickstart", "--output", folder, "--seed", 3)
    assert done.exit_code == 0, done.output
    return done.output


def test_it_leaves_models_table_figures_and_commands(short, tmp_path):
    folder = tmp_path / "out [1]"
    said = quickstart(folder)
    assert {path.name for path in folder.iterdir()} == {
        *("live", "packaged", "results.json", "comparison.png", "scene.png", "look.png")
    }
    results = json.loads((folder / "results.json").read_text())
    assert (results["seed"], results["steps"], set(results["answers"])) == (3, 4, set(PAIR))
    for word in ("difference in points", "attribute", "exists", "relation", "overall", "samples a second and core"):
        assert word in said
    for source in ("easy-vqa", "scenes"):
        assert f"the packaged pair, after 2,732,800 samples, on held-out {source}" in " ".join(said.split())
    assert f"mutua ask {folder / 'scene.png'} " in said
    assert Image.open(folder / "scene.png").size == (32, 32)

    # Again: what is there stays, what is missing is made.
    before = (folder / "live" / "mma" / "stage-1" / "model" / "model.safetensors").stat().st_mtime_ns
    (answers,) = (folder / "packaged").glob("mma-5-*.json")
    answered = answers.stat().st_mtime_ns
    shutil.rmtree(folder / "live" / "causal")
    assert "measuring the speed" not in quickstart(folder)
    assert (folder / "live" / "mma" / "stage-1" / "model" / "model.safetensors").stat().st_mtime_ns == before
    assert answers.stat().st_mtime_ns == answered
    assert json.loads((folder / "results.json").read_text())["answers"] == results["answers"]


def test_the_packaged_pair_differs_in_what_it_was_trained_under_alone():
    """Policy, and what is trained from it: sizes, tokenizer, template and the recipe of the last stage are one."""
    mine, twin = (NAMED[name] for name in ("packaged", "packaged-causal"))
    configs = [json.loads((folder / "config.json").read_text()) for folder in (mine, twin)]
    assert [config.pop("attention_policy") for config in configs] == list(reversed(PAIR))
    for config in configs:
        config.pop("dtype", None)
    assert configs[0] == configs[1]
    for name in ("tokenizer.json", "chat_template.jinja", "processor_config.json", "generation_config.json"):
        assert (mine / name).read_bytes() == (twin / name).read_bytes(), name
    recipes = [load_recipe(folder / "recipe.yaml") for folder in (mine, twin)]
    compiled = recipes[1].train.model_copy(update={"compile": recipes[0].train.compile})
    assert recipes[0] == recipes[1].model_copy(update={"train": compiled})
    runs = [json.loads((folder / "run.json").read_text()) for folder in (mine, twin)]
    assert [run["step"] for run in runs] == [7000, 7000]
    weights = [load_file(folder / "model.safetensors") for folder in (mine, twin)]
    assert {name: x.shape for name, x in weights[0].items()} == {name: x.shape for name, x in weights[1].items()}
    assert not any(
        torch.equal(weights[0][name], weights[1][name]) for name in weights[0] if name.endswith("q_proj.weight")
    )


@pytest.mark.slow
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
