"""One way to load a model of ours, whoever asks: `mutua.load`, training, evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mutua.attention import get_policy
from mutua.models.configuration import MutuaConfig
from mutua.models.modeling import MutuaForConditionalGeneration
from mutua.models.processing import MutuaProcessor

PACKAGED = Path(__file__).parents[1] / "packaged"
"""The tiny model that comes with the package; its README.md says what it was trained on."""

# Never a pickle; and what does not fit is refused by name, in `expect_whole`.
WEIGHTS: dict[str, Any] = {"use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True}


class ModelError(ValueError):
    """A model that cannot be loaded; the message names it and the remedy."""


def load_model(
    name_or_path: str | Path | None = None, *, policy: str | None = None, dtype: torch.dtype | None = None
) -> tuple[MutuaForConditionalGeneration, MutuaProcessor]:
    """A model on the CPU, in evaluation mode, and its processor.

    Args:
        name_or_path: a folder, or a model on the Hugging Face hub; None is the tiny model of the package.
        policy: an attention policy other than the one the model was saved with.
        dtype: of the weights; None is the one the model was saved with.

    Raises:
        ModelError: no such model, not one of Mutua's, or weights that are missing or do not fit.
        ValueError: no such policy.
    """
    config, processor = load_processor(name_or_path, policy=policy)
    name = _name(name_or_path)
    with _named(name):
        model, info = MutuaForConditionalGeneration.from_pretrained(
            name, config=config, **WEIGHTS, **({} if dtype is None else {"dtype": dtype}), **_offline(name)
        )
    try:
        expect_whole(info, info["unexpected_keys"])
    except ValueError as error:
        raise ModelError(f"model {name}: {error}") from None
    return model.eval(), processor


def load_processor(
    name_or_path: str | Path | None = None, *, policy: str | None = None
) -> tuple[MutuaConfig, MutuaProcessor]:
    """As `load_model`, with the configuration in place of the model: no weight is read."""
    name = _name(name_or_path)
    with _named(name):
        config = MutuaConfig.from_pretrained(name, **_offline(name))
        if policy is not None:
            config.attention_policy = get_policy(policy).name
        if config.model_type != MutuaConfig.model_type or config.text_config is None:
            raise ModelError(f"{name} is not a Mutua model: its config.json does not say model_type 'mutua'.")
        return config, MutuaProcessor.from_pretrained(name, **_offline(name))


def copy_weights(model: nn.Module) -> None:
    """Copies the weights out of mapped files. There they are aligned differently from fresh ones, and fast sums depend
    on alignment: with copies, a resumed run computes exactly what the run before it would have."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()


def expect_whole(info: Mapping[str, Any], extra: Iterable[str]) -> None:
    """Every weight is in the checkpoint (one that is missing would be random, without a word), and has a place.

    Args:
        info: what Transformers gives with `output_loading_info=True`.
        extra: weights of the checkpoint that the model should have had a place for.

    Raises:
        ValueError: "the checkpoint lacks ...".
    """
    for problem, keys in (
        ("lacks", info["missing_keys"]),
        ("has other shapes for", info["mismatched_keys"]),
        ("has weights that its config has no place for:", extra),
    ):
        if keys:
            names = sorted(key if isinstance(key, str) else key[0] for key in keys)
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ValueError(f"the checkpoint {problem} {', '.join(names[:3])}{more}.")


def first_line(error: Exception) -> str:
    """What a library's error says, without its advice; of one that says nothing, its name."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _name(name_or_path: str | Path | None) -> str:
    return str(PACKAGED if name_or_path is None else name_or_path)


def _offline(name: str) -> dict[str, bool]:
    """What is in a folder is not looked for on the hub."""
    return {"local_files_only": True} if Path(name).is_dir() else {}


@contextmanager
def _named(name: str) -> Iterator[None]:
    """A model that is not there or cannot be read becomes a ModelError."""
    try:
        yield
    except OSError as error:
        raise ModelError(
            f"no model at {name!r}: give a folder that `save_pretrained` wrote, or a hub id that this machine can "
            f"reach ({first_line(error)})"
        ) from error
