"""What models are measured on: the held-out data by name, and what a guess that never sees a picture scores there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from mutua.data.readers import EasyVQA, EasyVQASource, GridScenes, GridSource, Scenes, ScenesSource
from mutua.data.readers.source_at import source_at
from mutua.data.sample import Sample
from mutua.evaluation.blind import blind_accuracy

# What held-out means for the sources of the recipes: easy-VQA's own split, layouts that no training scene has.
HELD_OUT: dict[str, EasyVQASource | ScenesSource | GridSource] = {
    "easy-vqa": EasyVQASource(type="easy-vqa", split="test"),
    "scenes": ScenesSource(type="scenes", split="test", size=5000, seed=1),
    "grid": GridSource(type="grid", split="test", size=3000),
}
OF_THE_PACKAGED_MODEL = ("easy-vqa", "scenes")
"""Those that it was trained for."""


def open_source(name: str) -> Sequence[Sample]:
    """The samples of the held-out source of that name, or of a file or folder (see `source_at`).

    Raises:
        ValueError: it is neither, or nothing that is known for data.
    """
    if name in HELD_OUT:
        return HELD_OUT[name].open()
    if "." not in name and ":" not in name and not Path(name).exists():  # no path, but a name
        raise ValueError(f"no data {name!r}: use {', '.join(HELD_OUT)}, or the path of a file or folder of samples.")
    return source_at(name).open()


@cache  # it draws tens of thousands of questions
def blind_guess(source: str) -> Mapping[str, float] | None:
    """By family, what the best guesser scores that never sees the picture; None for data without a train split."""
    if source == "easy-vqa":
        return blind_accuracy(EasyVQA("train"), EasyVQA("test"))
    if source == "scenes":  # `item`: the question alone, nothing is drawn
        train, test = Scenes("train", 20_000), open_source("scenes")
        assert isinstance(test, Scenes)
        return blind_accuracy(map(train.item, range(len(train))), map(test.item, range(len(test))))
    if source == "grid":
        return blind_accuracy(GridScenes("train", 12_000)[:], open_source("grid"))
    return None
