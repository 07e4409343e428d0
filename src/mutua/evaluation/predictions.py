"""What was answered so far: JSON Lines, of which a process that is killed loses at most the batch it was at.

Every line names the question and the protocol by which it was asked, so an answer is used again only where the same
was asked in the same way.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path
from typing import Any

from mutua.evaluation.benchmark import Protocol, Question
from mutua.folders import FolderError
from mutua.respond import Answer


def key_of(question: Question, protocol: Protocol, version: str) -> str:
    """What two askings of a question share if and only if they ask the same in the same way.

    Args:
        version: of the files that the question is from, for its pictures.
    """
    asked = json.dumps([question.id, question.prompt, protocol.name, protocol.max_new_tokens, version])
    return blake2b(asked.encode(), digest_size=12).hexdigest()


class Predictions:
    """The answers to the questions of one benchmark, of all processes.

    Args:
        folder: where the files are; process r writes <name>.<r>.jsonl.
    """

    def __init__(self, folder: Path, name: str, rank: int = 0) -> None:
        self._folder, self._name = folder, name
        self._path = folder / f"{name}.{rank}.jsonl"
        self._is_cut = False

    def read(self) -> dict[str, Answer]:
        """The answers by key.

        Raises:
            ValueError: a line is damaged. The last one may be: it was being written when the process was killed.
        """
        found: dict[str, Answer] = {}
        for path in sorted(self._folder.glob(f"{self._name}.*.jsonl")):
            whole = path.read_bytes().rpartition(b"\n")[0].splitlines()
            for number, line in enumerate(whole, start=1):
                key, answer = _parsed(line, f"{path}:{number}")
                found.setdefault(key, answer)
        return found

    def add(self, keys: Sequence[str], questions: Sequence[Question], answers: Sequence[Answer]) -> None:
        """Writes a batch, and waits until it is on the disk.

        Raises:
            FolderError: it cannot be written; what was written before is safe.
        """
        lines = [
            json.dumps({"id": question.id, "key": key, **asdict(answer)}, ensure_ascii=False)
            for key, question, answer in zip(keys, questions, answers, strict=True)
        ]
        try:
            with self._path.open("ab") as file:
                if not self._is_cut:  # what a killed process left torn would run into the first line
                    file.truncate(_whole_length(self._path))
                    self._is_cut = True
                file.write("".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace"))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise FolderError(
                f"{self._path} cannot be written ({error.strerror or error}). The answers before it are safe: make "
                "room and run the same command again."
            ) from error


def _whole_length(path: Path) -> int:
    """Bytes up to the end of the last whole line."""
    return path.read_bytes().rfind(b"\n") + 1


def _parsed(line: bytes, place: str) -> tuple[str, Answer]:
    try:
        given: Mapping[str, Any] = json.loads(line)
        return given["key"], Answer(given["text"], given["finish_reason"], given["tokens"])
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"{place}: the line is damaged ({type(error).__name__}: {error}): remove it, and its question is asked "
            "again."
        ) from None
