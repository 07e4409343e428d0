"""Checkpoints written beside the training are those written between two steps; what goes wrong there ends the run."""

from __future__ import annotations

import errno
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from training_runs import at_step, expect_equal

from mutua.folders import FolderError
from mutua.training import checkpoint, train
from mutua.training import run as run_module
from mutua.training.checkpoint import read_progress
from mutua.training.saving import Saver
from mutua.training.step import Stepper
from mutua.world import World

BESIDE = "train.async_checkpoints=true"


def test_what_is_kept_does_not_change(tmp_path: Path) -> None:
    weight, step = torch.nn.Parameter(torch.zeros(3)), torch.tensor(1)
    with Saver(World(), in_background=True) as saver:
        [weights, state] = saver.keep({"w": weight}, {"step": step})
        weight.data.add_(1)
        step.add_(1)
        assert (weights["w"].tolist(), int(state["step"])) == ([0, 0, 0], 1)
        [weights] = saver.keep({"w": weight})
        assert weights["w"].tolist() == [1, 1, 1]
    with Saver(World(), in_background=False) as saver:
        [weights] = saver.keep({"w": weight})
        assert weights["w"].data_ptr() == weight.data_ptr(), "written before anything changes, it needs no copy"


def test_one_is_written_after_the_other_and_all_in_the_end() -> None:
    told: list[str] = []
    begun, go_on = threading.Event(), threading.Event()

    def slow(_: World) -> None:
        begun.set()
        go_on.wait(10)
        told.append("first")

    with Saver(World(), in_background=True) as saver:
        saver.save(slow)
        assert begun.wait(10)
        assert not told, "training goes on meanwhile"
        assert not saver.has_failed
        go_on.set()
        saver.save(lambda _: told.append("second"))
    assert told == ["first", "second"]


def test_what_goes_wrong_is_told_once() -> None:
    def fail(_: World) -> None:
        raise FolderError("full")

    saver = Saver(World(), in_background=True)
    saver.save(fail)
    with pytest.raises(FolderError, match="full"):
        saver.wait()
    assert not saver.has_failed
    saver.wait()
    with pytest.raises(FolderError, match="full"), saver:
        saver.save(fail)
    with pytest.raises(FolderError, match="full"):
        Saver(World(), in_background=False).save(fail)


def test_what_goes_wrong_beside_another_error_is_told_too() -> None:
    def fail(_: World) -> None:
        raise FolderError("full")

    told: list[str] = []
    saver = Saver(World(), in_background=True, say=told.append)
    saver.save(fail)
    with pytest.raises(ValueError, match="loss"), saver:
        raise ValueError("the loss is nan")
    assert told == ["The checkpoint that was being written failed, too: full"]


@pytest.mark.slow
def test_a_run_ends_as_one_that_waits_for_its_checkpoints(
    recipe_in, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every write is held up until another step is done: what is in it is still what was then."""
    train(recipe_in(tmp_path, f"output={tmp_path / 'waits'}"))
    done, late = threading.Condition(), []
    steps, last = [0], 9
    original, update = run_module.write_model, Stepper.update

    def write_late(folder: Path, *rest: Any) -> None:
        step = int(folder.name.split("-")[1][:6])
        with done:
            late.append(step == last or done.wait_for(lambda: steps[0] > step, 30))
        original(folder, *rest)

    def step(self: Stepper, index: int, *rest: Any) -> Any:
        found = update(self, index, *rest)
        with done:
            steps[0] = index + 1
            done.notify_all()
        return found

    monkeypatch.setattr(run_module, "write_model", write_late)
    monkeypatch.setattr(Stepper, "update", step)
    train(recipe_in(tmp_path, f"output={tmp_path / 'goes-on'}", BESIDE))
    assert late == [True, True, True]
    expect_equal(tmp_path / "goes-on", tmp_path / "waits")
    for file in ("model.safetensors", "trainer.safetensors"):
        for step_folder in ("step-000008", "step-000009"):
            got, want = (tmp_path / name / "checkpoints" / step_folder / file for name in ("goes-on", "waits"))
            assert got.read_bytes() == want.read_bytes(), got


def test_stopped_and_resumed_it_ends_as_an_unbroken_one(
    recipe_in, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(recipe_in(tmp_path, f"output={tmp_path / 'whole'}"))
    recipe = recipe_in(tmp_path, f"output={tmp_path / 'stopped'}", BESIDE)
    with monkeypatch.context() as patch:
        at_step(patch, 5, lambda _: signal.raise_signal(signal.SIGTERM))
        assert train(recipe).interrupted
    assert read_progress(tmp_path / "stopped/checkpoints/step-000006").step == 6
    train(recipe)
    expect_equal(tmp_path / "stopped", tmp_path / "whole")


def test_a_full_disk_ends_the_run_and_keeps_the_last_good_checkpoint(
    recipe_in, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, console: Console
) -> None:
    seal = checkpoint.seal

    def full(folder: Path, *rest: Any) -> None:
        if "step-000004" not in folder.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        seal(folder, *rest)

    recipe = recipe_in(tmp_path, BESIDE)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "seal", full)
        with pytest.raises(FolderError, match=r"step-000008: cannot be written: .*No space left on device"):
            train(recipe, console)
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step-000004"]
    assert train(recipe, console).step == 9
