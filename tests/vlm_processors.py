"""Processors of Transformers with tiny image processors, and for each an oracle that knows its chats by heart.

An oracle gives a conversation in pieces, (text, who), images expanded: who is SAID for what the model says, GIVEN for
what it is given, and a number, the image's, for tokens that features replace. It looks at no template and at no
processor: how many tokens a picture has is written down here for pictures of three shapes.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PIL import Image
from tiny_model import CORPUS
from tokenizers import AddedToken
from transformers import (
    Gemma3Processor,
    Idefics3Processor,
    InternVLProcessor,
    LlavaNextProcessor,
    LlavaOnevisionProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLProcessor,
)
from transformers.models.gemma3 import Gemma3ImageProcessorPil
from transformers.models.got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava import LlavaImageProcessorPil
from transformers.models.llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.pixtral import PixtralImageProcessorPil
from transformers.models.qwen2_vl import Qwen2VLImageProcessorPil

from mutua.composition.tiny import train_tokenizer

SAID, GIVEN = "said", "given"
Pieces = list[tuple[str, Any]]

# Pixels, as (width, height). No image processor here is told anything of them but the pictures themselves.
SQUARE, WIDE, TALL = (16, 16), (40, 20), (20, 60)


def picture(size: tuple[int, int]) -> dict:
    return {"type": "image", "image": Image.new("RGB", size, "red")}


def words(text: str) -> dict:
    return {"type": "text", "text": text}


def _tokenizer(special: list[str], **named: str) -> PreTrainedTokenizerFast:
    tokenizer = train_tokenizer([*CORPUS, "\n\n\n\n USER: ASSISTANT: User: Assistant:", "user assistant model"], 400)
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.eos_token, tokenizer.bos_token = "</s>", "<s>"
    for name, token in named.items():
        setattr(tokenizer, name, token)
        setattr(tokenizer, f"{name}_id", tokenizer.convert_tokens_to_ids(token))
    return tokenizer


def _without_video(cls: type) -> type:
    """The class, content without a video processor, which takes torchvision."""

    class WithoutVideo(cls):  # type: ignore[valid-type,misc]
        def check_argument_for_proper_class(self, name: str, argument: Any) -> Any:
            return None if argument is None else super().check_argument_for_proper_class(name, argument)

    return WithoutVideo


def _pixtral_class() -> type:
    """Its module takes one function from a module that needs torchvision; the same function is in the one for Pil."""
    pil = importlib.import_module("transformers.models.pixtral.image_processing_pil_pixtral")
    sys.modules.setdefault("transformers.models.pixtral.image_processing_pixtral", pil)
    return importlib.import_module("transformers.models.pixtral.processing_pixtral").PixtralProcessor


@dataclass(frozen=True)
class Family:
    """A processor, and its oracle.

    Attributes:
        make: builds the processor, chat template included.
        expand: size of a picture, its number, whether it is alone in its conversation -> pieces.
        chat: conversation, whether the generation prompt is asked for -> pieces, pictures as (size, number).
    """

    name: str
    make: Callable[[], Any]
    expand: Callable[[tuple[int, int], int, bool], Pieces]
    chat: Callable[[list[dict], bool], list]

    def pieces(self, messages: list[dict], prompt: bool) -> Pieces:
        pieces: Pieces = []
        alone = sum(part["type"] == "image" for message in messages for part in message["content"]) == 1
        number = 0
        for piece in self.chat(messages, prompt):
            if isinstance(piece, Image.Image):
                pieces += self.expand(piece.size, number, alone)
                number += 1
            elif piece[0]:
                pieces.append(piece)
        return pieces


def _run(token: str, counts: dict[tuple[int, int], int]) -> Callable:
    return lambda size, number, alone: [(token * counts[size], number)]


# Text, or a picture, in the order of the parts; LLaVA and its heirs put pictures first, each with something behind it.
def _in_order(message: dict, before: str = "", after: str = "", who: str = GIVEN) -> list:
    pieces: list = []
    for part in message["content"]:
        pieces += [(before, GIVEN), part["image"], (after, GIVEN)] if part["type"] == "image" else [(part["text"], who)]
    return pieces


def _pictures_first(message: dict, after: str) -> list:
    parts = sorted(message["content"], key=lambda part: part["type"] != "image")
    return _in_order({"content": parts}, after=after)


def _text(message: dict) -> str:
    return "".join(part["text"] for part in message["content"])


LOOP = "{% for message in messages %}{% set said = message['role'] == 'assistant' %}"
PARTS = (
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}PICTURE{% else %}WORDS{% endif %}{% endfor %}"
)
IMAGES = "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}PICTURE{% endfor %}"
TEXTS = "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}WORDS{% endfor %}"


NO_SYSTEM = "{% if message['role'] == 'system' %}{{ raise_exception('no place for a system message') }}{% endif %}"
ALTERNATE = "{% if said == (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"


def _parts(image: str, form: str = PARTS, text: str = "part['text']") -> str:
    return form.replace("PICTURE", "{{ '" + image + "' }}").replace("WORDS", "{{ " + text + " }}")


def _llava() -> Any:
    size = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    template = (
        LOOP + "{{ ('ASSISTANT:' if said else 'USER: ') }}"
        + _parts("<image>\n", IMAGES)
        + "{% if said %}" + _parts("", TEXTS, "' ' + part['text'] + '</s>'")
        + "{% else %}" + _parts("", TEXTS) + "{{ ' ' }}{% endif %}{% endfor %}"
        + "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
    )  # fmt: skip
    return LlavaProcessor(
        LlavaImageProcessorPil(**size),
        _tokenizer(["<image>", "<s>", "</s>"]),
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )


def _llava_chat(messages: list[dict], prompt: bool) -> list:
    pieces: list = []
    for message in messages:
        if message["role"] == "assistant":
            pieces += [("ASSISTANT:", GIVEN), (f" {_text(message)}</s>", SAID)]
        else:
            pieces += [("USER: ", GIVEN), *_pictures_first(message, "\n"), (" ", GIVEN)]
    return [*pieces, ("ASSISTANT:" if prompt else "", GIVEN)]


GRID = [[16, 32], [32, 16], [32, 32]]


def _llava_next() -> Any:
    size = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}, "image_grid_pinpoints": GRID}
    template = (
        LOOP + NO_SYSTEM + "{% if said %}" + _parts("", TEXTS, "' ' + part['text'] + '</s>'")
        + "{% else %}{{ '[INST] ' }}" + _parts("<image>\n", IMAGES) + _parts("", TEXTS)
        + "{{ ' [/INST]' }}{% endif %}{% endfor %}"
    )  # fmt: skip
    return LlavaNextProcessor(
        LlavaNextImageProcessorPil(**size),
        _tokenizer(["<image>", "<s>", "</s>", "[INST]", "[/INST]"]),
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )


def _llava_next_chat(messages: list[dict], prompt: bool) -> list:
    pieces: list = []
    for message in messages:
        if message["role"] == "assistant":
            pieces.append((f" {_text(message)}</s>", SAID))
        else:
            pieces += [("[INST] ", GIVEN), *_pictures_first(message, "\n"), (" [/INST]", GIVEN)]
    return pieces


def _chatml(image: str, form: str = PARTS, after: str = "\n", system: str = "") -> str:
    return (
        "{{ '" + system + "' }}"
        + LOOP + "{{ '<|im_start|>' + message['role'] + '\n' }}"
        + (_parts(image) if form == PARTS else _parts(image, IMAGES) + _parts("", TEXTS))
        + "{{ '<|im_end|>" + after + "' }}{% endfor %}"
        + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )  # fmt: skip


def _chatml_chat(pictures: Callable[[dict], list], after: str = "\n", system: str = "") -> Callable:
    def chat(messages: list[dict], prompt: bool) -> list:
        pieces: list = [(system, GIVEN)]
        for message in messages:
            who = SAID if message["role"] == "assistant" else GIVEN
            pieces.append((f"<|im_start|>{message['role']}\n", GIVEN))
            pieces += [(_text(message), SAID)] if who == SAID else pictures(message)
            pieces += [("<|im_end|>", who), (after, GIVEN)]
        return [*pieces, ("<|im_start|>assistant\n" if prompt else "", GIVEN)]

    return chat


CHATML_TOKENS = ["<|im_start|>", "<|im_end|>", "<s>", "</s>"]


def _llava_onevision() -> Any:
    size = {"size": {"height": 16, "width": 16}, "image_grid_pinpoints": GRID}
    return _without_video(LlavaOnevisionProcessor)(
        LlavaOnevisionImageProcessorPil(**size),
        _tokenizer(["<image>", "<video>", *CHATML_TOKENS]),
        None,
        num_image_tokens=4,
        vision_feature_select_strategy="full",
        chat_template=_chatml("<image>", IMAGES, after=""),
    )


def _onevision_image(size: tuple[int, int], number: int, alone: bool) -> Pieces:
    """Beside others, an image is not tiled: a grid of 2 x 2 and a token that ends it."""
    return [("<image>" * ({SQUARE: 10, WIDE: 14, TALL: 16}[size] if alone else 5), number)]


QWEN_SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"


def _qwen() -> Any:
    tokens = ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", *CHATML_TOKENS]
    size = {"shortest_edge": 16 * 16, "longest_edge": 64 * 64}
    return _without_video(Qwen2_5_VLProcessor)(
        Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, size=size),
        _tokenizer(tokens),
        None,
        chat_template=_chatml("<|vision_start|><|image_pad|><|vision_end|>", system=QWEN_SYSTEM),
    )


def _gemma() -> Any:
    template = (
        "{{ '<bos>' }}" + LOOP + "{{ '<start_of_turn>' + ('model' if said else message['role']) + '\n' }}"
        + _parts("<start_of_image>", text="part['text'] | trim")
        + "{{ '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
    )  # fmt: skip
    named = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    turns = ["<bos>", "<start_of_turn>", "<end_of_turn>", "<s>", "</s>"]
    return Gemma3Processor(
        Gemma3ImageProcessorPil(size={"height": 16, "width": 16}),
        _tokenizer([*named.values(), *turns], **named),
        image_seq_length=4,
        chat_template=template,
    )


def _gemma_chat(messages: list[dict], prompt: bool) -> list:
    pieces: list = [("<bos>", GIVEN)]
    for message in messages:
        is_reply = message["role"] == "assistant"
        pieces.append((f"<start_of_turn>{'model' if is_reply else 'user'}\n", GIVEN))
        parts = [part | {"text": part.get("text", "").strip()} for part in message["content"]]
        pieces += [(_text(message), SAID)] if is_reply else _in_order({"content": parts})
        pieces += [("<end_of_turn>", SAID if is_reply else GIVEN), ("\n", GIVEN)]
    return [*pieces, ("<start_of_turn>model\n" if prompt else "", GIVEN)]


def _gemma_image(size: tuple[int, int], number: int, alone: bool) -> Pieces:
    return [
        ("\n\n<start_of_image>", GIVEN),
        ("<image_soft_token>" * 4, number),
        ("<end_of_image>\n\n", GIVEN),
    ]


def _idefics() -> Any:
    tiles = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    tokens = ["<fake_token_around_image>", "<global-img>", "<end_of_utterance>", "<|begin_of_text|>", "<s>", "</s>"]
    template = (
        "{{ '<|begin_of_text|>' }}" + LOOP
        + "{{ message['role'] | capitalize + (':' if message['content'][0]['type'] == 'image' else ': ') }}"
        + _parts("<image>")
        + "{{ '<end_of_utterance>\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
    )  # fmt: skip
    return Idefics3Processor(
        Idefics3ImageProcessorPil(size={"longest_edge": 32}, max_image_size={"longest_edge": 16}),
        _tokenizer(tokens + tiles),
        image_seq_len=3,
        chat_template=template,
    )


def _idefics_chat(messages: list[dict], prompt: bool) -> list:
    pieces: list = [("<|begin_of_text|>", GIVEN)]
    for message in messages:
        if message["role"] == "assistant":
            pieces += [("Assistant:", GIVEN), (f" {_text(message)}<end_of_utterance>", SAID), ("\n", GIVEN)]
        else:
            space = "" if message["content"][0]["type"] == "image" else " "
            pieces += [(f"User:{space}", GIVEN), *_in_order(message), ("<end_of_utterance>\n", GIVEN)]
    return [*pieces, ("Assistant:" if prompt else "", GIVEN)]


def _idefics_image(size: tuple[int, int], number: int, alone: bool) -> Pieces:
    rows, columns = {SQUARE: (2, 2), WIDE: (1, 2), TALL: (2, 1)}[size]
    fake, pieces = "<fake_token_around_image>", []
    for row in range(1, rows + 1):
        for column in range(1, columns + 1):
            pieces += [(f"{fake}<row_{row}_col_{column}>", GIVEN), ("<image>" * 3, number)]
        pieces.append(("\n", GIVEN))
    return [*pieces, (f"\n{fake}<global-img>", GIVEN), ("<image>" * 3, number), (fake, GIVEN)]


def _internvl() -> Any:
    named = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    named |= {"video_token": "<video>"}
    return _without_video(InternVLProcessor)(
        GotOcr2ImageProcessorPil(size={"height": 16, "width": 16}, max_patches=4),
        _tokenizer([*named.values(), *CHATML_TOKENS], **named),
        None,
        image_seq_length=3,
        chat_template=_chatml("<IMG_CONTEXT>\n"),
    )


def _internvl_image(size: tuple[int, int], number: int, alone: bool) -> Pieces:
    """As many tiles as fit its shape, and the whole, where there is more than one."""
    tiles = {SQUARE: 1, WIDE: 2 + 1, TALL: 3 + 1}[size]
    return [("<img>", GIVEN), ("<IMG_CONTEXT>" * 3 * tiles, number), ("</img>", GIVEN)]


def _pixtral() -> Any:
    template = (
        "{{ bos_token }}" + LOOP + NO_SYSTEM + ALTERNATE + "{{ '' if said else '[INST]' }}" + _parts("[IMG]")
        + "{{ eos_token if said else '[/INST]' }}{% endfor %}"
    )  # fmt: skip
    return _pixtral_class()(
        PixtralImageProcessorPil(size={"longest_edge": 32}, patch_size=8),
        _tokenizer(["[IMG]", "[IMG_BREAK]", "[IMG_END]", "[INST]", "[/INST]", "<s>", "</s>"]),
        patch_size=8,
        chat_template=template,
    )


def _pixtral_chat(messages: list[dict], prompt: bool) -> list:
    pieces: list = [("<s>", GIVEN)]
    for message in messages:
        if message["role"] == "assistant":
            pieces.append((f"{_text(message)}</s>", SAID))
        else:
            pieces += [("[INST]", GIVEN), *_in_order(message), ("[/INST]", GIVEN)]
    return pieces


def _pixtral_image(size: tuple[int, int], number: int, alone: bool) -> Pieces:
    rows, columns = {SQUARE: (2, 2), WIDE: (2, 4), TALL: (4, 2)}[size]
    pieces = [piece for _ in range(rows) for piece in (("[IMG]" * columns, number), ("[IMG_BREAK]", GIVEN))]
    return [*pieces[:-1], ("[IMG_END]", GIVEN)]


def _pictures_then_text(message: dict) -> list:
    return _pictures_first(message, "")


FAMILIES = (
    Family("llava", _llava, _run("<image>", {SQUARE: 4, WIDE: 4, TALL: 4}), _llava_chat),
    # A 2 x 2 overview; tiles of 2 x 2 patches, cut to the picture's shape, and one more token a row.
    Family(
        "llava_next",
        _llava_next,
        _run("<image>", {SQUARE: 4 + 2 * 3, WIDE: 4 + 2 * 5, TALL: 4 + 4 * 3}),
        _llava_next_chat,
    ),
    Family("llava_onevision", _llava_onevision, _onevision_image, _chatml_chat(_pictures_then_text, after="")),
    # 8 pixels a token, sides rounded.
    Family(
        "qwen2_5_vl",
        _qwen,
        _run("<|image_pad|>", {SQUARE: 2 * 2, WIDE: 5 * 2, TALL: 2 * 8}),
        _chatml_chat(lambda message: _in_order(message, "<|vision_start|>", "<|vision_end|>"), system=QWEN_SYSTEM),
    ),
    Family("gemma3", _gemma, _gemma_image, _gemma_chat),
    Family("idefics3", _idefics, _idefics_image, _idefics_chat),
    Family("internvl", _internvl, _internvl_image, _chatml_chat(lambda message: _in_order(message, after="\n"))),
    Family("pixtral", _pixtral, _pixtral_image, _pixtral_chat),
)


def _user(*parts: dict) -> dict:
    return {"role": "user", "content": list(parts)}


def _assistant(text: str) -> dict:
    return {"role": "assistant", "content": [words(text)]}


# Pictures of several sizes, in the middle of a text, at its end, side by side, with a line break between.
CHATS = {
    "one picture": [_user(picture(WIDE), words("is it red?")), _assistant("yes")],
    "two turns": [
        _user(words("what is it?"), picture(SQUARE)),
        _assistant("a red one"),
        _user(picture(TALL), words("and this?")),
        _assistant("no"),
    ],
    "side by side": [
        _user(picture(TALL), picture(WIDE), picture(SQUARE), words("which is red?")),
        _assistant("yes"),
        _user(picture(SQUARE), words("\n"), picture(SQUARE), words("a"), picture(WIDE)),
        _assistant("no"),
    ],
    "a text only": [_user(words("is there a small blue square?")), _assistant("yes"), _user(words("sure?"))],
}
