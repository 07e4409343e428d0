"""`mutua audit RECIPE`: the first rows of a run, before it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from what_users_read import mutua

from mutua.api import PACKAGED

RECIPE = """
name: packed
output: {folder}/run
model: {{path: {model}}}
data:
  train: [{{source: {{type: scenes, split: train, size: 100, turns: 2}}}}]
  {packing}
train: {{steps: 2, batch_size: 5, learning_rate: 1.0e-4, micro_batch_size: 1}}
"""


@pytest.fixture
def run(tmp_path: Path):
    def run(*words: str, packing: str = "packing: {tokens: 200}"):
        path = tmp_path / "packed.yaml"
        path.write_text(RECIPE.format(folder=tmp_path, model=PACKAGED, packing=packing))
        return mutua("audit", path, *words)

    return run


def test_packed_documents_are_shown_apart(run, tmp_path: Path) -> None:
    result = run()
    assert result.exit_code == 0, result.output
    for heading in ("document 0", "document 1", "'<image>' x 36", "trained on"):
        assert heading in result.output
    assert "documents 2" in result.output.splitlines()[-1]
    assert not (tmp_path / "run").exists(), "nothing is trained"


def test_rows_of_all_micro_batches_can_be_chosen(run) -> None:
    found = [json.loads(run("--json", "-n", str(row)).stdout) for row in (1, 2)]
    assert sum(one["summary"]["documents"] for one in found) == 5
    for one in found:
        ahead = [token["document"] for token in one["tokens"] for _ in token["looks_ahead"]]
        by_place = [token["document"] for token in one["tokens"]]
        spans = [span for token in one["tokens"] for span in token["looks_ahead"]]
        assert [by_place[first] for first, _ in spans] == ahead == [by_place[last] for _, last in spans]
        assert sum(bool(token["looks_ahead"]) for token in one["tokens"]) == 36 * one["summary"]["documents"]
    result = run("-n", "3")
    assert result.exit_code == 1
    assert "has 2 rows: there is no row 3" in result.output


def test_unpacked_rows_too(run) -> None:
    result = run("-n", "5", packing="max_tokens: 200")
    assert result.exit_code == 0, result.output
    assert "documents 1" in result.output.splitlines()[-1]


@pytest.mark.parametrize("words", [("--model", "x"), ("--template", "x"), ("and more",)])
def test_what_the_recipe_says_cannot_be_said_again(run, words) -> None:
    result = run(*words)
    assert result.exit_code == 1
    assert "does not go with a recipe" in result.output
