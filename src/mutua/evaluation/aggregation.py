"""From verdicts on single replies to the figures of a benchmark, as VLMEvalKit of March 2025 counts them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from mutua.evaluation.accuracy import Score

MME_PERCEPTION = (
    "existence",
    "count",
    "position",
    "color",
    "posters",
    "celebrity",
    "scene",
    "landmark",
    "artwork",
    "OCR",
)
MME_COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")

ROTATION = 1_000_000  # MMBench numbers the n-th rotation of question i as n * 1e6 + i


def by_group(hits: Iterable[tuple[str, bool]]) -> dict[str, Score]:
    """How many are right of each group, in order of first appearance.

    Args:
        hits: the group of each sample, and whether it is right.
    """
    grouped: dict[str, list[bool]] = {}
    for group, hit in hits:
        grouped.setdefault(group, []).append(hit)
    return {group: Score(sum(hits), len(hits)) for group, hits in grouped.items()}


@dataclass(frozen=True)
class PairScore:
    """A category of MME, which asks two questions about each image.

    Attributes:
        questions: how many of its questions were answered right.
        images: of how many of its images both were (the benchmark's "acc+").
    """

    questions: Score
    images: Score

    @property
    def total(self) -> float:
        """0 to 200: both accuracies in percent, added."""
        return 100 * (self.questions.accuracy + self.images.accuracy)


@dataclass(frozen=True)
class MME:
    """The figures of MME (arXiv 2306.13394), by category."""

    categories: Mapping[str, PairScore]

    @property
    def perception(self) -> float:
        """MME-P, 0 to 2000: the totals of its ten categories, added. A category that was not asked adds nothing; nan
        where none was."""
        return self._added(MME_PERCEPTION)

    @property
    def cognition(self) -> float:
        """MME-C, 0 to 800: the totals of its four categories, added. VLMEvalKit calls it "reasoning"."""
        return self._added(MME_COGNITION)

    def _added(self, names: Sequence[str]) -> float:
        asked = [self.categories[name].total for name in names if name in self.categories]
        return sum(asked) if asked else math.nan


def mme(answers: Iterable[tuple[str, str, bool]]) -> MME:
    """Counts MME.

    Args:
        answers: the category, the image (its path, or another name of it) and whether the answer is right.

    Raises:
        ValueError: no such category, or an image with fewer or more than two questions in its category.
    """
    grouped: dict[str, dict[str, list[bool]]] = {}
    for category, image, hit in answers:
        if category not in MME_PERCEPTION + MME_COGNITION:
            known = ", ".join(MME_PERCEPTION + MME_COGNITION)
            raise ValueError(f"MME has no category {category!r}: it has {known}.")
        grouped.setdefault(category, {}).setdefault(image, []).append(hit)
    categories = {}
    for category, images in grouped.items():
        for image, hits in images.items():
            if len(hits) != 2:
                raise ValueError(
                    f"MME asks two questions about an image, and {len(hits)} came for {image!r} in {category}: "
                    "keep both of a pair, also where only a part of MME is asked."
                )
        asked = [hit for hits in images.values() for hit in hits]
        categories[category] = PairScore(
            Score(sum(asked), len(asked)), Score(sum(map(all, images.values())), len(images))
        )
    return MME(categories)


@dataclass(frozen=True)
class YesNoScore:
    """Counts of a yes/no benchmark, "yes" being the positive class. Shares are 0 to 1.

    A reply that is read as neither is wrong, and no "yes". As in VLMEvalKit, precision, recall and F1 are 0 where there
    is nothing to take a share of.
    """

    true_positive: int
    false_positive: int
    true_negative: int
    positives: int
    """How many answers are yes."""
    negatives: int
    unread: int
    """How many replies were read as neither."""

    @property
    def right(self) -> Score:
        return Score(self.true_positive + self.true_negative, self.positives + self.negatives)

    @property
    def accuracy(self) -> float:
        return self.right.accuracy

    @property
    def precision(self) -> float:
        return _share(self.true_positive, self.true_positive + self.false_positive)

    @property
    def recall(self) -> float:
        return _share(self.true_positive, self.positives)

    @property
    def f1(self) -> float:
        """What VLMEvalKit gives as POPE's overall figure, times 100."""
        return _share(2 * self.precision * self.recall, self.precision + self.recall)

    @property
    def yes_rate(self) -> float:
        """The share of all replies that were read as yes; that of the answers is about one half in POPE."""
        return _share(self.true_positive + self.false_positive, self.right.total)


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def yes_no_score(answers: Iterable[tuple[str, str | None]]) -> YesNoScore:
    """Counts the expected answers, "Yes" or "No", and what the replies were read as (see `yes_no`).

    Raises:
        ValueError: an expected answer is neither "Yes" nor "No".
    """
    pairs = [(_expected(answer), read) for answer, read in answers]
    return YesNoScore(
        true_positive=sum(answer == read == "Yes" for answer, read in pairs),
        false_positive=sum(answer == "No" and read == "Yes" for answer, read in pairs),
        true_negative=sum(answer == read == "No" for answer, read in pairs),
        positives=sum(answer == "Yes" for answer, _ in pairs),
        negatives=sum(answer == "No" for answer, _ in pairs),
        unread=sum(read is None for _, read in pairs),
    )


def _expected(answer: str) -> str:
    if answer not in ("Yes", "No"):
        raise ValueError(f'an answer of a yes/no benchmark is {answer!r}: it must be "Yes" or "No".')
    return answer


def pope(answers: Iterable[tuple[str, str, str | None]]) -> tuple[YesNoScore, dict[str, YesNoScore]]:
    """Counts POPE (arXiv 2305.10355): overall, and by category.

    Args:
        answers: the category (adversarial, popular, random), the expected answer and what the reply was read as. Where
            a question stands once for several categories, "adversarial,popular", it counts once in each of them, and
            overall as often.
    """
    grouped: dict[str, list[tuple[str, str | None]]] = {}
    for categories, answer, read in answers:
        for category in categories.split(","):
            grouped.setdefault(category, []).append((answer, read))
    overall = yes_no_score(pair for pairs in grouped.values() for pair in pairs)
    return overall, {category: yes_no_score(pairs) for category, pairs in grouped.items()}


def circular(verdicts: Mapping[int, bool | None]) -> dict[int, bool | None]:
    """MMBench's circular rule: a question is right only where the model is right in all rotations of its options.

    Args:
        verdicts: by MMBench's index, whether a rotation was answered right; None where the reply was not read.

    Returns:
        By the index of the question: False where a rotation is wrong, else None where one was not read, else True.

    Raises:
        ValueError: of a question, the options were asked rotated, but not as they stand.
    """
    grouped: dict[int, list[bool | None]] = {}
    for index, verdict in sorted(verdicts.items()):
        grouped.setdefault(index % ROTATION, []).append(verdict)
    for question in grouped:
        if question not in verdicts:
            raise ValueError(
                f"MMBench's question {question} came with its options rotated, but not as they stand: keep all "
                "rotations of a question, also where only a part of MMBench is asked."
            )
    return {question: _all_right(rotations) for question, rotations in grouped.items()}


def _all_right(verdicts: Sequence[bool | None]) -> bool | None:
    if False in verdicts:
        return False
    return None if None in verdicts else True


@dataclass(frozen=True)
class CVBench:
    """The figures of CV-Bench (arXiv 2406.16860), 0 to 1; nan where a source was not asked."""

    ade20k: Score
    coco: Score
    omni3d: Score

    @property
    def two_d(self) -> float:
        """CV-Bench 2D: the mean of two accuracies, not the accuracy over both."""
        return (self.ade20k.accuracy + self.coco.accuracy) / 2

    @property
    def three_d(self) -> float:
        return self.omni3d.accuracy


def cv_bench(hits: Iterable[tuple[str, bool]]) -> CVBench:
    """Counts CV-Bench.

    Args:
        hits: the source, ADE20K, COCO or Omni3D, and whether the answer is right: by `strict_letter` in the paper, by
            `option` in VLMEvalKit.

    Raises:
        ValueError: another source.
    """
    scores = by_group(hits)
    if unknown := scores.keys() - {"ADE20K", "COCO", "Omni3D"}:
        raise ValueError(f"CV-Bench has no source {min(unknown)!r}: it has ADE20K, COCO and Omni3D.")
    none = Score(0, 0)
    return CVBench(scores.get("ADE20K", none), scores.get("COCO", none), scores.get("Omni3D", none))


def mm_vet(grades: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Mean grades of MM-Vet (arXiv 2308.02490), 0 to 100: by capability, and under "overall".

    Args:
        grades: the capabilities that a question needs, e.g. "ocr,math", and the judge's grade, 0 to 1.
    """
    grouped: dict[str, list[float]] = {}
    for capabilities, grade in grades:
        for capability in (*capabilities.split(","), "overall"):
            grouped.setdefault(capability, []).append(100 * grade)
    return {capability: fmean(grades) for capability, grades in grouped.items()}


def llava_bench(grades: Iterable[tuple[float, float]]) -> float:
    """LLaVA-Bench's relative score: the model's mean grade in percent of the reference's; nan where nothing was graded.

    Args:
        grades: of each question, the judge's grade for the reference answer and for the model's, 1 to 10.
    """
    pairs = list(grades)
    return 100 * fmean(model for _, model in pairs) / fmean(reference for reference, _ in pairs) if pairs else math.nan
