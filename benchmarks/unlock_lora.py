"""Does a little LoRA give a model that someone else trained what it missed by not being trained with MMA?

A tiny LLaVA of Transformers' own class: a CLIP tower that was trained once, on captions, and is frozen from then on (a
caption follows its picture, so no policy would let the picture look ahead), 16 visual tokens, and a fresh Llama. Every
seed trains it twice on the questions of grid scenes, under causal attention and under MMA: same start, samples and
order. Then adapters go on from the causal one: unlocked, and locked as the control, for more training helps by itself;
and from the other one. `mutua train` trains all of them, `mutua eval` asks them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
from transformers.models.llava import LlavaImageProcessorPil
from unlock_lora_report import (
    ADAPTED,
    CAUSAL,
    CONTINUED,
    CONTROL,
    LOCKED,
    MMA,
    TEST,
    UNTRAINED,
    VALIDATION,
    ScoreRow,
    report,
)

from mutua.composition.tiny import CHAT_TEMPLATE, train_tokenizer
from mutua.data.grid.questions import FAMILIES
from mutua.data.readers import GridScenes
from mutua.folders import whole_folder
from mutua.quiet import quiet
from mutua.study.pool import Job, run_jobs, slots
from mutua.study.progress import Lines, duration, read_lines
from mutua.study.results import read_rows, write_rows
from mutua.training.recipe import Recipe
from mutua.training.recipe_file import RecipeError, dump_recipe
from mutua.training.run_folder import open_run
from mutua.unlocking import load_foreign

EXAMPLES = """examples:
  python benchmarks/unlock_lora.py                       three seeds, an hour on one core; goes on where it was stopped
  python benchmarks/unlock_lora.py --validation --seeds 100 --rank 4      how settings were chosen
  python benchmarks/unlock_lora.py --draw docs/study     table and figure of the rows in a folder; nothing is trained
