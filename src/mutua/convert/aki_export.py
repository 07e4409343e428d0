"""A converted AKI checkpoint, trained on or not, in the released format again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from mutua.attention import MMA
from mutua.convert.aki_format import (
    ADDED_ROWS,
    ASIDE,
    CONFIG,
    LAYOUT,
    OTHERS,
    AkiError,
    read_config,
    refuse_difference,
    released_name,
)
from mutua.convert.tensor_files import TensorFiles
from mutua.folders import whole_folder


def export(source: str | Path, target: str | Path, converted: str | Path | None = None) -> Path:
    """Writes a converted model, trained on or not, in the released format into the new folder `target`.

    A model that was only converted comes back bit for bit.

    Args:
        source: a model of ours, as `convert` or `save_pretrained` wrote it.
        target: a folder that does not exist yet.
        converted: what `convert` wrote, where `source` was saved from it later and lacks its folder `aki/`.

    Raises:
        AkiError: no folder `aki/`, or tensors that are not those of the released checkpoint.
        FolderError: the disk is full; nothing is left at `target`.
    """
    source, target = Path(source), Path(target)
    aside = Path(converted or source) / ASIDE
    if target.exists():
        raise AkiError(f"{target} exists already: name a new folder, or remove it")
    if not (aside / LAYOUT).is_file():
        raise AkiError(
            f"{aside} is missing: it holds the rows and the layout of the released files. Name the folder that "
            "`mutua convert aki` wrote with --converted"
        )
    layout = json.loads((aside / LAYOUT).read_text(encoding="utf-8"))
    if strange := [name for name in layout if Path(name).name != name or not name.endswith(".safetensors")]:
        raise AkiError(f"{aside / LAYOUT} names {strange[0]!r}, which is no safetensors file of this folder")
    policy = json.loads((source / "config.json").read_text(encoding="utf-8")).get("attention_policy")
    if policy != MMA.name:
        raise AkiError(
            f"{source} is under policy {policy!r}, and the released code applies 'mma' to whatever it loads, whose "
            "format has no place to say otherwise: only models under 'mma' are exported"
        )
    kept = read_config(aside).initial_tokenizer_len
    files, unused = TensorFiles.of(source), TensorFiles.of(aside)
    ours_of = {released_name(ours): ours for ours in files.tensors} | {
        added: ours for ours, added in ADDED_ROWS.items()
    }
    refuse_difference({name for file in layout.values() for name in file["tensors"]}, set(ours_of), source)

    with whole_folder(target) as partial:
        for file_name, file in layout.items():
            tensors = files.read([ours_of[name] for name in file["tensors"]])
            released = {}
            for name in file["tensors"]:
                tensor = tensors[ours_of[name]]
                if name in ADDED_ROWS.values():
                    tensor = tensor[kept:].clone()
                elif ours_of[name] in ADDED_ROWS:
                    tensor = torch.cat([tensor[:kept], unused.read([name])[name].to(tensor.dtype)])
                released[name] = tensor
            save_file(released, partial / file_name, metadata=file["metadata"])
        shutil.copyfile(aside / CONFIG, partial / CONFIG)
        for path in sorted((aside / OTHERS).glob("*")):
            shutil.copyfile(path, partial / path.name)
    return target
