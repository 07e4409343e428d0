"""Folders that are whole or not there."""

import errno
import json
import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from mutua.folders import FolderError, remove_leftovers, whole_file, whole_folder
from mutua.training import CheckpointError
from mutua.training import checkpoint as module
from mutua.training.checkpoint import Progress, checkpoints, prune, read_progress
from mutua.world import World


def write(folder: Path) -> tuple[nn.Linear, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    with whole_folder(folder) as partial:
        (partial / "weights").write_bytes(b"x" * 1000)
        module.seal(partial, module.trainer_state(model, optimizer), Progress(7, 28, 1.5), World())
    return model, optimizer


def test_there_and_back(tmp_path: Path) -> None:
    folder = tmp_path / "step-000007"
    model, optimizer = write(folder)
    expected = torch.rand(3)
    fresh = torch.optim.AdamW(model.parameters())
    assert module.restore(folder, model, fresh, World())
    assert read_progress(folder) == Progress(7, 28, 1.5)
    assert torch.equal(torch.rand(3), expected)
    for parameter in model.parameters():
        assert fresh.state[parameter].keys() == optimizer.state[parameter].keys()
        for key, value in optimizer.state[parameter].items():
            assert torch.equal(fresh.state[parameter][key], value)
    assert not [path for path in folder.iterdir() if path.suffix in (".pt", ".pkl", ".bin", ".pth")]


def damage_short(folder: Path) -> None:
    os.truncate(folder / "weights", 999)


def damage_bit(folder: Path) -> None:
    (folder / "weights").write_bytes(b"x" * 999 + b"y")


def damage_missing(folder: Path) -> None:
    (folder / "trainer.safetensors").unlink()


def damage_state(folder: Path) -> None:
    os.truncate(folder / "trainer.json", 20)


@pytest.mark.parametrize("damage", [damage_short, damage_bit, damage_missing, damage_state])
def test_damage_is_noticed(tmp_path: Path, damage) -> None:
    write(tmp_path / "step-000007")
    damage(tmp_path / "step-000007")
    with pytest.raises(CheckpointError, match=r"step-000007: .*damaged"):
        read_progress(tmp_path / "step-000007")


def test_a_folder_that_cannot_be_read_is_not_taken_for_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stale(_: Path) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    assert checkpoints(tmp_path / "none") == []
    monkeypatch.setattr(Path, "iterdir", stale)
    with pytest.raises(OSError, match="Stale file handle"):
        checkpoints(tmp_path)


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("I/O error: No space left on device")]
)
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(FolderError, match=r"No space left on device.* Make room there"):
        write(tmp_path / "step-000007")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [errno.EINVAL, errno.ENOTSUP, errno.EBADF])
def test_a_file_system_that_flushes_no_folder_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def flush(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "fsync", flush)
    write(tmp_path / "step-000007")
    assert read_progress(tmp_path / "step-000007").step == 7
    with whole_file(tmp_path / "file") as save:
        save(lambda path: path.write_text("whole"))
    assert (tmp_path / "file").read_text() == "whole"


def test_a_file_that_cannot_be_flushed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flush(_: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", flush)
    with pytest.raises(FolderError, match="Invalid argument"):
        write(tmp_path / "step-000007")


def test_any_other_error_leaves_nothing_behind_either(tmp_path: Path) -> None:
    def interrupted() -> None:
        with whole_folder(tmp_path / "a") as partial:
            (partial / "half").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_old_ones_and_leftovers_go(tmp_path: Path) -> None:
    for step in (5, 10, 1000000, 20):
        (tmp_path / f"step-{step:06d}").mkdir()
    (tmp_path / "step-000030.mutua-partial").mkdir()
    (tmp_path / "step-000002.damaged").mkdir()
    remove_leftovers(tmp_path)
    prune(tmp_path, keep=2)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-000020", "step-1000000"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000002.damaged", "step-000020", "step-1000000"]


def test_state_is_plain_json(tmp_path: Path) -> None:
    write(tmp_path / "c")
    state = json.loads((tmp_path / "c" / "trainer.json").read_text())
    assert state["step"] == 7
    assert state["files"]["weights"][0] == 1000
