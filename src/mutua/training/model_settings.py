"""The `model` section of a recipe: five kinds, told apart by their keys. `build` makes each of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, PlainValidator, Tag, model_validator
from pydantic_core import PydanticKnownError
from transformers import CONFIG_MAPPING, PreTrainedConfig, SiglipVisionConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from mutua.attention import POLICIES
from mutua.composition.presets import PRESETS
from mutua.models.connectors import connector_keys
from mutua.training.section import Section, expect_known

_TINY = "tiny"


def _name_or_keys(value: Any) -> Any:
    if not isinstance(value, (str, dict)):
        raise ValueError(f"got {value!r}, expected a text or keys and values")
    return value


def _known_connector(value: Any) -> Any:
    connector_keys(_name_or_keys(value))
    return value


def _part_or_sizes(value: Any) -> Any:
    return value if isinstance(_name_or_keys(value), str) else _expect_keys_of(SiglipVisionConfig, value)


def _text_sizes(value: dict[str, Any]) -> dict[str, Any]:
    kind = value.get("model_type", "llama")
    if not isinstance(kind, str) or kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ValueError(f"no language model of model_type {kind!r} in Transformers; take e.g. llama, qwen3 or phi3")
    return _expect_keys_of(CONFIG_MAPPING[kind], value)


def _expect_keys_of(config: type[PreTrainedConfig], sizes: dict[str, Any]) -> Any:
    return expect_known(f"key of {config.__name__}", sizes, config().to_dict())


Part = Annotated[str | dict[str, Any], PlainValidator(_name_or_keys)]
Connector = Annotated[str | dict[str, Any], PlainValidator(_known_connector)]
PolicyName = Annotated[str, AfterValidator(lambda name: expect_known("attention policy", [name], POLICIES)[0])]
PresetName = Annotated[str, AfterValidator(lambda name: expect_known("preset", [name], [_TINY, *PRESETS])[0])]

_POLICIES, _CONNECTORS = " or ".join(POLICIES), "mlp or resampler, or with sizes {type: resampler, latents: 64}"
_TOKENIZER = "folder or hub id; left out: the language model's own"
_TEMPLATE = "a Jinja file, or chatml"


class TinyModel(Section):
    """Fresh weights of a small size, with a tokenizer learned from the data."""

    preset: Literal["tiny"] = Field(description="tiny")
    vision: Annotated[str | dict[str, Any], PlainValidator(_part_or_sizes)] = Field(
        default={},
        description="sizes of its vision encoder (keys of SiglipVisionConfig); or the folder of a model, of Mutua's or "
        "another, whose vision encoder is taken over with its weights",
    )
    text: Annotated[dict[str, Any], AfterValidator(_text_sizes)] = Field(
        default={},
        description="sizes of its language model, and its `model_type`, e.g. qwen3 or phi3 (keys of that type's "
        "config); left out: llama",
    )
    connector: Connector | None = Field(default=None, description=f"{_CONNECTORS}; left out: mlp")
    attention_policy: PolicyName | None = Field(default=None, description=f"{_POLICIES}; left out: mma")


class FolderModel(Section):
    """The model in a folder, tokenizer included."""

    path: Path = Field(description="the folder that a run or `save_pretrained` wrote")
    attention_policy: PolicyName | None = Field(default=None, description=f"{_POLICIES}; left out: the folder's own")


class ForeignModel(Section):
    """A model of someone else's, unlocked (docs/unlock.md); it is trained in one process."""

    path: Path = Field(description="its folder or hub id")
    unlock: PolicyName = Field(description=f"{_POLICIES}")


