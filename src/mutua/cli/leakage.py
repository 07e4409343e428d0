"""`mutua leakage`: the proof, on a model of yours, that no answer can be seen before it is said."""

from __future__ import annotations

from typing import Annotated

import typer

from mutua.cli.common import FAILED, PolicyOption, err, model_for_command, out, report_errors

EXAMPLES = """Examples:

  mutua leakage      (the packaged model)

  mutua leakage runs/mine/model --conversations 20

  mutua leakage runs/mine/model --backend mutua_split
"""


def leakage(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="Folder or hub id; of another model, too, unlocked under mma if nothing else is said. "
            "Default: the packaged tiny one.",
        ),
    ] = None,
    policy: PolicyOption = None,
    backend: Annotated[
        str | None, typer.Option("--backend", "-b", help="Attention backend to test; `mutua doctor` lists them.")
    ] = None,
    conversations: Annotated[int, typer.Option(min=1, help="Random conversations to perturb.")] = 4,
    seed: Annotated[int, typer.Option(help="Of the conversations.")] = 0,
) -> None:
    """Perturb responses, other documents, padding and other rows; exit code 1 if anything moves that must not."""
    with report_errors():
        from rich.progress import Progress
        from rich.table import Table
        from rich.text import Text

        from mutua.inspection.leakage import prove
        from mutua.unlocking import is_foreign, load_foreign_processor, saved_policy

        if model is not None and policy is None and is_foreign(model):
            policy = saved_policy(load_foreign_processor(model)[0]) or "mma"  # locked, there is nothing to prove
        network, processor = model_for_command(model, policy, backend)
        with Progress(console=err) as bars:
            task = bars.add_task("perturbing", total=conversations)
            proof = prove(network, processor, conversations, seed, lambda done, _: bars.update(task, completed=done))
        used = network.get_decoder().config._attn_implementation
        table = Table(
            "perturbed: watched", "trials", "moved", "must", "", title=f"policy {proof.policy}, backend {used}"
        )
        for finding in proof.findings:
            verdict = Text("ok", "green") if finding.ok else Text(finding.verdict.upper(), "red")
            must = "move" if finding.must_move else "not move"
            table.add_row(finding.name, str(finding.trials), f"{finding.moved:.1e}", must, verdict)
        out.print(table)
        if not proof.holds:
            raise typer.Exit(FAILED)
