"""What the tests inside other people's trainers tell each of them, and read of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reference_run import BATCH, RATE, STEPS


def arguments(kind: type, folder: Path, **more: Any) -> Any:
    """Of a trainer that does as the reference does."""
    common: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": STEPS,
        "per_device_train_batch_size": BATCH,
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
    }
    return kind(**common | more)


def losses_of(trainer: Any) -> list[float]:
    trainer.train()
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]
