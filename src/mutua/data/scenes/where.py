"""Where in a scene the answer to a question is to be seen."""

from __future__ import annotations

from mutua.data.scenes.questions import (
    AskAttribute,
    AskCount,
    AskExists,
    AskList,
    AskNeighbour,
    AskRelation,
    Question,
    find_beside,
)
from mutua.data.scenes.scene import Scene, Thing


def answers_thing(question: Question, scene: Scene) -> Thing | None:
    """The one object that an answer rests on; None where it is none, or several, as in all comparisons."""
    if isinstance(question, AskAttribute | AskExists | AskCount | AskList):
        found = question.description.find(scene)
        return found[0] if len(found) == 1 else None
    if isinstance(question, AskRelation | AskNeighbour):
        return find_beside(scene, question.side, question.reference)
    return None
