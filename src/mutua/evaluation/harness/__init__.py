"""Mutua's models inside the two public harnesses, lmms-eval and VLMEvalKit: one file each, and the data for each."""

from __future__ import annotations

from typing import Any


def lmms_eval_models() -> list[Any]:
    """What lmms-eval finds at the entry point `lmms_eval.models`: the model that `--model mutua` names."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return [ModelManifest("mutua", chat_class_path="mutua.evaluation.harness.lmms_eval_model.LmmsEvalModel")]
