"""Checkpoints: folders that are complete or not there (`mutua.folders`), and that notice when they are damaged.

No pickle anywhere: safetensors and JSON.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mutua.folders import PARTIAL
from mutua.training.optimizer import empty_optimizer_state, load_optimizer_state, optimizer_state
from mutua.training.samples import SampleCounts
from mutua.training.shards import is_shard, names_in, read_shards, write_shards
from mutua.world import World

_STATE, _TENSORS = "trainer.json", "trainer.safetensors"
_SHARED = "optimizer"  # the folder of what several processes wrote: what that file has if one did, but for scalars
_GENERATORS = ("rng/cpu", "rng/cuda")
_NOT_THERE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class CheckpointError(ValueError):
    """A checkpoint cannot be read."""


@dataclass(frozen=True)
class Progress:
    """How far a run is: `step` steps are done, on `samples` samples, in `seconds` of training; `counts` by source."""

    step: int = 0
    samples: int = 0
    seconds: float = 0.0
    counts: tuple[SampleCounts, ...] = ()


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, oldest first.

    Raises:
        OSError: it cannot be read; a glob would find nothing there.
    """
    try:
        steps = {path: path.name.removeprefix("step-") for path in folder.iterdir() if path.name.startswith("step-")}
    except FileNotFoundError:
        return []
    return sorted((path for path, step in steps.items() if step.isdecimal()), key=lambda path: int(steps[path]))


def trainer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What the next step depends on besides the weights: the optimizer's tensors and the random generators."""
    return {**optimizer_state(optimizer, model), **generators()}


def seal(folder: Path, state: Mapping[str, Tensor], progress: Progress, world: World) -> None:
    """Adds the `trainer_state` to a folder that holds a saved model, and a list of all files to check them by."""
    own = dict(state)
    if world.size > 1:
        world.first((folder / _SHARED).mkdir)
        write_shards(folder / _SHARED, {name: tensor for name, tensor in state.items() if is_shard(tensor)}, world)
        is_own = {name: name in _GENERATORS or world.is_first for name in state}
        own = {name: tensor for name, tensor in state.items() if is_own[name] and not is_shard(tensor)}
    save_file({name: tensor.contiguous() for name, tensor in own.items()}, folder / _of_process(world.rank))
    world.lists([])  # all are written

    def list_files() -> None:
        files = {str(path.relative_to(folder)): _fingerprint(path) for path in folder.rglob("*") if path.is_file()}
        (folder / _STATE).write_text(json.dumps({**asdict(progress), "files": files}, indent=2), encoding="utf-8")

    world.first(list_files)


def _of_process(rank: int) -> str:
    """The file of what is a process's own, its random generators. The first one's is that of a run in one process."""
    return _TENSORS if rank == 0 else f"trainer-{rank}.safetensors"


def read_progress(folder: Path) -> Progress:
    """Checks every file of a checkpoint and returns where it stands.

    Raises:
        CheckpointError: a file is missing, cut short or changed.
        OSError: one cannot be read, which may pass (a right that is lacking, a network drive) and says nothing of it.
    """
    path = folder / _STATE
    try:
        state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for name, expected in state.pop("files").items():
            path = folder / name
            if (found := _fingerprint(path)) != expected:
                raise CheckpointError(f"{folder}: {name} is damaged (size and CRC-32 {found}, written as {expected})")
        counts = state.pop("counts", ())  # checkpoints of version 0.1.0 have none
        return Progress(**state, counts=tuple(SampleCounts(**of_source) for of_source in counts))
    except CheckpointError:
        raise
    except (*_NOT_THERE, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder}: damaged: {error}") from error
    except OSError as error:
        raise OSError(
            f"{path} cannot be read ({error.strerror}): run the same command again when it can; if it is lost, remove "
            f"{folder}, and the run goes on from the checkpoint before it"
        ) from error


def restore(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, world: World) -> bool:
    """Puts optimizer and random generators back to where `trainer_state` saw them. Weights are the caller's business.

    Returns:
        Whether as many processes wrote it: else the generators, which only dropout asks, are as they were seeded.
    """
    written_by = len(list(folder.glob("trainer*.safetensors")))
    own: dict[str, Tensor] = {}
    if written_by == world.size:
        own = load_file(folder / _of_process(world.rank))
        restore_generators({name: own.pop(name) for name in _GENERATORS if name in own})
    if written_by > 1 or world.size > 1:
        with safe_open(folder / _TENSORS, "pt") as file:
            scalars = [name for name in file.keys() if not file.get_slice(name).get_shape()]  # noqa: SIM118 (no mapping)
            own = {name: file.get_tensor(name) for name in scalars}
        place = folder / _SHARED if written_by > 1 else folder
        shards = empty_optimizer_state(model, names_in(place) - own.keys())
        read_shards(place, shards)
        own |= shards
    load_optimizer_state(optimizer, model, own)
    return written_by == world.size


def generators() -> dict[str, Tensor]:
    """The state of the random generators."""
    states = {_GENERATORS[0]: torch.get_rng_state()}
    if torch.cuda.is_available():
        states[_GENERATORS[1]] = torch.cuda.get_rng_state()
    return states


def restore_generators(states: Mapping[str, Tensor]) -> None:
    """Undoes what was drawn since `generators`."""
    torch.set_rng_state(states[_GENERATORS[0]].clone())
    if _GENERATORS[1] in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states[_GENERATORS[1]].clone())


def prune(folder: Path, keep: int) -> None:
    """Removes all but the `keep` newest checkpoints."""
    for old in checkpoints(folder)[:-keep]:
        # Renamed first, so that a removal cut short leaves no half checkpoint under a checkpoint's name.
        shutil.rmtree(old.rename(old.with_name(old.name + PARTIAL)))


def _fingerprint(path: Path) -> list[int]:
    """Size and CRC-32: tells a damaged file, not a forged one."""
    crc = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            crc = zlib.crc32(chunk, crc)
    return [path.stat().st_size, crc]
