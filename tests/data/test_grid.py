"""Grid scenes: every answer is worked out a second time from words and layout, and the text gives nothing away."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mutua.data.grid import GridScenes
from mutua.data.grid.questions import FAMILIES, MAIN_FAMILIES, SIDES, Family
from mutua.data.grid.source import SPLITS
from mutua.data.grid.world import CELL, COLOURS, EMPTY, POPULAR, SHAPES, render, splits, words
from mutua.evaluation.blind import blind_accuracy


def read(question: str, layout: list[int], side: int) -> str:
    """The answer by the words of the question alone; an error where there is more than one."""
    things = {divmod(cell, side): words(kind) for cell, kind in enumerate(layout) if kind != EMPTY}
    if question == "describe.":
        return ", ".join(" ".join(things[cell]) for cell in sorted(things))
    asked, *rest = question.removesuffix("?").split()
    if asked == "any":
        return "yes" if tuple(rest) in things.values() else "no"
    place = ("colour", "shape").index(asked)
    if rest[0] == "of" and len(rest) == 3:  # it says so itself
        return rest[1 + place]
    if rest[0] == "of":
        (thing,) = [thing for thing in things.values() if rest[1] in thing]
        return thing[place]
    ((row, column),) = [cell for cell, thing in things.items() if thing == tuple(rest[2:])]
    down, right = SIDES[rest[0]]
    return things[row + down, column + right][place]


@given(st.sampled_from(FAMILIES), st.sampled_from(SPLITS), st.integers(0, 10**9), st.integers(2, 6), st.integers(0, 9))
def test_every_answer_is_right(family: Family, split, index, side, seed):
    source = GridScenes(split, 10**9 + 9, seed=seed, families=[family], side=side)
    items = source.items(family, range(index, index + 8))
    assert set(splits(items.layouts_BC)) == {split}
    for item, layout in enumerate(items.layouts_BC.tolist()):
        assert items.answer(item) == read(items.question(item), layout, side)


def test_a_sample_does_not_depend_on_the_others():
    source = GridScenes("train", 1000, families=FAMILIES)
    some = [7, 990, 3, 7]
    for index, sample in zip(some, source.__getitems__(some), strict=True):
        alone = source[index]
        assert (alone.id, alone.question, alone.answer, alone.family) == (
            sample.id,
            sample.question,
            sample.answer,
            sample.family,
        )
        assert alone.messages[0].content[0].image.tobytes() == sample.messages[0].content[0].image.tobytes()
    assert [sample.id for sample in source[2:5]] == [source[index].id for index in (2, 3, 4)]
    assert source[-1].id == source[999].id


def test_pictures_show_the_layout():
    layouts_BC = np.array([[EMPTY, 0, 5, 23], [1, EMPTY, EMPTY, EMPTY]])
    pictures_BHW3 = render(layouts_BC)
    assert pictures_BHW3.shape == (2, 2 * CELL, 2 * CELL, 3)
    empty = pictures_BHW3[0, :CELL, :CELL]
    assert len(np.unique(empty)) == 1
    for place, kind in enumerate(layouts_BC[0]):
        row, column = divmod(place, 2)
        tile = pictures_BHW3[0, row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL]
        if kind != EMPTY:
            colour, _ = words(int(kind))
            assert tuple(tile[4, 4]) == COLOURS[colour]
    kinds = np.arange(len(COLOURS) * len(SHAPES))[:, None].repeat(4, 1)
    assert len(np.unique(render(kinds).reshape(len(kinds), -1), axis=0)) == len(kinds)


def test_splits_share_no_layout():
    seen = {
        split: {tuple(row) for row in GridScenes(split, 2000, side=2).items("exists", range(2000)).layouts_BC.tolist()}
        for split in SPLITS
    }
    assert not seen["train"] & seen["test"]
    assert not seen["train"] & seen["validation"]
    assert not seen["validation"] & seen["test"]


def test_the_text_gives_nothing_away():
    train, test = GridScenes("train", 12_000), GridScenes("test", 3_000)
    guess = blind_accuracy(train[:], test[:])
    assert guess["attribute"] < 0.30  # one of four shapes or six colours: 5/24 = 0.21 by chance
    assert guess["relation"] < 0.30
    assert guess["exists"] < 0.56


def test_shuffled_questions_look_nowhere():
    assert {GridScenes("train", 6, shuffled=True).where(index) for index in range(6)} == {None}


def test_shuffled_questions_are_those_of_other_scenes():
    own, other = GridScenes("train", 600), GridScenes("train", 600, shuffled=True)
    pairs = list(zip(own[:], other[:], strict=True))
    assert all(a.answer == b.answer and a.family == b.family for a, b in pairs)
    assert sum(a.question == b.question for a, b in pairs) < 60


@pytest.mark.parametrize("family", FAMILIES[3:6])
def test_what_is_asked_of_hallucinations(family):
    source = GridScenes("test", 2000, families=[family])
    items = source.items(family, range(2000))
    absent = items.cells_B == EMPTY
    assert 0.45 < absent.mean() < 0.55
    if family == "pope-popular":
        assert POPULAR[items.kinds_B].all()
    if family == "pope-adversarial":
        for kind, layout in zip(items.kinds_B[absent].tolist(), items.layouts_BC[absent].tolist(), strict=True):
            colour, shape = words(kind)
            seen = [words(other) for other in layout if other != EMPTY]
            assert colour in {one for one, _ in seen}
            assert shape in {one for _, one in seen}


def test_popular_kinds_are_seen_most():
    items = GridScenes("train", 6000).items("exists", range(1, 6000, 3))
    counts = Counter(items.layouts_BC[items.layouts_BC != EMPTY].tolist())
    by_popularity = defaultdict(list)
    for kind, popular in enumerate(POPULAR):
        by_popularity[bool(popular)].append(counts[kind])
    assert min(by_popularity[True]) > max(by_popularity[False])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"split": "dev"}, "grid has 'train', 'validation', 'test'"),
        ({"size": -1}, "must not be negative"),
        ({"families": []}, "choose one or more of"),
        ({"families": ["count"]}, "choose one or more of"),
        ({"side": 1}, "2 to 16 cells"),
    ],
)
def test_mistakes(wrong, message):
    with pytest.raises(ValueError, match=message):
        GridScenes(**{"split": "train", "size": 3, "families": MAIN_FAMILIES, **wrong})
    with pytest.raises(IndexError):
        GridScenes("train", 3).__getitems__([3])
