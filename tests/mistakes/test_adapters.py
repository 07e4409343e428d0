"""Folders of adapters that are damaged, or of another model: what the user reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from damaged_weights import Weights, change_weights, only_pickle
from tiny_model import make_model, picture, save_model
from what_users_read import Mistake, check, mutua, rows


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A place with a model in `X`, where the commands run."""
    save_model(tmp_path / "X")
    picture(1).save(tmp_path / "X" / "ok.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def adapter(change: Callable[[Path], object] = lambda folder: None, **values: Any) -> Callable[[Path], Any]:
    """A folder `A` of adapters that were trained in `X`, with values in its config; then asks."""

    def do(place: Path) -> Any:
        from peft import LoraConfig, get_peft_model

        settings = LoraConfig(r=2, target_modules=["q_proj"], base_model_name_or_path="X")
        get_peft_model(make_model("mma"), settings).save_pretrained(place / "A")
        path = place / "A" / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "X"} | values))
        change(place / "A")
        return mutua("ask", "X/ok.png", "is it red?", "-m", "A")

    return do


def adapter_weights(change: Callable[[Weights], Weights]) -> Callable[[Path], Any]:
    return adapter(change_weights(change, "adapter_model.safetensors"))


def adapter_pickle(folder: Path) -> None:
    only_pickle(folder, "adapter_model.safetensors", "adapter_model.bin")


ADAPTERS = [
    Mistake("of no base", adapter(base_model_name_or_path=None), ("A/adapter_config.json names no base_model",)),
    Mistake("of a number", adapter(base_model_name_or_path=3), ("A: its adapters were trained in 3", "a folder or")),
    Mistake("of a base that is gone", adapter(base_model_name_or_path="gone/base"), ("trained in gone/base",)),
    Mistake("of themselves", adapter(base_model_name_or_path="A"), ("that is a folder of adapters, too",)),
    Mistake("no weights", adapter(lambda a: (a / "adapter_model.safetensors").unlink()), ("A has no weights",)),
    Mistake("a pickle only", adapter(adapter_pickle), ("A has weights in adapter_model.bin only, a pickle",)),
    Mistake("half the weights", adapter_weights(lambda w: dict(list(w.items())[:3])), ("A: the checkpoint lacks",)),
    Mistake("none of the weights", adapter_weights(lambda w: {}), ("A: the checkpoint lacks", "more")),
    Mistake("other names", adapter_weights(lambda w: {f"x.{n}": v for n, v in w.items()}), ("lacks base_model",)),
    Mistake("a weight too many", adapter_weights(lambda w: {**w, "odd": torch.ones(1)}), ("no place for: odd",)),
    Mistake("another shape", adapter(r=3), ("A: ", "size mismatch", "q_proj", "do not fit their base model")),
    Mistake("other layers", adapter(target_modules=["nope"]), ("A: ", "'nope'", "do not fit their base model")),
    Mistake("another method", adapter(peft_type="NOPE"), ("A: ", "NOPE", "do not fit their base model")),
    Mistake("nan", adapter_weights(lambda w: {n: v * float("nan") for n, v in w.items()}), ("A: ", "not finite")),
    Mistake("integers", adapter_weights(lambda w: {n: v.to(torch.int8) for n, v in w.items()}), ("A/", "I8 numbers")),
    Mistake(
        "cut off",
        adapter(lambda a: (a / "adapter_model.safetensors").write_bytes(b"\x10")),
        ("A/adapter_model.safetensors is damaged",),
    ),
]


@rows(ADAPTERS)
def test_adapters(mistake, place):
    check(mistake, place)


def test_adapters_as_they_were_answer(place):
    assert adapter()(place).exit_code == 0
