"""Yes or no, as VLMEvalKit of March 2025 reads it (vlmeval/dataset/image_yorn.py)."""

from __future__ import annotations

from mutua.evaluation.benchmark import Question, Verdict
from mutua.evaluation.extraction import yes_no
from mutua.evaluation.judge import UNKNOWN, Judge, judged_yes_no


def verdict(question: Question, reply: str, judge: Judge | None) -> Verdict:
    """By `yes_no`; what that cannot read is read by the judge, and is wrong where there is none."""
    read: str | None = yes_no(reply)
    if read is None and judge is not None:
        read, why = judged_yes_no(judge, question.text, reply)
        if why:
            return Verdict(None, None, why=why)
        read = None if read == UNKNOWN else read
    return Verdict(read, float(read == question.answer))
