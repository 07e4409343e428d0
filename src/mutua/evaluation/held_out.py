"""What models are measured on: the held-out data by name, and what a guess that never sees a picture scores there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mutua.data.readers import EasyVQA, EasyVQASource, JsonLinesSource, Scenes, ScenesSource
from mutua.data.sample import Sample
from mutua.evaluation.blind import blind_accuracy

# What held-out means for the two sources of the recipes: easy-VQA's own split, layouts that no training scene has.
HELD_OUT: dict[str, EasyVQASource | ScenesSource] = {
    "easy-vqa": EasyVQASource(type="easy-vqa", split="test"),
    "scenes": ScenesSource(type="scenes", split="test", size=5000, seed=1),
}


def open_source(name: str) -> Sequence[Sample]:
    """The samples of the held-out source of that name, or of a file. ValueError if it is neither."""
    if name.endswith(".jsonl"):
        return JsonLinesSource(type="jsonl", path=Path(name)).open()
    if name not in HELD_OUT:
        raise ValueError(f"no data {name!r}: use {', '.join(HELD_OUT)}, or the path of a .jsonl file.")
    return HELD_OUT[name].open()


def blind_guess(source: str) -> dict[str, float] | None:
    """By family, what the best guesser scores that never sees the picture; None for data without a train split."""
    if source == "easy-vqa":
        return blind_accuracy(EasyVQA("train"), EasyVQA("test"))
    if source == "scenes":  # `item`: the question alone, nothing is drawn
        train, test = Scenes("train", 20_000), open_source("scenes")
        assert isinstance(test, Scenes)
        return blind_accuracy(map(train.item, range(len(train))), map(test.item, range(len(test))))
    return None
