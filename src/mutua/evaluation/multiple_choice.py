"""Multiple choice as VLMEvalKit of March 2025 asks and reads it (vlmeval/dataset/image_mcq.py, `build_prompt`)."""

from __future__ import annotations

import ast
from string import ascii_uppercase

from mutua.evaluation.benchmark import Question, Row, Verdict
from mutua.evaluation.extraction import option
from mutua.evaluation.judge import Judge, judged_option


def choices_of(row: Row, letters: str = ascii_uppercase) -> dict[str, str]:
    """The options of a row that has a column for each letter, empty ones left out."""
    return {letter: str(row[letter]) for letter in letters if row.get(letter) is not None}


def listed(cell: str) -> list[str]:
    """A list that a cell holds as Python writes it. ValueError where it does not."""
    try:
        found = ast.literal_eval(cell)
    except (ValueError, SyntaxError):
        found = None
    if not isinstance(found, list):
        raise ValueError(f"{cell!r} is no list such as ['red', 'blue']")
    return found


def lettered(choices: list[str]) -> dict[str, str]:
    return dict(zip(ascii_uppercase, map(str, choices), strict=False))


def prompt(question: str, choices: dict[str, str], hint: str | None = None) -> str:
    """The text that is asked. The space behind the last full stop is VLMEvalKit's."""
    lines = [f"Hint: {hint}\n"] if hint else []
    lines.append(f"Question: {question}\n")
    if choices:
        lines += ["Options:\n", *(f"{letter}. {wording}\n" for letter, wording in choices.items())]
        lines.append("Please select the correct answer from the options above. \n")
    return "".join(lines)


def verdict(question: Question, reply: str, judge: Judge | None) -> Verdict:
    """By `option`; what that cannot read is read by the judge, and is wrong where there is none."""
    read = option(reply, question.choices)
    if read is None and judge is not None:
        read, why = judged_option(judge, question.text, question.choices, reply)
        if why:
            return Verdict(None, None, why=why)
    return Verdict(read, float(read == question.answer))
