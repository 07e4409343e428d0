"""The committed verdicts are those of the VLMEvalKit that is installed."""

from __future__ import annotations

import gzip
import json
import logging
import shutil
from pathlib import Path

import pytest

pytest.importorskip("vlmeval")

import record_cases

COMMITTED = Path(__file__).parents[1] / "evaluation" / "harness_cases.json.gz"


def test_the_committed_verdicts_are_made_again(tmp_path):
    fresh = tmp_path / "cases.json.gz"
    shutil.copy(COMMITTED, fresh)
    logging.disable()  # the harness logs with arguments that fit no format, which pytest takes for an error
    try:
        record_cases.main(fresh)
    finally:
        logging.disable(logging.NOTSET)
    made, committed = (json.loads(gzip.decompress(path.read_bytes())) for path in (fresh, COMMITTED))
    assert made["verdicts"].keys() == committed["verdicts"].keys(), "another version: record its verdicts, too"
    assert made == committed
