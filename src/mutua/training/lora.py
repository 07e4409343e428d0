"""LoRA through PEFT: small adapters in a frozen language model, trained beside whatever else is not frozen.

PEFT puts the adapters into the linear layers in place, so the model keeps its class and all code its one model:
`W x` becomes `W x + alpha / rank * B A x`. B starts at zero, so training starts exactly at the model it was given. In
the end `alpha / rank * B A` is added into W, and nothing of PEFT is left.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from mutua.models.model_folder import ADAPTER_POLICY
from mutua.training.checkpoint import CheckpointError
from mutua.training.recipe import LoraSettings
from mutua.training.shards import local, shard_like, whole
from mutua.unlocking import policy_of

_TRAINED = "trained.safetensors"
_FROZEN = "frozen_crc32"
_ADAPTER = "lora_"  # in the names of PEFT's own parameters, and of no others
_HEAD = "lm_head."
_PIXELS = (
    *("size", "crop_size", "image_mean", "image_std", "rescale_factor", "resample", "patch_size"),
    *("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb", "do_pad"),
)


class Adapters:
    """The adapters of a model. Making them freezes the language model's own weights; other parts stay as they are.

    Args:
        frozen: the CRC-32 of all frozen weights, `frozen` of the same model whole, where this one's are in shards.
        processor: the model's, where a run goes on from what `save` writes: it must make the same of its data.

    Raises:
        ValueError: a target matches no linear layer of the language model.
        ImportError: PEFT is not installed.
    """

    def __init__(
        self, model: PreTrainedModel, settings: LoraSettings, frozen: str | None = None, processor: Any = None
    ) -> None:
        try:
            from peft import LoraConfig, LoraModel
        except ImportError as error:
            raise ImportError('train.lora needs PEFT: pip install "mutua[lora]"') from error
        self._language_model = _language_model(model)
        self._targets = _target_layers(model, self._language_model, settings.targets)
        self.description = f"LoRA of rank {settings.rank} on {len(self._targets)} linear layers of the language model"
        trained_fully = [
            p
            for n, p in model.named_parameters()
            if p.requires_grad and not n.startswith((self._language_model, _HEAD))
        ]
        self._model = model
        self._config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules=self._targets,
            base_model_name_or_path=model.name_or_path or None,
        )
        # What `inject_adapter_in_model` makes, kept because it is what can merge.
        self._tuner = LoraModel(model, self._config, "default")
        for parameter in trained_fully:  # PEFT has frozen all but its own
            parameter.requires_grad_(True)
        if frozen is not None:
            self.frozen = frozen
        self._reads = {}
        if processor is not None:
            self._reads = {"policy": str(policy_of(model)), "processor": _digest_of(processor)}

    def weights(self) -> dict[str, Tensor]:
        """What is trained, whole, in every process: all must ask."""
        return {name: whole(parameter.detach()).contiguous() for name, parameter in self._trained().items()}

    def save(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        """Writes `weights`, now or earlier: all that a run needs besides the model it started from."""
        save_file(dict(weights), folder / _TRAINED, metadata={_FROZEN: self.frozen, **self._reads})

    def load(self, folder: Path) -> None:
        """Undoes `save`.

        Raises:
            CheckpointError: the frozen weights, the policy or the processor are not those that `save` saw.
        """
        with safe_open(folder / _TRAINED, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
            saved = file.metadata() or {}
        frozen = saved.get(_FROZEN)
        trained = self._trained()
        if frozen != self.frozen or _shapes(tensors) != _shapes(trained):
            raise CheckpointError(
                f"{folder}: does not fit the model that the recipe's `model` gives now: its frozen weights have "
                "changed since this run began. Put the old model back, or choose another `output` to start over"
            )
        for name, now in self._reads.items():
            if saved.get(name, now) != now:
                what = {"policy": f"policy is {now}, and was {saved[name]}", "processor": "chat template, tokenizer or "
                        "image processor makes other tokens or pixels"}[name]  # fmt: skip
                raise CheckpointError(
                    f"{folder}: does not fit the model that the recipe's `model` gives now: its {what} when this run "
                    "began. Put the old model back, or choose another `output` to start over"
                )
        with torch.no_grad():
            for name, parameter in trained.items():
                local(parameter).copy_(local(shard_like(parameter, tensors[name])))

    def export(self, folder: Path) -> None:
        """Writes PEFT's format: the adapters, and beside them every other part of the model that was trained."""
        from peft import get_peft_model_state_dict

        tensors = get_peft_model_state_dict(self._model, save_embedding_layers=False)
        parts = [
            (f"model.{name}", part)
            for name, part in self._model.model.named_children()
            if f"model.{name}." != self._language_model and any(p.requires_grad for p in part.parameters())
        ]
        for name, part in parts:
            tensors |= {f"{name}.{key}": tensor for key, tensor in part.state_dict().items()}
        save_file(
            {f"base_model.model.{name}": tensor.contiguous() for name, tensor in tensors.items()},
            folder / "adapter_model.safetensors",
            metadata={"format": "pt"},
        )
        # Only here: told earlier, PEFT would train copies of these parts.
        self._config.modules_to_save = [name for name, _ in parts] or None
        self._config.target_modules = self._targets
        self._config.inference_mode = True
        self._config.save_pretrained(str(folder))
        policy = {"attention_policy": policy_of(self._model)}  # PEFT's config has no place for it
        (folder / ADAPTER_POLICY).write_text(json.dumps(policy) + "\n", encoding="utf-8")

    def merge(self) -> None:
        """Adds the adapters into the weights: from here on the model is an ordinary one, and this object is done."""
        self._tuner.merge_and_unload()

    def _trained(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self._model.named_parameters() if p.requires_grad}

    @cached_property
    def frozen(self) -> str:
        """CRC-32 of all that is frozen, names included."""
        crc = 0
        for name, parameter in self._model.named_parameters():
            if not parameter.requires_grad:
                content = parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
                crc = zlib.crc32(content, zlib.crc32(name.encode(), crc))
        return str(crc)


