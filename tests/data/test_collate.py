"""Samples to tensors: bit for bit what the image processor and the tokenizer make of each part alone."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from tiny_model import make_model, make_processor, picture

from mutua.chat import conversation
from mutua.data.collate import encode, encode_prompts
from mutua.data.grid import GridScenes
from mutua.data.readers import EasyVQA, Scenes
from mutua.data.sample import ImagePart, Message, Sample, TextPart
from mutua.images import open_image
from mutua.models import MutuaProcessor


def message(role: Literal["system", "user", "assistant"], *parts: object) -> Message:
    return Message(
        role=role,
        content=tuple(TextPart(text=part) if isinstance(part, str) else ImagePart(image=part) for part in parts),
    )


SOURCES = {
    "grid": GridScenes("train", 12),
    "scenes": Scenes("train", 8),
    "turns": Scenes("train", 8, turns=3),
    "easy-vqa": [EasyVQA("train")[index] for index in range(0, 400, 40)],
    "mixed": [
        Sample(id="a", messages=(message("user", picture(1, 40), "what?", "and why?"), message("assistant", "red"))),
        Sample(
            id="b",
            messages=(
                message("system", "be brief"),
                message("user", "who?"),
                message("assistant", "nobody"),
                message("user", picture(2), "this ", picture(3), "or that?"),
                message("assistant", "no"),
            ),
        ),
        Sample(id="c", messages=(message("user", "hm?"), message("assistant", "no"))),
    ],
}


@pytest.fixture(scope="module", params=[4, 9])
def processor(request: pytest.FixtureRequest) -> MutuaProcessor:
    """Of 32 or 72 pixels a side: some pictures have that size already."""
    return make_processor(make_model(grid=request.param))


@pytest.mark.parametrize("name", SOURCES)
def test_the_tensors_of_a_batch(name: str, processor: MutuaProcessor) -> None:
    samples = list(SOURCES[name])
    conversation._remembered.cache_clear()
    cold = encode(samples, processor)
    warm = encode(samples, processor)
    assert all(tensor.dtype == torch.int64 for name, tensor in cold.items() if name != "pixel_values")
    parts = [part for sample in samples for said in sample.messages for part in said.content]
    pictures = [part.image for part in parts if isinstance(part, ImagePart)]
    alone = [processor.image_processor(open_image(one), return_tensors="pt")["pixel_values"] for one in pictures]
    assert torch.equal(cold["pixel_values"], torch.cat(alone))
    assert cold.keys() == warm.keys()
    assert all(torch.equal(cold[name], warm[name]) for name in cold)
    rows = [encode([sample], processor) for sample in samples]
    for row, mask in enumerate(cold["attention_mask"].bool()):
        for name in ("input_ids", "token_type_ids", "labels"):
            assert torch.equal(cold[name][row][mask], rows[row][name][0])


def test_the_tensors_of_prompts(processor: MutuaProcessor) -> None:
    samples = SOURCES["mixed"]
    whole, prompts = (make(samples, processor) for make in (encode, encode_prompts))
    for row, mask in enumerate(prompts["attention_mask"].bool()):
        ids = prompts["input_ids"][row][mask]
        assert torch.equal(ids, whole["input_ids"][row][: len(ids)])
        assert torch.equal(prompts["token_type_ids"][row][mask], whole["token_type_ids"][row][: len(ids)])


def test_lists_and_arrays_hold_the_same(processor: MutuaProcessor) -> None:
    chats = [sample.chat() for sample in SOURCES["mixed"]]
    options = {"tokenize": True, "return_dict": True}
    tensors, arrays, lists = (
        processor.apply_chat_template(chats, **options, return_tensors=form) for form in ("pt", "np", None)
    )
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        assert tensors[name].tolist() == arrays[name].tolist() == lists[name]
        assert isinstance(lists[name][0][0], int)
    assert torch.equal(tensors["pixel_values"], torch.from_numpy(arrays["pixel_values"]))
