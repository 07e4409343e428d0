"""The rows of `attention.py` for people: a table, the lengths from which `split` wins, a figure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mutua.figures import blank_figure

CAUSAL = "causal flash"
VARIANTS = {CAUSAL: None, "dense": "mutua_sdpa", "flex": "mutua_flex", "split": "mutua_split"}


@dataclass(frozen=True)
class Row:
    """One line of the table. Times in ms, memory in MiB (inputs, output and gradients included); None: not run."""

    device: str
    heads: int
    kv_heads: int
    head_dim: int
    dtype: str
    tokens: int
    image_tokens: int
    images: int
    question: int
    documents: int
    rows: int
    variant: str
    limit: float
    rounds: int
    note: str
    mask_ms: float | None = None
    forward_ms: float | None = None
    forward_ratio: float | None = None
    both_ms: float | None = None
    both_ratio: float | None = None
    peak_mib: float | None = None


def show(rows: list[Row], console: Console) -> None:
    """The table, a line a variant."""
    table = Table(box=None, pad_edge=False)
    for column in (
        "model",
        "tokens",
        "rows x docs x images",
        "variant",
        "mask ms",
        "forward ms",
        "ratio",
        "fwd+bwd ms",
        "ratio",
    ):
        table.add_column(column, justify="left" if column in ("model", "variant") else "right", no_wrap=True)
    for column in ("limit", "peak MiB", "rounds"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("note")

    def number(value: float | None, digits: int) -> str:
        return "" if value is None else f"{value:,.{digits}f}"

    for index, row in enumerate(rows):
        is_last = index + 1 == len(rows) or rows[index + 1].variant == CAUSAL
        table.add_row(
            f"{row.heads}/{row.kv_heads}x{row.head_dim} {row.dtype}",
            str(row.tokens),
            f"{row.rows} x {row.documents} x {row.images} x {row.image_tokens}",
            row.variant,
            number(row.mask_ms, 1),
            number(row.forward_ms, 1),
            number(row.forward_ratio, 2),
            number(row.both_ms, 1),
            number(row.both_ratio, 2),
            number(row.limit, 3),
            number(row.peak_mib, 0),
            str(row.rounds),
            row.note,
            end_section=is_last,
        )
    console.print(table)


def thresholds(rows: list[Row]) -> Iterator[str]:
    """From how many tokens on `split` takes less time than a dense mask: what `mutua.attention.auto` goes by."""
    times: dict[str, dict[int, dict[str, float]]] = {}
    for row in rows:
        if row.both_ms is not None:
            what = f"{row.dtype}, {row.rows} rows of {row.documents} x {row.images} x {row.image_tokens} image tokens"
            times.setdefault(what, {}).setdefault(row.tokens, {})[row.variant] = row.both_ms
    for what, by_tokens in times.items():
        both = {tokens: by_name for tokens, by_name in by_tokens.items() if {"split", "dense"} <= set(by_name)}
        slower = [tokens for tokens, by_name in both.items() if by_name["split"] >= by_name["dense"]]
        faster = [tokens for tokens in both if tokens > max(slower, default=0)]
        yield f"{what}: split beats dense from {min(faster)} tokens on" if faster else f"{what}: dense wins"


def plot(rows: list[Row], path: Path) -> None:
    """Forward and backward relative to causal flash, over tokens, a panel a layout; dotted: the limit."""
    panels: dict[str, list[Row]] = {}
    for row in rows:
        name = f"{row.heads}/{row.kv_heads} heads x {row.head_dim}, {row.images} x {row.image_tokens} image tokens"
        name += f", {row.documents} documents" if row.documents > 1 else ""
        name += f", {row.rows} uneven rows" if row.rows > 1 else ""
        panels.setdefault(name, []).append(row)
    figure = blank_figure(5 * len(panels), 4)
    for axes, (name, of_panel) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for variant in VARIANTS:
            points = [(row.tokens, row.both_ratio) for row in of_panel if row.variant == variant and row.both_ratio]
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", label=variant)
        limits = sorted({(row.tokens, row.limit) for row in of_panel})
        axes.plot(*zip(*limits, strict=True), ":", color="0.4", label="limit")
        axes.set_xscale("log", base=2)
        axes.set_xticks([tokens for tokens, _ in limits], [str(tokens) for tokens, _ in limits])
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("tokens")
        axes.set_ylabel("forward + backward / causal flash")
        axes.legend(frameon=False)
    figure.savefig(path)