def is_adapter(name: str) -> bool:
    """Whether a parameter of this name belongs to an adapter."""
    return f".{_ADAPTER}" in name


def without_adapters(name: str) -> str:
    """What a parameter is called in the model without adapters."""
    return name.replace(".base_layer.", ".")


def is_lora(folder: Path) -> bool:
    """Whether the folder is what `Adapters.save` wrote."""
    return (folder / _TRAINED).is_file()


def _language_model(model: PreTrainedModel) -> str:
    """How the names of its parameters begin, the head's aside."""
    decoder = model.get_decoder()
    name = next(name for name, module in model.named_modules() if module is decoder)
    if not re.fullmatch(r"model\.\w+", name):
        raise ValueError(
            f"train.lora: the language model of a {type(model).__name__} is called {name!r}, and adapters go into one "
            "that is a part of `model`."
        )
    return f"{name}."


def _target_layers(model: nn.Module, language_model: str, patterns: tuple[str, ...]) -> list[str]:
    """The names of the language model's linear layers that match any of the patterns."""
    layers = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith(language_model)
    ]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in layers):
            parts = sorted({".".join(name.split(".")[-2:]) for name in layers})
            raise ValueError(
                f"train.lora.targets: {pattern!r} matches no linear layer of the language model; they are called "
                f"{', '.join(parts)} (write *.{parts[0]} for the first of these in every layer)"
            )
    return [name for name in layers if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _digest_of(processor: Any) -> str:
    """Of what decides which tokens and pixels a model is given: no date, and nothing that rounds."""
    pictures = getattr(processor, "image_processor", None)
    settings = {} if pictures is None else {name: pictures.to_dict().get(name) for name in _PIXELS}
    tokens = [processor.tokenizer("What is 1 + 1?")["input_ids"], processor.tokenizer.special_tokens_map]
    text = json.dumps([processor.chat_template, tokens, settings], sort_keys=True, default=str)
    return blake2b(text.encode(), digest_size=8).hexdigest()


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}
