"""The processor: conversations and pictures to tensors, roles included.

Roles come from the chat template, by its `{% generation %}` marks or by rendering step by step (`reply_spans`):
`apply_chat_template(tokenize=True)` returns them as `token_type_ids`. Text rendered before (`tokenize=False`) remembers
its replies; a rendered chat that comes as a plain string is read by the template's own pieces (`rendered`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import BatchFeature, ProcessorMixin
from transformers.image_utils import make_flat_list_of_images
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.processing_utils import MultiModalData

from mutua.chat.control_tokens import control_tokens_of
from mutua.chat.conversation import render_conversation
from mutua.chat.messages import Message, check_messages, hold_images, is_batch, open_images_of
from mutua.chat.rendered import RenderedChat, read_rendered
from mutua.chat.reply_spans import Rendering
from mutua.chat.reply_tokens import expand, reply_tokens, shift
from mutua.chat.template import ChatTemplate, ChatTemplateError, template_source, to_template_form
from mutua.images import open_images
from mutua.models.configuration import MutuaConfig
from mutua.models.saved_folder import PROCESSOR_MAP, write_module
from mutua.models.vision import image_processor
from mutua.roles import NONE, Modality, TokenRoles

_OF_TORCHVISION = "SiglipImageProcessor"
# Arguments of Transformers' method that are no options of the call, whatever the template does with them.
_VARIABLES = ("tools", "documents", "load_audio_from_video", "sanitize_control_tokens")
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
        if type(image_processor).__name__ == _OF_TORCHVISION:
            # Transformers saves ours under this name, and makes the other of it where torchvision is: other pixels.
            image_processor = SiglipImageProcessorPil.from_dict(image_processor.to_dict())
        self.image_token_id = tokenizer.convert_tokens_to_ids(image_token)
        # A checkpoint may hold the tokenizer alone: AutoProcessor is to say what is missing, not to go on with half.
        tokenizer.init_kwargs["auto_map"] = PROCESSOR_MAP
        super().__init__(image_processor, tokenizer, chat_template=chat_template or tokenizer.chat_template)

    @classmethod
    def for_config(
        cls, config: MutuaConfig, tokenizer: Any, chat_template: str, pictures: Mapping[str, Any] | None = None
    ) -> MutuaProcessor:
        """The processor that goes with a model's config; `pictures` is what the checkpoint of its vision encoder says
        of them (`given` of `image_processor`)."""
        return cls(
            image_processor=image_processor(config.vision_config, config.image_size, pictures),
            tokenizer=tokenizer,
            num_image_tokens=config.num_image_tokens,
            chat_template=chat_template,
        )

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        """As in Transformers, and beside it the module that opens the folder without `import mutua`."""
        self.auto_map = PROCESSOR_MAP
        os.makedirs(save_directory, exist_ok=True)
        write_module(save_directory)
        return super().save_pretrained(save_directory, *args, **kwargs)

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoProcessor") -> None:
        """Nothing: Transformers would copy our source files into every saved folder; `auto_map` names the package."""

    @property
    def model_input_names(self) -> list[str]:
        return [*super().model_input_names, "token_type_ids"]

    def replace_image_token(self, image_inputs: dict, image_idx: int, **kwargs: Any) -> str:
        """What one placeholder expands to."""
        return self.image_token * self.num_image_tokens

    def _get_num_multimodal_tokens(self, image_sizes: list | None = None, **kwargs: Any) -> MultiModalData:
        count = len(image_sizes or [])
        return MultiModalData(num_image_tokens=[self.num_image_tokens] * count, num_image_patches=[1] * count)

    def prepare_inputs_layout(
        self, images: Any = None, text: Any = None, videos: Any = None, audio: Any = None, **kwargs: Any
    ) -> tuple[Any, ...]:
        """As in Transformers, where every call begins with it; all pictures become 8-bit RGB here."""
        if videos is not None or audio is not None:
            raise ValueError("videos and audio have no input in this model: give images=... and text=... alone.")
        images = open_images(images) if images is not None else None
        if isinstance(images, list) and not any(images):
            images = None  # an empty list, or one for each text
        return super().prepare_inputs_layout(images=images, text=text, **kwargs)

    def _process_images(self, images: Any, **kwargs: Any) -> tuple[Any, list[str]]:
        """As in Transformers, less the steps that change no pixel: pictures are RGB by now, and may have their size."""
        size = self.image_processor.size
        has_size = all(picture.size == (size.width, size.height) for picture in make_flat_list_of_images(images))
        if has_size and "size" not in kwargs:
            kwargs["do_resize"] = False
        return super()._process_images(images, **{**kwargs, "do_convert_rgb": False})

    def validate_inputs(self, images: Any = None, text: Any = None, **kwargs: Any) -> None:
        """Raises ValueError unless there is one picture a placeholder: text by text where pictures come by text."""
        if text is not None and isinstance(images, list):
            counts = [one.count(self.image_token) for one in text]
            by_text = isinstance(images[0], list)
            given = [len(of_text) for of_text in images] if by_text else [len(images)]
            if given != (counts if by_text else [sum(counts)]):
                raise ValueError(
                    f"{given} pictures came for texts with {counts} placeholders {self.image_token!r}: give one for "
                    "each, in order."
                )
        super().validate_inputs(images=images, text=text, **kwargs)

    def __call__(self, images: Any = None, text: Any = None, return_roles: bool = True, **kwargs: Any) -> BatchFeature:
        """Rendered chats, whose replies are found, and raw text.

        Raw text with an image is one prompt block. Without an image it is a response: nothing in it looks ahead, and
        all of it may be trained on, be it a text of a corpus or the completion of a prompt processed on its own.

        Raises:
            ValueError: a plain string holds control tokens and is no whole chat as the template renders it, so who
                said what is not known. Pass the messages to `apply_chat_template` (or `return_roles=False` to get no
                `token_type_ids`).
        """
        texts = [text] if isinstance(text, str) else text
        is_texts = isinstance(texts, (list, tuple)) and len(texts) > 0 and all(isinstance(one, str) for one in texts)
        if text is not None and not is_texts:
            raise ValueError(f"text is a string or a list of strings, not {text!r:.60}: pass pictures as images=.")
        if not return_roles or text is None:
            return super().__call__(images=images, text=text, **kwargs)
        control_tokens = control_tokens_of(self.tokenizer)
        renderings = [self._read(one, control_tokens) for one in texts]
        if all(renderings):
            kwargs.setdefault("add_special_tokens", False)  # what a chat needs is in the template
        elif any(renderings) and kwargs.get("add_special_tokens", True) and self.tokenizer("")["input_ids"]:
            raise ValueError(
                "text holds rendered chats and raw texts, and this tokenizer adds tokens to every text, which chats "
                "have already: process the two in calls of their own."
            )
        return self._encode(list(texts), renderings, control_tokens, images=images, **kwargs)

    def _read(self, text: str, control_tokens: Mapping[str, int]) -> Rendering | None:
        """A rendered chat with its replies; None for raw text."""
        if isinstance(text, RenderedChat):
            return text.rendering
        found = next((token for token in control_tokens if token != self.image_token and token in text), None)
        if found is None:
            return None
        try:
            template = ChatTemplate(template_source(self), self.tokenizer.special_tokens_map)
            return read_rendered(template, text, control_tokens, self.image_token)
        except ValueError as error:
            raise ValueError(
                f"the text {text[:80]!r} holds the control token {found!r}, which could change who is speaking, and is "
                f"not known to be a rendered chat ({error}): remove the token, or pass the chat as messages to "
                "apply_chat_template."
            ) from error

    def apply_chat_template(
        self,
        conversation: Any,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = False,
        return_dict: bool = False,
        return_tensors: str | None = None,
        return_assistant_tokens_mask: bool = False,
        processor_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """As in Transformers; with `tokenize=True, return_dict=True` the result also holds `token_type_ids`.

        Content may be a string or parts, whichever of the two the template takes. The tokenizer adds nothing of its
        own (`add_special_tokens=False`), as in the tokenizer's method of this name: what a chat needs is in the
        template. With `return_assistant_tokens_mask=True` the result also holds `assistant_masks`, 1 where
        `token_type_ids` say that the assistant speaks. With `tokenize=False` the text remembers its replies
        (`RenderedChat`) for the call of this processor; it is a plain string where they cannot be found.

        Raises:
            ChatTemplateError: it does not follow from the template which text is a reply, or the template changes what
                was said (see `mutua.chat.reply_spans`).
            ValueError: a message that cannot be taken as it is (see `mutua.chat.messages`), a picture that cannot be
                used, or a token straddles the border of a reply.
        """
        template = ChatTemplate(template_source(self, chat_template), {**self.tokenizer.special_tokens_map, **kwargs})
        control_tokens = control_tokens_of(self.tokenizer)
        given = check_messages(conversation, control_tokens, template)
        batched = is_batch(conversation)
        end = {"add_generation_prompt": add_generation_prompt, "continue_final_message": continue_final_message}
        if not tokenize:
            texts = [self._text(template, messages, control_tokens, **end) for messages in given]
            return texts if batched else texts[0]
        renderings = [
            render_conversation(template, messages, self.image_token, control_tokens, **end) for messages in given
        ]
        more = {**kwargs, **(processor_kwargs or {})}
        options = {
            "padding": True,
            "add_special_tokens": False,
            "return_tensors": return_tensors,
            # As Transformers: what the template has no use for is an option of the call.
            **{name: value for name, value in kwargs.items() if name not in _VARIABLES and name not in template.source},
            **(processor_kwargs or {}),
            "images": _images(given, more.get("images")),
        }
        out = self._encode([rendering.text for rendering in renderings], renderings, control_tokens, **options)
        if return_assistant_tokens_mask:
            out["assistant_masks"] = _assistant_masks(out["token_type_ids"])
        return out if return_dict else out["input_ids"]

    def _text(
        self, template: ChatTemplate, messages: Sequence[Message], control_tokens: Mapping[str, int], **end: bool
    ) -> str:
        """One conversation as text, with its replies where they can be found."""
        try:
            return RenderedChat(render_conversation(template, messages, self.image_token, control_tokens, **end))
        except ChatTemplateError:
            return template.render(to_template_form(template, messages, self.image_token), **end)

    def _encode(
        self,
        texts: list[str],
        renderings: Sequence[Rendering | None],
        control_tokens: Mapping[str, int],
        return_tensors: str | None = None,
        **options: Any,
    ) -> BatchFeature:
        """Tokens and roles of texts, each with its rendering, or None for raw text."""
        if any(renderings) and not self.tokenizer.is_fast:
            raise ValueError(
                f"{type(self.tokenizer).__name__} gives no offsets, so replies cannot be found: use the fast tokenizer "
                "of this model."
            )
        asked = {option for option in _OFFSETS if options.get(option)}
        if options.get("return_attention_mask") is False:
            raise ValueError("return_attention_mask=False: the model needs the mask to tell padding: leave it out.")
        # Lists until the end: reading every token's offsets in Python takes ten times as long on a tensor.
        options |= {"return_text_replacement_offsets": True, "return_attention_mask": True}
        if any(renderings):
            options |= {"return_offsets_mapping": True}
        out = super().__call__(text=texts, **options)
        control_ids = set(control_tokens.values())
        is_response, begins_item = [], []
        for nth, rendering in enumerate(renderings):
            ids, mask = out["input_ids"][nth], out["attention_mask"][nth]
            replacements = out["text_replacement_offsets"][nth]
            if rendering is None:
                row = [not replacements] * len(ids)
            else:
                row = [False] * len(ids)
                first = mask.index(1) if 1 in mask else 0
                real = slice(first, first + sum(mask))  # padding stands on one side
                row[real] = reply_tokens(
                    expand(rendering.text, replacements),
                    shift(rendering.replies, replacements),
                    out["offset_mapping"][nth][real],
                    ids[real],
                    control_ids,
                    lambda text: self.tokenizer(text, add_special_tokens=False)["input_ids"],
                )
                if rendering.replies and options.get("truncation") and not any(row):
                    raise ValueError(
                        f"max_length={options.get('max_length')} cuts off every reply of text {nth}, "
                        f"{texts[nth][:60]!r} ..., so nothing of it could be learned: raise max_length, or leave the "
                        "sample out."
                    )
            is_response.append(row)
            begins_item.append(self._item_beginnings(ids, replacements))
        out["token_type_ids"] = self._codes(out["input_ids"], out["attention_mask"], is_response, begins_item)
        if return_tensors and len(set(map(len, is_response))) == 1:
            for name in ("input_ids", "attention_mask", "token_type_ids"):
                out[name] = np.array(out[name])  # which takes a tenth of the time of torch.tensor(out[name])
        for option, key in _OFFSETS.items():
            if option not in asked:
                out.pop(key, None)
        return out.convert_to_tensors(return_tensors)

    def _item_beginnings(self, ids: Sequence[int], replacements: Sequence[Mapping[str, Any]]) -> list[bool]:
        """Where the expansion of each image begins."""
        begins, place = [False] * len(ids), 0
        for replacement in replacements:
            place = ids.index(self.image_token_id, place)
            begins[place] = True
            place += replacement["replacement"].count(self.image_token)
        return begins

    def _codes(self, input_ids: Any, attention_mask: Any, is_response: Any, begins_item: Any) -> list[list[int]]:
        """Role codes of every row."""
        if len({len(row) for row in input_ids}) > 1:  # not padded
            rows = zip(input_ids, attention_mask, is_response, begins_item, strict=True)
            return [self._codes(*([values] for values in row))[0] for row in rows]
        ids_BN, is_token_BN, is_response_BN, begins_item_BN = (
            torch.from_numpy(np.array(rows, dtype))
            for rows, dtype in ((input_ids, np.int64), (attention_mask, bool), (is_response, bool), (begins_item, bool))
        )
        roles = TokenRoles.from_responses(
            is_response_BN & is_token_BN,
            torch.where(ids_BN == self.image_token_id, int(Modality.IMAGE), int(Modality.TEXT)),
            torch.where(is_token_BN, 0, NONE),
            begins_item_BN,
        )
        return roles.to_codes().tolist()


def _images(conversations: Sequence[Sequence[Message]], apart: Any) -> Any:
    """The images of the conversations, which come in their parts, or all of them apart."""
    if apart is None or (isinstance(apart, (list, tuple)) and not apart):
        return open_images_of(conversations)
    if any(hold_images(messages) for messages in conversations):
        raise ValueError("images came apart (images=...) and in the image parts of messages, too: give each one once.")
    return apart


def _assistant_masks(codes: Any) -> Any:
    """1 for every response token, in the form of the codes: a (B, N) tensor or array, or a list of rows."""
    if isinstance(codes, Tensor):
        return TokenRoles.from_codes(codes).is_response_BN.long()
    if isinstance(codes, np.ndarray):
        return _assistant_masks(torch.from_numpy(codes)).numpy()
    return [TokenRoles.from_codes(torch.tensor([row])).is_response_BN[0].long().tolist() for row in codes]
