"""Scenes: reproducible, disjoint splits, balanced, one right answer to each question, none given away by the text."""

import hashlib
import pickle
import re
from collections import Counter
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from mutua.data.readers import Scenes, Source
from mutua.data.sample import ImagePart, Sample
from mutua.data.scenes.generator import _PROPOSERS, Item, draw
from mutua.data.scenes.questions import (
    EVAL_FAMILIES,
    FAMILIES,
    AskAttribute,
    AskRelation,
    Describe,
    Description,
    Family,
)
from mutua.data.scenes.scene import COLOURS, KINDS, SHAPES, Kind, Scene, Thing, render
from mutua.evaluation.blind import blind_accuracy, template

RED_CIRCLE, BLUE_SQUARE = Kind("small", "red", "circle"), Kind("large", "blue", "square")


def picture(sample: Sample) -> Image.Image:
    part = sample.messages[0].content[0]
    assert isinstance(part, ImagePart)
    assert isinstance(part.image, Image.Image)
    return part.image


@given(st.integers(0, 2**32), st.sampled_from(["train", "test"]), st.integers(0, 999))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_pure_function_of_seed_split_and_index(seed: int, split: str, index: int) -> None:
    one, two = (Scenes(split, 1000, seed, FAMILIES)[index] for _ in range(2))  # type: ignore[arg-type]
    assert (one.id, one.family, one.question, one.answer) == (two.id, two.family, two.question, two.answer)
    assert picture(one).tobytes() == picture(two).tobytes()
    assert picture(one).mode == "RGB"
    assert picture(one).size == (64, 64)
    other = draw(seed + 1, split, "describe", index)  # type: ignore[arg-type]
    assert other.scene != draw(seed, split, "describe", index).scene  # type: ignore[arg-type]


def test_the_same_on_every_machine() -> None:
    """Scores are comparable only while this holds: a change here is a change of the benchmark."""
    reader = Scenes("test", 300, families=(*EVAL_FAMILIES, "list", "describe"))
    text = "\n".join(f"{item.question} {item.answer} {item.scene}" for item in map(reader.item, range(300)))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "364d87fc6ca383a6"


def test_splits_share_no_layout() -> None:
    seen: dict[str, set[frozenset[tuple[int, Kind]]]] = {"train": set(), "test": set()}
    for split, layouts in seen.items():
        for index in range(1500):
            scene = draw(index % 3, split, FAMILIES[index % len(FAMILIES)], index).scene  # type: ignore[arg-type]
            assert scene.split == split
            layouts.add(frozenset((thing.cell, thing.kind) for thing in scene.things))
    assert not seen["train"] & seen["test"]
    moved = Scene((Thing(0, RED_CIRCLE, 2, -1), Thing(4, BLUE_SQUARE)), (225, 240, 230))
    assert moved.split == Scene((Thing(0, RED_CIRCLE), Thing(4, BLUE_SQUARE))).split


@pytest.mark.parametrize("family", FAMILIES)
def test_every_question_finds_a_test_layout(family: Family) -> None:
    """A question whose scenes have too few layouts for one of them to be a test layout would raise here."""
    for index in range(4000):
        draw(11, "test", family, index)


def test_a_scene_that_cannot_fit_the_split_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = next({0: kind} for kind in KINDS if Scene((Thing(0, kind),)).split == "train")
    monkeypatch.setitem(_PROPOSERS, "describe", lambda rng: (Describe(), lambda: layout))
    with pytest.raises(
        RuntimeError, match=r"no test layout in 10000 tries for 'describe the picture\.' \(seed 0, index 7\)"
    ):
        draw(0, "test", "describe", 7)


def test_families_take_turns() -> None:
    families: tuple[Family, ...] = ("count", "relation", "describe")
    reader = Scenes("train", 30, families=families)
    assert [reader[i].family for i in range(6)] == [*families, *families]


# A second, separate reading of the questions: from the words alone, over plain dictionaries.


def named(words: str, things: list[dict[str, str | int]]) -> list[dict[str, str | int]]:
    for word in words.split():
        word = word.removesuffix("s") if word.removesuffix("s") in (*SHAPES, "object") else word
        if word != "object":
            things = [thing for thing in things if word in (thing["size"], thing["colour"], thing["shape"])]
    return things


