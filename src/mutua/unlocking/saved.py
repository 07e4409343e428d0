"""What a model that was saved unlocked asks of whoever loads it: to be unlocked again, or to be locked on purpose.

Loaded and used as it is, it would be causal, and wrong without a word. So its config asks for one of Mutua's backends:
without Mutua it cannot be loaded, and with it, a forward that nobody unlocked is an error. `from_pretrained(...,
trust_remote_code=True)`, of a server say, finds the module beside the weights and gives the model unlocked.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig
from transformers.utils import CONFIG_NAME

from mutua.models.saved_folder import MODULE, write_module
from mutua.unlocking.methods import Method

_NOTE = "mutua"
# Set behind `attn_implementation`, which a loader may give as None, and so would take the question away.
_ASKS = "_attn_implementation"
_OPENS, _LOADER = "auto_map", "UnlockedModel"
_MODEL_MAP = {name: f"{MODULE}.{_LOADER}" for name in ("AutoModelForImageTextToText", "AutoModelForMultimodalLM")}


def note(config: PretrainedConfig, text_config: PretrainedConfig, backend: str, policy: str) -> None:
    """Writes into the config of a model how it was unlocked.

    Args:
        text_config: the language model's, which may be the same.
        backend: the attention implementation of the language model.
    """
    forget(config, text_config)
    # Past the property of that name, which sets and does not save. Families differ in whether the whole config or its
    # parts are made first, and so in which of the two has the last word.
    vars(text_config)[_ASKS] = backend
    for key in config.sub_configs:
        if getattr(config, key) is text_config:
            vars(config)[_ASKS] = {key: backend}
    setattr(config, _NOTE, {"policy": policy})
    if getattr(config, _OPENS, None) is None:  # else it brings a class of its own
        setattr(config, _OPENS, dict(_MODEL_MAP))


def forget(config: PretrainedConfig, text_config: PretrainedConfig) -> None:
    """Takes the note out again."""
    for one in (config, text_config):
        vars(one).pop(_ASKS, None)
    vars(config).pop(_NOTE, None)
    if getattr(config, _OPENS, None) == _MODEL_MAP:
        vars(config).pop(_OPENS)


def saved_policy(config: Any) -> str | None:
    """The policy that a model was saved unlocked under; None for one that was not."""
    return (getattr(config, _NOTE, None) or {}).get("policy")


class SavePretrained(Method):
    """`save_pretrained`, and the module that the saved config names."""

    name = "save_pretrained"

    def __call__(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        self._call(save_directory, *args, **kwargs)
        # Of a model with adapters, these alone are saved, and no config.
        if (Path(save_directory) / CONFIG_NAME).is_file() and getattr(self.model.config, _OPENS, None) == _MODEL_MAP:
            write_module(save_directory, "mutua.unlocking", _LOADER)
