"""A model in shards, one a process (FSDP2): made, read and written without a whole copy of it in any process.

What is read and written are the safetensors folders of a run in one process, so a run may go on in another number of
processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from shutil import rmtree
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from huggingface_hub import save_torch_state_dict
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.modeling_layers import GradientCheckpointingLayer

from mutua.models import MutuaForConditionalGeneration
from mutua.models.configuration import MutuaConfig
from mutua.training.recipe import TrainSettings
from mutua.world import World

_LARGEST_FILE = 5 * 2**30  # bytes, as `save_pretrained` cuts


def expect_processes(train: TrainSettings, count: int) -> None:
    """Raises ValueError for what so many processes cannot share."""
    if train.batch_size < count:
        raise ValueError(f"train.batch_size: {train.batch_size} samples for {count} processes: give each one")
    if count > 1 and count % train.replicas:
        raise ValueError(
            f"train.replicas: {train.replicas} replicas of the model cannot share {count} processes evenly; give a "
            f"divisor of {count}"
        )


def empty_model(config: MutuaConfig) -> MutuaForConditionalGeneration:
    """A model whose fp32 weights are nowhere yet, to be frozen and sharded; what is no weight is there.

    Raises:
        ImportError: Accelerate is not installed.
    """
    try:
        from accelerate import init_empty_weights
    except ImportError as error:
        raise ImportError('several processes need Accelerate: pip install "mutua[train]"') from error
    for part in (config, config.text_config, config.vision_config):
        part.dtype = torch.float32
    with init_empty_weights(include_buffers=False):
        model = MutuaForConditionalGeneration(config)
    model.tie_weights()  # the weights that the line above made in place of others are tied to nothing
    return model


def shard(model: MutuaForConditionalGeneration, world: World, replicas: int, bf16: bool) -> None:
    """Cuts what is trained, layer by layer, into as many shards as there are processes a replica; makes room for them.

    A vision encoder that is frozen as a whole stays whole in every process: it has no gradients and no moments, and may
    then be called by a process alone.
    """
    mesh = _mesh(world, replicas)
    tower = list(model.model.vision_tower.parameters())
    whole = set() if any(parameter.requires_grad for parameter in tower) else set(tower)
    settings: dict[str, Any] = {"mesh": mesh}
    if bf16:
        settings["mp_policy"] = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer) and not whole.issuperset(module.parameters()):
            fully_shard(module, **settings)
    fully_shard(model.model.connector, **settings)
    fully_shard(model, ignored_params=whole, **settings)
    model._apply(lambda x: torch.empty_like(x, device=world.device) if x.is_meta else x.to(world.device))


def _mesh(world: World, replicas: int) -> DeviceMesh:
    if replicas == 1:
        return init_device_mesh(world.device.type, (world.size,))
    shape = (replicas, world.size // replicas)
    return init_device_mesh(world.device.type, shape, mesh_dim_names=("replicate", "shard"))


def is_shard(tensor: Tensor) -> bool:
    """Whether other processes hold other parts of it."""
    return isinstance(tensor, DTensor)


def local(tensor: Tensor) -> Tensor:
    """What this process holds of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of it, in every process: all must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard_like(tensor: Tensor, values: Tensor) -> Tensor:
    """The values in shards as the tensor is, without asking the others."""
    if not isinstance(tensor, DTensor):
        return values
    values = values.to(tensor.to_local().device)
    return distribute_tensor(values, tensor.device_mesh, tensor.placements, src_data_rank=None)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """By name, those that are tied once, as a saved model has them."""
    tied = set(dict(model.named_parameters(remove_duplicate=False))) - set(dict(model.named_parameters()))
    return {name: tensor for name, tensor in model.state_dict().items() if name not in tied}


def read_shards(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Fills the tensors, whole ones or this process's part of them, from the safetensors files of a folder."""
    try:
        dcp.load(dict(tensors), storage_reader=HuggingFaceStorageReader(str(folder)))
    except CheckpointException as error:
        raise ValueError(f"{folder} cannot be read: {_first_failure(error)}") from error


def names_in(folder: Path) -> set[str]:
    """Of all tensors in the safetensors files of a folder."""
    names: set[str] = set()
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            names |= set(file.keys())
    return names


def write_weights(folder: Path, weights: Mapping[str, Tensor], world: World) -> None:
    """A model's weights (`weights_of`) as `from_pretrained` reads them: by all processes, in shards or whole."""
    if world.size > 1:
        write_shards(folder, weights, world)
    else:
        save_torch_state_dict(dict(weights), folder, max_shard_size=_LARGEST_FILE)


def write_shards(folder: Path, tensors: Mapping[str, Tensor], world: World) -> None:
    """Writes the tensors of all processes as the safetensors files of a folder that they all see; waits for all.

    No scalars: PyTorch 2.13 puts them together as zeros.

    Raises:
        OSError: they cannot be written.
    """
    writer = HuggingFaceStorageWriter(
        str(folder), fqn_to_index_mapping=_files(tensors), save_distributed=True, enable_consolidation=True
    )
    try:
        dcp.save(dict(tensors), storage_writer=writer, process_group=world.group)
    except CheckpointException as error:
        raise OSError(_first_failure(error)) from error
    if world.is_first:
        rmtree(folder / "sharded", ignore_errors=True)  # what has been put together


def _files(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """The number of the file of each, from 1."""
    files, number, room = {}, 1, _LARGEST_FILE
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()  # of the whole, also where it is in shards
        if size > room and room < _LARGEST_FILE:
            number, room = number + 1, _LARGEST_FILE
        room -= size
        files[name] = number
    return files


def _first_failure(error: CheckpointException) -> str:
    """What the first process that failed says."""
    failure, _ = next(iter(error.failures.values()))
    return str(failure).strip().splitlines()[-1]