def in_reading_order(things: list[dict[str, str | int]]) -> str:
    ordered = sorted(things, key=lambda t: (t["y"], t["x"]))
    return ", ".join(f"{t['size']} {t['colour']} {t['shape']}" for t in ordered)


def worked_out(question: str, scene: Scene) -> str:
    things: list[dict[str, str | int]] = [
        {"size": t.kind.size, "colour": t.kind.colour, "shape": t.kind.shape, "x": t.cell % 3, "y": t.cell // 3}
        for t in scene.things
    ]
    if question == "describe the picture.":
        return in_reading_order(things)
    sides = "left of|right of|above|below"
    if match := re.fullmatch(rf"(?:what (\w+) is|describe) the object ({sides}) the (.+)[?.]", question):
        (reference,) = named(match[3], things)
        axis, sign = {"left of": ("x", -1), "right of": ("x", 1), "above": ("y", -1), "below": ("y", 1)}[match[2]]
        across = "y" if axis == "x" else "x"
        (found,) = (
            t for t in things if t[across] == reference[across] and sign * (int(t[axis]) - int(reference[axis])) > 0
        )
        return str(found[match[1]]) if match[1] else in_reading_order([found])
    if match := re.fullmatch(r"what (\w+) is the (.+)\?", question):
        (found,) = named(match[2], things)
        return str(found[match[1]])
    if match := re.fullmatch(r"list the (.+)\.", question):
        return in_reading_order(named(match[1], things)) or "none"
    if match := re.fullmatch(r"is there a (.+)\?", question):
        return "yes" if named(match[1], things) else "no"
    if match := re.fullmatch(r"how many more (.+) than (.+) are there\?", question):
        return str(len(named(match[1], things)) - len(named(match[2], things)))
    if match := re.fullmatch(r"how many (.+) are there\?", question):
        return str(len(named(match[1], things)))
    match = re.fullmatch(r"are there (more|fewer|as many) (.+) (?:than|as) (.+)\?", question)
    assert match, question
    difference = len(named(match[2], things)) - len(named(match[3], things))
    return "yes" if {"more": difference > 0, "fewer": difference < 0, "as many": difference == 0}[match[1]] else "no"


def items(family: Family, count: int, seed: int = 0) -> list[Item]:
    return [draw(seed, "train", family, index) for index in range(count)]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_question_has_its_one_right_answer(family: Family) -> None:
    for item in items(family, 1500):
        assert item.answer == worked_out(item.question, item.scene), (item.question, item.scene)
        assert 2 <= len(item.scene.things) <= 9
        assert item.question == item.question.lower()
        assert item.family in ("list", "describe", "neighbour") or " " not in item.answer


def shares(answers: list[str]) -> dict[str, float]:
    return {answer: count / len(answers) for answer, count in Counter(answers).items()}


@pytest.mark.slow
def test_answers_are_balanced() -> None:
    assert shares([item.answer for item in items("exists", 2000)])["yes"] == pytest.approx(0.5, abs=0.05)
    counts = shares([item.answer for item in items("count", 2000)])
    assert set(counts) == set("012345")
    assert all(share == pytest.approx(1 / 6, abs=0.04) for share in counts.values())
    for phrasing in ("more", "fewer", "as many"):
        answers = [item.answer for item in items("compare", 3000) if f"are there {phrasing}" in item.question]
        assert len(answers) > 800
        assert shares(answers)["yes"] == pytest.approx(0.5, abs=0.05)
    for family in ("attribute", "relation"):
        for attribute, values in (("colour", COLOURS), ("shape", SHAPES)):
            found = [i.answer for i in items(family, 3000) if i.question.startswith(f"what {attribute}")]
            assert all(shares(found)[value] == pytest.approx(1 / len(values), abs=0.06) for value in values)


def test_text_alone_does_not_give_the_answer_away() -> None:
    fit, test = Scenes("train", 8000), Scenes("test", 2500)
    accuracy = blind_accuracy(map(fit.item, range(8000)), map(test.item, range(2500)))
    bounds = {"attribute": 0.55, "exists": 0.56, "count": 0.30, "compare": 0.56, "relation": 0.42}
    assert set(accuracy) == set(EVAL_FAMILIES)
    assert all(accuracy[family] <= bound for family, bound in bounds.items()), accuracy


def test_blind_guesser_finds_what_text_gives_away() -> None:
    reader = Scenes("train", 40, families=("exists",))
    assert blind_accuracy([reader[i] for i in range(40)] * 2, [reader[0]] * 3) == {"exists": 1.0}
    assert template("are there more red circles than small objects?") == "are there more * *s than * objects?"


def of_colour(colour: tuple[int, int, int], thing: Thing) -> npt.NDArray[np.bool_]:
    """Which pixels of the drawn object have just that colour. [64, 64]"""
    drawn = np.asarray(render(Scene((thing,), (235, 235, 235))))
    return np.asarray((drawn == colour).all(axis=-1))


def test_sizes_and_colours_differ_at_a_glance() -> None:
    def pixels(kind: Kind) -> int:
        return int((~of_colour((235, 235, 235), Thing(4, kind))).sum())

    for shape in SHAPES:
        assert pixels(Kind("large", "red", shape)) > 2.5 * pixels(Kind("small", "red", shape))
    tones = list(COLOURS.values())
    assert min(sum(abs(a - b) for a, b in zip(x, y, strict=True)) for x in tones for y in tones if x != y) > 100


def test_objects_stay_apart_and_inside() -> None:
    """Two large objects at full jitter towards each other, and one towards the border, keep their own pixels."""
    for kind in (kind for kind in KINDS if kind.size == "large" and kind.colour == "red"):
        left, right = (of_colour(COLOURS["red"], Thing(cell, kind, dx, 0)) for cell, dx in ((0, 2), (1, -2)))
        assert left.any()
        assert right.any()
        assert not (left & right).any()
        for dx, dy, cell in ((-2, -2, 0), (2, 2, 8)):
            centred, moved = Thing(4, kind), Thing(cell, kind, dx, dy)
            assert of_colour(COLOURS["red"], centred).sum() == of_colour(COLOURS["red"], moved).sum()


def test_cells_must_differ_and_be_in_order() -> None:
    for cells in ((1, 1), (2, 1), (0, 9)):
        assert not all(a < b for a, b in pairwise(cells)) or max(cells) > 8
        with pytest.raises(ValueError, match="objects must stand in different cells from 0 to 8, in reading order"):
            Scene(tuple(Thing(cell, RED_CIRCLE) for cell in cells))


def test_a_question_without_one_answer_is_refused() -> None:
    scene = Scene((Thing(0, RED_CIRCLE), Thing(1, RED_CIRCLE), Thing(8, BLUE_SQUARE)))
    with pytest.raises(ValueError, match="'the circle' names 2 objects of the scene, not exactly one"):
        AskAttribute("colour", Description(shape="circle")).answer(scene)
    with pytest.raises(ValueError, match="0 objects stand left of the blue square, not exactly one"):
        AskRelation("shape", "left of", Description(colour="blue", shape="square")).answer(scene)


def test_reader_pickles_slices_and_ends() -> None:
    reader = pickle.loads(pickle.dumps(Scenes("test", 10, seed=3)))
    assert len(reader) == 10
    assert [sample.id for sample in reader[8:]] == ["scenes-test-3-8", "scenes-test-3-9"]
    assert reader[-1].question == reader[9].question
    assert len(list(reader)) == 10
    with pytest.raises(IndexError, match="sample 10 of 10"):
        reader[10]


def test_refusals() -> None:
    with pytest.raises(ValueError, match="split 'val': scenes has 'train' and 'test'"):
        Scenes("val", 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="size -1: must not be negative"):
        Scenes("train", -1)
    with pytest.raises(ValueError, match=r"families \['colour'\]: choose one or more of \['attribute'"):
        Scenes("train", 1, families=("colour",))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"families \[\]: choose one or more"):
        Scenes("train", 1, families=())


def test_opens_from_settings() -> None:
    source = TypeAdapter(Source).validate_python({"type": "scenes", "split": "train", "size": 6, "families": ["count"]})
    assert len(source.open()) == 6
    assert source.open()[5].family == "count"
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        TypeAdapter(Source).validate_python({"type": "scenes", "split": "train", "size": 6, "shuffle": True})
    with pytest.raises(ValidationError, match="'web' found using 'type' does not match any of the expected tags"):
        TypeAdapter(Source).validate_python({"type": "web"})
