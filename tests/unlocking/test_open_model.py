"""Models of others are asked as ours are: any image-text model of Transformers, by its folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_model import picture, user
from what_users_read import mutua

from mutua.api import PACKAGED
from mutua.evaluation.benchmark import Protocol
from mutua.evaluation.benchmarks import BENCHMARKS
from mutua.evaluation.fixtures import write_tsv
from mutua.evaluation.suite import settings_of
from mutua.models import MutuaForConditionalGeneration
from mutua.models.model_folder import ModelError
from mutua.respond import respond
from mutua.unlocking import open_model

CPU = torch.device("cpu")


def test_a_model_of_others_answers_alone_as_in_a_batch(saved_llava: Path):
    model, processor = open_model(str(saved_llava), device=CPU)
    assert not model.training
    talks = [[user(picture(1), "what colour is the circle?")], [user(picture(2), "red?")]]
    together = respond(model, processor, talks, max_new_tokens=4)
    assert together == [respond(model, processor, [talk], max_new_tokens=4)[0] for talk in talks]


def test_it_takes_a_suite(saved_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    short = replace(BENCHMARKS["pope"], protocol=Protocol("as random weights say it", 4))
    monkeypatch.setitem(BENCHMARKS, "pope", short)
    write_tsv(tmp_path / "data")
    done = mutua(
        "eval", "-m", saved_llava, "--suite", "paper", "-d", "data", "--tasks", "pope", "--limit", "2", "-o", "out"
    )
    assert done.exit_code == 0, done.output
    assert "POPE F1" in done.stdout


def test_ours_are_opened_as_ours():
    for name in (None, str(PACKAGED)):
        assert isinstance(open_model(name, "causal", device=CPU)[0], MutuaForConditionalGeneration)


def test_a_policy_unlocks_it(saved_llava: Path):
    locked, unlocked = (
        settings_of(*open_model(str(saved_llava), policy, device=CPU), "llava", 1, None) for policy in (None, "mma")
    )
    assert (locked.policy, unlocked.policy) == ("", "mma")
    assert locked.processor == unlocked.processor


def test_what_cannot_be_asked_is_refused(saved_llava: Path, tmp_path: Path):
    with pytest.raises(ModelError):
        open_model(str(tmp_path / "nothing"), device=CPU)
    for path in saved_llava.iterdir():
        (tmp_path / path.name).symlink_to(path)
    weights = load_file(saved_llava / "model.safetensors")
    weights.pop(next(name for name in weights if "vision" in name))
    (tmp_path / "model.safetensors").unlink()
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="lacks"):
        open_model(str(tmp_path), device=CPU)
