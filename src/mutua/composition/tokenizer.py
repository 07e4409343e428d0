"""A language model's own tokenizer, made ready for images: a placeholder, a padding token, a chat template."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from mutua.chat.control_tokens import control_tokens_of
from mutua.chat.reply_spans import find_replies
from mutua.chat.template import ChatTemplate, to_template_form

IMAGE = "<image>"

_PADDING_NAMES = ("<pad>", "<|pad|>", "[PAD]", "<|finetune_right_pad_id|>")
_NEW_PADDING = "<|pad|>"

TEXT_MACRO = (
    "{%- macro text(content) -%}"
    "{%- if content is string -%}{{- content -}}"
    "{%- else -%}{%- for part in content -%}"
    "{%- if part['type'] == 'image' -%}{{- '<image>' -}}{%- else -%}{{- part['text'] -}}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{%- endmacro -%}"
)


CHATML = "chatml"
"""A chat template by name, for language models whose own does not say which text is the reply: Qwen3's and SmolLM3's
write empty reasoning before it, or a date."""

_TURN, _END = "<|im_start|>", "<|im_end|>"
_CHATML = (
    TEXT_MACRO + "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' -}}"
    "{%- if message['role'] == 'assistant' -%}"
    "{%- generation -%}{{- text(message['content']) + '<|im_end|>' -}}{%- endgeneration -%}{{- '\\n' -}}"
    "{%- else -%}{{- text(message['content']) + '<|im_end|>\\n' -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


def prepare_tokenizer(tokenizer: Any) -> Any:
    """A copy of `tokenizer` with `<image>` as a special token and a padding token, padding on the left.

    The end token stays what it is. A missing padding token is one that the vocabulary has by that name, else a new one:
    never the end token, which must be learned and so must not count as padding.
    """
    tokenizer = deepcopy(tokenizer)
    _add(tokenizer, IMAGE)
    if tokenizer.pad_token is None:
        known = tokenizer.get_vocab()
        tokenizer.pad_token = next((name for name in _PADDING_NAMES if name in known), _NEW_PADDING)
        if tokenizer.pad_token not in known:
            _add(tokenizer, tokenizer.pad_token)
    settings = {
        "padding_side": "left",  # generation; training pads right by itself
        "model_input_names": ["input_ids", "attention_mask"],  # the processor adds the roles
    }
    for key, value in settings.items():
        setattr(tokenizer, key, value)
        tokenizer.init_kwargs[key] = value  # what is saved
    return tokenizer


def rows_needed(tokenizer: Any) -> int:
    """Rows that an embedding table must have for every token of the vocabulary."""
    return max(tokenizer.get_vocab().values()) + 1


def chat_template_of(tokenizer: Any, given: str | None = None) -> str:
    """The chat template that was given, as Jinja source or as `CHATML`; else the tokenizer's own; for a base model that
    has none, a plain one.

    Raises:
        ValueError: the tokenizer does not know ChatML's tokens; or it has no end token, so a reply could not end.
    """
    if given == CHATML:
        if missing := [token for token in (_TURN, _END) if token not in tokenizer.get_vocab()]:
            raise ValueError(f"chat_template {CHATML!r}: the tokenizer has no {' and no '.join(missing)}.")
        return _CHATML
    if given is not None:
        return given
    if tokenizer.chat_template:
        return tokenizer.get_chat_template()
    return plain_template(tokenizer)


def plain_template(tokenizer: Any) -> str:
    """`User: ...` and `Assistant: ...` in lines; a reply ends with the tokenizer's end token.

    Raises:
        ValueError: there is no end token, so a reply could not end.
    """
    if tokenizer.eos_token is None:
        raise ValueError("the tokenizer has neither a chat template nor an end token: give chat_template=.")
    first = tokenizer("a")["input_ids"][:1]
    bos = "{{- bos_token -}}" if first == [tokenizer.bos_token_id] else ""
    return (
        f"{TEXT_MACRO}{bos}"
        "{%- for message in messages -%}"
        "{%- if message['role'] == 'assistant' -%}"
        "{{- 'Assistant:' -}}{%- generation -%}{{- ' ' + text(message['content']) + eos_token -}}{%- endgeneration -%}"
        "{%- else -%}{{- message['role'] | capitalize + ': ' + text(message['content']) -}}{%- endif -%}"
        "{{- '\\n' -}}"
        "{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- 'Assistant:' -}}{%- endif -%}"
    )


def reply_end(tokenizer: Any, chat_template: str) -> int | None:
    """The control token that ends a reply under this template; None where it marks replies without one.

    Raises:
        ChatTemplateError: it does not follow from the template which text is a reply.
    """
    controls = control_tokens_of(tokenizer)
    template = ChatTemplate(chat_template, tokenizer.special_tokens_map)
    asked: list[dict[str, Any]] = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    rendering = find_replies(template, to_template_form(template, asked, IMAGE), controls)
    said = rendering.text[slice(*rendering.replies[-1])].rstrip()
    ends = [token for token in controls if said.endswith(token)]
    return controls[max(ends, key=len)] if ends else None


def _add(tokenizer: Any, token: str) -> None:
    tokenizer.add_special_tokens({"extra_special_tokens": [token]}, replace_extra_special_tokens=False)
