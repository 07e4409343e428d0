"""A model's folder, found by its name, and what is wrong with it, told before any weight is read.

An empty model is built from config.json on PyTorch's meta device, where weights have shapes and take no memory, and
held against the headers of the safetensors files. So a folder that would answer with random weights, or fill the
memory, is refused within a second.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

PACKAGED = Path(__file__).parents[1] / "packaged"
"""The tiny model that comes with the package; its README.md says what it was trained on."""
NAMED = {"packaged": PACKAGED, "packaged-causal": PACKAGED.with_name("packaged_causal")}
"""Models of the package, by what they are called where a folder or a hub id can stand. The second one is the first
one's causal twin: the same stages, data and steps under another policy."""

ADAPTER = "adapter_config.json"
ADAPTER_POLICY = "attention_policy.json"  # beside it: the policy that the adapters were trained under
_FILES, _WEIGHTS = ("*.json", "*.jinja", "*.model", "*.txt"), "*.safetensors"  # no pickles, no code
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_AT_LEAST_1 = (
    *("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size"),
    *("max_position_embeddings", "image_size", "patch_size"),
    *("resampler_latents", "resampler_heads", "resampler_head_dim", "resampler_ff_mult"),
)
_SMALLEST = {**dict.fromkeys(_AT_LEAST_1, 1), "num_hidden_layers": 0, "resampler_depth": 0, "image_token_id": 0}

_LAYERS = ("num_hidden_layers", "resampler_depth")
_LONGEST = 300  # characters of a library's error: some list hundreds of names
_FLOATS = ("F64", "F32", "F16", "BF16")
# 0, 1, 2 ...: a buffer of old checkpoints (OpenAI's CLIP), which Transformers leaves out, too.
_COUNTED = ".position_ids"


class ModelError(ValueError):
    """A model that cannot be loaded; the message names it and the remedy."""


def find_folder(name_or_path: str | Path | None, *, weights: bool = True) -> Path:
    """The folder of a model: a path, a name of `NAMED`, or a hub id, which is fetched (or taken from the hub's cache),
    without its weights if they are not wanted.

    Raises:
        ModelError: there is none; where something like it is near, the message names that.
    """
    if name_or_path is None:
        return PACKAGED
    if not isinstance(name_or_path, (str, Path)):
        raise ModelError(f"a model is named by a folder or a hub id, not by {name_or_path!r} of {type(name_or_path)}.")
    path, name = Path(name_or_path), str(name_or_path)
    if not name:
        raise ModelError("the name of a model is empty: give its folder or hub id.")
    try:
        is_folder = path.is_dir()
    except OSError as error:
        raise ModelError(f"no model at {name[:100]}: {error.strerror}.") from None
    if is_folder:
        if not (path / "config.json").is_file():
            raise ModelError(f"no model in {name}: it has no config.json{_near(path)}.")
        return path
    if name in NAMED:
        return NAMED[name]
    if path.exists():
        raise ModelError(f"{name} is a file: name the folder that holds the model.")
    if not may_be_hub_id(name):
        raise ModelError(f"no model at {name}: there is no such folder{_near(path)}.")
    try:
        return Path(snapshot_download(name, allow_patterns=[*_FILES, *([_WEIGHTS] if weights else [])]))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"no model at {name}: there is no such folder{_near(path)}, and from the hub it cannot be had "
            f"({first_line(error)})."
        ) from error


def may_be_hub_id(name: str, *, bare: bool = False) -> bool:
    """A hub id is `owner/name`, and of old a `bare` name, as gpt2.

    What begins like a path of this machine is none, nor what would lie in a folder that is here: a slip in its name
    must not be asked of the hub, where anybody may have taken it.
    """
    if name[:1] in ("", ".", "/", "~") or name.endswith("/"):
        return False
    if "/" not in name:
        return bare and not Path(name).exists()
    return name.count("/") == 1 and not Path(name).parent.exists()


