"""What one process of a study does: an arm from its start to its measurements.

python -m mutua.study.work FOLDER                      FOLDER/arm.json names the arm, FOLDER/measured.json is left
python -m mutua.study.work encoder TASK SIDE FOLDER    a training run
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import sys
import threading
import time
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from mutua.data.collate import encode, supervised_positions
from mutua.evaluation.accuracy import evaluate
from mutua.folders import replace_file, whole_file
from mutua.inspection.measure_looks import measure_looks
from mutua.memory import peak_memory
from mutua.models import MutuaProcessor
from mutua.models.loading import load_model
from mutua.study.plan import Arm, Task
from mutua.study.pool import Job
from mutua.study.progress import read_lines
from mutua.study.recipes import encoder_recipe, open_source, stage_recipes, test_sources
from mutua.training import train
from mutua.training.recipe import Recipe

ARM, MEASURED = "arm.json", "measured.json"
_BATCH = 200
_INTERRUPTED = 130
_LOOKS = 300  # questions, spread over the families
# PyTorch's counter knows attention on a GPU only.
_ATTENTION_ON_A_CPU = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: (
        lambda q, k, v, *rest, out_shape=None, **options: sdpa_flop_count(q, k, v)
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda out, q, k, v, *rest, out_shape=None, **options: sdpa_backward_flop_count(out, q, k, v)
    ),
}


def write_arm(folder: Path, arm: Arm, encoder: Path | None) -> None:
    """What `read_arm` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"arm": asdict(arm), "encoder": None if encoder is None else str(encoder)}
    replace_file(folder / ARM, json.dumps(content, indent=1) + "\n")


def read_arm(folder: Path) -> tuple[Arm, Path | None]:
    """The arm of a folder, and the model whose vision encoder it takes over.

    Raises:
        ValueError: its file is damaged.
    """
    try:
        content = json.loads((folder / ARM).read_text(encoding="utf-8"))
        return Arm(**content["arm"]), Path(content["encoder"]) if content["encoder"] else None
    except (ValueError, KeyError, TypeError) as error:
        remedy = "remove its folder, and the same command trains it anew"
        raise ValueError(f"{folder / ARM}: does not say which model this is ({error}): {remedy}.") from None


def arm_job(folder: Path, name: str) -> Job:
    """Runs the arm of a folder in a process of its own."""
    return Job(name, ("mutua.study.work", str(folder)), folder / "output.txt")


def run_arm(folder: Path) -> None:
    """Trains the arm of a folder and measures it; goes on where it was stopped. Writes `measured.json` at the end."""
    arm, encoder = read_arm(folder)
    recipes = stage_recipes(arm, folder, encoder)
    was_trained = all((recipe.output / "model").is_dir() for recipe in recipes)
    for recipe in recipes:
        if train(recipe, _console()).interrupted:
            raise SystemExit(_INTERRUPTED)
    peak_mib = None if was_trained else peak_memory() / 2**20  # of training: nothing is measured yet
    model, processor = load_model(recipes[-1].output / "model")
    tests = {}
    for task, settings in test_sources(arm).items():
        samples = open_source(settings)
        accuracy = evaluate(model, processor, samples, batch_size=_BATCH)
        tests[task] = [vars(record) for record in accuracy.records]
    looks = []
    if arm.connector == "mlp" and arm.questions == "own":
        asked = open_source(test_sources(arm)[arm.task])
        looks = [row._asdict() for row in measure_looks(model, processor, asked, _LOOKS)]
    gflops = _gflops(model, processor, recipes[-1])
    result = {
        "arm": asdict(arm),
        "curve": curve(recipes),
        "tests": tests,
        "looks": looks,
        "cost": {"step_ms": _step_ms(recipes[-1]), "peak_mib": peak_mib, "gflops_per_sample": gflops},
    }
    with whole_file(folder / MEASURED) as save:
        save(lambda path: path.write_text(json.dumps(result) + "\n", encoding="utf-8"))


def curve(recipes: list[Recipe]) -> list[dict[str, Any]]:
    """The evaluations of all stages: samples and training seconds until then, and the scores by task and family."""
    points, samples, seconds = [], 0, 0.0
    for recipe in recipes:
        at = {line["step"]: line["seconds"] for line in read_lines(recipe.output / "log.jsonl")}
        for line in read_lines(recipe.output / "evaluations.jsonl"):
            nearest = min(at, key=lambda step: abs(step - line["step"]))
            spent = at[nearest] * line["step"] / nearest
            for task, scores in line["results"].items():
                for family, score in scores["families"].items():
                    points.append(
                        {
                            "samples": samples + line["step"] * recipe.train.batch_size,
                            "seconds": seconds + spent,
                            "task": task,
                            "family": family,
                            "correct": score["correct"],
                            "total": score["total"],
                        }
                    )
        samples += recipe.train.steps * recipe.train.batch_size
        seconds += max(at.values(), default=0.0)
    return points


def _step_ms(recipe: Recipe) -> float:
    """The median time of a step, data included, over the logged stretches."""
    pairs = pairwise(read_lines(recipe.output / "log.jsonl"))
    return 1000 * statistics.median((b["seconds"] - a["seconds"]) / (b["step"] - a["step"]) for a, b in pairs)


def _gflops(model: Any, processor: MutuaProcessor, recipe: Recipe) -> float:
    """Floating-point operations of a training step, by a sample. A mask hides cells and saves none of them: what is
    counted is what a kernel computes that is given one."""
    samples = [sample for one in recipe.data.train for sample in one.source.open()[:4]]
    batch = encode(samples, processor)
    with FlopCounterMode(display=False, custom_mapping=_ATTENTION_ON_A_CPU) as counter:
        positions = supervised_positions(batch["labels"])
        model.train()(**batch, supervised_positions=positions, use_cache=False).loss.backward()
    return counter.get_total_flops() / len(samples) / 1e9


def _console() -> Console:
    return Console(stderr=True, width=160)


def run_encoder(task: Task, side: int, folder: Path) -> None:
    """Trains the vision encoder that the arms of a task share."""
    if train(encoder_recipe(task, side, folder), _console()).interrupted:
        raise SystemExit(_INTERRUPTED)


def end_with(parent: int) -> None:
    """Has this process stop, saved, when the one that started it is gone, killed maybe: nobody would wait for it."""

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=look, daemon=True).start()


def main(arguments: list[str]) -> None:
    end_with(os.getppid())
    torch.set_num_threads(1)
    if arguments[0] == "encoder":
        run_encoder(arguments[1], int(arguments[2]), Path(arguments[3]))  # type: ignore[arg-type]
    else:
        run_arm(Path(arguments[0]))


if __name__ == "__main__":
    main(sys.argv[1:])
