"""`mutua unlock`: whether another model can be unlocked, and what that does to it before any training."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from mutua.cli.common import POLICY_NAMES, err, out, report_errors
from mutua.cli.progress import progress
from mutua.shortened import shortened

if TYPE_CHECKING:
    from mutua.evaluation.calibrate import Calibration

EXAMPLES = """Examples:

  mutua unlock models/llava                                    (can it be unlocked?)

  mutua unlock models/llava --calibrate mine.jsonl             (what does that do to it, untrained?)

  mutua unlock models/llava --calibrate scenes --limit 400 -p prefix --json
"""
_SHOWN = 5  # answers that changed


def unlock(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder or hub id of a model of others.")],
    data: Annotated[
        str | None,
        typer.Option(
            "--calibrate",
            metavar="DATA",
            help="Ask it this, locked and unlocked: easy-vqa, scenes, grid, or a file or folder of samples.",
        ),
    ] = None,
    policy: Annotated[str, typer.Option("--policy", "-p", help=f"Attention policy: {POLICY_NAMES}.")] = "mma",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Samples of --calibrate, spread evenly over the data.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Samples of --calibrate per batch; 8.")] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens of an answer to --calibrate at most; 16.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, every sample in it.")] = False,
) -> None:
    """Unlock a model of others, and compare: loss on the replies and greedy answers, paired, with 95 % intervals."""
    with report_errors():
        if data is None:
            _expect_nothing_of_data(limit, batch_size, max_new_tokens, as_json)
        from mutua.attention import get_policy
        from mutua.evaluation import open_source
        from mutua.evaluation.accuracy import MAX_NEW_TOKENS
        from mutua.evaluation.calibrate import BATCH, calibrate
        from mutua.quiet import silence
        from mutua.unlocking import expect_unlocked, is_foreign, open_model

        silence()
        get_policy(policy)
        samples = None if data is None else open_source(data)
        if not is_foreign(model):
            raise ValueError(
                f"{model} is no multimodal model of others; one of Mutua's own is never locked: `mutua eval -m {model} "
                "-p causal` and `-p mma` compare its policies."
            )
        if samples is None:
            network, _ = open_model(model, policy)
            expect_unlocked(network)
            out.print(f"{model} can be unlocked: policy {policy} was tried on its own layers.")
            return
        network, processor = open_model(model)
        with progress() as show:
            found = calibrate(
                network,
                processor,
                samples,
                policy,
                limit=limit,
                batch_size=batch_size or BATCH,
                max_new_tokens=max_new_tokens or MAX_NEW_TOKENS,
                progress=lambda what, done, total: show("", what, done, total),
            )
        if as_json:
            typer.echo(json.dumps({"model": model, "data": data, **found.to_json()}, ensure_ascii=False))
            return
        _print(found, model, data)


def _expect_nothing_of_data(
    limit: int | None, batch_size: int | None, max_new_tokens: int | None, as_json: bool
) -> None:
    """Raises ValueError where an option says how to ask data, and no data are named."""
    given = {
        f"--limit {limit}": limit,
        f"--batch-size {batch_size}": batch_size,
        f"--max-new-tokens {max_new_tokens}": max_new_tokens,
        "--json": as_json,
    }
    if said := [option for option, value in given.items() if value]:
        raise ValueError(f"{said[0]} is for what --calibrate DATA asks the model: name the data.")


def _print(found: Calibration, model: str, data: str | None) -> None:
    from rich.table import Table
    from rich.text import Text

    from mutua.evaluation.calibrate import LOCKED, UNLOCKED, nats
    from mutua.evaluation.paired import paired_table

    title = Text(f"{model} on {data}, policy {found.policy}", style="italic")
    loss = Table("loss on the replies", title=title)
    for name in ("samples", "tokens", f"{LOCKED}, nats a token", UNLOCKED, "difference a sample (95 %)"):
        loss.add_column(name, justify="right")
    loss.add_row(
        "mean",
        f"{len(found.losses):,}",
        f"{found.tokens:,}",
        f"{found.locked_loss:.3f}",
        f"{found.unlocked_loss:.3f}",
        nats(found.loss_difference),
    )
    out.print(loss)
    out.print(paired_table(found.accuracies, UNLOCKED, LOCKED, title="answers"))
    if found.changed:
        changed = Table("sample", "question", "expected", LOCKED, UNLOCKED)
        changed.title = f"{len(found.changed):,} of {len(found.losses):,} answers changed"
        for before, after in found.changed[:_SHOWN]:
            texts = (before.id, before.question, before.expected, before.answer, after.answer)
            changed.add_row(*(Text(shortened(text)) for text in texts))
        out.print(changed)
    out.print(found.said)
    if not found.was_unlocked and found.policy != "causal":
        recipe = f"mutua train recipes/unlock-lora.yaml --set model.path={model}"
        err.print(f"a little training under the new mask adapts it (docs/unlock.md): {recipe}", style="dim")