def _near(path: Path) -> str:
    """What may have been meant."""
    if (path / "model" / "config.json").is_file():
        return f"; did you mean {path / 'model'}?"
    if (path / ADAPTER).is_file():
        return ""
    if (path / "checkpoints").is_dir():
        return "; it is a run that is not finished: run `mutua train` again to go on"
    if path.parent.is_dir():
        folders = sorted(entry.name for entry in path.parent.iterdir() if entry.is_dir() and entry.name != path.name)
        if close := get_close_matches(path.name, folders, n=1):
            return f"; did you mean {path.parent / close[0]}?"
    return ""


@contextmanager
def blamed_on(place: Path | str, remedy: str) -> Iterator[None]:
    """Whatever a library says of a file becomes a ModelError that names the file.

    The kinds of errors cannot be listed: a wrong value may divide by zero or fail in any layer's constructor.
    """
    try:
        yield
    except (ModelError, MemoryError, PermissionError, ImportError):
        raise
    except Exception as error:
        said = error_line(error)
        raise ModelError(f"{place}: {_keys_of(place, said)}{said}. {remedy}") from error


def _keys_of(place: Path | str, said: str) -> str:
    """'text_config.hidden_act: ', where a library tells which text of a JSON file is wrong, but not of which key."""
    if not isinstance(place, Path) or place.suffix != ".json":
        return ""
    keys = [
        key
        for key, value in _leaves(read_json(place))
        if isinstance(value, str) and repr(value) in said and key.rpartition(".")[2] not in said
    ]
    return f"{', '.join(keys)}: " if keys else ""


