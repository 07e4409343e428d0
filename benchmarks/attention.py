"""What look-ahead attention costs: causal flash, dense mask, flex and split, measured side by side.

Every round times each variant once, in turn, so that a slow moment of the machine hits all of them; a ratio is the
median over rounds of (variant / causal flash) within a round. Beside it stands the limit: the cells (query-key pairs)
that have to be computed, relative to those of causal attention over the whole row.

Shape suffixes: B batch, H heads, N tokens, D head dimension.
"""

from __future__ import annotations

import argparse
import csv
import math
import multiprocessing
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from attention_report import CAUSAL, VARIANTS, Row, plot, show, thresholds
from rich.console import Console
from torch import Tensor, nn

from mutua.attention import BACKENDS, MMA, MaskRequest, sdpa
from mutua.attention.rectangles import find_passes
from mutua.memory import peak_memory
from mutua.roles import NONE, Modality, TokenRoles

EXAMPLES = """examples:
  python benchmarks/attention.py                                    the table of docs/performance.md, about 6 minutes
  python benchmarks/attention.py --quick                            under 30 seconds
  python benchmarks/attention.py --tokens 4096 --image-tokens 144 576 2880 --images 1 4 --csv layouts.csv
  python benchmarks/attention.py --tokens 8192 --packed 8           eight documents in a row
  python benchmarks/attention.py --tokens 256 512 1024 2048 --image-tokens 144 --rows 16
                                                                    sixteen rows of uneven lengths, padded
  python benchmarks/attention.py --device cuda --plot speed.png     bf16, shapes of a 4B and an 8B model
"""
HEADER, LABEL = 8, 4  # text tokens before everything, and before each image


@dataclass(frozen=True)
class Shape:
    """Heads, key/value heads and head dimension of a model's attention, and its precision."""

    heads: int
    kv_heads: int
    head_dim: int
    dtype: str


SHAPES = {
    "cpu": [Shape(8, 8, 64, "float32")],
    "cuda": [Shape(32, 32, 96, "bfloat16"), Shape(32, 8, 128, "bfloat16")],  # models of 4B and 8B parameters
}