"""
PIXELS, PATCH = 32, 8
VISION = {"hidden_size": 96, "intermediate_size": 192, "num_attention_heads": 4, "image_size": PIXELS}
# As in LLaVA 1.5, features are those before the last layer of the tower. That is its only one, so the tower sees every
# patch by itself, and whatever relates patches is up to the language model, as in `mutua study`.
VISION |= {"patch_size": PATCH, "num_hidden_layers": 1}
TEXT: dict[str, Any] = {"hidden_size": 96, "intermediate_size": 256, "num_attention_heads": 4, "num_hidden_layers": 3}
TEXT |= {"initializer_range": 0.1, "tie_word_embeddings": True, "bos_token_id": None, "max_position_embeddings": 512}
BATCH = 128
MANY = 10_000_000  # samples of a source that never ends
TOWER = "model.vision_tower.*"


@dataclass(frozen=True)
class Settings:
    """What may be chosen.

    Attributes:
        steps: of the training from the start.
        lora_steps: of the adapters.
        rank: of the adapters; their alpha is twice that.
        learning_rate: of the adapters.
        targets: patterns on the names of the linear layers that get adapters.
        projector: whether the projector is trained beside them.
        tower_steps: of the tower, on captions.
        questions: of the validation split, asked now and then.
        test_questions: of the test split; None: all.
    """

    steps: int = 500
    lora_steps: int = 500
    rank: int = 16
    learning_rate: float = 5e-3
    targets: tuple[str, ...] = ("*",)
    projector: bool = False
    tower_steps: int = 300
    questions: int = 900
    test_questions: int | None = None

    @property
    def adapters(self) -> str:
        """Names the folders of what is trained with them."""
        layers = "".join(f"-{target.strip('*.')}" for target in self.targets if target != "*")
        rate = f"{self.learning_rate:g}"
        return f"steps-{self.lora_steps}-rank-{self.rank}-rate-{rate}{layers}{'-projector' * self.projector}"


QUICK = Settings(steps=3, lora_steps=2, rank=2, tower_steps=2, questions=6, test_questions=6)


@dataclass(frozen=True)
class Run:
    """One `mutua train`: of an arm, which went through so many `samples` before it."""

    arm: str
    recipe: Recipe
    samples: int = 0

    @property
    def model(self) -> Path:
        return self.recipe.output / "model"

    @property
    def whole(self) -> int:
        return self.recipe.train.steps * self.recipe.train.batch_size

    @property
    def done(self) -> int:
        """Samples, by its log."""
        lines = read_lines(self.recipe.output / "log.jsonl")
        return self.recipe.train.batch_size * lines[-1]["step"] if lines else 0

    def is_trained(self) -> bool:
        """RecipeError where the folder holds a run of other settings: its figures are not for this table."""
        if not self.recipe.output.is_dir():
            return False
        with open_run(self.recipe) as run:
            return run.finished(self.recipe.train.steps) is not None

    def job(self) -> Job:
        output = self.recipe.output
        path = output.with_name(f"{output.name}.yaml")
        path.write_text(dump_recipe(self.recipe), encoding="utf-8")
        return Job(f"{output.parent.name} {self.arm}", ("mutua", "train", str(path)), path.with_suffix(".txt"))


def runs_from_start(seed: int, here: Path, settings: Settings) -> list[Run]:
    return [Run(arm, _recipe(here / arm, here / "start", arm, seed, settings, is_lora=False)) for arm in (CAUSAL, MMA)]


def runs_of_adapters(seed: int, here: Path, settings: Settings) -> list[Run]:
    """They meet samples that the model from which they start has not met."""
    runs = []
    for arm, start, policy in ((ADAPTED, CAUSAL, MMA), (CONTROL, CAUSAL, CAUSAL), (CONTINUED, MMA, MMA)):
        output = here / f"{arm}-{settings.adapters}"
        recipe = _recipe(output, here / start / "model", policy, seed, settings, is_lora=True)
        runs.append(Run(arm, recipe, settings.steps * BATCH))
    return runs


def _recipe(output: Path, start: Path, policy: str, seed: int, settings: Settings, *, is_lora: bool) -> Recipe:
    steps = settings.lora_steps if is_lora else settings.steps
    train = _schedule(steps)
    train["freeze"] = [TOWER]
    if is_lora:
        train |= {"learning_rate": settings.learning_rate, "weight_decay": 0.0}
        train["lora"] = {"rank": settings.rank, "alpha": 2 * settings.rank, "targets": settings.targets}
        train["freeze"] = [TOWER] if settings.projector else ["*"]
    return Recipe.model_validate(
        {
            "name": output.name,
            "seed": {"weights": seed, "order": seed + 1000 * is_lora, "dropout": seed},
            "output": output,
            "model": {"path": start, "unlock": policy},
            "data": {"train": [{"source": _grid("train", MANY)}]},
            "train": train,
            "evaluate": {
                "sources": {"grid": _grid(VALIDATION, settings.questions)},
                "every": -(-steps // 4),
                "batch_size": 300,
                "max_new_tokens": 4,
            },
        }
    )


def tower_run(folder: Path, settings: Settings) -> Run:
    """Captions name every colour and shape; of the model that learns them only the tower is kept."""
    source = {**_grid("train", MANY), "seed": 1, "families": ["describe"]}
    recipe = {
        "name": "tower",
        "output": folder / "tower/captions",
        "model": {"path": folder / "tower/start", "unlock": CAUSAL},
        "data": {"train": [{"source": source}]},
        "train": {**_schedule(settings.tower_steps), "batch_size": BATCH // 2},
    }
    return Run("captions", Recipe.model_validate(recipe))


def _grid(split: str, size: int) -> dict[str, Any]:
    return {"type": "grid", "split": split, "size": size}


def _schedule(steps: int) -> dict[str, Any]:
    """As in `mutua study`, where the learning rate is the one that is best for causal attention."""
    return {
        "steps": steps,
        "batch_size": BATCH,
        "learning_rate": 2e-3,
        "warmup_steps": steps // 10,
        "weight_decay": 0.01,
        "floor": 0.0,
        "precision": "fp32",
        "workers": 0,
        "log_every": max(1, steps // 40),
        "loggers": [],
        "checkpoint_every": max(1, steps // 4),
        "keep_checkpoints": 1,
    }


def make_start(folder: Path, seed: int, tower: Path | None) -> None:
    """A LLaVA with fresh weights and its processor, as the hub would have them; its tower is that of another one."""
    if folder.is_dir():
        return
    texts = GridScenes("train", 2000, seed=1, families=FAMILIES)
    tokenizer = train_tokenizer(message.text for sample in texts[:] for message in sample.messages if message.text)
    processor = LlavaProcessor(
        LlavaImageProcessorPil(do_resize=False, do_center_crop=False),  # pictures have the size that the tower takes
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
    ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**VISION),
        text_config=LlamaConfig(**TEXT, **ends, vocab_size=len(tokenizer)),
        image_token_index=processor.image_token_id,
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config)
    model.generation_config.update(**ends)
    if tower is not None:
        trained, _ = load_foreign(tower, device="cpu")
        model.model.vision_tower.load_state_dict(trained.model.vision_tower.state_dict())
    with whole_folder(folder) as partial, quiet():
        model.save_pretrained(partial)
        processor.save_pretrained(partial)


class Experiment:
    """The runs of a folder: those that are there, and those that are missing."""

    def __init__(self, folder: Path, seeds: Sequence[int], settings: Settings, processes: int) -> None:
        self.folder, self.settings, self.processes = folder, settings, processes
        self.tower = tower_run(folder, settings)
        self.places = {seed: folder / f"seed-{seed}" for seed in seeds}
        self.first = {seed: runs_from_start(seed, here, settings) for seed, here in self.places.items()}
        self.then = {seed: runs_of_adapters(seed, here, settings) for seed, here in self.places.items()}
        self.all = [self.tower, *(run for runs in (*self.first.values(), *self.then.values()) for run in runs)]
        self.lines = Lines(lambda line: print(line, flush=True))
        self.started, self.done_before = time.monotonic(), sum(run.done for run in self.all)

    def run(self, is_tested: bool) -> list[ScoreRow]:
        """Does what is missing, seed after seed; the rows of everything that was measured.

        Args:
            is_tested: whether the test questions are asked, after all choices.
        """
        make_start(self.folder / "tower/start", 0, None)
        self._train([self.tower])
        for seed, here in self.places.items():
            make_start(here / "start", seed, self.tower.model)
            self._train(self.first[seed])
            self._train(self.then[seed])
            if is_tested:
                self._ask(seed)
        return [row for seed in self.places for row in self._rows(seed, is_tested)]

    def _train(self, runs: Sequence[Run]) -> None:
        self._do([run.job() for run in runs if not run.is_trained()])

    def _ask(self, seed: int) -> None:
        """All models as they were trained, and some under the other policy: whether they need what it shows them."""
        limit = [] if (some := self.settings.test_questions) is None else ["--limit", str(some)]
        jobs = []
        for path, policy, asked in self._tests(seed):
            models = [option for run in asked.values() for option in ("-m", str(run.model))]
            words = ["eval", *models, *policy, "-d", "grid", *limit, "--max-new-tokens", "4", "--json", str(path)]
            if not path.is_file():
                name = f"{self.places[seed].name} {path.stem}"
                jobs.append(Job(name, ("mutua", *words), path.with_name(f"{path.name}.txt")))
        self._do(jobs)

    def _tests(self, seed: int) -> list[tuple[Path, list[str], dict[str, Run]]]:
        """Of each call of `mutua eval` its file, its policy, and its models by the names of arms."""
        here, adapters = self.places[seed], self.settings.adapters
        runs = {run.arm: run for run in (*self.first[seed], *self.then[seed])}
        locked = {arm + LOCKED: runs[arm] for arm in (ADAPTED, MMA)}
        return [
            (here / f"test-{adapters}.json", [], runs),
            (here / "test-untrained.json", ["--policy", MMA], {UNTRAINED: runs[CAUSAL]}),
            (here / f"test-{adapters}-locked.json", ["--policy", CAUSAL], locked),
        ]

    def _do(self, jobs: Sequence[Job]) -> None:
        run_jobs(jobs, self.processes, lambda running, done: self.lines.tell(lambda: self._line(running)))

    def _line(self, running: Sequence[Job]) -> str:
        done, whole = (sum(getattr(run, which) for run in self.all) for which in ("done", "whole"))
        since, spent = done - self.done_before, time.monotonic() - self.started
        left = f", {duration(spent * (whole - done) / since)} left" if since else ""
        return f"{done / whole:.0%} trained{left}; now {', '.join(job.name for job in running)}"

    def _rows(self, seed: int, is_tested: bool) -> list[ScoreRow]:
        rows = []
        for run in (*self.first[seed], *self.then[seed]):
            for line in read_lines(run.recipe.output / "evaluations.jsonl"):
                samples = run.samples + line["step"] * BATCH
                rows += _scores(seed, run.arm, VALIDATION, samples, line["results"]["grid"])
        if is_tested:
            for path, _, asked in self._tests(seed):
                results = json.loads(path.read_text(encoding="utf-8"))["grid"]
                for arm, run in asked.items():
                    rows += _scores(seed, arm, TEST, run.samples + run.whole, results[str(run.model)])
        return rows


def _scores(seed: int, arm: str, split: str, samples: int, result: dict[str, Any]) -> list[ScoreRow]:
    return [
        ScoreRow(seed, arm, split, samples, family, score["correct"], score["total"])
        for family, score in result["families"].items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", default="0,1,2", help="separated by commas")
    parser.add_argument("--out", type=Path, default=Path("runs/unlock-lora"), help="folder of models and results")
    parser.add_argument("--steps", type=int, default=Settings.steps, help="of the training from the start")
    parser.add_argument("--lora-steps", type=int, default=Settings.lora_steps, help="of the adapters")
    parser.add_argument("--rank", type=int, default=Settings.rank)
    parser.add_argument("--learning-rate", type=float, default=Settings.learning_rate, help="of the adapters")
    parser.add_argument("--targets", default="*", help="linear layers with adapters, patterns separated by commas")
    parser.add_argument("--projector", action="store_true", help="train the projector beside the adapters")
    parser.add_argument("--validation", action="store_true", help="leave the test questions alone")
    parser.add_argument("--processes", type=int, default=slots(), help="models trained at once")
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that all of it runs")
    parser.add_argument("--draw", type=Path, metavar="FOLDER", help="table and figure of the rows that are there")
    options = parser.parse_args()
    if options.draw is not None:
        drawn = read_rows(options.draw, ScoreRow)
        if not drawn:
            sys.exit(f"--draw {options.draw}: no rows in {options.draw / ScoreRow.FILE}; name the folder of a run")
        print(report(options.draw, drawn))
        return
    settings = replace(
        Settings(),
        steps=options.steps,
        lora_steps=options.lora_steps,
        rank=options.rank,
        learning_rate=options.learning_rate,
        targets=tuple(options.targets.split(",")),
        projector=options.projector,
    )
    seeds = [int(seed) for seed in options.seeds.split(",")]
    experiment = Experiment(options.out, seeds, QUICK if options.quick else settings, options.processes)
    try:
        rows = experiment.run(is_tested=not options.validation)
    except RecipeError as error:
        sys.exit(str(error))
    write_rows(options.out, ScoreRow, rows)
    print(report(options.out, rows))


if __name__ == "__main__":
    main()
