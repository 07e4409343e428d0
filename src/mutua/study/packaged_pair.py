"""The packaged model and its causal twin, asked the same held-out questions."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from hashlib import blake2b
from pathlib import Path

from mutua.evaluation import OF_THE_PACKAGED_MODEL
from mutua.evaluation.accuracy import Accuracy, Record
from mutua.models.model_folder import NAMED
from mutua.study.plan import BASELINE, METHOD
from mutua.study.pool import Job, run_jobs, slots

MODELS = {METHOD: "packaged", BASELINE: "packaged-causal"}
SAMPLES = 2_732_800
"""What each was trained on (the packaged model's README.md)."""
QUESTIONS = 2500
"""Of each source, spread evenly over it: all of them take minutes on a slow machine."""


def _weights(name: str) -> str:
    """Of another version's weights the answers are other ones."""
    return blake2b((NAMED[name] / "model.safetensors").read_bytes(), digest_size=4).hexdigest()


def ask_packaged_pair(folder: Path, say: Callable[[str], None]) -> dict[str, Mapping[str, Accuracy]]:
    """What both answer, by source, then policy. What `folder` has of it already is not asked again.

    Raises:
        JobError: one failed.
        KeyboardInterrupt: both were stopped.
    """
    files = {policy: folder / f"{policy}-{QUESTIONS}-{_weights(name)}.json" for policy, name in MODELS.items()}
    data = tuple(word for source in OF_THE_PACKAGED_MODEL for word in ("-d", source))
    jobs = [
        Job(
            f"evaluation of {MODELS[policy]}",
            ("mutua", "eval", "-m", MODELS[policy], *data, "--limit", str(QUESTIONS), "--json", str(path)),
            path.with_suffix(".txt"),
        )
        for policy, path in files.items()
        if not path.is_file()
    ]
    if jobs:
        say(f"asking the packaged model and its causal twin: {QUESTIONS:,} held-out questions of each source")
        folder.mkdir(parents=True, exist_ok=True)
        run_jobs(jobs, slots(), lambda running, done: None)
    found = {policy: json.loads(path.read_text(encoding="utf-8")) for policy, path in files.items()}
    return {
        source: {
            policy: Accuracy(tuple(Record(**record) for record in found[policy][source][name]["records"]))
            for policy, name in MODELS.items()
        }
        for source in OF_THE_PACKAGED_MODEL
    }
