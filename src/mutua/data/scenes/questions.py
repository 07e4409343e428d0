"""Questions about a scene: what each kind asks, its wording, and its answer worked out from the scene alone.

A question raises ValueError where the scene leaves it without one right answer, so a sampler cannot slip in a bad one.
"""

from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Literal, TypeAlias

from mutua.data.scenes.scene import KINDS, Attribute, Kind, Scene, Thing

Family: TypeAlias = Literal[
    "attribute", "exists", "count", "compare", "relation", "list", "difference", "neighbour", "describe"
]
EVAL_FAMILIES: tuple[Family, ...] = ("attribute", "exists", "count", "compare", "relation")
# For training: each says what a short answer rests on, so it teaches more per picture than one word does.
FAMILIES: tuple[Family, ...] = (*EVAL_FAMILIES, "list", "difference", "neighbour", "describe")

Side: TypeAlias = Literal["left of", "right of", "above", "below"]
Phrasing: TypeAlias = Literal["more", "fewer", "as many"]
ATTRIBUTES: tuple[Attribute, ...] = ("size", "colour", "shape")
SIDES: tuple[Side, ...] = ("left of", "right of", "above", "below")
PHRASINGS: tuple[Phrasing, ...] = ("more", "fewer", "as many")


@dataclass(frozen=True, slots=True)
class Description:
    """Words that pick out objects, as "small red" objects or "circle"; an attribute left out is not asked for."""

    size: str | None = None
    colour: str | None = None
    shape: str | None = None

    def fits(self, kind: Kind) -> bool:
        return self.misfits(kind) == 0

    def misfits(self, kind: Kind) -> int:
        """How many of the words are wrong for the kind."""
        wanted = (self.size, self.colour, self.shape)
        return sum(want is not None and want != have for want, have in zip(wanted, kind, strict=True))

    def find(self, scene: Scene) -> tuple[Thing, ...]:
        """The objects of the scene that fit, in reading order."""
        return tuple(thing for thing in scene.things if self.fits(thing.kind))

    def find_one(self, scene: Scene) -> Thing:
        found = self.find(scene)
        if len(found) != 1:
            raise ValueError(f"'the {self}' names {len(found)} objects of the scene, not exactly one")
        return found[0]

    @property
    def plural(self) -> str:
        return f"{self}s"

    def __str__(self) -> str:
        return " ".join(word for word in (self.size, self.colour, self.shape or "object") if word)


@cache
def fitting(description: Description) -> tuple[Kind, ...]:
    """Every kind of object that the description fits."""
    return tuple(kind for kind in KINDS if description.fits(kind))


@cache
def others(description: Description) -> tuple[Kind, ...]:
    """Every kind of object that the description does not fit."""
    return tuple(kind for kind in KINDS if not description.fits(kind))


@cache
def near_misses(description: Description) -> tuple[Kind, ...]:
    """Every kind of object that fails the description by one word only: what tells a careful look from a glance."""
    return tuple(kind for kind in KINDS if description.misfits(kind) == 1)


@dataclass(frozen=True, slots=True)
class AskAttribute:
    """What colour (shape, size) is the one object so described?"""

    family: ClassVar[Family] = "attribute"
    attribute: Attribute
    description: Description

    @property
    def text(self) -> str:
        return f"what {self.attribute} is the {self.description}?"

    def answer(self, scene: Scene) -> str:
        return self.description.find_one(scene).kind.value(self.attribute)


@dataclass(frozen=True, slots=True)
class AskExists:
    """Is there at least one object so described?"""

    family: ClassVar[Family] = "exists"
    description: Description

    @property
    def text(self) -> str:
        return f"is there a {self.description}?"

    def answer(self, scene: Scene) -> str:
        return "yes" if self.description.find(scene) else "no"


@dataclass(frozen=True, slots=True)
class AskCount:
    """How many objects are so described?"""

    family: ClassVar[Family] = "count"
    description: Description

    @property
    def text(self) -> str:
        return f"how many {self.description.plural} are there?"

    def answer(self, scene: Scene) -> str:
        return str(len(self.description.find(scene)))


