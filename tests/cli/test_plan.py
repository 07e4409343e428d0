"""`mutua plan`: a table, a verdict, one JSON object; one line for every mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import Result
from what_users_read import mutua

from mutua.training.devices import DEVICES, Device

RECIPE = """
name: small
output: {output}
model:
  preset: tiny
  vision: {{hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 64, image_size: 16}}
  text: {{hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 64}}
data:
  train:
    - {{weight: 3, source: {{type: scenes, split: train, size: 50}}}}
    - {{weight: 1, source: {{type: scenes, split: test, size: 20}}}}
  tokenizer_texts: 40
train: {{steps: 100, batch_size: 8, learning_rate: 1e-3}}
"""


@pytest.fixture
def plan(tmp_path: Path):
    def plan(*words: str) -> Result:
        path = tmp_path / "small.yaml"
        path.write_text(RECIPE.format(output=tmp_path / "run"), encoding="utf-8")
        return mutua("plan", path, *words)

    return plan


def test_a_table_and_a_verdict(plan, tmp_path: Path) -> None:
    result = plan("--gpus", "2xH100")
    assert result.exit_code == 0, result.output
    for words in ("on 2 x H100", "AdamW's moments", "gathered weights", "fits: ", "of 80 GiB", "epochs", "minutes"):
        assert words in result.stdout, words
    assert "assumed: a step reaches 55%" in result.stderr
    assert not (tmp_path / "run").exists(), "nothing is trained"


def test_one_object(plan) -> None:
    record = json.loads(plan("--json", "--gpus", "A100").stdout)
    assert record["fits"]
    assert record["peak"] == sum(record["memory"].values())
    assert record["run"]["samples"] == 800
    assert [source["epochs"] for source in record["sources"]] == [12, 10]
    assert record["run"]["hours"] == pytest.approx(100 * record["step"]["seconds"] / 3600)


def test_the_recipe_can_be_changed(plan) -> None:
    plain, changed = (
        json.loads(plan("--json", "--gpus", "A100", *words).stdout) for words in ((), ("--set", "train.batch_size=64"))
    )
    assert changed["peak"] > 4 * plain["peak"] / 2
    assert changed["step"]["samples"] == 64


def test_tokens_take_the_place_of_a_look(plan) -> None:
    record = json.loads(plan("--json", "--tokens", "100").stdout)
    assert record["step"]["micro_batch"]["tokens"] == 100
    assert record["sources"][0]["samples"] is None
    assert sum("as --tokens says" in line for line in record["assumed"]) == 2


def test_what_does_not_fit_says_what_would(plan, monkeypatch) -> None:
    small = Device("H100", 3 * 2**20, 1e12, 1e12, 1e12, 1e11, "made up")
    monkeypatch.setitem(DEVICES, "h100", small)
    result = plan("--gpus", "H100", "--set", "train.batch_size=64")
    assert result.exit_code == 1, result.output
    assert "does not fit: " in result.stdout
    for change in ("train.gradient_checkpointing=true: ", "train.micro_batch_size=32: ", "--gpus 2xH100: "):
        assert change in result.stdout
    record = json.loads(plan("--gpus", "H100", "--set", "train.batch_size=64", "--json").stdout)
    assert not record["fits"]
    assert len(record["remedies"]) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--gpus", "8xB200"), "no kind 'b200'; there are H100, H200, A100, A100-40GB, L40S, RTX4090, cpu."),
        (("--gpus", "8H100"), "write a number, an x and a kind, such as 8xH100"),
        (("--gpus", "16xH100"), "train.batch_size: 8 samples for 16 processes"),
        (("--tokens", "2"), "--tokens 2: a picture alone takes 1;"),
        (("--set", "model={preset: aki-4b}"), "cannot be loaded from a folder here or from the hub"),
        (("--set", "train.stepz=1"), "train.stepz: unknown key"),
    ],
)
def test_mistakes_are_told_in_a_line(plan, words: tuple[str, ...], message: str) -> None:
    result = plan(*words)
    assert result.exit_code == 1, result.output
    assert message in " ".join(result.stderr.split())
    assert result.stderr.count("error: ") == 1
    assert "Traceback" not in result.output
