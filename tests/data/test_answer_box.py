"""The cell that a source names holds what the answer rests on, in the picture itself."""

from __future__ import annotations

import pytest

from mutua.data.answer_box import Box, KnowsWhere, cell_box
from mutua.data.grid import GridScenes
from mutua.data.grid.questions import FAMILIES as GRID_FAMILIES
from mutua.data.grid.world import COLOURS as GRID_COLOURS
from mutua.data.readers import EasyVQA
from mutua.data.scenes import Scenes
from mutua.data.scenes.questions import FAMILIES
from mutua.data.scenes.scene import COLOURS


def colour_at(sample, box: Box, colours) -> str | None:
    """The colour that most pixels of the box have, of those that objects have."""
    picture = sample.messages[0].content[0].image
    crop = picture.crop([round(edge * picture.width) for edge in box])
    names = {value: name for name, value in colours.items()}
    found = [(count, names[pixel]) for count, pixel in crop.getcolors(crop.width * crop.height) if pixel in names]
    return max(found)[1] if found else None


def test_cells_cover_the_picture_row_by_row():
    assert cell_box(0, 4) == (0, 0, 0.25, 0.25)
    assert cell_box(6, 4) == (0.5, 0.25, 0.75, 0.5)
    assert cell_box(8, 3) == pytest.approx((2 / 3, 2 / 3, 1, 1))


@pytest.mark.parametrize("family", GRID_FAMILIES)
def test_grid_scenes_know_where(family):
    source = GridScenes("validation", 40, families=[family], side=3)
    for index, sample in enumerate(source):
        box, answer = source.where(index), sample.answer
        assert (box is None) == (answer == "no" or family in ("blind", "describe"))
        if box is not None and (answer in GRID_COLOURS or answer == "yes"):
            wanted = answer if answer in GRID_COLOURS else sample.question.split()[1]
            assert colour_at(sample, box, GRID_COLOURS) == wanted


@pytest.mark.parametrize("family", FAMILIES)
def test_scenes_know_where(family):
    source = Scenes("test", 60, families=[family])
    boxes = [source.where(index) for index in range(len(source))]
    if family in ("compare", "difference", "describe"):
        assert not any(boxes)
        return
    assert len(set(boxes) - {None}) > 6
    for sample, box in zip(source, boxes, strict=True):
        if family in ("attribute", "relation", "neighbour"):
            assert box is not None
            colours = set(COLOURS) & set(sample.answer.split())
        else:
            assert box is not None or sample.answer != "1"
            assert box is None or sample.answer not in ("no", "none", "0", "2", "3", "4", "5")
            colours = set(COLOURS) & set(sample.question.rstrip("?.").split())
        for colour in colours if box else ():
            assert colour_at(sample, box, COLOURS) == colour


def test_of_several_turns_the_last_question_counts():
    source = Scenes("test", 30, families=["exists", "attribute"], turns=2)
    for index, sample in enumerate(source):
        box = source.where(index)
        if "what" in sample.question:
            assert box is not None
            if sample.answer in COLOURS:
                assert colour_at(sample, box, COLOURS) == sample.answer


def test_who_knows_where():
    assert isinstance(GridScenes("test", 1), KnowsWhere)
    assert isinstance(Scenes("test", 1), KnowsWhere)
    assert not isinstance(EasyVQA("test"), KnowsWhere)