def _leaves(content: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Every value in nested objects, with its key (`text_config.hidden_act`)."""
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; ModelError where there is none."""
    if not path.is_file():  # a FIFO would be waited for
        raise ModelError(f"{path.parent} lacks the file {path.name}: it is no whole model; save or fetch it again.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_each_key_once)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not valid JSON ({error}): save or fetch it again.") from None
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds {type(content).__name__}, not an object with keys: save or fetch it again.")
    return content


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is there twice")
    return content


def expect_sizes(place: str, sizes: Mapping[str, Any]) -> None:
    """Raises ModelError where a size is one that nothing can have; `place` stands before its name."""
    for name, smallest in _SMALLEST.items():
        if isinstance(value := sizes.get(name), int) and value < smallest:
            raise ModelError(f"{place}{name} is {value}; it must be at least {smallest}.")


def expect_layers(path: Path, weights: int) -> None:
    """Raises ModelError where a config.json has more layers than its checkpoint has `weights`: to build them would take
    minutes."""
    for key, value in _leaves(read_json(path)):
        if key.rpartition(".")[2] in _LAYERS and isinstance(value, int) and value > weights:
            raise ModelError(
                f"{path}: {key} is {value}, but the checkpoint has {weights} weights in all: they belong to two "
                "models; put one right."
            )


def expect_weights(folder: Path, empty: nn.Module, found: Mapping[str, list[int]]) -> None:
    """The folder's weights are those of `empty`, a model on the meta device.

    Args:
        found: what `read_shapes` gives.

    Raises:
        ModelError: naming the first weights that are missing, misshapen or of no use.
    """
    expected = {name: list(weight.shape) for name, weight in empty.state_dict().items()}
    tied = set(getattr(empty, "all_tied_weights_keys", None) or {})
    expect_same(f"model {folder}", expected, found, may_lack=tied)


def expect_same(
    place: str,
    expected: Mapping[str, list[int]],
    found: Mapping[str, list[int]],
    may_lack: Iterable[str] = (),
) -> None:
    """Raises ModelError, beginning with the `place`, unless the weights found are those expected, by name and shape."""
    optional = set(may_lack)
    for problem, names in (
        ("lacks", [name for name in expected if name not in found and name not in optional]),
        ("has other shapes for", [name for name in found if name in expected and found[name] != expected[name]]),
        ("has weights that its config has no place for:", [name for name in found if name not in expected]),
    ):
        if names:
            raise ModelError(f"{place}: {listed(problem, names)}")


def read_shapes(paths: Iterable[Path]) -> dict[str, list[int]]:
    """The shape of every weight in safetensors files, by name; only their headers are read.

    Raises:
        ModelError: a file is damaged, a tensor is in two of them, or holds numbers that are no weights.
    """
    shapes: dict[str, list[int]] = {}
    for path in paths:
        try:
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118 (it is no mapping)
                    if name.endswith(_COUNTED):
                        continue
                    piece = file.get_slice(name)
                    if piece.get_dtype() not in _FLOATS:
                        raise ModelError(
                            f"{path}: {name} holds {piece.get_dtype()} numbers, and the config names no quantization: "
                            "save it in bfloat16 or float32."
                        )
                    if name in shapes:
                        raise ModelError(f"{path}: {name} is in another file of this model, too: save it again.")
                    shapes[name] = piece.get_shape()
        except SafetensorError as error:
            raise ModelError(
                f"{path} is damaged, or is no safetensors file ({first_line(error)}): save or fetch it again."
            ) from None
        except PermissionError as error:
            raise ModelError(f"{path} cannot be read: {error.strerror}.") from None
    return shapes


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model, all of them there."""
    index = folder / SAFE_WEIGHTS_INDEX_NAME
    if index.is_file() and (folder / SAFE_WEIGHTS_NAME).is_file():
        raise ModelError(
            f"{folder} has weights in {SAFE_WEIGHTS_NAME}, and {index.name} names other files: Transformers would take "
            "the first, which may be the older one. Remove what is not meant, or save into a new folder."
        )
    if index.is_file():
        content = read_json(index)
        places = content.get("weight_map")
        if not (isinstance(places, dict) and places and all(isinstance(name, str) for name in places.values())):
            raise ModelError(f"{index} has no weight_map from weights to files: save or fetch it again.")
        if not isinstance(content.get("metadata"), dict):
            raise ModelError(f"{index} has no metadata: save or fetch it again.")
        paths = [folder / name for name in sorted(set(places.values()))]
        for path in paths:
            if not path.is_file():
                raise ModelError(f"{folder} lacks {path.name}, which {index.name} names: fetch it again.")
        return paths
    return [weight_file(folder, SAFE_WEIGHTS_NAME)]


def weight_file(folder: Path, name: str) -> Path:
    """A safetensors file that holds all weights of a folder; ModelError if it is not there."""
    if (folder / name).is_file():
        return folder / name
    if pickles := [path.name for pattern in _PICKLES for path in folder.glob(pattern)]:
        raise ModelError(
            f"{folder} has weights in {pickles[0]} only, a pickle, which could run code of a stranger: save them as "
            "safetensors."
        )
    raise ModelError(f"{folder} has no weights: there is no file {name}.")


def expect_finite(place: str, model: nn.Module) -> None:
    """Raises ModelError where a weight is nan or infinite: every answer would be empty or noise."""
    for name, weight in model.named_parameters():
        if weight.is_floating_point() and not bool(torch.isfinite(weight).all()):
            raise ModelError(
                f"{place}: {name} holds numbers that are not finite (nan or inf): the training that made it "
                "went wrong; take an earlier checkpoint."
            )


def listed(problem: str, names: Sequence[str]) -> str:
    """ "the checkpoint lacks a, b, c and 5 more." """
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"the checkpoint {problem} {', '.join(sorted(names)[:3])}{more}."


def first_line(error: Exception) -> str:
    """What a library's error says, without its advice; of one that says nothing, its name."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".:")


def error_line(error: Exception) -> str:
    """What is wrong, in one line: the last one of a validation error, whose first only names the validator."""
    lines = [line.strip() for line in str(error).strip().splitlines()] or [""]
    if len(lines) > 1 and "alidation error" in lines[0]:
        return lines[1].partition(": ")[2][:_LONGEST].rstrip(".:")
    kind = "" if isinstance(error, (ValueError, OSError)) and lines[0] else f"{type(error).__name__} "
    said = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return f"{kind}{said[:_LONGEST]}".strip().rstrip(".:")
