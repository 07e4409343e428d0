"""`mutua plan`: memory, time and tokens of a training run, before it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mutua.cli.common import FAILED, err, out, report_errors

if TYPE_CHECKING:
    from mutua.training.batch_shape import SourceLook
    from mutua.training.plan import Plan
    from mutua.training.recipe import TrainSettings

EXAMPLES = """Examples:

  mutua plan recipes/tiny-captions.yaml      (on this machine's CPU)

  mutua plan recipes/tiny-captions.yaml --gpus 2xA100 --json

  mutua plan recipes/quickstart.yaml --gpus H100 --set train.batch_size=1024

  mutua plan recipes/tiny-captions.yaml --set model.preset=aki-4b --gpus 8xH100
"""


def plan(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="What the run is; see docs/training.md.")],
    gpus: Annotated[
        str,
        typer.Option(
            "--gpus",
            metavar="COUNTxKIND",
            help="H100, H200, A100, A100-40GB, L40S, RTX4090, or cpu, which is this machine's.",
        ),
    ] = "cpu",
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Replace one value of the recipe; repeatable."),
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(min=1, help="Of every sample, a picture included. Default: as the first samples have.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, sizes in bytes.")] = False,
) -> None:
    """Say what a run would take: memory of a device by part, time of a step, samples and tokens.

    Nothing is trained, and no weights are read. Exit code 1 where it does not fit.
    """
    with report_errors():
        from mutua.quiet import silence
        from mutua.training import load_recipe
        from mutua.training.devices import find_devices
        from mutua.training.plan import Planner

        silence()
        count, device = find_devices(gpus)
        planner = Planner(load_recipe(recipe, overrides or []), tokens)
        found = planner.plan(device, count)
        remedies = [] if found.fits else planner.remedies(found)
        assumed = _assumptions(found, planner.looks, planner.recipe.train)
        if as_json:
            typer.echo(json.dumps(_record(found, planner.looks, remedies, assumed), ensure_ascii=False))
        else:
            _print(planner.recipe.name, found, planner.looks, remedies, assumed)
    if not found.fits:
        raise typer.Exit(FAILED)


def _print(
    name: str, found: Plan, looks: tuple[SourceLook, ...], remedies: list[tuple[str, Plan]], assumed: list[str]
) -> None:
    from rich.table import Table

    sizes, batch, micro = found.sizes, found.batch, found.batch.micro
    arithmetic = "bf16" if found.bf16 else "fp32"
    out.print(
        f"{name}: {sizes.weights:,} weights, {sizes.trained:,} of them trained, {arithmetic} on "
        f"{found.count} x {found.device.name} ({found.device.source})"
    )
    out.print(
        f"a step of {batch.samples:,} samples: in each process {batch.micro_batches} x {micro.rows} rows of at most "
        f"{micro.tokens:,} tokens, {micro.images} pictures"
    )
    table = Table("held by a device at the peak", box=None, pad_edge=False)
    table.add_column("size", justify="right")
    for part, size in sorted(found.memory.items(), key=lambda item: -item[1]):
        if size >= 2**16:
            table.add_row(part, _size(size))
    table.add_row("all", _size(found.peak))
    out.print(table)
    out.print(_verdict(found, remedies), style="green" if found.fits else "red")
    samples = found.steps * batch.samples
    out.print(
        f"step: {found.flops / 1e12:,.3g} TFLOP, {1e3 * found.seconds:,.0f} ms, {found.tokens_per_second:,.0f} tokens "
        f"a second; run: {found.steps:,} steps, {_hours(found.hours)}, {samples:,} samples, "
        f"{found.steps * batch.tokens_of_step:,.3g} tokens"
    )
    table = Table("source", box=None, pad_edge=False)
    for column in ("samples", "tokens a sample", "epochs"):
        table.add_column(column, justify="right")
    for look, drawn in _drawn(found, looks):
        known = ("unknown", "unknown") if look.samples is None else (f"{look.samples:,}", f"{drawn / look.samples:.3g}")
        table.add_row(look.name, known[0], f"{look.tokens:.0f}", known[1])
    out.print(table)
    for line in assumed:
        err.print(f"assumed: {line}", style="dim")


def _verdict(found: Plan, remedies: list[tuple[str, Plan]]) -> str:
    there = found.device.memory / 2**30
    needed = f"{_size(found.peak)} of {there:,.0f} GiB"
    if found.fits:
        return f"fits: {needed}"
    tight = "" if found.peak > found.device.memory else f", and {_size(found.reserve)} should stay free"
    changes = [
        f"{name}: {_size(other.peak)}{', which fits' if other.fits else ''}"
        for name, other in remedies
        if other.peak < found.peak
    ]
    return f"does not fit: {needed}{tight}" + "".join(f"; {change}" for change in changes)


def _assumptions(found: Plan, looks: tuple[SourceLook, ...], train: TrainSettings) -> list[str]:
    """What is not known but taken to be so."""
    from mutua.training.batch_shape import LOOKED_AT
    from mutua.training.plan import REACHED
    from mutua.training.vision_cache import BATCH

    lines = [
        f"a step reaches {REACHED:.0%} of the device's rates, and an operation takes 10 microseconds at least; data, "
        "evaluations and checkpoints take no time"
    ]
    if found.count > 1:
        lines.append("what processes send each other goes by the link of one machine, while they compute")
    if train.cache_vision_mb:
        lines.append(
            f"but for {BATCH} of a micro-batch all pictures come from train.cache_vision_mb's cache: where they are "
            "met for the first time, the vision encoder takes longer than this"
        )
    if train.compile:
        lines.append("train.compile changes neither memory nor time, of which it saves some")
    for look in looks:
        if look.assumed is not None:
            lines.append(f"{look.name}: {look.tokens:.0f} tokens a sample, one picture, half of the rest supervised "
                         f"({look.assumed})")  # fmt: skip
    if any(look.assumed is None for look in looks):
        lines.append(f"no sample is longer than the first {LOOKED_AT} of its source")
    return lines


def _record(
    found: Plan, looks: tuple[SourceLook, ...], remedies: list[tuple[str, Plan]], assumed: list[str]
) -> dict[str, Any]:
    return {
        "device": found.device.name,
        "count": found.count,
        "precision": "bf16" if found.bf16 else "fp32",
        "weights": found.sizes.weights,
        "trained": found.sizes.trained,
        "memory": found.memory,
        "peak": found.peak,
        "available": int(found.device.memory),
        "reserve": int(found.reserve),
        "fits": found.fits,
        "remedies": {name: other.peak for name, other in remedies},
        "step": {
            "samples": found.batch.samples,
            "tokens": found.batch.tokens_of_step,
            "micro_batches": found.batch.micro_batches,
            "micro_batch": vars(found.batch.micro),
            "flops": found.flops,
            "seconds": found.seconds,
            "tokens_per_second": found.tokens_per_second,
        },
        "run": {
            "steps": found.steps,
            "hours": found.hours,
            "samples": found.steps * found.batch.samples,
            "tokens": found.steps * found.batch.tokens_of_step,
        },
        "sources": [
            {
                "name": look.name,
                "samples": look.samples,
                "tokens_per_sample": look.tokens,
                "epochs": None if look.samples is None else drawn / look.samples,
            }
            for look, drawn in _drawn(found, looks)
        ],
        "assumed": assumed,
    }


def _drawn(found: Plan, looks: tuple[SourceLook, ...]) -> list[tuple[SourceLook, float]]:
    """Each source, and how many samples the run draws from it."""
    total = sum(look.weight for look in looks)
    return [(look, found.steps * found.batch.samples * look.weight / total) for look in looks]


def _size(size: float) -> str:
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / 2**20:,.1f} MiB"


def _hours(hours: float) -> str:
    return f"{hours:,.1f} hours" if hours >= 1 else f"{60 * hours:,.1f} minutes"
