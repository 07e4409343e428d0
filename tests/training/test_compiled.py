"""`train.compile`: the losses of a run are those without it, packed or not, and evaluations answer the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from training_runs import lines

from mutua.training import train

COMMON = ("model.text.attention_dropout=0.0", "train.precision=fp32", "train.steps=4", "evaluate.every=2")
KINDS = {
    "padded": (),
    "packed": ("data.packing={tokens: 120}", "train.batch_size=12"),
    "long": ("data.packing={tokens: 700}", "train.batch_size=24", "train.micro_batch_size=null"),  # split's lengths
    "recomputed": ("train.gradient_checkpointing=true",),
    "recomputed and long": ("data.packing={tokens: 700}", "train.batch_size=24", "train.gradient_checkpointing=true"),
    "bf16": ("train.precision=bf16",),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_losses_are_those_without(kind: str, recipe_in, tmp_path: Path) -> None:
    for name, value in (("plain", "false"), ("compiled", "true")):
        train(recipe_in(tmp_path, *COMMON, *KINDS[kind], f"train.compile={value}", f"output={tmp_path / name}"))
    first, later = (2e-2, 5e-2) if kind == "bf16" else (1e-6, 2e-4)  # AdamW carries rounding on
    for got, want in zip(lines(tmp_path / "compiled"), lines(tmp_path / "plain"), strict=True):
        assert got["loss"] == pytest.approx(want["loss"], rel=first if got["step"] == 1 else later)
    here, there = (lines(tmp_path / name, "evaluations.jsonl") for name in ("compiled", "plain"))
    if kind != "bf16":
        assert here == there
