"""easy-VQA and our scenes, by the same runner and report: held-out questions, exact match.

They need no data folder: easy-VQA (github.com/vzhou842/easy-VQA) comes with its package, scenes are drawn.
"""

from __future__ import annotations

from functools import partial

from mutua.evaluation.accuracy import MAX_NEW_TOKENS, is_right
from mutua.evaluation.benchmark import Benchmark, Protocol, Question, Verdict, shares
from mutua.evaluation.held_out import open_source
from mutua.evaluation.judge import Judge


def _verdict(question: Question, reply: str, judge: Judge | None) -> Verdict:
    return Verdict(reply, float(is_right(reply, question.answer)))


def _held_out(name: str, task: str, title: str, size: int) -> Benchmark:
    return Benchmark(
        name=task,
        title=title,
        size=size,
        main=("accuracy",),
        layouts={},
        samples=partial(open_source, name),
        verdict=_verdict,
        figures=shares,
        protocol=Protocol("exact match", MAX_NEW_TOKENS),
        judge=None,
    )


EASY_VQA = _held_out("easy-vqa", "easy_vqa", "easy-VQA", 9673)
SCENES = _held_out("scenes", "scenes", "scenes", 5000)
