"""The tables of tests/mistakes: one row a mistake, that is what somebody does and what they read then.

Nothing may go wrong in silence, and nobody is to read a traceback: every row ends in one clear text.
"""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from mutua.cli import app

_LONGEST = 700  # characters; what is longer is not read


@dataclass(frozen=True)
class Mistake:
    """One row.

    Attributes:
        name: what is wrong, in a few words.
        do: does it in a place of its own: returns the `Result` of a command (see `mutua`), or calls the library.
        reads: pieces of what the user reads: the value, the place, the remedy.
        goes_on: the command or call succeeds all the same, with a warning that holds the pieces.
        is_slow: takes seconds, and says little that its neighbours do not.
    """

    name: str
    do: Callable[[Path], Any]
    reads: tuple[str, ...]
    goes_on: bool = False
    is_slow: bool = False


def mutua(
    *words: object, stdin: str | bytes | None = None, env: Mapping[str, str] | None = None, charset: str = "utf-8"
) -> Result:
    """The command, in this process; `charset` is the terminal's."""
    return CliRunner(charset=charset).invoke(app, [str(word) for word in words], input=stdin, env=env)


def lock_folder(patch: pytest.MonkeyPatch, name: str) -> None:
    """Nobody may look into folders of that name: the system is told to refuse, as an administrator may always."""
    scandir = os.scandir

    def refused(folder: Any = ".") -> Any:
        if Path(folder).name == name:
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return scandir(folder)

    patch.setattr(os, "scandir", refused)


def rows(mistakes: Iterable[Mistake]) -> Any:
    """`@rows(MISTAKES)` runs a test once a row, as argument `mistake`."""
    marked = [pytest.param(one, id=one.name, marks=[pytest.mark.slow] * one.is_slow) for one in mistakes]
    return pytest.mark.parametrize("mistake", marked)


def check(mistake: Mistake, place: Path) -> None:
    """Makes the mistake in the folder `place`, and reads."""
    text = " ".join(_read(mistake, place).split())
    for piece in mistake.reads:
        assert piece in text, text
    assert "Traceback" not in text
    assert len(text) <= _LONGEST, text


def _read(mistake: Mistake, place: Path) -> str:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = mistake.do(place)
        except (ValueError, OSError, ImportError) as error:
            if mistake.goes_on:
                pytest.fail(f"it did not go on: {error}")
            return str(error)
    if isinstance(result, Result):
        crash = result.exception
        assert crash is None or isinstance(crash, SystemExit), repr(crash)
        assert (result.exit_code == 0) == mistake.goes_on, f"exit code {result.exit_code}: {result.output}"
        return result.stderr
    assert mistake.goes_on, f"no word of it: {result!r}"
    return " ".join(str(warning.message) for warning in caught)
