"""Made-up results of a study, in the shape of real ones: what a policy gains is known, and noise is seeded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np

from mutua.inspection.measure_looks import COSINE, POINTING, TO_QUESTION
from mutua.study.plan import ORDERS
from mutua.study.results import (
    BLIND,
    MAIN,
    NULL,
    TRUTH,
    ArmRow,
    CostRow,
    LookRow,
    PairRow,
    ScoreRow,
    YesRow,
    write_rows,
)

FAMILIES = {"grid": ("attribute", "exists", "relation"), "pope": ("pope-random", "pope-popular", "pope-adversarial")}
BACKBONES = ("llama", "qwen3", "phi3")
GAINS = {"causal": 0.0, "mma": 0.08, "prefix": 0.0, "concentric": -0.06}  # of accuracy, at the end
QUESTIONS = 400
LENGTH = 50_000


def scores(
    block: str = MAIN,
    *,
    policies: Sequence[str] = tuple(GAINS),
    backbones: Sequence[str] = BACKBONES,
    seeds: int = 5,
    gain: float = 1.0,
    layers: int = 3,
    side: int = 4,
    length: int = LENGTH,
    order: str = "image-first",
    points: int = 6,
    tasks: Mapping[str, Sequence[str]] = FAMILIES,
) -> list[ScoreRow]:
    """Test rows of every arm, and validation rows at `points` numbers of samples."""
    chance = np.random.default_rng(layers * 100 + side)
    rows = []
    for backbone in backbones:
        for seed in range(seeds):
            luck = chance.normal(0, 0.01)
            for policy in policies:
                for task, families in tasks.items():
                    for number, family in enumerate(families):
                        for point in range(1, points + 1):
                            done = length * point // points
                            share = 0.5 + (0.25 + gain * GAINS[policy]) * point / points - 0.05 * number + luck
                            splits = ("validation", "test") if point == points else ("validation",)
                            for split in splits:
                                correct = chance.binomial(QUESTIONS, min(share, 1))
                                arm = (block, backbone, "mlp", policy, order, layers, side, length, seed, done)
                                row = ScoreRow(*arm, 0.01 * done, split, task, family, int(correct), QUESTIONS)
                                rows.append(row)
    return rows


def blind(side: int = 4) -> list[ScoreRow]:
    where = (MAIN, "any", "any", BLIND, "image-first", 0, side, 0, 0, 0)
    return [
        ScoreRow(*where, 0.0, "test", task, family, 200, QUESTIONS)
        for task, families in FAMILIES.items()
        for family in families
    ]


def pairs(rows: Sequence[ScoreRow]) -> list[PairRow]:
    """Of every arm with causal, from its test rows."""
    tested = {row.key: row for row in rows if row.split == "test" and row.policy != BLIND}
    out = []
    for row in tested.values():
        causal = tested.get(tuple("causal" if value == row.policy else value for value in row.key))
        if row.policy == "causal" or causal is None:
            continue
        both = min(row.correct, causal.correct) - 20
        one, other = row.correct - both, causal.correct - both
        where = (row.block, row.backbone, row.connector, row.order, row.layers, row.side, row.length, row.seed)
        wrong = row.total - both - one - other
        if wrong < 0:
            both, one, other, wrong = both - wrong, one + wrong, other + wrong, 0
        out.append(PairRow(*where, row.task, row.family, row.policy, "causal", both, one, other, wrong))
    return out


def yes(rows: Sequence[ScoreRow]) -> list[YesRow]:
    tested = [row for row in rows if row.split == "test" and row.task == "pope" and row.block == MAIN]
    out = [
        YesRow(*(getattr(row, field.name) for field in fields(ArmRow)), "test", "pope", row.family, 180, 400)
        for row in tested
        if row.policy != BLIND
    ]
    where = (MAIN, "any", "any", TRUTH, "image-first", 0, 4, 0, 0, 0)
    return out + [YesRow(*where, "test", "pope", family, 200, 400) for family in FAMILIES["pope"]]


def costs() -> list[CostRow]:
    relative = {"causal": 1.0, "mma": 1.04, "prefix": 1.09, "concentric": 1.2}
    return [
        CostRow(
            *(backbone, "mlp", policy, "image-first", 3, 4, 5),
            *(61.5 * factor, 60.0 * factor, 70.0 * factor, 800.0 * factor, 0.25),
        )
        for backbone in BACKBONES
        for policy, factor in relative.items()
    ]


def looks() -> list[LookRow]:
    chance = np.random.default_rng(0)
    out = []
    for backbone in BACKBONES:
        for policy in ("causal", "mma", "prefix"):
            for seed in range(2):
                where = (backbone, "mlp", policy, seed)
                for layer in range(3):
                    moved = 0.0 if policy == "causal" else 0.2 * layer + float(chance.random()) / 10
                    out.append(LookRow(*where, layer, None, COSINE, moved))
                    for head in range(4):
                        seen = 0.0 if policy == "causal" else float(chance.random()) / 2
                        out.append(LookRow(*where, layer, head, TO_QUESTION, seen))
                out.append(LookRow(*where, None, None, POINTING, 0.4 + 0.1 * (policy == "mma")))
    return out


def whole_study(folder: Path, blocks: Sequence[str] = (), **settings: object) -> Path:
    """A folder with every file that a study leaves; with these sweeps, or all of them."""
    rows = [*scores(**settings), *blind()]  # type: ignore[arg-type]
    small = {**settings, "policies": ("causal", "mma"), "backbones": ("llama",), "points": 1}
    sweeps: dict[str, list[dict]] = {
        "depth": [{"layers": layers} for layers in (1, 2, 3, 4)],
        "image tokens": [{"side": side} for side in (2, 4, 6)],
        "length": [{"length": length, "points": 3} for length in (20_000, 40_000, 200_000)],
        "order": [{"order": order} for order in ORDERS],
        NULL + "shuffled questions": [{"gain": 0}],
        NULL + "blind questions": [{"gain": 0}],
    }
    for block in blocks or sweeps:
        for changed in sweeps[block]:
            rows += scores(block, **{**small, **changed})
    write_rows(folder, ScoreRow, rows)
    write_rows(folder, PairRow, pairs(rows))
    write_rows(folder, YesRow, yes(rows))
    write_rows(folder, CostRow, costs())
    write_rows(folder, LookRow, looks())
    about = {
        "command": "mutua study --quick --out runs/study",
        "versions": {"mutua": "0.1.0", "torch": "2.13.0"},
        "machine": {"processor": "an <AVX2> processor", "cores": 2},
        "started": "2026-01-01T10:00:00",
        "plan": {"seeds": 5, "policies": list(GAINS)},
    }
    (folder / "study.json").write_text(json.dumps(about))
    return folder
