"""How far a guesser gets that never sees the picture: a benchmark is only worth its distance from that.

`python -m mutua.evaluation.blind` prints the table for the synthetic scenes.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol, TypeAlias

from mutua.data.scenes.scene import COLOURS, SHAPES, SIZES


class Asked(Protocol):
    """A question with its family and answer: a `Sample`, or an item of `Scenes` before it is drawn."""

    @property
    def family(self) -> str: ...
    @property
    def question(self) -> str: ...
    @property
    def answer(self) -> str: ...


Key: TypeAlias = tuple[str, ...]

# Words that name an attribute value, in the scenes and in easy-VQA.
_VALUES = re.compile(rf"\b({'|'.join([*SIZES, *COLOURS, *SHAPES, 'gray', 'teal', 'brown', 'rectangle'])})(?=s?\b)")


def template(question: str) -> str:
    """The question with attribute values masked: "is there a red circle?" gives "is there a * *?"."""
    return _VALUES.sub("*", question.lower())


# From coarse to fine. A guesser answers with the majority answer of its own key, or of the next coarser key where the
# fit set never showed its own.
_KEYS: tuple[Callable[[Asked], Key], ...] = (
    lambda asked: (asked.family,),
    lambda asked: (asked.family, template(asked.question)),
    lambda asked: (asked.family, template(asked.question), asked.question),
)


def blind_accuracy(fit: Iterable[Asked], test: Iterable[Asked]) -> dict[str, float]:
    """Accuracy by family, 0 to 1, of the best of three guessers that are fitted on `fit` and scored on `test`.

    They answer with the majority answer of the family, of the question's template, and of the exact question.
    """
    seen: defaultdict[Key, Counter[str]] = defaultdict(Counter)
    for asked in fit:
        answer = asked.answer
        for key in _KEYS:
            seen[key(asked)][answer] += 1
    majority = {key: answers.most_common(1)[0][0] for key, answers in seen.items()}

    totals: Counter[str] = Counter()
    hits = [Counter[str]() for _ in _KEYS]
    for asked in test:
        totals[asked.family] += 1
        guess: str | None = None
        for guesser, key in enumerate(_KEYS):
            guess = majority.get(key(asked), guess)
            hits[guesser][asked.family] += guess == asked.answer
    return {family: max(right[family] for right in hits) / total for family, total in sorted(totals.items())}


def blind_overall(blind: Mapping[str, float], asked: Mapping[str, int]) -> float | None:
    """What a blind guess scores over all questions, of which `asked` counts those of each family.

    None where a family has no blind guess, or nothing was asked.
    """
    if not asked or not set(asked) <= set(blind):
        return None
    return sum(blind[family] * count for family, count in asked.items()) / sum(asked.values())


def main() -> None:
    """Prints the tables for the synthetic scenes."""
    from mutua.data.grid import GridScenes
    from mutua.data.scenes.generator import Scenes

    train, held_out = Scenes("train", 20_000), Scenes("test", 5_000)  # `item`: nothing is drawn
    _print("scenes", list(map(train.item, range(len(train)))), list(map(held_out.item, range(len(held_out)))))
    _print("grid", GridScenes("train", 12_000)[:], GridScenes("test", 3_000)[:])


def _print(source: str, fit: Sequence[Asked], test: Sequence[Asked]) -> None:
    from rich.console import Console
    from rich.table import Table

    title = f"{source}: fitted on {len(fit):,}, scored on {len(test):,}"
    table = Table("family", "blind accuracy", title=title)
    for family, share in blind_accuracy(fit, test).items():
        table.add_row(family, f"{share:.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()
