"""Fixtures of the tests inside other people's trainers: a small set of chats."""

from __future__ import annotations

from typing import Any

import pytest
from tiny_model import picture

WORDS = ("red", "blue", "yes", "no")


@pytest.fixture(scope="session")
def rows() -> list[dict[str, Any]]:
    """40 chats as TRL's documentation has them: plain strings, and the pictures in a column of their own."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"is it {WORDS[nth % 4]}?"},
                {"role": "assistant", "content": WORDS[nth % 3]},
            ],
            "images": [picture(nth)],
        }
        for nth in range(40)
    ]


@pytest.fixture(scope="session")
def rows_of_parts(rows) -> list[dict[str, Any]]:
    """The same with content parts, which Arrow fills up with `text: None` in image parts."""

    def parts(message: dict[str, Any]) -> dict[str, Any]:
        picture_part = [{"type": "image"}] if message["role"] == "user" else []
        return {"role": message["role"], "content": [*picture_part, {"type": "text", "text": message["content"]}]}

    return [{**row, "messages": [parts(message) for message in row["messages"]]} for row in rows]
