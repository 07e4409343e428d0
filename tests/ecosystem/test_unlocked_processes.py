"""An unlocked model of another family in two processes: DDP, FSDP2 and `Trainer` train it as one process does, and
`mutua eval` shares out its questions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from reference_run import RATE
from tiny_model import picture
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from two_processes import free_port, one_of_two, run_two
from unlocked_pairs import idefics3, llava

import mutua
from mutua.data import Collator
from mutua.evaluation.fixtures import write_parquet

STEPS = 4
HERE = Path(__file__)


def rows() -> list[dict[str, Any]]:
    """Two a step, of unlike length."""
    asked = [f"is it {'very ' * (nth % 3)}red?" for nth in range(2 * STEPS)]
    said = ["yes", "no, it is blue"]
    return [
        {
            "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": said[nth % 2]}],
            "images": [picture(nth)],
        }
        for nth, question in enumerate(asked)
    ]


def fresh() -> tuple[Any, Any]:
    """The same weights every time."""
    torch.manual_seed(0)
    model, processor = idefics3()
    return mutua.unlock(model, processor).train(), processor


def wrapped(model: Any, kind: str) -> Any:
    if kind == "ddp":
        return DistributedDataParallel(model)
    mesh = dist.init_device_mesh("cpu", (2,))
    for part in (model.model.vision_model, *model.model.text_model.layers):
        fully_shard(part, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def train(kind: str, rank: int, size: int) -> list[float]:
    """The loss of every step, over the rows of all ranks; of kind "alone", one process has them one after another."""
    model, processor = fresh()
    network = model if kind == "alone" else wrapped(model, kind)
    optimizer = torch.optim.SGD(network.parameters(), RATE)
    collate, losses, all_rows = Collator(processor), [], rows()
    for step in range(STEPS):
        batches = [collate([row]) for row in all_rows[2 * step : 2 * step + 2]]
        tokens = sum(int((batch["labels"] != -100).sum()) for batch in batches)
        loss = torch.zeros(())
        for batch in batches[rank::size]:
            share = network(**batch, num_items_in_batch=tokens).loss
            (share * size).backward()  # both kinds average over the ranks
            loss += share.detach()
        optimizer.step()
        optimizer.zero_grad()
        if size > 1:
            dist.all_reduce(loss)
        losses.append(float(loss))
    return losses


def worker(rank: int, kind: str, port: int, folder: str) -> None:
    with one_of_two(rank, port):
        losses = train(kind, rank, 2)
        if rank == 0:
            Path(folder, "losses").write_text(json.dumps(losses))


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_processes_train_as_one(kind, tmp_path):
    run_two(worker, kind, free_port(), str(tmp_path), seconds=600)
    losses = json.loads((tmp_path / "losses").read_text())
    assert losses == pytest.approx(train("alone", 0, 1), abs=1e-5, rel=1e-5)
    assert losses[-1] != losses[0]


def torchrun(*words: object, processes: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    command += ["--master-port", str(free_port()), *map(str, words)]
    paths = {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, env=os.environ | paths, capture_output=True, text=True, timeout=600)


def by_trainer(output: Path, batch: int) -> None:
    """What each process of `torchrun` runs: `Trainer`, whose losses it writes into a file."""
    from trainer_settings import arguments, losses_of
    from transformers import Trainer, TrainingArguments

    model, processor = fresh()
    options = {"max_steps": STEPS, "per_device_train_batch_size": batch, "remove_unused_columns": False}
    options |= {"ddp_find_unused_parameters": False, "average_tokens_across_devices": True, "optim": "sgd"}
    trainer = Trainer(
        model,
        arguments(TrainingArguments, output, **options),
        train_dataset=rows(),
        data_collator=Collator(processor),
    )
    losses = losses_of(trainer)
    if trainer.is_world_process_zero():
        (output / "losses").write_text(json.dumps(losses))


def test_trainer_in_two_processes(tmp_path):
    found = []
    for processes in (1, 2):
        output = tmp_path / str(processes)
        output.mkdir()
        done = torchrun(HERE, output, 2 // processes, processes=processes)
        assert done.returncode == 0, done.stderr[-3000:]
        found.append(json.loads((output / "losses").read_text()))
    assert found[1] == pytest.approx(found[0], rel=1e-4)


def test_eval_in_two_processes(tmp_path):
    """A suite, asked of a model that was saved unlocked: the answers of one process."""
    model, processor = llava()
    for part in (mutua.unlock(model, processor), processor):
        part.save_pretrained(tmp_path / "model")
    mutua.lock(model)
    write_parquet(tmp_path / "data")
    answers = []
    for processes in (1, 2):
        output = tmp_path / f"by {processes}"
        words = ["eval", "-m", tmp_path / "model", "--suite", "paper", "--tasks", "pope", "-d", tmp_path / "data"]
        done = torchrun("-m", "mutua", *words, "-o", output, "--batch-size", 1, processes=processes)
        assert done.returncode == 0, done.stderr[-3000:]
        answers.append((output / "records" / "pope.jsonl").read_text())
    assert answers[0] == answers[1]


if __name__ == "__main__":
    by_trainer(Path(sys.argv[1]), int(sys.argv[2]))
