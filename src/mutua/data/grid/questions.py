"""What is asked about grid scenes: each family draws questions, and the layouts that give them their answers, in bulk.

As in `mutua.data.scenes`, the answer is drawn evenly before the scene is built to give it, so that the text alone gives
nothing away. Shape suffixes: B items, C cells.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from mutua.data.grid.chance import Chance
from mutua.data.grid.world import COLOURS, EMPTY, KINDS, POPULAR, SHAPES, words

Family: TypeAlias = Literal[
    "attribute", "exists", "relation", "pope-random", "pope-popular", "pope-adversarial", "blind", "describe"
]
FAMILIES: tuple[Family, ...] = get_args(Family)
# Of the others the pope-* are for evaluation (does the model claim to see what is not there?), "blind" asks for what
# the question itself says, and "describe" teaches a vision encoder.
MAIN_FAMILIES: tuple[Family, ...] = ("attribute", "exists", "relation")

Array: TypeAlias = NDArray[np.int64]

ASKED = ("colour", "shape", "")  # the last one stands for yes or no
SIDES = {"left": (0, -1), "right": (0, 1), "above": (-1, 0), "below": (1, 0)}  # rows and columns from the reference

_YES_NO = ASKED.index("")
_COLOURS, _SHAPES = len(COLOURS), len(SHAPES)
_BAG = np.concatenate([np.arange(KINDS), *[np.flatnonzero(POPULAR)] * 5])


@dataclass(frozen=True)
class Items:
    """Scenes of one family with a question each, not yet drawn.

    Attributes:
        family: of all of them.
        layouts_BC: a kind or `EMPTY` in every cell, row by row.
        kinds_B: the kind that the question names (one word of it, in the family "attribute").
        asked_B: what is asked for, an index into `ASKED`.
        sides_B: an index into `SIDES`, where it asks for a neighbour.
        cells_B: the cell where the answer is to be seen; `EMPTY` where there is none.
    """

    family: Family
    layouts_BC: Array
    kinds_B: Array
    asked_B: Array
    sides_B: Array
    cells_B: Array

    def question(self, item: int) -> str:
        """The text of a question."""
        (colour, shape), asked = words(int(self.kinds_B[item])), ASKED[self.asked_B[item]]
        if self.family == "attribute":
            return f"{asked} of {shape if asked == 'colour' else colour}?"
        if self.family == "relation":
            return f"{asked} {list(SIDES)[self.sides_B[item]]} of {colour} {shape}?"
        if self.family == "blind":
            return f"{asked} of {colour} {shape}?"
        return "describe." if self.family == "describe" else f"any {colour} {shape}?"

    def answer(self, item: int) -> str:
        """Its answer, read from the layout (or, if it is "blind", from the question)."""
        cell, asked = int(self.cells_B[item]), int(self.asked_B[item])
        if self.family == "describe":
            return ", ".join(" ".join(words(kind)) for kind in self.layouts_BC[item].tolist() if kind != EMPTY)
        if self.family == "blind":
            return words(int(self.kinds_B[item]))[asked]
        if asked == _YES_NO:
            return "no" if cell == EMPTY else "yes"
        return words(int(self.layouts_BC[item, cell]))[asked]

    def take(self, chosen: Array, others: Items) -> Items:
        """These, but at the places `chosen` those of `others`, in their order."""
        merged = {name: value.copy() for name, value in vars(self).items() if name != "family"}
        for name, value in merged.items():
            value[chosen] = getattr(others, name)
        return Items(self.family, **merged)


def draw(family: Family, chance: Chance, items: int, side: int) -> Items:
    """Questions of a family with their scenes, of whatever split, on a grid of `side` x `side` cells."""
    layouts_BC, named = _PROPOSERS[family](chance, items, side)
    nothing_B = np.zeros(items, np.int64)
    return Items(family, layouts_BC, **{"asked_B": nothing_B + _YES_NO, "sides_B": nothing_B, **named})


def _attribute(chance: Chance, items: int, side: int) -> tuple[Array, dict[str, Array]]:
    """Of what colour is the only circle? Of what shape is the only red object?"""
    colour_B, shape_B, asked_B = chance.below(_COLOURS), chance.below(_SHAPES), chance.below(2)
    fillers_BC = _bag(chance, side)
    # Nothing else has the word that the question gives.
    other_shape_BC = (shape_B[:, None] + 1 + chance.below(_SHAPES - 1, side * side)) % _SHAPES
    other_colour_BC = (colour_B[:, None] + 1 + chance.below(_COLOURS - 1, side * side)) % _COLOURS
    fillers_BC = np.where(
        asked_B[:, None] == ASKED.index("colour"),
        fillers_BC // _SHAPES * _SHAPES + other_shape_BC,
        other_colour_BC * _SHAPES + fillers_BC % _SHAPES,
    )
    layouts_BC, places_BC = _scatter(chance, fillers_BC)
    kinds_B, cells_B = colour_B * _SHAPES + shape_B, places_BC[:, 0]
    layouts_BC[np.arange(items), cells_B] = kinds_B
    return layouts_BC, {"kinds_B": kinds_B, "asked_B": asked_B, "cells_B": cells_B}


def _exists(chance: Chance, items: int, side: int) -> tuple[Array, dict[str, Array]]:
    """Is there a red circle? In half of the scenes; half of the other objects are wrong in one word only."""
    kinds_B = chance.below(KINDS)
    layouts_BC, places_BC = _scatter(chance, _near_misses(chance, kinds_B, side))
    return layouts_BC, _put_half(chance, layouts_BC, kinds_B, places_BC[:, 0])


def _relation(chance: Chance, items: int, side: int) -> tuple[Array, dict[str, Array]]:
    """Of what colour (shape) is the object left of the only red circle?"""
    kinds_B, asked_B, sides_B = chance.below(KINDS), chance.below(2), chance.below(len(SIDES))
    layouts_BC, _ = _scatter(chance, _near_misses(chance, kinds_B, side))
    down_B, right_B = np.array(list(SIDES.values()))[sides_B].T
    here_B = _with_room(chance, side, down_B) * side + _with_room(chance, side, right_B)
    there_B = here_B + down_B * side + right_B
    # What is asked for is drawn evenly; the other word again where both would make a second red circle.
    colour_B, shape_B = chance.below(_COLOURS), chance.below(_SHAPES)
    asks_colour_B = asked_B == ASKED.index("colour")
    is_same_B = colour_B * _SHAPES + shape_B == kinds_B
    shape_B = np.where(is_same_B & asks_colour_B, (shape_B + 1 + chance.below(_SHAPES - 1)) % _SHAPES, shape_B)
    colour_B = np.where(is_same_B & ~asks_colour_B, (colour_B + 1 + chance.below(_COLOURS - 1)) % _COLOURS, colour_B)
    layouts_BC[np.arange(items), here_B] = kinds_B
    layouts_BC[np.arange(items), there_B] = colour_B * _SHAPES + shape_B
    return layouts_BC, {"kinds_B": kinds_B, "asked_B": asked_B, "sides_B": sides_B, "cells_B": there_B}


def _pope_random(chance: Chance, items: int, side: int) -> tuple[Array, dict[str, Array]]:
    """Is there a red circle? Any kind, and whatever else is there."""
    return _pope(chance, chance.below(KINDS), side)


def _pope_popular(chance: Chance, items: int, side: int) -> tuple[Array, dict[str, Array]]:
    """One of the kinds that are seen most."""
    popular = np.flatnonzero(POPULAR)
    return _pope(chance, popular[chance.below(len(popular))], side)


def _pope_adversarial(chance: Chance, items: int, side: int) -> tuple[Array, dict[str, Array]]:
    """Where there is none, there is something red, and a circle."""
    kinds_B, row_B = chance.below(KINDS), np.arange(items)
    layouts_BC, places_BC = _scatter(chance, _not(chance, _bag(chance, side), kinds_B[:, None]))
    colour_B, shape_B = kinds_B // _SHAPES, kinds_B % _SHAPES
    layouts_BC[row_B, places_BC[:, 1]] = colour_B * _SHAPES + (shape_B + 1 + chance.below(_SHAPES - 1)) % _SHAPES
    layouts_BC[row_B, places_BC[:, 2]] = (colour_B + 1 + chance.below(_COLOURS - 1)) % _COLOURS * _SHAPES + shape_B
    return layouts_BC, _put_half(chance, layouts_BC, kinds_B, places_BC[:, 0])


def _pope(chance: Chance, kinds_B: Array, side: int) -> tuple[Array, dict[str, Array]]:
    layouts_BC, places_BC = _scatter(chance, _not(chance, _bag(chance, side), kinds_B[:, None]))
    return layouts_BC, _put_half(chance, layouts_BC, kinds_B, places_BC[:, 0])


def _blind(chance: Chance, items: int, side: int) -> tuple[Array, dict[str, Array]]:
    """Of what colour is a red circle? The picture has nothing to do with it."""
    layouts_BC, _ = _scatter(chance, _bag(chance, side))
    nowhere_B = np.full(items, EMPTY)
    return layouts_BC, {"kinds_B": chance.below(KINDS), "asked_B": chance.below(2), "cells_B": nowhere_B}


def _describe(chance: Chance, items: int, side: int) -> tuple[Array, dict[str, Array]]:
    """A caption: every object, in reading order."""
    layouts_BC, _ = _scatter(chance, _bag(chance, side))
    return layouts_BC, {"kinds_B": np.zeros(items, np.int64), "cells_B": np.full(items, EMPTY)}


_PROPOSERS: dict[Family, Callable[[Chance, int, int], tuple[Array, dict[str, Array]]]] = {
    "attribute": _attribute,
    "exists": _exists,
    "relation": _relation,
    "pope-random": _pope_random,
    "pope-popular": _pope_popular,
    "pope-adversarial": _pope_adversarial,
    "blind": _blind,
    "describe": _describe,
}


def _bag(chance: Chance, side: int) -> Array:
    """A kind for every cell; the popular ones, a third of all, come three times out of four."""
    return _BAG[chance.below(len(_BAG), side * side)]


def _not(chance: Chance, kinds_BC: Array, unwanted_B1: Array) -> Array:
    """The kinds, but another one where it is the unwanted one."""
    others_BC = (unwanted_B1 + 1 + chance.below(KINDS - 1, kinds_BC.shape[1])) % KINDS
    return np.where(kinds_BC == unwanted_B1, others_BC, kinds_BC)


def _near_misses(chance: Chance, kinds_B: Array, side: int) -> Array:
    """Other kinds for every cell: a quarter of the same shape, a quarter of the same colour."""
    colour_B1, shape_B1, cells = kinds_B[:, None] // _SHAPES, kinds_B[:, None] % _SHAPES, side * side
    same_shape_BC = (colour_B1 + 1 + chance.below(_COLOURS - 1, cells)) % _COLOURS * _SHAPES + shape_B1
    same_colour_BC = colour_B1 * _SHAPES + (shape_B1 + 1 + chance.below(_SHAPES - 1, cells)) % _SHAPES
    which_BC = chance.uniform(cells)
    any_BC = _not(chance, _bag(chance, side), kinds_B[:, None])
    return np.where(which_BC < 0.25, same_shape_BC, np.where(which_BC < 0.5, same_colour_BC, any_BC))


def _scatter(chance: Chance, kinds_BC: Array) -> tuple[Array, Array]:
    """`side` to 2 `side` + 1 objects in cells drawn at random; and the cells in that order, the taken ones first."""
    batch, cells = kinds_BC.shape
    side = round(cells**0.5)
    places_BC = chance.order(cells)
    is_taken_BC = np.zeros((batch, cells), bool)
    np.put_along_axis(is_taken_BC, places_BC, np.arange(cells) < (side + chance.below(side + 2))[:, None], 1)
    return np.where(is_taken_BC, kinds_BC, EMPTY), places_BC


def _put_half(chance: Chance, layouts_BC: Array, kinds_B: Array, cells_B: Array) -> dict[str, Array]:
    """Puts the kinds into half of the layouts, in place."""
    is_there_B = chance.below(2) == 1
    layouts_BC[is_there_B, cells_B[is_there_B]] = kinds_B[is_there_B]
    return {"kinds_B": kinds_B, "cells_B": np.where(is_there_B, cells_B, EMPTY)}


def _with_room(chance: Chance, side: int, step_B: Array) -> Array:
    """A row (column) from which a step of -1, 0 or 1 stays on the grid."""
    first_B = (step_B < 0).astype(np.int64)
    return first_B + (chance.uniform() * (side - (step_B != 0))).astype(np.int64)
