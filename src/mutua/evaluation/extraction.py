"""What a model chose, read from its reply by rule: the rules of VLMEvalKit as of March 2025, which the paper used.

They are the protocol, oddities included, because a figure can only be compared with figures that were made by the same
rules: `tests/evaluation/test_harness_cases.py` holds them against VLMEvalKit, reply by reply, and lists where Mutua
differs and why. None always means that the rule found nothing: a judge may be asked, or the reply counts as not read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

NO_OPTION = "Z"
"""What `option` gives for a reply that names none of the options on purpose: it refuses, or says Z."""

# Marks that part words; one that touches a space anywhere in the text vanishes instead, and so do all of them in a text
# with a comma between digits. (This is how the official VQA evaluation normalises, which VLMEvalKit took over.)
_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_NUMBER_WITH_COMMA = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")
_FULL_STOPS_REMOVED = 32  # VLMEvalKit hands a flag of that value where `re.sub` takes its count

_MARKS_AROUND_LETTERS = dict.fromkeys(map(ord, ".()[],:;!*#{}"), " ")
_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)


def yes_no(text: str) -> Literal["Yes", "No"] | None:
    """Which of yes and no stands as a word in the reply, whatever its case; None if both do, or neither.

    VLMEvalKit's `YOrN_Extraction`, which MME and POPE are read with.
    """
    words = set(_without_punctuation(text.lower()).split())
    has_yes, has_no = "yes" in words, "no" in words
    if has_yes == has_no:
        return None
    return "Yes" if has_yes else "No"


def _without_punctuation(text: str) -> str:
    all_vanish = _NUMBER_WITH_COMMA.search(text) is not None
    becomes = {ord(mark): "" if all_vanish or f"{mark} " in text or f" {mark}" in text else " " for mark in _MARKS}
    return _FULL_STOP.sub("", text.translate(becomes), count=_FULL_STOPS_REMOVED)


def option(text: str, choices: Mapping[str, str]) -> str | None:
    """The letter of the option that the reply names: by its letter, else by its wording.

    VLMEvalKit's `can_infer`, which all multiple choice is read with. A letter counts where it stands as a word and no
    other option's does, so "a" is no letter, and "A dog." names A. A wording counts where it alone occurs, whatever its
    case, even within longer words.

    Args:
        choices: the wording of each option by its capital letter.

    Returns:
        A letter of `choices`; `NO_OPTION` where the reply names none on purpose; None where the rule found nothing.
    """
    if any(refusal in text for refusal in _REFUSALS):
        return NO_OPTION
    words = set(text.translate(_MARKS_AROUND_LETTERS).split())
    by_letter = [letter for letter in choices if letter in words]
    if len(by_letter) == 1:
        return by_letter[0]
    if not by_letter and NO_OPTION in words:
        return NO_OPTION
    said = text.lower()
    by_wording = [letter for letter, wording in choices.items() if wording.lower() in said]
    return by_wording[0] if len(by_wording) == 1 else None


def strict_letter(text: str, letter: str) -> bool:
    """Whether the reply is the letter of the answer, without the brackets that CV-Bench writes, and nothing else: the
    rule of the paper's script for CV-Bench."""
    return text == letter


def open_question(answer: str) -> dict[str, str]:
    """The choices that MMMU's open questions are read with: A, the answer itself, and B, any other. A is right.

    VLMEvalKit's `MMMU_preproc`.
    """
    return {"A": answer, "B": "Other Answers"}


def free_form(text: str, answer: str, kind: Literal["integer", "float", "text", "list"]) -> bool:
    """Whether a whole text is the answer to a free-form question of MathVista, numbers being compared as numbers.

    VLMEvalKit's `post_check`: asked of the reply first; if that is no answer as it stands, of what a judge finds in it.

    Args:
        kind: MathVista's `answer_type`.

    Raises:
        ValueError: no such kind.
    """
    if kind in ("text", "list"):
        return text == answer
    if kind not in ("integer", "float"):
        raise ValueError(f"MathVista has no answer_type {kind!r}: it has integer, float, text and list.")
    number = int if kind == "integer" else float
    try:
        return number(text) == number(answer)
    except ValueError:
        return False