@dataclass(frozen=True)
class Layout:
    """Rows of `documents` equal conversations: header, labelled images, question, and the rest is the answer.

    Several rows are uneven: the first is as short as its prompt, the last fills `tokens`, and each has another header.
    They are padded on the right, as in training.
    """

    tokens: int
    image_tokens: int
    images: int
    question: int
    documents: int = 1
    rows: int = 1

    @property
    def prompt(self) -> int:
        return HEADER + self.images * (LABEL + self.image_tokens) + self.question

    @property
    def fits(self) -> bool:
        return self.documents * (self.prompt + self.rows) <= self.tokens

    def roles(self, device: str) -> TokenRoles:
        columns = [torch.stack(fields).to(device) for fields in zip(*map(self._row, range(self.rows)), strict=True)]
        return TokenRoles.from_responses(*columns)

    def _row(self, row: int) -> tuple[Tensor, Tensor, Tensor]:
        """Response, modality and document of a row's tokens."""
        length = self.tokens // self.documents
        shortest = self.documents * (self.prompt + self.rows)
        real = self.tokens if self.rows == 1 else shortest + (self.tokens - shortest) * row // (self.rows - 1)
        modality = [0] * (HEADER + row) + ([0] * LABEL + [int(Modality.IMAGE)] * self.image_tokens) * self.images
        modality_N = torch.zeros(self.tokens, dtype=torch.long)
        response_N = torch.ones(self.tokens, dtype=torch.bool)
        document_N = (torch.arange(self.tokens) // length).clamp(max=self.documents - 1)
        for first in range(0, length * self.documents, length):
            modality_N[first : first + len(modality)] = torch.tensor(modality)
            response_N[first : first + len(modality) + self.question] = False
        document_N[real:], modality_N[real:] = NONE, 0
        return response_N, modality_N, document_N


class Runner:
    """One variant on one layout: its inputs, its mask, and a step that times forward and backward."""

    def __init__(self, variant: str, layout: Layout, shape: Shape, device: str) -> None:
        self.device = device
        # A compiled backward of flex attention exists on CUDA only.
        self.has_backward = variant != "flex" or device == "cuda"
        dtype = getattr(torch, shape.dtype)
        generator = torch.Generator(device).manual_seed(0)
        self.q_BHND, self.k_BHND, self.v_BHND, self.grad_BNHD = (
            torch.randn(
                layout.rows, layout.tokens, heads, shape.head_dim, dtype=dtype, device=device, generator=generator
            )
            for heads in (shape.heads, shape.kv_heads, shape.kv_heads, shape.heads)
        )
        self.q_BHND, self.k_BHND, self.v_BHND = (
            x.transpose(1, 2).requires_grad_(self.has_backward) for x in (self.q_BHND, self.k_BHND, self.v_BHND)
        )
        self.module = nn.Module()
        self.module.num_key_value_groups = shape.heads // shape.kv_heads  # type: ignore[assignment]
        self.scale = shape.head_dim**-0.5
        backend = VARIANTS[variant]
        self.attend: Callable[..., Any] = sdpa.attend if backend is None else BACKENDS[backend].attend
        start = self._now()
        self.mask = None
        if backend is not None:
            self.mask = BACKENDS[backend].build_mask(
                layout.rows,
                layout.tokens,
                layout.tokens,
                attention_mask=MaskRequest(layout.roles(device), MMA, None),
                device=device,
            )
        self.mask_ms = 1e3 * (self._now() - start)

    def _now(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def step(self) -> tuple[float, float]:
        """Milliseconds of a forward, and of a forward and backward (nan without one)."""
        for x in (self.q_BHND, self.k_BHND, self.v_BHND):
            x.grad = None
        start = self._now()
        out_BNHD: Tensor = self.attend(
            self.module, self.q_BHND, self.k_BHND, self.v_BHND, self.mask, scaling=self.scale
        )[0]
        middle = self._now()
        if not self.has_backward:
            return 1e3 * (middle - start), math.nan
        out_BNHD.backward(self.grad_BNHD)
        return 1e3 * (middle - start), 1e3 * (self._now() - start)


def peak_of_a_pass(variant: str, layout: Layout, shape: Shape, device: str) -> float | str:
    """MiB at the peak of one forward and backward, inputs included, or that they do not fit.

    CUDA: the allocator's own peak. CPU: the growth of the peak resident size of a process of its own, forked before
    this one has computed anything (a fork of a process with busy OpenMP threads hangs).
    """
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        try:
            Runner(variant, layout, shape, device).step()
        except torch.OutOfMemoryError:
            return "does not fit"
        return torch.cuda.max_memory_allocated() / 2**20
    ours, theirs = multiprocessing.Pipe(duplex=False)
    arguments = (theirs, variant, layout, shape, device)
    process = multiprocessing.get_context("fork").Process(target=_measure_growth, args=arguments)
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        process.join()
        if process.exitcode != -signal.SIGKILL:  # else for its memory
            raise RuntimeError(
                f"{variant}: what measures its memory ended with {process.exitcode}; see above"
            ) from None
        return "does not fit"
    finally:
        process.join()


def _measure_growth(out: Connection, variant: str, layout: Layout, shape: Shape, device: str) -> None:
    Runner(variant, Layout(128, 32, 1, 8), shape, device).step()  # libraries and threads load at their first use
    before = peak_memory()
    Runner(variant, layout, shape, device).step()
    out.send((peak_memory() - before) / 2**20)


def kernels(variant: str, layout: Layout, shape: Shape, device: str) -> str:
    """What PyTorch computes a variant's forward and backward with: its choice differs by device and version."""
    runner = Runner(variant, layout, shape, device)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        runner.step()
    names = (event.key.removeprefix("aten::") for event in profiler.key_averages())
    return ", ".join(name for name in names if name.startswith("_") and "_attention" in name)


def limit(layout: Layout) -> float:
    """Cells that have to be computed, relative to causal attention over the whole rows, padding included."""
    cells = sum(part.cells for part in find_passes(MMA, layout.roles("cpu")))
    return cells / (layout.rows * layout.tokens * (layout.tokens + 1) // 2)


def measure(
    layout: Layout, shape: Shape, device: str, seconds: float, peaks: dict[str, float | str | None]
) -> Iterator[Row]:
    """The rows of one layout: rounds over all variants until `seconds` are over.

    `peaks` holds the peak memory of each variant (None: not known), or why it is not to be run.
    """
    runners = {name: Runner(name, layout, shape, device) for name, peak in peaks.items() if not isinstance(peak, str)}
    for name, runner in runners.items():
        if layout.tokens <= 8192 or device == "cuda" or name == "flex":  # else a warm-up costs more than it brings
            runner.step()
    rounds: list[dict[str, tuple[float, float]]] = []
    start = time.perf_counter()
    at_least = 7 if layout.tokens <= 8192 else 1
    while len(rounds) < at_least or (time.perf_counter() - start < seconds and len(rounds) < 50):
        rounds.append({name: runner.step() for name, runner in runners.items()})

    def median(name: str, what: int, over: str | None = None) -> float:
        return statistics.median(times[name][what] / (times[over][what] if over else 1) for times in rounds)

    for name, peak in peaks.items():
        row = {
            **{"device": device, **asdict(shape), **asdict(layout), "variant": name, "limit": limit(layout)},
            **{"rounds": 0, "note": peak},
        }
        if name in runners:
            row |= {"rounds": len(rounds), "mask_ms": runners[name].mask_ms, "peak_mib": peak, "note": ""}
            row |= {"forward_ms": median(name, 0), "forward_ratio": median(name, 0, CAUSAL)}
            if runners[name].has_backward:
                row |= {"both_ms": median(name, 1), "both_ratio": median(name, 1, CAUSAL)}
            else:
                row["note"] = "no backward on cpu"
        yield Row(**row)


def peak_or_reason(variant: str, layout: Layout, shape: Shape, device: str, max_gib: float) -> float | str | None:
    """The peak memory of a variant; None if it cannot be told; or why the variant is left out."""
    # A byte a cell, and four more where scaled_dot_product_attention turns the mask into float32.
    mask_gib = 5 * layout.rows * layout.tokens**2 / 2**30
    if variant == "dense" and device == "cpu" and mask_gib > max_gib:
        return f"skipped: its mask takes {mask_gib:.1f} GiB"
    if variant == "flex" and device == "cpu":
        if layout.rows * layout.tokens**2 > 8192**2:
            return "skipped: without a GPU, its block mask comes from N x N numbers"
        return None  # the peak would be that of its compiler
    return peak_of_a_pass(variant, layout, shape, device)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024, 2048, 4096, 8192, 16384, 32768])
    parser.add_argument("--image-tokens", type=int, nargs="+", default=[576], help="tokens of an image")
    parser.add_argument("--images", type=int, nargs="+", default=[1], help="images of a document")
    parser.add_argument("--question", type=int, default=64, help="tokens of the question behind the images")
    parser.add_argument("--packed", type=int, default=1, metavar="DOCUMENTS", help="documents in a row")
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[1], help="of the batch; several are of uneven lengths, padded"
    )
    parser.add_argument("--device", choices=SHAPES, default="cpu")
    parser.add_argument(
        "--seconds", type=float, default=8.0, help="time for the rounds of a layout (at least 7; 1 above 8192 tokens)"
    )
    parser.add_argument("--max-mask-gib", type=float, default=4.0, help="leave out dense masks above this, on the CPU")
    parser.add_argument("--quick", action="store_true", help="1024 and 2048 tokens, two seconds each")
    parser.add_argument("--csv", type=Path, help="write the table there, unrounded")
    parser.add_argument("--plot", type=Path, help="write a figure there (PNG or SVG)")
    options = parser.parse_args(arguments)
    if options.quick:
        options.tokens, options.seconds = [1024, 2048], 2.0
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: this machine has no CUDA device; leave it out to measure on the CPU.")
    return options


