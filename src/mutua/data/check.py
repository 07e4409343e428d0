"""A source looked through before a run: what it holds, and what would be skipped or stop it, with the place."""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from statistics import median
from typing import TYPE_CHECKING, Any

from PIL import Image
from pydantic import ValidationError

from mutua.data.readers.reader import with_images
from mutua.data.sample import ImagePart, Sample
from mutua.images import ImageError, open_image
from mutua.shortened import shortened

if TYPE_CHECKING:
    from mutua.data.limits import SampleLimits
    from mutua.models import MutuaProcessor

SKIPPED = {
    "empty": "no samples",
    "picture": "missing or broken picture",
    "unreadable": "cannot be read",
    "control": "control token in a text",
    "unanswered": "no answer to learn from",
    "long": "too long",
    "many pictures": "more pictures than a row may hold",
}
"""What a training run skips, or stops at."""

NOTED = {
    "no picture": "prompt without a picture",
    "says nothing": "answer that says nothing",
    "looks like control": "text that looks like a control token (-m tells)",
    "same id": "same id as another",
    "same question": "same question and pictures as another",
}
"""What may be meant as it is."""

SHOWN = 3  # samples of each source

_LOOKS_LIKE_CONTROL = re.compile(r"<\|\w+\|>|<image>")
_SAYS_NOTHING = re.compile(r"[\W_]*(n/a|nan|null|undefined)?[\W_]*", re.IGNORECASE)


@dataclass(frozen=True)
class Finding:
    """Something about one sample: a key of `SKIPPED` or `NOTED`, and where."""

    kind: str
    place: str
    text: str