@dataclass(frozen=True, slots=True)
class AskCompare:
    """Are there more (fewer, as many) of these than (as) of those? An object may count for both."""

    family: ClassVar[Family] = "compare"
    phrasing: Phrasing
    these: Description
    those: Description

    @property
    def text(self) -> str:
        link = "as" if self.phrasing == "as many" else "than"
        return f"are there {self.phrasing} {self.these.plural} {link} {self.those.plural}?"

    def answer(self, scene: Scene) -> str:
        these, those = len(self.these.find(scene)), len(self.those.find(scene))
        holds = {"more": these > those, "fewer": these < those, "as many": these == those}[self.phrasing]
        return "yes" if holds else "no"


@dataclass(frozen=True, slots=True)
class AskRelation:
    """What colour (shape) is the one object on that side of the reference, in its row or its column?"""

    family: ClassVar[Family] = "relation"
    attribute: Attribute
    side: Side
    reference: Description

    @property
    def text(self) -> str:
        return f"what {self.attribute} is the object {self.side} the {self.reference}?"

    def answer(self, scene: Scene) -> str:
        return find_beside(scene, self.side, self.reference).kind.value(self.attribute)


@dataclass(frozen=True, slots=True)
class AskList:
    """Which objects are so described? In reading order."""

    family: ClassVar[Family] = "list"
    description: Description

    @property
    def text(self) -> str:
        return f"list the {self.description.plural}."

    def answer(self, scene: Scene) -> str:
        return _named(self.description.find(scene)) or "none"


@dataclass(frozen=True, slots=True)
class AskDifference:
    """How many more of these than of those are there? Below zero where there are fewer."""

    family: ClassVar[Family] = "difference"
    these: Description
    those: Description

    @property
    def text(self) -> str:
        return f"how many more {self.these.plural} than {self.those.plural} are there?"

    def answer(self, scene: Scene) -> str:
        return str(len(self.these.find(scene)) - len(self.those.find(scene)))


@dataclass(frozen=True, slots=True)
class AskNeighbour:
    """Size, colour and shape of the one object on that side of the reference, in its row or its column."""

    family: ClassVar[Family] = "neighbour"
    side: Side
    reference: Description

    @property
    def text(self) -> str:
        return f"describe the object {self.side} the {self.reference}."

    def answer(self, scene: Scene) -> str:
        return " ".join(find_beside(scene, self.side, self.reference).kind)


@dataclass(frozen=True, slots=True)
class Describe:
    """Every object in reading order."""

    family: ClassVar[Family] = "describe"
    text: ClassVar[str] = "describe the picture."

    def answer(self, scene: Scene) -> str:
        return _named(scene.things)


def _named(things: tuple[Thing, ...]) -> str:
    return ", ".join(" ".join(thing.kind) for thing in things)


Question: TypeAlias = (
    AskAttribute | AskExists | AskCount | AskCompare | AskRelation | AskList | AskDifference | AskNeighbour | Describe
)


@cache
def cells_beside(cell: int, side: Side) -> tuple[int, ...]:
    """The cells on that side of a cell, in the same row or the same column."""
    here = Thing(cell, KINDS[0])
    tests = {
        "left of": lambda there: there.row == here.row and there.column < here.column,
        "right of": lambda there: there.row == here.row and there.column > here.column,
        "above": lambda there: there.column == here.column and there.row < here.row,
        "below": lambda there: there.column == here.column and there.row > here.row,
    }
    return tuple(other for other in range(9) if tests[side](Thing(other, KINDS[0])))


def find_beside(scene: Scene, side: Side, reference: Description) -> Thing:
    """The one object on that side of the reference; ValueError where there is none, or several."""
    cells = cells_beside(reference.find_one(scene).cell, side)
    beside = [thing for thing in scene.things if thing.cell in cells]
    if len(beside) != 1:
        raise ValueError(f"{len(beside)} objects stand {side} the {reference}, not exactly one")
    return beside[0]
