"""What a training step costs: that of `mutua train`, by phase, policy, backend, padded and packed, on made-up chats.

Sizes are those of a known model, weights are fresh, so nothing is fetched. The chats are about as long as those of
LLaVA-Instruct-150k: one picture, and a text of log-normal length, a quarter of it the question. Every round times each
variant once, in turn; a ratio is the median over rounds of (variant / causal, padded) within a round. MFU is the
model's floating-point operations (three passes over the trained weights' products, one over the frozen ones, half of
attention for causality, real tokens alone, nothing for what gradient checkpointing repeats) over the time and over what
the same device reaches on a large product.
"""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from transformers import LlamaConfig, Phi3Config, SiglipVisionConfig

from mutua.composition.compose import compose_config
from mutua.composition.presets import PRESETS
from mutua.data.collate import IGNORE, supervised_positions
from mutua.data.packing import pack_rows, share_rows
from mutua.memory import peak_memory
from mutua.models import MutuaForConditionalGeneration
from mutua.roles import NONE, Modality, TokenRoles
from mutua.training.batches import StepBatch
from mutua.training.build import freeze
from mutua.training.optimizer import build_optimizer
from mutua.training.precision import compile_layers, recompute_activations
from mutua.training.recipe import TrainSettings
from mutua.training.step import Stepper
from mutua.world import World

EXAMPLES = """examples:
  python benchmarks/training.py                                       a small model on the CPU, a minute
  python benchmarks/training.py --size medium --precision fp32 --threads 2 --memory      90 million weights, ten minutes
  python benchmarks/training.py --size medium --samples 1             one chat of 1,024 tokens
  python benchmarks/training.py --size aki-4b --device cuda --samples 64 --tokens 4096 --rows 2 --recompute
                                                                      the paper's model: needs an H200
"""
VARIANTS = {
    "causal": ("causal", "mutua_auto"),
    "mma": ("mma", "mutua_auto"),
    "mma, dense": ("mma", "mutua_sdpa"),
    "mma, split": ("mma", "mutua_split"),
    "mma, flex": ("mma", "mutua_flex"),
}
LAYOUTS = ("padded", "packed")
_PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")
HEADER = 8  # tokens of the template before a picture


