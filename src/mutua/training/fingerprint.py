"""Whether the data of a run are still those that it began with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from mutua.data.sample import Sample
from mutua.training.checkpoint import CheckpointError
from mutua.training.samples import SAMPLE_ERRORS

_LOOKED_AT = 16


def fingerprint(source: Sequence[Sample]) -> dict[str, Any]:
    """What tells a source from another of the same settings, in little time: its size, and a checksum of its content.

    The content is what a reader of a file says of itself (`content`), else the texts of a few samples, evenly spread.
    """
    content = getattr(source, "content", None)
    return {"samples": len(source), "content": f"{content:08x}" if content is not None else _texts(source)}


def _texts(source: Sequence[Sample]) -> str:
    digest = blake2b(digest_size=8)
    for nth in range(min(_LOOKED_AT, len(source))):
        try:
            sample = source[nth * len(source) // _LOOKED_AT if len(source) > _LOOKED_AT else nth]
            said = [sample.id, *(f"{message.role}: {message.text}" for message in sample.messages)]
        except SAMPLE_ERRORS:
            said = ["unreadable"]
        digest.update("\n".join(said).encode())
    return digest.hexdigest()


def expect_same_data(checkpoint: Path, now: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    """Compares the sources with those that a checkpoint was made of.

    Raises:
        CheckpointError: one of them is another; the message says how.
    """
    before = json.loads((checkpoint / "run.json").read_text(encoding="utf-8")).get("sources")
    if before is None:  # a checkpoint of version 0.1.0 does not tell
        return
    for old, new, name in zip(before, now, names, strict=True):
        for key, what in (("samples", "samples"), ("content", "as the checksum of its content")):
            if old[key] != new[key]:
                raise CheckpointError(
                    f"{name} has changed since this run began: it had {old[key]} {what}, and has {new[key]} now. Put "
                    "the old data back to go on, or choose another output to start over"
                )
