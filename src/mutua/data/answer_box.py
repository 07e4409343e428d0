"""Where in a picture the answer to a question is to be seen, for sources that know."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable


class Box(NamedTuple):
    """A part of a picture: its edges, from 0 (left, top) to 1 (right, bottom)."""

    left: float
    top: float
    right: float
    bottom: float


def cell_box(cell: int, side: int) -> Box:
    """A cell of a grid of `side` x `side` that covers the picture, counted row by row from 0."""
    row, column = divmod(cell, side)
    return Box(column / side, row / side, (column + 1) / side, (row + 1) / side)


@runtime_checkable
class KnowsWhere(Protocol):
    """A source that knows where its answers are to be seen."""

    def where(self, index: int) -> Box | None:
        """The cell of the one object that the answer to the last question of a sample rests on.

        None where the answer rests on no object, or on several.
        """
