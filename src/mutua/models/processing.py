"""The processor: conversations and pictures to tensors, roles included.

Roles come from the chat template, by its `{% generation %}` marks or by rendering step by step (`reply_spans`), never
from ids of special tokens: `apply_chat_template(tokenize=True)` returns them as `token_type_ids`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import BatchFeature, ProcessorMixin
from transformers.processing_utils import MultiModalData

from mutua.chat.reply_spans import Rendering, expect_images, find_replies
from mutua.chat.reply_tokens import expand, reply_tokens, shift
from mutua.chat.template import ChatTemplate, Message, as_taken, count_images, images_of, texts_of
from mutua.roles import NONE, Modality, TokenRoles

# Arguments of Transformers' method that are no options of the call, whatever the template does with them.
_VARIABLES = ("tools", "documents", "load_audio_from_video", "sanitize_control_tokens", "return_assistant_tokens_mask")
# Options of the call, and what they add to its result.
_OFFSETS = {"return_offsets_mapping": "offset_mapping", "return_text_replacement_offsets": "text_replacement_offsets"}


class MutuaProcessor(ProcessorMixin):
    """Image processor + tokenizer + chat template.

    Args:
        num_image_tokens: visual tokens per image (`MutuaConfig.num_image_tokens`).
        image_token: the placeholder, a special token of the tokenizer.
        chat_template: None takes the tokenizer's own.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        num_image_tokens: int = 144,
        image_token: str = "<image>",
        chat_template: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.num_image_tokens = num_image_tokens
        self.image_token = image_token
        self.image_token_id = tokenizer.convert_tokens_to_ids(image_token)
        super().__init__(image_processor, tokenizer, chat_template=chat_template or tokenizer.chat_template)

    @property
    def model_input_names(self) -> list[str]:
        return [*super().model_input_names, "token_type_ids"]

    def replace_image_token(self, image_inputs: dict, image_idx: int, **kwargs: Any) -> str:
        """What one placeholder expands to."""
        return self.image_token * self.num_image_tokens

    def _get_num_multimodal_tokens(self, image_sizes: list | None = None, **kwargs: Any) -> MultiModalData:
        count = len(image_sizes or [])
        return MultiModalData(num_image_tokens=[self.num_image_tokens] * count, num_image_patches=[1] * count)

    def __call__(self, images: Any = None, text: Any = None, return_roles: bool = True, **kwargs: Any) -> BatchFeature:
        """Raw text, which is taken as one prompt block: all of it is given before a reply.

        Raises:
            ValueError: the text holds control tokens, so it is a rendered chat and who said what is lost. Pass the
                messages to `apply_chat_template` instead (or `return_roles=False` to get no `token_type_ids`).
        """
        if not return_roles:
            return super().__call__(images=images, text=text, **kwargs)
        control_tokens = self._control_tokens().keys() - {self.image_token}
        for one in [text] if isinstance(text, str) else text or []:
            _refuse_control_tokens(one, control_tokens)
        out = super().__call__(images=images, text=text, **kwargs)
        if "input_ids" in out:
            out["token_type_ids"] = self._codes(out["input_ids"], out["attention_mask"], None)
        return out

    def apply_chat_template(
        self,
        conversation: Any,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = False,
        return_dict: bool = False,
        return_tensors: str | None = None,
        processor_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """As in Transformers; with `tokenize=True, return_dict=True` the result also holds `token_type_ids`.

        Content may be a string or parts, whichever of the two the template takes. The tokenizer adds nothing of its
        own (`add_special_tokens=False`), as in the tokenizer's method of this name: what a chat needs is in the
        template.

        Raises:
            ChatTemplateError: it does not follow from the template which text is a reply, or the template changes what
                was said (see `mutua.chat.reply_spans`).
            ValueError: a message's text holds a control token (it could change who is speaking), or a token straddles
                the border of a reply.
        """
        if kwargs.get("return_assistant_tokens_mask"):
            raise ValueError("return_assistant_tokens_mask: token_type_ids say which tokens are replies (TokenRoles).")
        batched = isinstance(conversation[0], (list, tuple))
        given = conversation if batched else [conversation]
        template = ChatTemplate(self._template_source(chat_template), {**self.tokenizer.special_tokens_map, **kwargs})
        conversations = [as_taken(template, messages, self.image_token) for messages in given]
        goes_on = {"add_generation_prompt": add_generation_prompt, "continue_final_message": continue_final_message}
        if not tokenize:
            texts = [template.render(messages, **goes_on) for messages in conversations]
            return texts if batched else texts[0]
        control_tokens = self._control_tokens()
        for messages in given:
            _check_messages(messages, control_tokens)
        renderings = [find_replies(template, messages, control_tokens, **goes_on) for messages in conversations]
        for rendering, messages in zip(renderings, given, strict=True):
            expect_images(rendering, messages, self.image_token)
        images = [images_of(messages) for messages in given]
        options = {
            "padding": True,
            "add_special_tokens": False,
            "images": images if any(images) else None,
            "return_tensors": return_tensors,
            # As Transformers: what the template has no use for is an option of the call.
            **{name: value for name, value in kwargs.items() if name not in _VARIABLES and name not in template.source},
            **(processor_kwargs or {}),
        }
        out = self._encode(renderings, control_tokens, **options)
        return out if return_dict else out["input_ids"]

    def _encode(
        self,
        renderings: Sequence[Rendering],
        control_tokens: Mapping[str, int],
        return_tensors: str | None,
        **options: Any,
    ) -> BatchFeature:
        """Tokens and roles of rendered chats."""
        if not self.tokenizer.is_fast:
            raise ValueError(
                f"{type(self.tokenizer).__name__} gives no offsets, so replies cannot be found: use the fast tokenizer "
                "of this model."
            )
        asked = {option for option in _OFFSETS if options.get(option)}
        # Lists until the end: walking every token's offsets in Python takes ten times as long on a tensor.
        texts = [rendering.text for rendering in renderings]
        out = super().__call__(text=texts, **{**options, **dict.fromkeys(_OFFSETS, True)})
        is_response = []
        for nth, rendering in enumerate(renderings):
            replacements = out["text_replacement_offsets"][nth]
            real = [place for place, is_token in enumerate(out["attention_mask"][nth]) if is_token]
            found = reply_tokens(
                expand(rendering.text, replacements),
                shift(rendering.replies, replacements),
                [out["offset_mapping"][nth][place] for place in real],
                [out["input_ids"][nth][place] for place in real],
                set(control_tokens.values()),
                lambda text: self.tokenizer(text, add_special_tokens=False)["input_ids"],
            )
            row = [0] * len(out["input_ids"][nth])
            for place, is_reply in zip(real, found, strict=True):
                row[place] = int(is_reply)
            is_response.append(row)
        out["token_type_ids"] = self._codes(out["input_ids"], out["attention_mask"], is_response)
        for option, key in _OFFSETS.items():
            if option not in asked:
                out.pop(key)
        return out.convert_to_tensors(return_tensors)

    def _codes(self, input_ids: Any, attention_mask: Any, is_response: Any) -> Any:
        """Role codes in the shape of `input_ids`: a (B, N) tensor, a list of rows, or one row."""
        if not isinstance(input_ids, Tensor):
            if input_ids and not isinstance(input_ids[0], (list, tuple)):
                return self._codes([input_ids], [attention_mask], is_response)[0]
            if len({len(row) for row in input_ids}) > 1:  # not padded
                rows = zip(input_ids, attention_mask, is_response or [None] * len(input_ids), strict=True)
                return [self._codes([i], [a], None if r is None else [r])[0] for i, a, r in rows]
            response_BN = None if is_response is None else torch.tensor(is_response)
            return self._codes(torch.tensor(input_ids), torch.tensor(attention_mask), response_BN).tolist()
        is_token_BN = attention_mask.bool()
        is_response_BN = torch.zeros_like(is_token_BN) if is_response is None else is_response.bool()
        modality_BN = torch.where(input_ids == self.image_token_id, int(Modality.IMAGE), int(Modality.TEXT))
        document_BN = torch.where(is_token_BN, 0, NONE)
        return TokenRoles.from_responses(
            is_response_BN & is_token_BN, modality_BN, document_BN, item_length=self.num_image_tokens
        ).to_codes()

    def _template_source(self, chat_template: str | None) -> str:
        """The template's text, given it, or its name among several, or None for the default."""
        own = self.chat_template if isinstance(self.chat_template, dict) else {"default": self.chat_template}
        source = own.get(chat_template or "default", chat_template)
        if source is None:
            raise ValueError(
                f"no chat template to render with (the processor has {sorted(k for k, v in own.items() if v)}): pass "
                "chat_template=..., or set processor.chat_template."
            )
        return source

    def _control_tokens(self) -> dict[str, int]:
        """The tokenizer's special tokens, and their ids."""
        added = {token.content: index for index, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        named = self.tokenizer.all_special_tokens
        return added | dict(zip(named, self.tokenizer.convert_tokens_to_ids(named), strict=True))


def _check_messages(messages: Sequence[Message], control_tokens: Iterable[str]) -> None:
    for message in messages:
        if message["role"] == "assistant" and count_images([message]):
            raise ValueError("an image in an assistant message: images belong in user messages.")
        for text in texts_of(message):
            _refuse_control_tokens(text, control_tokens)


def _refuse_control_tokens(text: str, control_tokens: Iterable[str]) -> None:
    for token in control_tokens:
        if token in text:
            raise ValueError(
                f"the text {text[:80]!r} holds the control token {token!r}, which could change who is speaking: "
                "remove it, or pass a rendered chat as messages to apply_chat_template."
            )
