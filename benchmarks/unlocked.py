"""What unlocking costs: a forward and backward of an unlocked model against the same model locked, for every family.

The models are those of the tests, with a larger language model; weights are random. A row holds pictures (of 256 tokens
in most families), a question of 64 tokens, and a reply of 64. Every round times both, in turn, in processor time; a
ratio is the median over rounds of (unlocked / locked) within a round. Peak memory is that of a process of its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers.utils import logging

import mutua
from mutua.memory import peak_memory

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import unlocked_families as families

EXAMPLES = """examples:
  python benchmarks/unlocked.py                                  every family, rows of 1,024 tokens, ten minutes
  python benchmarks/unlocked.py --families llava,qwen2_5_vl --tokens 4096 --memory
"""
SIZES = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 4, "num_attention_heads": 8}
SIDE = 128  # pixels of a picture: 256 tokens in most families
PICTURES = (families._flat, families._sized, families._by_row, families._patches, families._clips)
SIZES |= {"num_key_value_heads": 4, "head_dim": 64, "max_position_embeddings": 16384}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--families", help="separated by commas; default: all")
    parser.add_argument("--tokens", type=int, default=1024, help="of a row")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory", action="store_true", help="peak memory, too: two more processes a family")
    parser.add_argument("--one", choices=["locked", "unlocked"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.set_verbosity_error()
    known = {family.name: family for family in families.FAMILIES}
    names = options.families.split(",") if options.families else list(known)
    if options.one:
        run = Run(known[names[0]], options.tokens)
        run.step(options.one == "unlocked")
        print(peak_memory() / 2**20)
        return
    table = Table("family", "backend", "tokens", "locked, s", "unlocked, s", "time", *(["memory"] * options.memory))
    for name in names:
        print(f"measuring {name}", file=sys.stderr)
        run = Run(known[name], options.tokens)
        for unlocked in (False, True):
            run.step(unlocked)  # the first step of a process takes longer
        rounds = [(run.step(False), run.step(True)) for _ in range(options.rounds)]
        row = [
            name,
            run.backend,
            str(run.tokens),
            *(f"{statistics.median(times):.3f}" for times in zip(*rounds, strict=True)),
        ]
        row.append(f"{statistics.median(new / old for old, new in rounds):.2f}")
        if options.memory:
            old, new = (peak_of_a_process(name, options, arm) for arm in ("locked", "unlocked"))
            row.append(f"{new / old:.2f} ({new:.0f} MiB)")
        table.add_row(*row)
    Console(width=120).print(table)


class Run:
    """One family's model and a batch of one row."""

    def __init__(self, family: Any, tokens: int) -> None:
        families.TEXT.update(SIZES)
        item = family.item
        has_sides = family.pixels in PICTURES
        families.VISION["image_size"] = SIDE if has_sides else 16
        if has_sides:
            larger = (SIDE // 16) ** 2
            item = tuple(index for index in item for _ in range(larger if index in families.FEATURES else 1))
            family = dataclasses.replace(family, item=item)
        families._ROPE["mrope_section"] = [8, 12, 12]
        self.model = family.make().train()
        pictures = max(1, (tokens - 132) // len(item))
        words = [index % 50 + 10 for index in range(64)]
        chat = [families.USER, *[None] * pictures, *words, families.ASSISTANT, *words, families.END]
        self.inputs, roles = family.batch([chat])
        self.inputs["labels"] = torch.where(roles.is_response_BN, self.inputs["input_ids"], -100)
        self.tokens = self.inputs["input_ids"].shape[1]
        layers = getattr(self.model.get_decoder().config, "layer_types", None) or ()
        self.backend = "auto" if "sliding_attention" in layers else "split"

    def step(self, unlocked: bool) -> float:
        """Seconds that a forward and a backward take a processor."""
        if unlocked:
            mutua.unlock(self.model, families.pattern(), backend=self.backend)
        else:
            mutua.lock(self.model)
        self.model.zero_grad()
        started = time.process_time()
        self.model(**self.inputs, use_cache=False).loss.backward()
        return time.process_time() - started


def peak_of_a_process(name: str, options: argparse.Namespace, arm: str) -> float:
    """MiB."""
    command = [sys.executable, __file__, "--families", name, "--tokens", str(options.tokens), "--one", arm]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
