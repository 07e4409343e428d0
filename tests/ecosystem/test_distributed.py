"""Two processes, of which one at a time has pictures: DDP and FSDP2 train as `mutua train` does in one process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from reference_run import BATCH, RATE, STEPS, fresh, losses_of_mutua_train, order
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from two_processes import free_port, one_of_two, run_two

from mutua.data import Collator

WAYS = {
    "the second never has any": lambda step, rank: rank == 0,
    "they take turns": lambda step, rank: step % 2 == rank,
    "sometimes nobody has one": lambda step, rank: step % 3 == rank,
}
COMPARED = list(WAYS)[:2]  # Adam passes over weights without a gradient, and those that nobody used have one of zero


def rows_of(rows: list[dict[str, Any]], way: str) -> list[dict[str, Any]]:
    """The rows, those without a picture that are to be so when they are met. Row by row of a batch goes to a rank."""
    given = {index: WAYS[way](*divmod(slot, BATCH)) for slot, index in enumerate(order(rows))}
    return [{**row, "images": row["images"] if given[nth] else []} for nth, row in enumerate(rows)]


def wrapped(model: Any, kind: str) -> Any:
    if kind == "ddp":
        return DistributedDataParallel(model)
    mesh = dist.init_device_mesh("cpu", (2,))
    for part in (model.model.vision_tower, model.model.connector, *model.model.language_model.layers):
        fully_shard(part, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def share_of_loss(model: Any, batches: list[dict[str, torch.Tensor]], rank: int) -> torch.Tensor:
    """This rank's part of the mean over the supervised tokens of all ranks."""
    tokens = sum(int((batch["labels"] != -100).sum()) for batch in batches)
    return model(**batches[rank], num_items_in_batch=tokens).loss


def summed(share: torch.Tensor) -> float:
    whole = share.detach().clone()
    dist.all_reduce(whole)
    return float(whole)


def train(rank: int, kind: str, rows: list[dict[str, Any]]) -> list[float]:
    """The losses of the steps, and two of an evaluation: before, and of a model that is not in training."""
    model, processor = fresh()
    network, met, losses = wrapped(model.train(), kind), order(rows), []
    collate = Collator(processor)
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=0.0)
    for step in range(STEPS):
        batches = [collate([rows[index]]) for index in met[step * BATCH : (step + 1) * BATCH]]
        if step == 0:
            network.eval()
            with torch.no_grad():
                losses.append(summed(share_of_loss(network, batches, rank)))
            network.train()
        loss = share_of_loss(network, batches, rank)
        (loss * BATCH).backward()  # both kinds average over the ranks
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(summed(loss))
    return losses


def worker(rank: int, kind: str, port: int, rows: list[dict[str, Any]], folder: str) -> None:
    with one_of_two(rank, port):
        for way in WAYS:
            losses = train(rank, kind, rows_of(rows, way))
            if rank == 0:
                Path(folder, way).write_text(json.dumps(losses))


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_a_rank_without_images(kind, rows, tmp_path):
    run_two(worker, kind, free_port(), rows, str(tmp_path), seconds=180)
    for way in WAYS:
        before, *losses = json.loads((tmp_path / way).read_text())
        assert before == pytest.approx(losses[0], abs=1e-5), "evaluation, before anything is learned"
        assert len(losses) == STEPS
        assert sum(losses[-5:]) < sum(losses[:5])
        if way in COMPARED:
            folder = tmp_path / f"{way} alone"
            folder.mkdir()
            assert losses == pytest.approx(losses_of_mutua_train(rows_of(rows, way), folder), abs=2e-4, rel=2e-5)
