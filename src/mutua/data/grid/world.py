"""The world of the grid scenes: what stands in a cell, what it looks like, and which split a layout belongs to.

A picture is as easy as can be: every cell is one patch of the vision encoder, and an object always looks the same. What
is hard is to look at the right object. Shape suffixes: B pictures, C cells, H and W pixels.
"""

from __future__ import annotations

from functools import cache
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Split: TypeAlias = Literal["train", "validation", "test"]

CELL = 8  # pixels a side
EMPTY = -1
BACKGROUND = 235

SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = {
    "red": (220, 30, 30),
    "yellow": (240, 205, 0),
    "green": (20, 150, 50),
    "blue": (30, 60, 220),
    "pink": (245, 95, 190),
    "black": (20, 20, 20),
}
# A kind of object is a number: colour * len(SHAPES) + shape.
KINDS = len(COLOURS) * len(SHAPES)
# Of every four objects that no question put there, three are of these kinds (one in three of all): what a model that
# guesses would claim to see.
POPULAR = np.arange(KINDS) % 3 == 0

_SUPERSAMPLE = 8
_SHARE = 8  # of this many layouts one is for testing, one for validation
_HASH = np.uint64(0x9E3779B97F4A7C15)


def words(kind: int) -> tuple[str, str]:
    """Colour and shape of a kind."""
    return tuple(COLOURS)[kind // len(SHAPES)], SHAPES[kind % len(SHAPES)]


@cache
def _stencils() -> NDArray[np.float32]:
    """How much of every pixel a shape covers, (shapes, H, W)."""
    places = (np.arange(CELL * _SUPERSAMPLE) + 0.5) / _SUPERSAMPLE - CELL / 2
    y, x = places[:, None], places[None, :]
    covered = (
        x**2 + y**2 <= 3.4**2,
        (abs(x) <= 3) & (abs(y) <= 3),
        (y <= 3) & (y >= -3.5) & (abs(x) <= (y + 3.5) / 1.9),
        ((abs(x) <= 1.2) | (abs(y) <= 1.2)) & (np.maximum(abs(x), abs(y)) <= 3.4),
    )
    fine = np.stack([np.broadcast_to(one, (len(places),) * 2) for one in covered])
    return fine.reshape(len(SHAPES), CELL, _SUPERSAMPLE, CELL, _SUPERSAMPLE).mean((2, 4), dtype=np.float32)


@cache
def _tiles() -> NDArray[np.uint8]:
    """What a cell of each kind looks like, (kinds + 1, H, W, 3); the last one is empty."""
    stencils, colours = _stencils(), np.array(list(COLOURS.values()), np.float32)
    drawn = BACKGROUND + stencils[None, ..., None] * (colours[:, None, None, None] - BACKGROUND)
    empty = np.full((1, CELL, CELL, 3), BACKGROUND)
    return np.concatenate([drawn.reshape(KINDS, CELL, CELL, 3), empty]).round().astype(np.uint8)


def render(layouts_BC: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Layouts (a kind or `EMPTY` in every cell, row by row) to RGB pictures, (B, H, W, 3)."""
    batch, cells = layouts_BC.shape
    side = round(cells**0.5)
    tiles = _tiles()[layouts_BC].reshape(batch, side, side, CELL, CELL, 3)
    return tiles.transpose(0, 1, 3, 2, 4, 5).reshape(batch, side * CELL, side * CELL, 3)


def splits(layouts_BC: NDArray[np.int64]) -> NDArray[np.str_]:
    """The split that every layout belongs to, by a hash of what stands where, (B,)."""
    hashed = np.zeros(len(layouts_BC), np.uint64)
    for column in layouts_BC.T:
        hashed = (hashed ^ (column + 1).astype(np.uint64)) * _HASH
        hashed ^= hashed >> np.uint64(29)
    return np.array(["test", "validation", *["train"] * (_SHARE - 2)])[hashed % np.uint64(_SHARE)]
