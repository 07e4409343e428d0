"""A language model that judges replies: how it is asked, and what for."""

from mutua.evaluation.judge.client import Judge, JudgeError
from mutua.evaluation.judge.tasks import (
    PROMPTS,
    UNKNOWN,
    grade,
    grade_pair,
    judged_answer,
    judged_option,
    judged_yes_no,
)

__all__ = [
    "PROMPTS",
    "UNKNOWN",
    "Judge",
    "JudgeError",
    "grade",
    "grade_pair",
    "judged_answer",
    "judged_option",
    "judged_yes_no",
]
