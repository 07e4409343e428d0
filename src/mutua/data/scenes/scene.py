"""The world of the synthetic scenes: objects on a 3 x 3 grid, how they are drawn, and which split a layout belongs to.

Questions about a scene are in `questions`; `generator` draws scenes and questions together.
"""

import itertools
import zlib
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple, TypeAlias

from PIL import Image, ImageDraw

Split: TypeAlias = Literal["train", "test"]
Attribute: TypeAlias = Literal["size", "colour", "shape"]

SIDE = 64  # pixels
GRID = 3  # cells a side; cell = row * GRID + column
JITTER = 2  # pixels an object may stray from the centre of its cell

SHAPES = ("circle", "square", "triangle")
# Near the corners of the RGB cube but for white, so that no two are easily confused on a light background.
COLOURS = {
    "red": (220, 30, 30),
    "yellow": (240, 205, 0),
    "green": (20, 150, 50),
    "cyan": (0, 195, 215),
    "blue": (30, 60, 220),
    "pink": (245, 95, 190),
    "black": (20, 20, 20),
}
SIZES = {"small": 4.5, "large": 8.5}  # radius of the circle, in pixels

_CENTRES = (11, 32, 53)  # pixels; a large object at full jitter just stays inside the picture
_SUPERSAMPLE = 8
_TEST_SHARE = 8  # one layout in this many is a test layout


class Kind(NamedTuple):
    """What an object looks like, apart from where it stands."""

    size: str
    colour: str
    shape: str

    def value(self, attribute: Attribute) -> str:
        return {"size": self.size, "colour": self.colour, "shape": self.shape}[attribute]


KINDS = tuple(Kind(*kind) for kind in itertools.product(SIZES, COLOURS, SHAPES))


@dataclass(frozen=True, slots=True)
class Thing:
    """One object: its kind, its cell (0 to 8, reading order) and its offset from the cell's centre in pixels."""

    cell: int
    kind: Kind
    dx: int = 0
    dy: int = 0

    @property
    def row(self) -> int:
        return self.cell // GRID

    @property
    def column(self) -> int:
        return self.cell % GRID


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture before it is drawn: objects in reading order, at most one to a cell, and the RGB background."""

    things: tuple[Thing, ...]
    background: tuple[int, int, int] = (235, 235, 235)

    def __post_init__(self) -> None:
        cells = [thing.cell for thing in self.things]
        if cells != sorted(set(cells)) or any(not 0 <= cell < GRID * GRID for cell in cells):
            raise ValueError(f"cells {cells}: objects must stand in different cells from 0 to 8, in reading order")

    @property
    def split(self) -> Split:
        """The split that the layout belongs to, by a hash of its cells and kinds alone.

        Jitter and background do not count, so a layout seen in training can never return in the test split in disguise.
        """
        layout = ";".join(f"{thing.cell} {' '.join(thing.kind)}" for thing in self.things)
        return "test" if zlib.crc32(layout.encode()) % _TEST_SHARE == 0 else "train"


@cache
def _stencil(shape: str, size: str) -> Image.Image:
    """The antialiased coverage (mode L) of a shape, its centre at the centre of the stencil."""
    radius = SIZES[size]
    side = 2 * int(radius + 1) + 1
    stencil = Image.new("L", (side * _SUPERSAMPLE,) * 2)
    centre, r = side * _SUPERSAMPLE / 2, radius * _SUPERSAMPLE
    draw = ImageDraw.Draw(stencil)
    if shape == "circle":
        draw.ellipse((centre - r, centre - r, centre + r, centre + r), fill=255)
    elif shape == "square":
        half = 0.9 * r  # about the circle's area, so that size does not tell the shape
        draw.rectangle((centre - half, centre - half, centre + half, centre + half), fill=255)
    else:
        draw.polygon([(centre, centre - r), (centre - r, centre + r), (centre + r, centre + r)], fill=255)
    return stencil.reduce(_SUPERSAMPLE)


def render(scene: Scene) -> Image.Image:
    """Draws the scene: a 64 x 64 RGB image, the same bytes for the same scene."""
    picture = Image.new("RGB", (SIDE, SIDE), scene.background)
    for thing in scene.things:
        stencil = _stencil(thing.kind.shape, thing.kind.size)
        half = stencil.width // 2
        corner = (_CENTRES[thing.column] + thing.dx - half, _CENTRES[thing.row] + thing.dy - half)
        picture.paste(COLOURS[thing.kind.colour], corner, stencil)
    return picture
