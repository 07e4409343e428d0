"""The prompts of the paper's instruction tuning (arXiv 2503.02597), word for word as its public code has them."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from string import ascii_uppercase

MOST_CHOICES = len(ascii_uppercase)


def short_answer(question: str) -> str:
    return f"Answer the question using a single word or phrase. {question}"


def letter(question: str, choices: Sequence[str], context: str = "") -> str:
    """A question whose answer is the letter of one of the choices."""
    options = "".join(f"{name}. {choice}\n" for name, choice in zip(ascii_uppercase, choices, strict=False))
    context = f"\nContext: {context}" if context else ""
    return f"Answer with the option's letter from the given choices directly. {question}{context}\nOptions:\n{options}"


def region(box: str) -> str:
    return f"Provide a short description for this region. {box}"


def choice_order(number: int, seed: int, id: str) -> list[int]:
    """In which order a question lists its choices: a pure function of seed and question."""
    return sorted(range(number), key=lambda choice: blake2b(f"{seed}/{id}/{choice}".encode(), digest_size=8).digest())


def asked_by_letter(
    question: str, choices: Sequence[str], answer: int, order: Sequence[int], context: str = ""
) -> tuple[str, str]:
    """The prompt with the choices in this order, and the letter of the right one (`answer`, before)."""
    prompt = letter(question, [choices[choice] for choice in order], context)
    return prompt, ascii_uppercase[list(order).index(answer)]
