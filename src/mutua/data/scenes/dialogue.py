"""Further questions about a scene that was built for another one: the later turns of a conversation.

The first question of a sample shapes its scene (see `generator`); these take the scene as it is, with answers
as even as it allows.
"""

import random
from collections import defaultdict
from functools import cache, lru_cache
from itertools import product

from mutua.data.scenes.questions import (
    ATTRIBUTES,
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
    Description,
    Family,
    Question,
)
from mutua.data.scenes.scene import COLOURS, SHAPES, SIZES, Scene

# A scene without an answerable question of a kind is rare but real (no object of its kind alone, say).
_TRIES = 20


@cache
def _descriptions() -> tuple[Description, ...]:
    """Every description of one to three words."""
    words = product([None, *SIZES], [None, *COLOURS], [None, *SHAPES])
    return tuple(Description(*chosen) for chosen in words if any(chosen))


def follow_up(rng: random.Random, scene: Scene, family: Family) -> Question:
    """A question of that family about the scene, with one right answer; of "exists" where the scene allows none.

    Raises ValueError for "describe", which is no question.
    """
    if family == "describe":
        raise ValueError("'describe' has no follow-up: give it one turn")
    for _ in range(_TRIES):
        question = _propose(rng, scene, family)
        try:
            question.answer(scene)
        except ValueError:  # the description names several objects, or nothing stands on that side
            continue
        return question
    return _exists(rng, scene)


def _propose(rng: random.Random, scene: Scene, family: Family) -> Question:
    kind = rng.choice(scene.things).kind
    if family == "attribute":
        asked = rng.choice(ATTRIBUTES)
        known = [name for name in ATTRIBUTES if name != asked]
        named = rng.sample(known, rng.randint(1, len(known)))
        return AskAttribute(asked, Description(**{name: kind.value(name) for name in named}))
    if family in ("relation", "neighbour"):
        asked, side, reference = rng.choice(("colour", "shape")), rng.choice(SIDES), Description(*kind)
        return AskRelation(asked, side, reference) if family == "relation" else AskNeighbour(side, reference)
    if family in ("count", "list"):
        by_count = _by_count(scene)
        description = rng.choice(by_count[rng.choice(list(by_count))])
        return AskCount(description) if family == "count" else AskList(description)
    if family in ("compare", "difference"):
        compared = _compare(rng, scene)
        return compared if family == "compare" else AskDifference(compared.these, compared.those)
    return _exists(rng, scene)


def _exists(rng: random.Random, scene: Scene) -> AskExists:
    """Yes and no equally often."""
    by_count = _by_count(scene)
    if rng.random() < 0.5:
        return AskExists(rng.choice(by_count[0]))
    return AskExists(rng.choice([found for count, some in by_count.items() if count for found in some]))


def _compare(rng: random.Random, scene: Scene) -> AskCompare:
    """Yes and no equally often, as far as the scene has both."""
    wanted = rng.choice(("yes", "no"))
    words = [one for one in _descriptions() if sum(word is not None for word in (one.size, one.colour, one.shape)) == 1]
    for _ in range(_TRIES):
        these, those = rng.sample(words, 2)
        question = AskCompare(rng.choice(PHRASINGS), these, those)
        if question.answer(scene) == wanted:
            break
    return question


@lru_cache(maxsize=4)  # asked several times for one scene
def _by_count(scene: Scene) -> dict[int, list[Description]]:
    """All descriptions by how many objects fit; at most five, as in the first questions."""
    found: defaultdict[int, list[Description]] = defaultdict(list)
    for description in _descriptions():
        found[len(description.find(scene))].append(description)
    return {count: some for count, some in found.items() if count <= 5}
