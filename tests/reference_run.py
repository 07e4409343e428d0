"""What other people's trainers are held against: 20 steps of `mutua train` on the tiny model, at a constant rate."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from tiny_model import make_model, make_processor

from mutua.data.mixture import Mixture
from mutua.models import MutuaForConditionalGeneration, MutuaProcessor
from mutua.training import load_recipe, train

STEPS, BATCH, RATE = 20, 2, 1e-3


def fresh() -> tuple[MutuaForConditionalGeneration, MutuaProcessor]:
    """The same weights every time."""
    model = make_model("mma")
    return model, make_processor(model)


def order(rows: Sequence[Any]) -> list[int]:
    """Which row is met when."""
    mixture: Any = Mixture([rows], [1.0], seed=0, batch_size=BATCH)
    return [draw.index for step in range(STEPS) for draw in mixture.draws(step)]


def losses_of_mutua_train(rows: Sequence[dict[str, Any]], folder: Path) -> list[float]:
    """Step by step, of chats of two messages with a column of pictures, which may be empty."""
    for part in fresh():
        part.save_pretrained(folder / "start")
    with (folder / "rows.jsonl").open("w") as file:
        for nth, row in enumerate(rows):
            names = [f"{nth}-{place}.png" for place in range(len(row["images"]))]
            for name, picture in zip(names, row["images"], strict=True):
                picture.save(folder / name)
            question, answer = row["messages"]
            parts = [
                *({"type": "image", "image": name} for name in names),
                {"type": "text", "text": question["content"]},
            ]
            file.write(json.dumps({"id": str(nth), "messages": [{"role": "user", "content": parts}, answer]}) + "\n")
    recipe = {
        "name": "reference",
        "output": str(folder / "run"),
        "model": {"path": str(folder / "start")},
        "data": {"train": [{"source": {"type": "jsonl", "path": str(folder / "rows.jsonl")}}]},
        "train": {"steps": STEPS, "batch_size": BATCH, "learning_rate": RATE, "floor": 1.0, "log_every": 1}
        | {"weight_decay": 0.0, "betas": [0.9, 0.999], "precision": "fp32", "workers": 0},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    train(load_recipe(folder / "recipe.yaml"))
    return [json.loads(line)["loss"] for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
