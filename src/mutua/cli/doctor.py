"""`mutua doctor`: what is installed, what it can do, what is missing and the command that mends it."""

from __future__ import annotations

import os
import platform
from importlib import metadata, util
from typing import Annotated

import typer
from rich.table import Table

from mutua.cli.common import FAILED, out, report_errors

EXAMPLES = """Examples:

  mutua doctor

  mutua doctor --json
"""

# What an extra brings: importable module -> what it is for.
_EXTRAS = {
    "train": {
        "accelerate": "several processes",
        "datasets": "tables of the datasets package",
        "easy_vqa": "the easy-VQA data",
        "matplotlib": "figures",
        "yaml": "recipes",
        "tensorboard": "live curves",
    },
    "lora": {"peft": "LoRA adapters"},
    "wandb": {"wandb": "live curves at Weights & Biases"},
    "trackio": {"trackio": "live curves with trackio"},
    "gguf": {"gguf": "language models in GGUF files"},
}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Versions, devices, backends; exit code 1 if something that `mutua ask` needs is missing."""
    with report_errors():
        report = _examine()
        if as_json:
            import json

            typer.echo(json.dumps(report))
        else:
            for title, rows in report.items():
                table = Table("what", "found", title=title, title_justify="left", title_style="bold")
                for what, found in rows.items():
                    table.add_row(what, found)
                out.print(table)
        if "missing" in report["packaged models"].values():
            raise typer.Exit(FAILED)


def _examine() -> dict[str, dict[str, str]]:
    import torch

    from mutua import __version__
    from mutua.attention import BACKENDS, POLICIES, auto, resolve
    from mutua.attention.abilities import ABILITIES, Forward
    from mutua.models.model_folder import NAMED

    names = ("torch", "transformers", "tokenizers", "pillow")
    versions = {"mutua": __version__, **{name: metadata.version(name) for name in names}}
    devices = {"cpu": f"{os.cpu_count()} cores, {torch.get_num_threads()} torch threads"}
    for index in range(torch.cuda.device_count()):
        devices[f"cuda:{index}"] = torch.cuda.get_device_name(index)
    if not torch.cuda.is_available():
        devices["cuda"] = "none; everything runs on the CPU"
    default = resolve("auto")
    backends = {name: b.summary + (" (the default)" if name == default else "") for name, b in BACKENDS.items()}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    long = auto.SPLIT_FROM[device]
    padded = auto.SPLIT_PADDED_FROM[device]
    choices = {
        f"below {long:,} tokens ({padded:,} if padded)": auto.choose(Forward(POLICIES["mma"], device, dtype), long - 1)
    }
    for policy in POLICIES.values():
        choices[f"from there on, {policy.name}"] = auto.choose(Forward(policy, device, dtype), long)
    able = {name: ", ".join(k.replace("_", " ") for k, can in vars(a).items() if can) for name, a in ABILITIES.items()}
    chosen = {when: f"{backend.NAME} ({why})" for when, (backend, why) in choices.items()}
    extras = {}
    for extra, modules in _EXTRAS.items():
        for module, purpose in modules.items():
            spec = util.find_spec(module)
            found = spec is not None and spec.origin is not None  # a folder ./wandb is no package
            extras[f"{module} ({purpose})"] = "yes" if found else f'missing: pip install "mutua[{extra}]"'
    return {
        "versions": {"python": platform.python_version(), **versions},
        "devices": devices,
        "attention backends": backends,
        "what each can do or needs": able,
        f"what {default} takes on {device}": chosen,
        "attention policies": {name: policy.summary for name, policy in POLICIES.items()},
        "extras": extras,
        "packaged models": {
            name: "yes" if (folder / "model.safetensors").is_file() else "missing" for name, folder in NAMED.items()
        },
    }
