"""The numbers of a model: all of them there, and those of the packaged model as they must be for one that is right."""

from __future__ import annotations

import pytest
from tiny_model import make_model, make_processor

from mutua.api import load
from mutua.data.grid import GridScenes
from mutua.data.scenes import Scenes
from mutua.inspection.measure_looks import (
    COSINE,
    POINTED,
    POINTING,
    POINTING_BEST,
    POINTING_CHANCE,
    POINTING_ROLLOUT,
    RELATIVE,
    TO_QUESTION,
    LookRow,
    measure_looks,
)


def places(rows: list[LookRow], measure: str) -> list[tuple[int | None, int | None]]:
    return [(row.layer, row.head) for row in rows if row.measure == measure]


def value(rows: list[LookRow], measure: str, layer: int | None = None) -> float:
    (found,) = [row.value for row in rows if (row.measure, row.layer) == (measure, layer)]
    return found


def test_the_packaged_model_looks_at_what_it_is_asked_about():
    model, processor = load(device="cpu")
    source = Scenes("test", 24, seed=1, families=["attribute", "relation"])
    rows = measure_looks(model, processor, source, 12, Scenes("train", 8, families=["attribute", "relation"]))
    assert value(rows, POINTED) == 12
    assert value(rows, POINTING_CHANCE) == pytest.approx(1 / 9)
    assert value(rows, POINTING_ROLLOUT) > 0.6
    best = next(row.layer for row in rows if row.measure == POINTING_BEST)
    assert value(rows, POINTING_BEST, best) == value(rows, POINTING, best) > 0.6
    assert all(row.value > 0.1 for row in rows if row.measure == TO_QUESTION)
    assert all(value(rows, measure, 4) > 0.05 for measure in (COSINE, RELATIVE))

    model.config.attention_policy = "causal"
    rows = measure_looks(model, processor, source, 12)
    assert {row.value for row in rows if row.measure in (TO_QUESTION, COSINE, RELATIVE)} == {0.0}
    assert value(rows, POINTING_ROLLOUT) < 0.6


def test_every_number_has_its_place():
    model = make_model("mma")
    processor = make_processor(model)
    seen = []
    rows = measure_looks(
        model, processor, GridScenes("test", 30), 20, GridScenes("validation", 9), lambda *done: seen.append(done)
    )
    assert seen == [(16, 20), (20, 20)]
    assert places(rows, TO_QUESTION) == [(layer, head) for layer in (1, 2) for head in (1, 2, 3, 4)]
    assert places(rows, COSINE) == places(rows, RELATIVE) == [(0, None), (1, None), (2, None)]
    assert places(rows, POINTING) == [(1, None), (2, None)]
    assert places(rows, POINTING_ROLLOUT) == places(rows, POINTING_CHANCE) == places(rows, POINTED) == [(None, None)]
    assert value(rows, POINTING_CHANCE) == pytest.approx(1 / 16)
    assert 0 < value(rows, POINTED) < 20
    assert len(rows) == len(set(row[:3] for row in rows))
    assert all(isinstance(row.value, (float, int)) for row in rows)


@pytest.mark.parametrize("connector", ["mlp", "resampler"])
def test_where_nothing_can_be_pointed_at_there_is_no_number_for_it(connector):
    model = make_model("mma", connector=connector)
    source = GridScenes("test", 6)
    samples = source if connector == "resampler" else source[:]  # a list knows nothing of places
    rows = measure_looks(model, make_processor(model), samples, validation=source)
    assert {row.measure for row in rows} == {TO_QUESTION, COSINE, RELATIVE}


def test_what_is_refused():
    model = make_model("mma")
    processor = make_processor(model)
    with pytest.raises(ValueError, match="1 samples with 1 different questions"):
        measure_looks(model, processor, GridScenes("test", 1))
    with pytest.raises(ValueError, match="validation samples do not say where"):
        measure_looks(model, processor, GridScenes("test", 4), validation=GridScenes("validation", 4)[:])
