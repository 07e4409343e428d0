"""What the released AKI checkpoint (`Sony/AKI-4B-phi-3.5-mini`) looks like: its config, chat format and tensor names.

It keeps the language model's own rows of the token table and a few added ones apart: ids below `initial_tokenizer_len`
use the former, ids from there on the latter, and the rest of the old rows is never used. A model of ours has one
ordinary table; the unused rows, with the layout of the released files, lie in a folder beside it.
"""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError

from mutua.composition.tokenizer import TEXT_MACRO

SYSTEM_MESSAGE = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
# The prompts of the released demo: a system message always, each image on a line of its own.
CHAT_TEMPLATE = (
    TEXT_MACRO.replace("'<image>'", "'<image>\\n'") + "{{- '<s> ' -}}"
    "{%- if messages[0]['role'] != 'system' -%}{{- '<|system|>\\n"
    + SYSTEM_MESSAGE.replace("'", "\\'")
    + "<|end|>\\n' -}}"
    "{%- endif -%}"
    "{%- for message in messages -%}"
    "{{- '<|' + message['role'] + '|>\\n' -}}"
    "{%- if message['role'] == 'assistant' -%}"
    "{%- generation -%}{{- text(message['content']) + '<|end|>' -}}{%- endgeneration -%}{{- '\\n' -}}"
    "{%- else -%}{{- text(message['content']) + '<|end|>\\n' -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>\\n' -}}{%- endif -%}"
)
END, TURNS = "<|end|>", ("<|system|>", "<|user|>", "<|assistant|>")

EMBED = "model.language_model.embed_tokens.weight"
# Tables of two parts, by our name: the released name of the added rows.
ADDED_ROWS = {
    EMBED: "lang_model.model.embed_tokens.additional_embedding.weight",
    "lm_head.weight": "lang_model.lm_head.additional_fc.weight",
    "lm_head.bias": "lang_model.lm_head.additional_fc.bias",
}
# From our names to the released ones.
_RENAMED = (
    (r"^model\.vision_tower\.", "vision_encoder."),
    (r"^model\.connector\.layers\.(\d+)\.attention\.", r"vision_tokenizer.layers.\1.0."),
    (r"^model\.connector\.layers\.(\d+)\.feed_forward\.", r"vision_tokenizer.layers.\1.1."),
    (r"^model\.connector\.", "vision_tokenizer."),
    (r"^model\.language_model\.", "lang_model.model."),
    (r"^lm_head\.", "lang_model.lm_head."),
)
ASIDE = "aki"  # folder beside the converted model
UNUSED, LAYOUT, CONFIG = "unused_rows.safetensors", "layout.json", "config.json"
OTHERS = "files"  # folder in it: what else was released, but for weights


class AkiError(ValueError):
    """A checkpoint that cannot be converted; the message names the file, the key and the remedy."""


class AkiConfig(BaseModel):
    """What the released `config.json` says, as far as a conversion needs it."""

    model_config = ConfigDict(extra="allow")

    vision_encoder_path: str
    lang_model_path: str
    initial_tokenizer_len: PositiveInt
    pad_token_id: NonNegativeInt
    num_vision_tokens: PositiveInt = 144
    n_px: PositiveInt = 384
    norm_mean: float = 0.5
    norm_std: PositiveFloat = 0.5


def released_name(ours: str) -> str:
    """Of a tensor that we call `ours`; its own name if the two do not differ."""
    for pattern, replacement in _RENAMED:
        released, count = re.subn(pattern, replacement, ours)
        if count:
            return released
    return ours


def read_config(folder: Path) -> AkiConfig:
    """The `config.json` in a released folder.

    Raises:
        AkiError: it cannot be read, or is that of another model.
    """
    path = folder / CONFIG
    try:
        return AkiConfig.model_validate_json(path.read_bytes())
    except OSError as error:
        raise AkiError(
            f"{path} cannot be read ({error.strerror}): give the folder of the released checkpoint"
        ) from error
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']}" for e in error.errors())
        raise AkiError(f"{path} is no config of a released AKI checkpoint: {problems}") from error


def refuse_difference(expected: set[str], found: set[str], source: Path) -> None:
    """Raises an `AkiError` that names the tensors of `source` which are missing, and those that nothing expects."""
    problems = [
        f"{len(names)} {what}: {', '.join(sorted(names)[:5])}{' ...' if len(names) > 5 else ''}"
        for what, names in (("missing", expected - found), ("unknown", found - expected))
        if names
    ]
    if problems:
        raise AkiError(
            f"{source}: its tensors are not those of this model; {'; '.join(problems)}. Do vision encoder and language "
            "model have as many layers as the checkpoint?"
        )
