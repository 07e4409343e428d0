"""What of the benchmarks a folder of data holds, what is missing, and which version it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mutua.data.sample import SampleError
from mutua.evaluation.benchmark import Benchmark
from mutua.evaluation.questions import Questions, find_files, open_questions, places


@dataclass(frozen=True)
class Found:
    """One benchmark in a folder.

    Attributes:
        state: "missing", "damaged", "part" (fewer questions than are published), or "there".
        text: where and what, or what is wrong.
        digest: of the questions; empty where they cannot be read.
    """

    name: str
    state: str
    text: str
    digest: str = ""

    @property
    def is_usable(self) -> bool:
        return self.state in ("there", "part")


def check(benchmark: Benchmark, data: Path, progress: Callable[[int, int], None] | None = None) -> Found:
    """Looks for the benchmark, reads all its questions and opens all its pictures.

    Args:
        progress: called with (pictures opened, questions in all).
    """
    try:
        if benchmark.layouts and find_files(benchmark, data) is None:
            return Found(benchmark.name, "missing", f"looked for {places(benchmark)}")
        questions = open_questions(benchmark, data)
        for place in range(len(questions.all)):
            questions.all[place].conversation(questions.pictures(place))
            if progress is not None:
                progress(place + 1, len(questions.all))
    except SampleError as error:
        return Found(benchmark.name, "damaged", str(error))
    state = "part" if questions.is_whole is False else "there"
    files = questions.files[0] if questions.files else "no file needed"
    more = f" and {len(questions.files) - 1} more" if len(questions.files) > 1 else ""
    return Found(benchmark.name, state, f"{files}{more}: {_count(questions)}{_version(questions)}", questions.digest)


def _count(questions: Questions) -> str:
    if questions.is_whole is False:
        return f"{len(questions.all):,} questions, of {questions.benchmark.size:,} that are published"
    return f"{len(questions.all):,} questions"


def _version(questions: Questions) -> str:
    """What the checksum of VLMEvalKit's file says."""
    if questions.layout != "tsv" or not questions.benchmark.md5:
        return ""
    return f"; {'' if questions.is_whole else 'not '}the file of VLMEvalKit of March 2025, by its MD5"
