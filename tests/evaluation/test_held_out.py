"""What is measured, and that the command has no part in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_model import CORPUS, make_model

from mutua.composition.tiny import tiny_model, train_tokenizer
from mutua.data.readers import EasyVQA, GridScenes, Scenes
from mutua.evaluation.accuracy import evaluate
from mutua.evaluation.held_out import HELD_OUT, blind_guess, open_source
from mutua.evaluation.several_models import measure, to_json
from mutua.training import load_recipe


def test_held_out_is_what_no_recipe_trains_on():
    assert {name: (source.split, source.open().__class__) for name, source in HELD_OUT.items()} == {
        "easy-vqa": ("test", EasyVQA),
        "scenes": ("test", Scenes),
        "grid": ("test", GridScenes),
    }
    assert len(open_source("scenes")) == 5000
    root = Path(__file__).parents[2]
    recipes = [*root.glob("recipes/**/*.yaml"), *root.glob("src/mutua/packaged*/recipe.yaml")]
    assert len(recipes) > 10
    for path in recipes:
        for one in load_recipe(path).data.train:
            assert getattr(one.source, "split", "train") != "test", path


def test_a_file_or_a_mistake(tmp_path):
    sample = {"id": "1", "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "yes"}]}
    (tmp_path / "mine.jsonl").write_text(json.dumps(sample) + "\n")
    assert [sample.answer for sample in open_source(str(tmp_path / "mine.jsonl"))] == ["yes"]
    assert blind_guess(str(tmp_path / "mine.jsonl")) is None
    with pytest.raises(
        ValueError, match=r"no data .imagenet.: use easy-vqa, scenes, grid, or the path of a file or folder"
    ):
        open_source("imagenet")


def test_every_model_on_every_source():
    pair = tiny_model(train_tokenizer(CORPUS, vocab_size=320), make_model("mma").config)
    sources = {"first": Scenes("test", 6), "second": Scenes("test", 9, seed=2)}
    seen: list[tuple] = []
    results = measure({"a": pair, "b": pair}, sources, limit=5, batch_size=3, progress=lambda *done: seen.append(done))
    assert seen == [(m, s, n, 5) for s in ("first", "second") for m in ("a", "b") for n in (3, 5)]
    assert results["second"]["b"] == evaluate(*pair, sources["second"], limit=5)
    written = json.loads(json.dumps(to_json(results)))
    assert written["first"]["a"]["overall"]["total"] == len(written["first"]["a"]["records"]) == 5