class PresetModel(Section):
    """Put together from published parts, with a fresh connector; what is given besides takes the place of a part."""

    preset: PresetName = Field(description=", ".join(PRESETS))
    vision: Part | None = Field(default=None, description="as below")
    language: Part | None = Field(default=None, description="as below")
    connector: Connector | None = Field(default=None, description=f"{_CONNECTORS}; left out: the preset's")
    tokenizer: str | None = Field(default=None, description=_TOKENIZER)
    chat_template: str | None = Field(
        default=None, description=f"{_TEMPLATE}; left out: the preset's or the tokenizer's"
    )
    attention_policy: PolicyName | None = Field(default=None, description=f"{_POLICIES}; left out: mma")

    @model_validator(mode="after")
    def _known_types(self) -> PresetModel:
        _expect_model_types(self.vision, self.language)
        return self


class PartsModel(Section):
    """Put together from a vision encoder and a language model, with a fresh connector."""

    vision: Part = Field(
        description="the vision encoder's folder or hub id, or for fresh weights its config (`model_type` and sizes)"
    )
    language: Part = Field(
        description="the language model's folder, hub id or GGUF file, or for fresh weights its config"
    )
    connector: Connector | None = Field(default=None, description=f"{_CONNECTORS}; left out: resampler")
    tokenizer: str | None = Field(default=None, description=f"{_TOKENIZER}. Needed where that is a config")
    chat_template: str | None = Field(default=None, description=f"{_TEMPLATE}; left out: the tokenizer's")
    attention_policy: PolicyName | None = Field(default=None, description=f"{_POLICIES}; left out: mma")

    @model_validator(mode="after")
    def _known_types(self) -> PartsModel:
        _expect_model_types(self.vision, self.language)
        return self


KINDS: dict[str, type[Section]] = {
    "tiny": TinyModel,
    "folder": FolderModel,
    "foreign": ForeignModel,
    "preset": PresetModel,
    "parts": PartsModel,
}


def _kind(given: Any) -> str:
    if isinstance(given, Section):
        return next(name for name, kind in KINDS.items() if isinstance(given, kind))
    if "path" in given:
        return "foreign" if "unlock" in given else "folder"
    if "preset" in given:
        return "tiny" if given["preset"] == _TINY else "preset"
    return "parts"


def _one_origin(given: Any) -> Any:
    """Keys without a value are as good as left out; what is left belongs to one kind."""
    if isinstance(given, Section):
        return given
    if not isinstance(given, Mapping):
        raise PydanticKnownError("dict_type")
    known = {key for kind in KINDS.values() for key in kind.model_fields}
    given = {key: value for key, value in given.items() if key not in known or value not in (None, "", {})}
    preset, keys = given.get("preset"), given.keys()
    if keys >= {"preset", "path"} or not (keys & {"preset", "path"} or keys >= {"vision", "language"}):
        raise ValueError("give exactly one of preset and path, or vision and language")
    if "path" in keys and keys & {"connector", "vision", "text", "language", "tokenizer", "chat_template"}:
        raise ValueError(
            "connector, vision, language, tokenizer, chat_template and text make a new model; a model from a path has "
            "its own"
        )
    if preset == _TINY and keys & {"language", "tokenizer", "chat_template"}:
        raise ValueError(
            "preset tiny has its own language model (text has its type and sizes), tokenizer and chat template"
        )
    if "text" in keys and (preset is None or preset in PRESETS):
        raise ValueError("text is for the sizes of preset tiny; give language a config instead")
    return given


ModelSettings: TypeAlias = Annotated[
    Annotated[TinyModel, Tag("tiny")]
    | Annotated[FolderModel, Tag("folder")]
    | Annotated[ForeignModel, Tag("foreign")]
    | Annotated[PresetModel, Tag("preset")]
    | Annotated[PartsModel, Tag("parts")],
    Discriminator(_kind),
    BeforeValidator(_one_origin),
]


def _expect_model_types(vision: Any, language: Any) -> None:
    for key, value in (("vision", vision), ("language", language)):
        if isinstance(value, dict) and value.get("model_type") not in CONFIG_MAPPING:
            raise ValueError(f"{key} is a config without a model_type that Transformers knows, e.g. llama")
