"""How a model of ours generates: what ends a reply, and what is never said."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from copy import deepcopy

from transformers import GenerationConfig

_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
_BEAMS = ("early_stopping", "length_penalty")


def reply_config(
    own: GenerationConfig, *, pad: int, ends: Iterable[int | None], never: Iterable[int]
) -> GenerationConfig:
    """The generation config of a model that is put together, from its language model's own.

    Args:
        pad: what fills the rows of a batch whose reply has ended.
        ends: tokens that end a reply, besides those that `own` names.
        never: tokens that are never said: the placeholder of images, those that open someone's turn. One that ends a
            reply may be said.

    Raises:
        ValueError: Transformers could not save it.
    """
    known = own.eos_token_id if isinstance(own.eos_token_id, list) else [own.eos_token_id]
    all_ends = list(dict.fromkeys(end for end in [*known, *ends] if end is not None))
    config = deepcopy(own)
    config.suppress_tokens = list(
        dict.fromkeys([*(own.suppress_tokens or []), *(token for token in never if token not in all_ends)])
    )
    config.eos_token_id = all_ends[0] if len(all_ends) == 1 else all_ends or None
    config.pad_token_id = pad
    _leave_out_what_has_no_effect(config)
    return config


def _leave_out_what_has_no_effect(config: GenerationConfig) -> None:
    """Published configs name it, which Transformers lets pass until a config is changed, as here, and then refuses to
    save: hours later, with a trained model. What somebody may miss is told."""
    idle = [*(() if config.do_sample else _SAMPLING), *(_BEAMS if config.num_beams in (None, 1) else ())]
    idle += [] if config.return_dict_in_generate else config.extra_output_flags
    idle += ["cache_implementation", "cache_config"] if config.use_cache is False else []
    usual = GenerationConfig()
    gone = {
        name: value
        for name in idle
        if (value := getattr(config, name, None)) not in (None, False, getattr(usual, name))
    }
    for name in idle:
        setattr(config, name, getattr(usual, name))
    if gone:
        said = ", ".join(f"{name}={value}" for name, value in gone.items())
        warnings.warn(
            f"the language model's generation config has {said}, without effect as it stands (no do_sample, beams, "
            "...), and is taken without: pass them to generate.",
            stacklevel=3,
        )
    config.validate(strict=True)