def write(rows: list[Row], path: Path) -> None:
    """The table, unrounded."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(asdict(rows[0])))
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def main() -> None:
    options = parse()
    console = Console(width=180 if not sys.stdout.isatty() else None)
    variants = [name for name, backend in VARIANTS.items() if backend is None or backend in BACKENDS]
    layouts = [
        Layout(tokens, image_tokens, images, options.question, options.packed, rows)
        for rows in options.rows
        for image_tokens in options.image_tokens
        for images in options.images
        for tokens in options.tokens
    ]
    for layout in layouts:
        if not layout.fits:
            console.print(f"left out, too long for {layout.tokens} tokens: {layout.images} x {layout.image_tokens}")
    plan = [(shape, layout) for shape in SHAPES[options.device] for layout in layouts if layout.fits]
    if not plan:
        sys.exit("nothing to measure: the images and the question are longer than the row; raise --tokens.")
    what = torch.cuda.get_device_name() if options.device == "cuda" else f"{torch.get_num_threads()} threads"
    console.print(f"torch {torch.__version__}, {what}; ratios: median over rounds of variant / causal flash")

    def peaks(shape: Shape, layout: Layout) -> dict[str, float | str | None]:
        return {name: peak_or_reason(name, layout, shape, options.device, options.max_mask_gib) for name in variants}

    measured: dict[Any, dict[str, float | str | None]] = {}
    if options.device == "cpu":
        # Memory comes first: its processes are forks of this one, which must not have computed anything yet.
        print("measuring memory", file=sys.stderr)
        measured = {(shape, layout): peaks(shape, layout) for shape, layout in plan}
    for variant in (CAUSAL, "split"):
        console.print(f"{variant}: {kernels(variant, plan[0][1], plan[0][0], options.device)}", highlight=False)
    rows: list[Row] = []
    for shape, layout in plan:
        print(f"timing {layout}", file=sys.stderr)
        of_layout = measured.get((shape, layout)) or peaks(shape, layout)
        # Shown and saved as they come: a benchmark that is stopped has said what it knew.
        new = list(measure(layout, shape, options.device, options.seconds, of_layout))
        show(new, console)
        rows += new
        if options.csv:
            write(rows, options.csv)
    for line in thresholds(rows):
        console.print(line)
    if options.plot:
        plot(rows, options.plot)


if __name__ == "__main__":
    main()
