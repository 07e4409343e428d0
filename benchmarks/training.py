"""What a training step costs under each policy and backend: the step of `mutua train`, whole, on made-up batches.

Sizes are those of a preset, weights are fresh, so nothing is fetched. Every round times each variant once, in turn; a
ratio is the median over rounds of (variant / causal) within a round. MFU is the model's floating-point operations
(three passes over the trained weights' products, one over the frozen ones, half of attention for causality, nothing
for what gradient checkpointing repeats) over the time and over what the same device reaches on a large product.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import dataclass
from typing import Any

import torch
from attention import Layout
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from transformers import LlamaConfig, Phi3Config, SiglipVisionConfig

from mutua.composition.compose import compose_config
from mutua.composition.presets import PRESETS
from mutua.data.collate import IGNORE, supervised_positions
from mutua.models import MutuaForConditionalGeneration
from mutua.roles import Modality
from mutua.training.batches import StepBatch
from mutua.training.build import freeze
from mutua.training.optimizer import build_optimizer
from mutua.training.precision import recompute_activations
from mutua.training.recipe import TrainSettings
from mutua.training.step import Stepper
from mutua.training.world import World

EXAMPLES = """examples:
  python benchmarks/training.py                                       a small model on the CPU, half a minute
  python benchmarks/training.py --size aki-4b --device cuda           the paper's model: 70 GiB, needs an H200
  python benchmarks/training.py --size aki-4b --device cuda --stage 1 only the connector is trained, as in its stage 1
"""
VARIANTS = {
    "causal": ("causal", "mutua_auto"),
    "mma": ("mma", "mutua_auto"),
    "mma, dense": ("mma", "mutua_sdpa"),
    "mma, split": ("mma", "mutua_split"),
    "mma, flex": ("mma", "mutua_flex"),
}


@dataclass(frozen=True)
class Size:
    """Sizes of a model's parts, as bare configs."""

    vision: SiglipVisionConfig
    language: Any
    connector: Any
    shapes: tuple[tuple[int, int], ...]  # rows and tokens of a micro-batch


