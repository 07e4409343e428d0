"""Vision encoders and language models that are damaged, put together: what the user reads."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from damaged_weights import change_weights as weights
from damaged_weights import only_pickle
from tiny_parts import compose_from_folders
from what_users_read import Mistake, check, rows

import mutua

Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """Folders of a vision encoder and a language model as they should be."""
    return compose_from_folders(tmp_path_factory.mktemp("whole"), "siglip", "llama").folder


@pytest.fixture
def place(whole, tmp_path, monkeypatch) -> Path:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def composed(part: str, change: Change) -> Callable[[Path], Any]:
    def do(place: Path) -> Any:
        change(place / part)
        return mutua.compose(vision="./vision", connector="mlp", language="./language")

    return do


def written(name: str, content: bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(content)


def config(**values: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def fifo(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")


def no_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


TOKENIZER = "Its tokenizer is missing or damaged: fetch it again, or give another"
DAMAGES: list[tuple[str, Change, tuple[str, ...]]] = [
    ("weights cut", written("model.safetensors", b"\x10"), ("model.safetensors is damaged", "fetch it again")),
    ("weights of garbage", written("model.safetensors", b"?" * 999), ("model.safetensors is damaged",)),
    ("a FIFO for weights", fifo, ("has no weights: there is no file model.safetensors",)),
    ("a pickle only", only_pickle, ("has weights in pytorch_model.bin only, a pickle",)),
    ("half the weights", weights(lambda w: dict(list(w.items())[:5])), ("the checkpoint lacks",)),
    ("other shapes", weights(lambda w: {n: v[:1].clone() for n, v in w.items()}), ("has other shapes for",)),
    ("nan", weights(lambda w: {n: v * float("nan") for n, v in w.items()}), ("embed", "not finite (nan or inf)")),
    ("integers", weights(lambda w: {n: v.to(torch.int8) for n, v in w.items()}), ("I8 numbers", "float32")),
    ("config {}", written("config.json", b"{}"), ("model_type",)),
    ("config a list", written("config.json", b"[]"), ("cannot be loaded",)),
    ("config no JSON", written("config.json", b"{"), ("config.json", "not a valid JSON")),
    ("-1 layers", config(num_hidden_layers=-1), ("config.json: num_hidden_layers is -1", "at least 0")),
    ("100,000 layers", config(num_hidden_layers=100_000), ("num_hidden_layers is 100000", "weights in all")),
    ("3 heads", config(num_attention_heads=3), ("cannot be loaded", "heads", "3")),
    ("a width in quotes", config(hidden_size="32"), ("'hidden_size' expected int, got str",)),
    ("an unknown type", config(model_type="foo"), ("`foo`", "does not recognize")),
    ("a dtype that is none", config(dtype="float33"), ("float33",)),
]


@rows(
    [
        *(Mistake(f"vision: {name}", composed("vision", do), ("vision", *reads)) for name, do, reads in DAMAGES),
        *(Mistake(f"language: {name}", composed("language", do), ("language", *reads)) for name, do, reads in DAMAGES),
        Mistake("language: no tokenizer", composed("language", no_tokenizer), ("language ./language", TOKENIZER)),
        Mistake("tokenizer {}", composed("language", written("tokenizer.json", b"{}")), ("language", TOKENIZER)),
    ]
)
def test_damaged_parts(mistake, place):
    check(mistake, place)
