"""Options that a command would not read, where they are given: it says so, and for what they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_model import picture
from unlocked_pairs import save_llava
from what_users_read import Mistake, check, mutua, rows

from mutua.study.plan import Arm
from mutua.study.work import write_arm


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A picture and a file of one sample."""
    monkeypatch.chdir(tmp_path)
    picture(1).save("a.png")
    asked = [{"type": "image", "image": "a.png"}, {"type": "text", "text": "is it red?"}]
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": "no"}]
    Path("mine.jsonl").write_text(json.dumps({"id": "1", "messages": messages}) + "\n")
    return tmp_path


def doing(*words: object) -> Callable[[Path], Any]:
    return lambda place: mutua(*words)


def begun_before(place: Path) -> Any:
    write_arm(place / "out/live/mma", Arm("mma", 3, steps=4), None)
    return mutua("quickstart", "--output", "out", "--seed", 7)


def in_two_processes(place: Path) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORLD_SIZE", "2")
        return mutua("eval", "-d", "mine.jsonl")


def looking_at_another(place: Path) -> Any:
    save_llava(place / "llava")
    return mutua("look", "a.png", "is it red?", "-m", "llava", "-o", "look.png")


CALIBRATE = "is for what --calibrate DATA asks the model: name the data"
MISTAKES = [
    Mistake("unlock: a limit", doing("unlock", "x", "--limit", 4), (f"--limit 4 {CALIBRATE}",)),
    Mistake("unlock: a batch size", doing("unlock", "x", "--batch-size", 8), (f"--batch-size 8 {CALIBRATE}",)),
    Mistake("unlock: new tokens", doing("unlock", "x", "--max-new-tokens", 2), (f"--max-new-tokens 2 {CALIBRATE}",)),
    Mistake("unlock: JSON", doing("unlock", "x", "--json"), (f"--json {CALIBRATE}",)),
    Mistake(
        "data check: samples in JSON",
        doing("data", "check", "mine.jsonl", "--json", "--show", 2),
        ("--show 2 shows samples in a text or on a page", "add -o"),
    ),
    Mistake(
        "data check: pictures of a recipe",
        doing("data", "check", "mine.yaml", "--images", "."),
        ("--images .: mine.yaml is a recipe",),
    ),
    Mistake("quickstart: another seed", begun_before, ("out/live was begun with seed 3, not 7", "another --output")),
    Mistake("study: no policies", doing("study", "--policies", ""), ("unknown attention policy ''",)),
    Mistake("study: no backbones", doing("study", "--backbones", ""), ("no backbone ''",)),
    Mistake(
        "eval: a judge with nothing to read",
        doing("eval", "--suite", "paper", "-d", "data", "--tasks", "cv_bench", "--judge", "gpt"),
        ("--judge gpt: rules alone read the replies of cv_bench: leave it out",),
    ),
    Mistake("eval: several processes", in_two_processes, ("several processes share the questions of --suite",)),
    Mistake(
        "look: a model of others",
        looking_at_another,
        ("a model of type 'llava' cuts and shrinks pictures its own way", "backend='reference'"),
    ),
]


@rows(MISTAKES)
def test_what_is_said(mistake: Mistake, place: Path):
    check(mistake, place)