@dataclass(frozen=True)
class Size:
    """Sizes of a model's parts, as bare configs."""

    vision: SiglipVisionConfig
    language: Any
    connector: Any


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
    ),
    "medium": Size(
        SiglipVisionConfig(
            **{"hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 6, "num_hidden_layers": 6},
            **{"image_size": 384, "patch_size": 14, "vision_use_head": False},
        ),
        Phi3Config(
            **{"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8, "num_attention_heads": 8},
            **{"num_key_value_heads": 8, "vocab_size": 32064, "max_position_embeddings": 8192},
        ),
        PRESETS["aki-4b"].connector,
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


def chats(model: MutuaForConditionalGeneration, samples: int, tokens: int) -> dict[str, Tensor]:
    """A batch with a row a chat, padded on the right; a single one has all the tokens."""
    generator = torch.Generator().manual_seed(0)
    image, vocabulary = model.config.num_image_tokens, model.config.text_config.vocab_size
    text_S = torch.empty(samples).log_normal_(5.3, 0.6, generator=generator).long().clamp(min=16)
    length_S = (HEADER + image + text_S).clamp(max=tokens) if samples > 1 else torch.tensor([tokens])
    place_SN = torch.arange(int(length_S.max())).expand(samples, -1)
    question_S = HEADER + image + (length_S - HEADER - image) // 4
    is_token_SN = place_SN < length_S[:, None]
    roles = TokenRoles.from_responses(
        is_token_SN & (place_SN >= question_S[:, None]),
        ((place_SN >= HEADER) & (place_SN < HEADER + image)).long() * int(Modality.IMAGE),
        torch.where(is_token_SN, 0, NONE),
    )
    ids_SN = torch.randint(0, vocabulary - 1, place_SN.shape, generator=generator)
    ids_SN = torch.where(roles.modality_BN == int(Modality.IMAGE), model.config.image_token_id, ids_SN)
    side = model.config.vision_config.image_size
    return {
        "input_ids": ids_SN,
        "attention_mask": is_token_SN.long(),
        "token_type_ids": roles.to_codes(),
        "pixel_values": torch.randn(samples, 3, side, side, generator=generator),
        "labels": torch.where(roles.is_response_BN, ids_SN, IGNORE),
    }


def step_batch(batch: dict[str, Tensor], layout: str, tokens: int, rows: int) -> StepBatch:
    """The chats as a step takes them: micro-batches of so many rows, a chat each, or shared up to so many tokens."""
    lengths = batch["attention_mask"].sum(-1).tolist()
    shared = [[sample] for sample in range(len(lengths))]
    if layout == "packed":
        shared = share_rows(lengths, [1] * len(lengths), tokens=tokens)
    some = [pack_rows(batch, shared[first : first + rows], 0) for first in range(0, len(shared), rows)]
    finished = tuple({**one, "supervised_positions": supervised_positions(one["labels"])} for one in some)
    return StepBatch(finished, (), sum(len(one["supervised_positions"]) for one in finished))


def flops(model: MutuaForConditionalGeneration, batch: dict[str, Tensor], supervised: int) -> float:
    """Floating-point operations of a step, of the real tokens alone."""
    lengths_S = batch["attention_mask"].sum(-1).double()
    patches = model.config.num_patches * len(lengths_S)
    seen = {"vision_tower": patches, "connector": patches, "language_model": int(lengths_S.sum())}

    def products(module: nn.Module, places: int) -> float:
        linear = (child.weight for child in module.modules() if isinstance(child, nn.Linear))
        return sum(2 * places * weight.numel() * (3 if weight.requires_grad else 1) for weight in linear)

    total = sum(products(getattr(model.model, name), places) for name, places in seen.items())
    total += products(nn.Sequential(model.lm_head), supervised)
    text = model.config.text_config
    return total + 3 * 2 * text.num_hidden_layers * text.hidden_size * float(lengths_S.square().sum())


class Variant:
    """A policy, a backend and a layout, over a model and a trainer that all variants share."""

    def __init__(self, stepper: Stepper, name: str, batch: StepBatch) -> None:
        self.stepper, self.batch = stepper, batch
        self.policy, self.backend = VARIANTS[name]

    def step(self) -> tuple[float, float, float]:
        """Seconds of the forward passes, of the backward ones, and of clipping and the optimizer."""
        model, forward = self.stepper.model, []
        model.config.attention_policy = self.policy
        model.set_attn_implementation(self.backend)
        handles = [
            model.register_forward_pre_hook(lambda *_: forward.append(-_now(model.device))),
            model.register_forward_hook(lambda *_: forward.append(_now(model.device))),
        ]
        start = _now(model.device)
        told = self.stepper.backward(self.batch)
        middle = _now(model.device)
        for handle in handles:
            handle.remove()
        self.stepper.update(0, self.batch, *told)
        return sum(forward), middle - start - sum(forward), _now(model.device) - middle


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
    return 2 * side**3 / min(seconds)


def kernels(variant: Variant) -> dict[str, float]:
    """Shares of a step's time by what its kernels do."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    on_gpu = variant.stepper.device.type == "cuda"
    if on_gpu:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        variant.step()
    shares = {"products": 0.0, "attention": 0.0, "all else": 0.0}
    for event in profiler.key_averages():
        name = event.key.removeprefix("aten::").rstrip("_")
        kind = "products" if name in _PRODUCTS else "attention" if "_attention" in name else "all else"
        shares[kind] += event.self_device_time_total if on_gpu else event.self_cpu_time_total
    return {kind: share / sum(shares.values()) for kind, share in shares.items()}


def peak_gib(stepper: Stepper, variant: Variant) -> float:
    """At the peak of a step, the model and all else included. CUDA: the allocator's; CPU: this process's."""
    variant.step()
    if stepper.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        variant.step()
        return torch.cuda.max_memory_allocated() / 2**30
    return peak_memory() / 2**30


def peak_of_a_process(options: argparse.Namespace, name: str, layout: str) -> float:
    """On a CPU a peak is of a whole process: one that computes this variant and nothing else."""
    words = [word for word in sys.argv[1:] if word != "--memory"]
    command = [sys.executable, __file__, *words, "--peak-of", f"{name}/{layout}"]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def make_stepper(options: argparse.Namespace) -> Stepper:
    device = torch.device(options.device)
    settings = TrainSettings(steps=10_000, batch_size=1, learning_rate=1e-5, precision=options.precision)
    model = build(SIZES[options.size], options.device)
    freeze(model, ["model.vision_tower.*"] + (["model.language_model.*", "lm_head.*"] if options.stage == 1 else []))
    if options.recompute:
        recompute_activations(model, options.compile)
    if options.compile:
        compile_layers(model)
    return Stepper(model, build_optimizer(model, settings), settings, World(device=device))


def measure(options: argparse.Namespace, stepper: Stepper, console: Console) -> None:
    """The table."""
    model = stepper.model
    batch = chats(model, options.samples, options.tokens)
    steps = {layout: step_batch(batch, layout, options.tokens, options.rows) for layout in LAYOUTS}
    names = [name for name in VARIANTS if name != "mma, flex" or model.device.type == "cuda"]  # else no backward
    layouts = LAYOUTS if options.samples > 1 else LAYOUTS[:1]
    variants = {(name, layout): Variant(stepper, name, steps[layout]) for layout in layouts for name in names}
    peaks = dict.fromkeys(variants, math.nan)
    for key, variant in variants.items():
        print(f"warming up {', '.join(key)}", file=sys.stderr)
        if model.device.type == "cuda":
            peaks[key] = peak_gib(stepper, variant)
        elif options.memory:
            peaks[key] = peak_of_a_process(options, *key)
        variant.step()
    times: list[dict[tuple[str, str], tuple[float, float, float]]] = []
    peak = 0.0
    for _ in range(options.rounds):  # the peak is the best of all rounds: a busy moment must not make a step look good
        peak = max(peak, reachable(stepper.device, stepper.bf16))
        times.append({key: variant.step() for key, variant in variants.items()})
    supervised, tokens = steps["padded"].supervised_tokens, int(batch["attention_mask"].sum())
    operations = flops(model, batch, supervised)
    console.print(
        f"{options.samples} chats of {tokens:,} tokens in all, {supervised:,} of them supervised, {options.rows} rows "
        f"a forward pass; a large product reaches {peak / 1e12:.3g} TFLOP/s"
    )
    table = Table()
    for column in ("layout", "variant"):
        table.add_column(column)
    for column in ("no padding", "forward ms", "backward", "optimizer", "step", "/ causal, padded", "supervised / s"):
        table.add_column(column, justify="right")
    for column in ("MFU", "peak GiB"):
        table.add_column(column, justify="right")
    first = next(iter(variants))
    for name, layout in variants:
        phases = [statistics.median(one[name, layout][phase] for one in times) for phase in range(3)]
        seconds = statistics.median(sum(one[name, layout]) for one in times)
        ratio = statistics.median(sum(one[name, layout]) / sum(one[first]) for one in times)
        table.add_row(
            layout,
            name,
            f"{steps[layout].utilisation:.0%}",
            *(f"{1e3 * phase:,.0f}" for phase in (*phases, seconds)),
            f"{ratio:.3f}",
            f"{supervised / seconds:,.0f}",
            f"{operations / seconds / peak:.1%}",
            "" if math.isnan(peaks[name, layout]) else f"{peaks[name, layout]:.2f}",
        )
    console.print(table)
    if options.kernels:
        shares = ", ".join(f"{kind} {share:.0%}" for kind, share in kernels(variants["mma", "padded"]).items())
        console.print(f"kernels of mma, padded: {shares}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--stage", type=int, choices=[1, 2], default=2, help="1: train the connector alone; 2: all text"
    )
    parser.add_argument("--samples", type=int, default=8, help="chats of a step; 1: one that is --tokens long")
    parser.add_argument("--tokens", type=int, default=1024, help="of a packed row, and of the longest chat")
    parser.add_argument("--rows", type=int, default=8, help="of a forward pass")
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto")
    parser.add_argument("--recompute", action="store_true", help="gradient checkpointing")
    parser.add_argument("--compile", action="store_true", help="torch.compile each layer")
    parser.add_argument("--threads", type=int, help="on a CPU")
    parser.add_argument("--memory", action="store_true", help="on a CPU: measure peaks, in a process each")
    parser.add_argument("--kernels", action="store_true", help="shares of a step by what its kernels do")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: this machine has no CUDA device; leave it out to measure on the CPU.")
    return options


def main() -> None:
    options = parse()
    if options.threads:
        torch.set_num_threads(options.threads)
    stepper = make_stepper(options)
    if options.peak_of:
        name, layout = options.peak_of.rsplit("/", 1)
        batch = chats(stepper.model, options.samples, options.tokens)
        variant = Variant(stepper, name, step_batch(batch, layout, options.tokens, options.rows))
        print(peak_gib(stepper, variant))
        return
    console = Console(width=150 if not sys.stdout.isatty() else None)
    what = torch.cuda.get_device_name() if options.device == "cuda" else f"{torch.get_num_threads()} threads"
    trained = sum(parameter.numel() for parameter in stepper.trained)
    weights = sum(parameter.numel() for parameter in stepper.model.parameters())
    console.print(
        f"torch {torch.__version__}, {what}, {'bf16' if stepper.bf16 else 'fp32'}; {options.size}: {trained:,} of "
        f"{weights:,} weights trained"
    )
    measure(options, stepper, console)


if __name__ == "__main__":
    main()