@dataclass
class Report:
    """What was found in a source.

    Attributes:
        name: what the source is called.
        samples: how many it has.
        read: how many were looked at: fewer if it was broken off.
        replies: of the assistant, over all samples.
        pictures: how many samples have so many pictures.
        tokens: lengths of the samples; empty without a processor.
        max_tokens: what was allowed.
        counts: findings by kind.
        findings: the first few of each kind.
        shown: some samples, evenly spread.
    """

    name: str
    samples: int
    read: int = 0
    replies: int = 0
    pictures: Counter[int] = field(default_factory=Counter)
    tokens: array[int] = field(default_factory=lambda: array("L"))
    max_tokens: int | None = None
    counts: Counter[str] = field(default_factory=Counter)
    findings: dict[str, list[Finding]] = field(default_factory=dict)
    shown: list[Sample] = field(default_factory=list)

    @property
    def is_usable(self) -> bool:
        """Whether nothing was found that a run would skip or stop at."""
        return not self.counts.keys() & SKIPPED.keys()

    @property
    def lengths(self) -> dict[str, int]:
        """Tokens of a sample: the median, what 95 % do not exceed, and the most. Empty without a processor."""
        if not self.tokens:
            return {}
        ordered = sorted(self.tokens)
        return {"median": int(median(ordered)), "95 %": ordered[(len(ordered) * 95 - 1) // 100], "most": ordered[-1]}

    def summary(self) -> dict[str, Any]:
        """All of it as plain JSON values, but the samples."""
        return {
            "source": self.name,
            "samples": self.samples,
            "read": self.read,
            "replies": self.replies,
            "pictures": {str(pictures): samples for pictures, samples in sorted(self.pictures.items())},
            "tokens": self.lengths,
            "max_tokens": self.max_tokens,
            "usable": self.is_usable,
            "found": dict(self.counts),
            "findings": {
                kind: [{"place": found.place, "text": found.text} for found in findings]
                for kind, findings in self.findings.items()
            },
        }


def check_source(
    source: Sequence[Sample],
    name: str,
    *,
    processor: MutuaProcessor | None = None,
    limits: SampleLimits | None = None,
    keep: int = 5,
    show: int = SHOWN,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Reads every sample once, pictures included. Ctrl-C ends it with what was found so far.

    Args:
        name: what the report calls the source.
        processor: of the model that is to use it: finds its control tokens, and counts tokens.
        limits: what a sample may hold; needs a processor.
        keep: how many findings of each kind the report holds; all are counted.
        show: how many samples the report holds.
        progress: called after every sample with (samples done, samples in all).
    """
    report = Report(name, len(source), max_tokens=limits.tokens if limits and processor else None)
    look = _Look(source, processor, limits)
    show = min(show, len(source))
    shown = {nth * len(source) // show for nth in range(show)}

    def add(found: Finding) -> None:
        report.counts[found.kind] += 1
        kept = report.findings.setdefault(found.kind, [])
        if len(kept) < keep:
            kept.append(found)

    if not source:
        add(Finding("empty", name, "give it samples, or leave it out"))
    try:
        for index in range(len(source)):
            sample, findings = look.at(index)
            for found in findings:
                add(found)
            if sample is not None:
                report.replies += sum(message.role == "assistant" for message in sample.messages)
                report.pictures[len(_pictures(sample))] += 1
                if index in shown:
                    report.shown.append(sample)
            report.read = index + 1
            if progress is not None:
                progress(report.read, len(source))
    except KeyboardInterrupt:
        pass
    report.tokens = look.tokens
    return report


class _Look:
    """Goes through a source, and remembers what must not come twice."""

    def __init__(self, source: Sequence[Sample], processor: MutuaProcessor | None, limits: SampleLimits | None) -> None:
        self.source, self.processor, self.limits = source, processor, limits
        self.tokens = array("L")
        self._control_tokens: tuple[str, ...] = ()
        if processor is not None:
            from mutua.chat.control_tokens import control_tokens_of

            self._control_tokens = tuple(control_tokens_of(processor.tokenizer))
        self._ids: dict[bytes, int] = {}
        self._questions: dict[bytes, int] = {}

    def at(self, index: int) -> tuple[Sample | None, list[Finding]]:
        """The sample, None where it cannot be read, and what is to be said about it."""
        place = self._place(index)
        try:
            sample = with_images(self.source[index], lambda path, *_: open_image(path))
        except (ValueError, OSError) as error:
            kind = "picture" if _is_about_a_picture(error) else "unreadable"
            return None, [Finding(kind, place, str(error).removeprefix(f"{place}: "))]
        found = [Finding(kind, place, text) for kind, text in [*self._about(sample), *self._again(sample, index)]]
        return sample, found

    def _place(self, index: int) -> str:
        place = getattr(self.source, "place", None)  # readers of files have one
        return place(index) if place is not None else f"sample {index}"

    def _about(self, sample: Sample) -> Iterator[tuple[str, str]]:
        if not _pictures(sample):
            yield "no picture", repr(shortened(sample.question))
        answers = [message.text for message in sample.messages if message.role == "assistant"]
        for answer in answers:
            if _SAYS_NOTHING.fullmatch(answer):
                yield "says nothing", repr(answer)
        holds_control = False
        for message in sample.messages:
            if self.processor is None:
                if looks := _LOOKS_LIKE_CONTROL.search(message.text):
                    yield "looks like control", f"{looks[0]} in {shortened(message.text)!r}"
            elif token := next((token for token in self._control_tokens if token in message.text), None):
                holds_control = True
                yield "control", f"{token} in {shortened(message.text)!r}"
        if not answers:
            yield "unanswered", repr(shortened(sample.question))
        elif self.processor is not None and not holds_control:
            yield from self._length(sample, self.processor)

    def _length(self, sample: Sample, processor: MutuaProcessor) -> Iterator[tuple[str, str]]:
        from mutua.data.collate import encode
        from mutua.data.limits import SampleLimits, UnfitError

        try:
            whole = encode([sample], processor)
            self.tokens.append(whole["input_ids"].shape[1])
            (self.limits or SampleLimits()).fit(sample, whole, processor)
        except UnfitError as error:
            yield error.kind, str(error)
        except (ValueError, OSError) as error:
            yield "unreadable", str(error)

    def _again(self, sample: Sample, index: int) -> Iterator[tuple[str, str]]:
        question = blake2b(digest_size=16)
        for message in sample.messages[: -1 if sample.messages[-1].role == "assistant" else None]:
            question.update(f"\0{message.role}\0{message.text}".encode())
        for picture in _pictures(sample):
            question.update(repr((picture.mode, picture.size)).encode())
            question.update(picture.tobytes())
        for kind, seen, key in (
            ("same id", self._ids, blake2b(sample.id.encode(errors="replace"), digest_size=16).digest()),
            ("same question", self._questions, question.digest()),
        ):
            first = seen.setdefault(key, index)
            if first != index:
                what = sample.id if kind == "same id" else shortened(sample.question)
                yield kind, f"{what!r}, as {self._place(first)}"


def _pictures(sample: Sample) -> list[Image.Image]:
    """The pictures of a sample that was read whole."""
    parts = [part for message in sample.messages for part in message.content if isinstance(part, ImagePart)]
    return [part.image for part in parts if isinstance(part.image, Image.Image)]


def _is_about_a_picture(error: BaseException | None) -> bool:
    if isinstance(error, ValidationError):
        return any(isinstance(one.get("ctx", {}).get("error"), ImageError) for one in error.errors()[:1])
    if error is None or isinstance(error, ImageError):
        return error is not None
    return _is_about_a_picture(error.__cause__ or error.__context__)
