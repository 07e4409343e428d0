"""The processor: conversations and pictures to tensors, roles included.

Roles come from the chat template's own `{% generation %}` marks (what the assistant says, end mark included), never
from ids of special tokens: `apply_chat_template(tokenize=True)` returns them as `token_type_ids`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import BatchFeature, ProcessorMixin
from transformers.processing_utils import MultiModalData

from mutua.roles import NONE, Modality, TokenRoles


class MutuaProcessor(ProcessorMixin):
    """Image processor + tokenizer + chat template.

    Args:
        num_image_tokens: visual tokens per image (`MutuaConfig.num_image_tokens`).
        image_token: the placeholder, a special token of the tokenizer.
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
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

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
        for one in [text] if isinstance(text, str) else text or []:
            self._refuse_control_tokens(one, allow=self.image_token)
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

        Raises:
            ValueError: a message's text holds a control token (it could change who is speaking), or the template has no
                `{% generation %}` marks although the conversation has replies.
        """
        template = {"chat_template": chat_template, "add_generation_prompt": add_generation_prompt, **kwargs}
        if not tokenize:
            return super().apply_chat_template(conversation, continue_final_message=continue_final_message, **template)
        batched = isinstance(conversation[0], (list, tuple))
        for messages in conversation if batched else [conversation]:
            for message in messages:
                content = message["content"]
                for part in [{"text": content}] if isinstance(content, str) else content:
                    self._refuse_control_tokens(part.get("text", ""))

        options = {"padding": True, **(processor_kwargs or {}), "return_roles": False}
        tensors = options.pop("return_tensors", return_tensors)
        # Lists until the end: Transformers walks every token's offsets in Python, which takes ten times as long on a
        # tensor.
        template |= {"tokenize": True, "return_dict": True, "return_tensors": None, "processor_kwargs": options}
        if continue_final_message:
            out = super().apply_chat_template(conversation, continue_final_message=True, **template)
            is_response = self._after_prompt(out, conversation, batched, template)
        else:
            out = super().apply_chat_template(conversation, return_assistant_tokens_mask=True, **template)
            is_response = out.pop("assistant_masks")
            self._expect_replies(is_response, conversation if batched else [conversation])
        out["token_type_ids"] = self._codes(out["input_ids"], out["attention_mask"], is_response)
        out.convert_to_tensors(tensors)
        return out if return_dict else out["input_ids"]

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

    def _after_prompt(self, out: BatchFeature, conversation: Any, batched: bool, template: dict[str, Any]) -> list:
        """Responses of conversations whose last message goes on: those of the prompt, and all that follows it.

        The template's marks end with the message's end mark, which is not there, so the prompt is rendered on its own
        and must be a prefix of the whole.
        """
        prompts = [messages[:-1] for messages in conversation] if batched else conversation[:-1]
        template = {**template, "add_generation_prompt": True, "return_assistant_tokens_mask": True}
        template["processor_kwargs"] = {**template["processor_kwargs"], "padding": False}
        prompt = super().apply_chat_template(prompts, **template)
        masks = []
        for ids, attention, prompt_ids, prompt_mask in zip(
            out["input_ids"], out["attention_mask"], prompt["input_ids"], prompt["assistant_masks"], strict=True
        ):
            places = [place for place, is_token in enumerate(attention) if is_token]
            if [ids[place] for place in places[: len(prompt_ids)]] != prompt_ids:
                raise ValueError(
                    "the chat template renders this prompt differently when its last reply goes on, so where the reply "
                    "starts is not known: end the conversation with a user message."
                )
            mask = [0] * len(ids)
            for nth, place in enumerate(places):
                mask[place] = prompt_mask[nth] if nth < len(prompt_ids) else 1
            masks.append(mask)
        return masks

    @staticmethod
    def _expect_replies(is_response: Any, conversations: Any) -> None:
        for mask, messages in zip(is_response, conversations, strict=True):
            if any(m["role"] == "assistant" and m["content"] for m in messages) and not any(mask):
                raise ValueError(
                    "the chat template does not mark what the assistant says: put {% generation %} ... "
                    "{% endgeneration %} around the assistant's message and its end token."
                )

    def _refuse_control_tokens(self, text: str, allow: str | None = None) -> None:
        for token in self.tokenizer.all_special_tokens:
            if token in text and token != allow:
                raise ValueError(
                    f"the text {text[:80]!r} holds the control token {token!r}, which could change who is speaking: "
                    "remove it, or pass a rendered chat as messages to apply_chat_template."
                )
