"""A language model that judges replies: what it is asked for. Until there is one, nobody is asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Judge(Protocol):
    name: str


def judged_option(judge: Judge, question: str, choices: Mapping[str, str], reply: str) -> tuple[str | None, str]:
    return None, ""


def judged_answer(judge: Judge, query: str, reply: str) -> tuple[str | None, str]:
    return None, ""


def grade(judge: Judge, question: str, answer: str, reply: str) -> tuple[float | None, str]:
    return None, ""


def grade_pair(
    judge: Judge, question: str, caption: str, reference: str, reply: str
) -> tuple[tuple[float, float] | None, str]:
    return None, ""