SIZES = {
    "small": Size(
        SiglipVisionConfig(
            **{"hidden_size": 96, "intermediate_size": 192, "num_attention_heads": 4, "num_hidden_layers": 2},
            **{"image_size": 64, "patch_size": 8, "vision_use_head": False},
        ),
        LlamaConfig(
            **{"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4},
            vocab_size=1024,
        ),
        "mlp",
        ((8, 256), (2, 1024)),
    ),
    "aki-4b": Size(
        SiglipVisionConfig(
            **{"hidden_size": 1152, "intermediate_size": 4304, "num_attention_heads": 16, "num_hidden_layers": 27},
            **{"image_size": 384, "patch_size": 14, "vision_use_head": False},
        ),
        Phi3Config(
            **{"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 32, "num_attention_heads": 32},
            **{"num_key_value_heads": 32, "vocab_size": 32064, "max_position_embeddings": 8192},
        ),
        PRESETS["aki-4b"].connector,
        ((16, 512), (4, 2048)),
    ),
}


def build(size: Size, device: str) -> MutuaForConditionalGeneration:
    """A model of that size with fresh fp32 weights, made on the device."""
    config = compose_config(
        size.vision,
        size.language,
        connector=size.connector,
        attention_policy="causal",
        image_token_id=size.language.vocab_size - 1,
        is_tied=False,
    )
    with torch.device(device):
        return MutuaForConditionalGeneration(config)


def micro_batch(model: MutuaForConditionalGeneration, rows: int, tokens: int) -> dict[str, Tensor]:
    """Rows of uneven lengths, padded on the right: an image, a question of 64 tokens, an answer."""
    image = model.config.num_image_tokens
    roles = Layout(tokens, image, images=1, question=64, rows=rows).roles("cpu")
    generator = torch.Generator().manual_seed(0)
    ids_BN = torch.randint(0, model.config.text_config.vocab_size - 1, (rows, tokens), generator=generator)
    ids_BN = torch.where(roles.modality_BN == int(Modality.IMAGE), model.config.image_token_id, ids_BN)
    labels_BN = torch.where(roles.is_response_BN, ids_BN, IGNORE)
    side = model.config.vision_config.image_size
    return {
        "input_ids": ids_BN,
        "attention_mask": roles.is_token_BN.long(),
        "token_type_ids": roles.to_codes(),
        "pixel_values": torch.randn(rows, 3, side, side, generator=generator),
        "labels": labels_BN,
        "supervised_positions": supervised_positions(labels_BN),
    }


def flops(model: MutuaForConditionalGeneration, batch: dict[str, Tensor]) -> float:
    """Floating-point operations of a step, of the real tokens alone."""
    tokens = int(batch["attention_mask"].sum())
    patches = model.config.num_patches * len(batch["pixel_values"])
    seen = {"vision_tower": patches, "connector": patches, "language_model": tokens}

    def products(module: nn.Module, places: int) -> float:
        linear = (child.weight for child in module.modules() if isinstance(child, nn.Linear))
        return sum(2 * places * weight.numel() * (3 if weight.requires_grad else 1) for weight in linear)

    total = sum(products(getattr(model.model, name), places) for name, places in seen.items())
    total += products(nn.Sequential(model.lm_head), len(batch["supervised_positions"]))
    text = model.config.text_config
    lengths_B = batch["attention_mask"].sum(-1).double()
    return total + 3 * 2 * text.num_hidden_layers * text.hidden_size * float(lengths_B.square().sum())


class Variant:
    """A policy and a backend, over a model and a trainer that all variants share."""

    def __init__(self, stepper: Stepper, policy: str, backend: str) -> None:
        self.stepper, self.policy, self.backend = stepper, policy, backend

    def step(self, index: int, batch: StepBatch) -> float:
        """Seconds of one step."""
        model = self.stepper.model
        model.config.attention_policy = self.policy
        model.set_attn_implementation(self.backend)
        start = _now(model.device)
        self.stepper.update(index, batch, *self.stepper.backward(batch))
        return _now(model.device) - start


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def reachable(device: torch.device, bf16: bool) -> float:
    """Floating-point operations a second of a large product."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16 if bf16 else torch.float32) for _ in range(2))
    seconds = []
    for _ in range(8):
        start = _now(device)
        a @ b
        seconds.append(_now(device) - start)
    return 2 * side**3 / statistics.median(seconds[3:])


def measure(stepper: Stepper, rows: int, tokens: int, rounds: int, peak: float) -> Table:
    """The variants' steps on one shape of micro-batch, `rounds` times in turn."""
    model = stepper.model
    batch = micro_batch(model, rows, tokens)
    step = StepBatch((batch,), (), len(batch["supervised_positions"]))
    variants = {name: Variant(stepper, *pair) for name, pair in VARIANTS.items()}
    if model.device.type == "cpu":
        del variants["mma, flex"]  # its backward exists on CUDA only
    gib = {}
    for name, variant in variants.items():
        print(f"warming up {name}, {rows} x {tokens}", file=sys.stderr)
        variant.step(0, step)
        if model.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            variant.step(0, step)
            gib[name] = torch.cuda.max_memory_allocated() / 2**30
    times = [{name: variant.step(0, step) for name, variant in variants.items()} for _ in range(rounds)]
    operations, real = flops(model, batch), int(batch["attention_mask"].sum())
    table = Table(title=f"one training step of {rows} rows of at most {tokens} tokens, {real:,} in all")
    for column in ("variant", "ms", "/ causal", "tokens/s", "MFU", "peak GiB"):
        table.add_column(column, justify="left" if column == "variant" else "right")
    for name in variants:
        seconds = statistics.median(of_round[name] for of_round in times)
        ratio = statistics.median(of_round[name] / of_round["causal"] for of_round in times)
        table.add_row(
            name,
            f"{1e3 * seconds:.1f}",
            f"{ratio:.3f}",
            f"{real / seconds:,.0f}",
            f"{operations / seconds / peak:.1%}",
            f"{gib[name]:.1f}" if name in gib else "",
        )
    return table


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--stage", type=int, choices=[1, 2], default=2, help="1: train the connector alone; 2: all text"
    )
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: this machine has no CUDA device; leave it out to measure on the CPU.")
    return options


def main() -> None:
    options = parse()
    console = Console(width=150 if not sys.stdout.isatty() else None)
    size, device = SIZES[options.size], torch.device(options.device)
    settings = TrainSettings(steps=10_000, batch_size=1, learning_rate=1e-5)
    model = build(size, options.device)
    freeze(model, ["model.vision_tower.*"] + (["model.language_model.*", "lm_head.*"] if options.stage == 1 else []))
    recompute_activations(model)
    stepper = Stepper(model, build_optimizer(model, settings), settings, World(device=device))
    peak = reachable(device, stepper.bf16)
    what = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    trained = sum(parameter.numel() for parameter in stepper.trained)
    weights = sum(parameter.numel() for parameter in model.parameters())
    console.print(
        f"torch {torch.__version__}, {what}, {'bf16' if stepper.bf16 else 'fp32'}: a large product reaches "
        f"{peak / 1e12:.3g} TFLOP/s; {options.size}: {trained:,} of {weights:,} weights trained, checkpointed"
    )
    for rows, tokens in size.shapes:
        console.print(measure(stepper, rows, tokens, options.rounds, peak))


if __name__ == "__main__":
    main()
