"""What can be wrong with a judge, or with the way into a public harness, and what is read then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scripted_judge import Answer, scripted
from what_users_read import Mistake, check, rows

from mutua.evaluation.harness.lmms_eval_tasks import write_tasks
from mutua.evaluation.harness.vlmevalkit_files import write_predictions
from mutua.evaluation.judge import Judge, JudgeError


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))  # certificates take a while to load; none is needed here
    return tmp_path


def asked(*answers: Answer) -> Callable[[Path], Any]:
    """Asks a judge whose server answers so, once each."""

    def do(place: Path) -> None:
        with scripted(lambda nth, _: answers[min(nth, len(answers) - 1)]) as served:
            judge = Judge("judge-1", place / "judge", url=served.url, retries=0, timeout=0.2)
            for nth in range(len(answers) - 1):
                with pytest.raises(JudgeError):
                    judge.ask(f"{nth}?")
            judge.ask("which?")

    return do


MISTAKES = [
    Mistake(
        "no key",
        lambda place: Judge("gpt-4o-mini", place),
        ("'gpt-4o-mini' needs a key: put it into the environment variable OPENAI_API_KEY",),
    ),
    Mistake("no request at a time", lambda place: Judge("j", place, url="x", concurrency=0), ("concurrency 0",)),
    Mistake(
        "a server that is not there",
        lambda place: Judge("j", place, url="http://127.0.0.1:9/v1", retries=0).ask("which?"),
        ("the judge 'j' cannot be reached at http://127.0.0.1:9/v1/, once: ",),
    ),
    Mistake("a server that is silent", asked(Answer("A", seconds=0.4)), ("gave no answer within 0.2 seconds, once",)),
    Mistake("a wrong key", asked(Answer("bad key", status=401)), ("was refused: Error code: 401", "bad key")),
    Mistake(
        "another model answers",
        asked(Answer("A", model="judge-2")),
        ("'judge-1' was asked, and 'judge-2' answered: name that one as the judge if you mean it",),
    ),
    Mistake("a page instead of an answer", asked(Answer(body="<html>")), ("something that is no chat completion",)),
    Mistake("an empty answer", asked(Answer(" ")), ("'judge-1' said nothing (its answer ended with 'stop')",)),
    Mistake(
        "three failures in a row",
        asked(*[Answer("busy", status=503)] * 4),
        ("was refused, once: Error code: 503", "(and was not asked again)"),
    ),
    Mistake(
        "a harness that is not installed",
        lambda place: write_tasks(place, place / "tasks"),
        ('the lmms-eval package is not installed: pip install "mutua[lmms-eval]"',),
    ),
    Mistake(
        "no tables of VLMEvalKit's",
        lambda place: write_predictions(place, place, place / "files"),
        ("none of VLMEvalKit's tables (MME.tsv, ...) of which",),
    ),
]


@rows(MISTAKES)
def test_mistake(mistake, place):
    check(mistake, place)
