"""Two processes, one of which has no picture in its batch: DDP and FSDP2 give what one process gives."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from tiny_model import assistant, make_model, make_processor, picture, user
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

STEPS, RATE = 5, 0.05


def batches() -> list[dict[str, Any]]:
    """The batch of each rank: the second one is text alone."""
    processor = make_processor(make_model())
    chats = ([user(picture(1), "is it red?"), assistant("yes no")], [user("is it blue?"), assistant("no")])
    made = []
    for chat in chats:
        inputs = dict(processor.apply_chat_template([chat], tokenize=True, return_dict=True, return_tensors="pt"))
        is_reply = (inputs["token_type_ids"] >= 0) & assistant_mask(processor, chat)
        made.append({**inputs, "labels": torch.where(is_reply, inputs["input_ids"], -100)})
    return made


def assistant_mask(processor: Any, chat: list[dict[str, Any]]) -> torch.Tensor:
    out = processor.apply_chat_template(
        [chat], tokenize=True, return_dict=True, return_tensors="pt", return_assistant_tokens_mask=True
    )
    return out["assistant_masks"].bool()


def train(model: Any, mine: list[dict[str, Any]], scale: float) -> None:
    """Plain gradient descent on the sum of the losses."""
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    for _ in range(STEPS):
        optimizer.zero_grad()
        for batch in mine:
            (model(**batch, num_items_in_batch=4).loss * scale).backward()
        optimizer.step()


def worker(rank: int, kind: str, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29513", "RANK": str(rank), "WORLD_SIZE": "2"}
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    model = make_model("mma").train()
    if kind == "ddp":
        wrapped: Any = DistributedDataParallel(model)
    else:
        mesh = dist.init_device_mesh("cpu", (2,))
        for part in (model.model.vision_tower, model.model.connector, *model.model.language_model.layers):
            fully_shard(part, mesh=mesh)
        wrapped = fully_shard(model, mesh=mesh)
    train(wrapped, [batches()[rank]], scale=2.0)  # both average over the ranks
    state = {
        name: getattr(value, "full_tensor", lambda value=value: value)() for name, value in model.state_dict().items()
    }
    if rank == 0:
        torch.save(state, Path(folder) / "state.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_a_rank_without_images(kind, tmp_path):
    alone = make_model("mma").train()
    before = {name: value.clone() for name, value in alone.state_dict().items()}
    train(alone, batches(), scale=1.0)
    context = mp.spawn(worker, (kind, str(tmp_path)), nprocs=2, join=False)
    assert context is not None
    for _ in range(24):
        if context.join(timeout=5):
            break
    else:
        for process in context.processes:
            process.kill()
        pytest.fail("the processes wait for each other")
    together = torch.load(tmp_path / "state.pt")
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(together[name], value, atol=1e-5, rtol=1e-4, msg=name)
    moved = [name for name, value in together.items() if not torch.equal(value, before[name])]
    assert any("vision_tower" in name for name in moved)
