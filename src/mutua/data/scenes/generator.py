"""Synthetic scenes as a source: item i is a pure function of (seed, split, families, i), and nothing is stored.

Every question is drawn before its scene, and the scene is then built to give an answer that was drawn evenly. That is
what keeps the text alone from giving the answer away (`mutua.evaluation.blind` measures it). Scenes are rebuilt until
their layout belongs to the split, with question and answer held fixed, so the splits share no layout and differ in
nothing else.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mutua.data.answer_box import Box, cell_box
from mutua.data.sample import ImagePart, Message, Sample, TextPart
from mutua.data.samples import Samples
from mutua.data.scenes.dialogue import follow_up
from mutua.data.scenes.questions import (
    ATTRIBUTES,
    EVAL_FAMILIES,
    FAMILIES,
    PHRASINGS,
    SIDES,
    AskAttribute,
    AskCompare,
    AskCount,
    AskDifference,
    AskExists,
    AskList,
    AskNeighbour,
    AskRelation,
    Describe,
    Description,
    Family,
    Question,
    cells_beside,
    fitting,
    near_misses,
    others,
)
from mutua.data.scenes.scene import (
    COLOURS,
    GRID,
    JITTER,
    KINDS,
    SHAPES,
    SIZES,
    Attribute,
    Kind,
    Scene,
    Split,
    Thing,
    render,
)
from mutua.data.scenes.where import answers_thing

Layout = dict[int, Kind]  # cell -> what stands there
Build = Callable[[], Layout]  # draws a fresh layout that gives the question the answer that was chosen for it

_CELLS = range(GRID * GRID)
_VALUES: dict[Attribute, tuple[str, ...]] = {"size": tuple(SIZES), "colour": tuple(COLOURS), "shape": SHAPES}
_MOST_COUNTED = 5
# One layout in 8 is a test layout, so this many tries only fail where a proposer leaves a layout no freedom. For
# that reason each scene has an object that may be of many kinds: identical objects have too few arrangements.
_TRIES = 10_000


@dataclass(frozen=True, slots=True)
class Item:
    """A scene with its question, not yet drawn."""

    scene: Scene
    spec: Question

    @property
    def family(self) -> str:
        return self.spec.family

    @property
    def question(self) -> str:
        return self.spec.text

    @property
    def answer(self) -> str:
        return self.spec.answer(self.scene)


class Scenes(Samples):
    """`size` samples of the split; item i is of family `families[i % len(families)]`.

    With `turns` above 1 the conversation goes on about the same picture: turn t is of the family t places further.
    """

    def __init__(
        self,
        split: Split,
        size: int,
        seed: int = 0,
        families: Sequence[Family] = EVAL_FAMILIES,
        turns: int = 1,
    ) -> None:
        if split not in ("train", "test"):
            raise ValueError(f"split {split!r}: scenes has 'train' and 'test'")
        if size < 0:
            raise ValueError(f"size {size}: must not be negative")
        unknown = [family for family in families if family not in FAMILIES]
        if unknown or not families:
            raise ValueError(f"families {list(families)}: choose one or more of {list(FAMILIES)}")
        if turns < 1 or (turns > 1 and "describe" in families):
            raise ValueError(f"turns {turns}: must be at least 1, and 1 where 'describe' is among the families")
        self.split, self.size, self.seed, self.families, self.turns = split, size, seed, tuple(families), turns

    def __len__(self) -> int:
        return self.size

    def item(self, index: int) -> Item:
        """Scene and question of a sample, with no picture drawn."""
        if not 0 <= index < self.size:
            raise IndexError(f"sample {index} of {self.size} scenes")
        return draw(self.seed, self.split, self.families[index % len(self.families)], index)

    def where(self, index: int) -> Box | None:
        """See `mutua.data.answer_box.KnowsWhere`."""
        item = self.item(index)
        thing = answers_thing([item.spec, *self._further_questions(index, item.scene)][-1], item.scene)
        return None if thing is None else cell_box(thing.cell, GRID)

    def _further_questions(self, index: int, scene: Scene) -> list[Question]:
        """What is asked from the second turn on."""
        rng = random.Random(f"{self.seed}/{self.split}/turns/{index}")
        return [
            follow_up(rng, scene, self.families[(index + turn) % len(self.families)]) for turn in range(1, self.turns)
        ]

    def _sample(self, index: int) -> Sample:
        item = self.item(index)
        messages = [
            Message(role="user", content=(ImagePart(image=render(item.scene)), TextPart(text=item.question))),
            Message(role="assistant", content=(TextPart(text=item.answer),)),
        ]
        for spec in self._further_questions(index, item.scene):
            messages.append(Message(role="user", content=(TextPart(text=spec.text),)))
            messages.append(Message(role="assistant", content=(TextPart(text=spec.answer(item.scene)),)))
        return Sample(
            id=f"scenes-{self.split}-{self.seed}-{index}",
            messages=tuple(messages),
            family=item.family if self.turns == 1 else "",  # a conversation mixes them
            source="scenes",
        )


def draw(seed: int, split: Split, family: Family, index: int) -> Item:
    """The scene and question that these four name, always the same ones."""
    rng = random.Random(f"{seed}/{split}/{family}/{index}")
    spec, build = _PROPOSERS[family](rng)
    background = (rng.randint(225, 245), rng.randint(225, 245), rng.randint(225, 245))
    for _ in range(_TRIES):
        layout = build()
        scene = Scene(tuple(Thing(cell, kind) for cell, kind in sorted(layout.items())), background)
        if scene.split == split:
            break
    else:
        raise RuntimeError(f"no {split} layout in {_TRIES} tries for {spec.text!r} (seed {seed}, index {index})")
    things = (
        Thing(thing.cell, thing.kind, rng.randint(-JITTER, JITTER), rng.randint(-JITTER, JITTER))
        for thing in scene.things
    )
    return Item(Scene(tuple(things), background), spec)


def _propose_attribute(rng: random.Random) -> tuple[Question, Build]:
    asked = rng.choice(ATTRIBUTES)
    description = _description(rng, [name for name in ATTRIBUTES if name != asked])
    wanted = rng.choice(_VALUES[asked])
    target = rng.choice([kind for kind in fitting(description) if kind.value(asked) == wanted])
    distractors = rng.randint(1, 8)
    return AskAttribute(asked, description), lambda: _scatter(rng, [target, *_misses(rng, description, distractors)])


def _propose_exists(rng: random.Random) -> tuple[Question, Build]:
    description = _description(rng, ATTRIBUTES)
    total = rng.randint(2, 9)
    hits = rng.randint(1, min(3, total - 1)) if rng.random() < 0.5 else 0
    return AskExists(description), lambda: _mix(rng, description, hits, total)


def _propose_count(rng: random.Random) -> tuple[Question, Build]:
    description = _description(rng, ATTRIBUTES)
    hits = rng.randint(0, _MOST_COUNTED)
    # The total does not depend on the answer: how crowded a picture is must not tell how many fit.
    total = rng.randint(_MOST_COUNTED + 1, 9)
    return AskCount(description), lambda: _mix(rng, description, hits, total)


def _propose_compare(rng: random.Random) -> tuple[Question, Build]:
    phrasing = rng.choice(PHRASINGS)
    these, those = _one_word(rng), _one_word(rng)
    while these == those:
        those = _one_word(rng)
    yes = rng.random() < 0.5
    order = {"more": 1, "fewer": -1, "as many": 0}[phrasing]
    if not yes:
        order = rng.choice([other for other in (-1, 0, 1) if other != order])
    these_only = [kind for kind in fitting(these) if not those.fits(kind)]
    those_only = [kind for kind in fitting(those) if not these.fits(kind)]
    both = [kind for kind in fitting(these) if those.fits(kind)]
    neither = [kind for kind in others(these) if not those.fits(kind)]

    def build() -> Layout:
        # Objects that fit both sides cancel out, so the answer hangs on those that fit one side only.
        fewer = rng.randint(0 if order else 1, 3)
        more = fewer + (rng.randint(1, 2) if order else 0)
        counts = (more, fewer) if order >= 0 else (fewer, more)
        kinds = rng.choices(these_only, k=counts[0]) + rng.choices(those_only, k=counts[1])
        kinds += rng.choices(both, k=rng.randint(0, min(2, 9 - len(kinds)))) if both else []
        kinds += rng.choices(neither, k=rng.randint(0, 9 - len(kinds))) if neither else []
        return _scatter(rng, kinds) if len(kinds) > 1 else build()

    return AskCompare(phrasing, these, those), build


def _propose_relation(rng: random.Random) -> tuple[Question, Build]:
    asked: Attribute = rng.choice(("colour", "shape"))
    side = rng.choice(SIDES)
    kind = rng.choice(KINDS)
    reference = Description(*kind)
    wanted = rng.choice(_VALUES[asked])
    neighbour = rng.choice([other for other in others(reference) if other.value(asked) == wanted])

    def build() -> Layout:
        cell = rng.choice([cell for cell in _CELLS if cells_beside(cell, side)])
        beside = cells_beside(cell, side)
        layout = {cell: kind, rng.choice(beside): neighbour}
        free = [other for other in _CELLS if other != cell and other not in beside]
        chosen = rng.sample(free, rng.randint(2, len(free)))
        return layout | dict(zip(chosen, _misses(rng, reference, len(chosen)), strict=True))

    return AskRelation(asked, side, reference), build


def _propose_list(rng: random.Random) -> tuple[Question, Build]:
    counted, build = _propose_count(rng)
    assert isinstance(counted, AskCount)
    return AskList(counted.description), build


def _propose_difference(rng: random.Random) -> tuple[Question, Build]:
    compared, build = _propose_compare(rng)
    assert isinstance(compared, AskCompare)
    return AskDifference(compared.these, compared.those), build


def _propose_neighbour(rng: random.Random) -> tuple[Question, Build]:
    related, build = _propose_relation(rng)
    assert isinstance(related, AskRelation)
    return AskNeighbour(related.side, related.reference), build


def _propose_describe(rng: random.Random) -> tuple[Question, Build]:
    return Describe(), lambda: _scatter(rng, rng.choices(KINDS, k=rng.randint(2, 9)))


_PROPOSERS: dict[Family, Callable[[random.Random], tuple[Question, Build]]] = {
    "attribute": _propose_attribute,
    "exists": _propose_exists,
    "count": _propose_count,
    "compare": _propose_compare,
    "relation": _propose_relation,
    "list": _propose_list,
    "difference": _propose_difference,
    "neighbour": _propose_neighbour,
    "describe": _propose_describe,
}


def _description(rng: random.Random, attributes: Sequence[Attribute]) -> Description:
    """One or more of the attributes, each with a value drawn evenly."""
    named = rng.sample(attributes, rng.randint(1, len(attributes)))
    return Description(**{name: rng.choice(_VALUES[name]) for name in named})


def _one_word(rng: random.Random) -> Description:
    return _description(rng, [rng.choice(ATTRIBUTES)])


def _misses(rng: random.Random, description: Description, count: int) -> list[Kind]:
    """Kinds that the description does not fit, half of them near misses."""
    return [rng.choice(near_misses(description) if rng.random() < 0.5 else others(description)) for _ in range(count)]


def _mix(rng: random.Random, description: Description, hits: int, total: int) -> Layout:
    return _scatter(rng, [*rng.choices(fitting(description), k=hits), *_misses(rng, description, total - hits)])


def _scatter(rng: random.Random, kinds: Sequence[Kind]) -> Layout:
    """The kinds in cells drawn at random."""
    return dict(zip(rng.sample(_CELLS, len(kinds)), kinds, strict=True))
