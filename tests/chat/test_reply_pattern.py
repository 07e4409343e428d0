"""Roles from token ids alone are the roles from messages, on every template here; what is ambiguous is refused."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from chat_shapes import (
    BARE_QUESTIONS,
    CHATML,
    CLOCK,
    MARKED,
    MISTRAL,
    PARTS,
    PICTURE,
    SHAPES,
    TALK,
    VICUNA,
    build_processor,
)
from chat_shapes import conversations as any_conversation
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_model import assistant, make_model, make_processor, user
from tiny_parts import text_tokenizer
from vlm_processors import CHATS, FAMILIES, SAID

from mutua.chat import ReplyPattern
from mutua.chat.template import ChatTemplateError
from mutua.composition.tokenizer import plain_template, prepare_tokenizer
from mutua.convert.aki_format import CHAT_TEMPLATE as AKI_TEMPLATE
from mutua.models import MutuaProcessor
from mutua.roles import NONE

PROCESSOR = build_processor()


def aki_processor() -> MutuaProcessor:
    """Phi-3's tokens take the whitespace behind them along."""
    processor = build_processor(rstrip=("<|end|>", "<|assistant|>", "<|user|>", "<|system|>"))
    processor.chat_template = AKI_TEMPLATE
    return processor


def composed_processor() -> MutuaProcessor:
    tokenizer = prepare_tokenizer(text_tokenizer())
    return MutuaProcessor(
        PROCESSOR.image_processor, tokenizer, num_image_tokens=4, chat_template=plain_template(tokenizer)
    )


def shaped(template: str) -> MutuaProcessor:
    processor = build_processor()
    processor.chat_template = template
    return processor


PROCESSORS = {shape.name: (lambda template=shape.template: shaped(template)) for shape in SHAPES}
PROCESSORS |= {
    "tiny": lambda: make_processor(make_model()),
    "aki": aki_processor,
    "composed": composed_processor,
}


@cache
def learned(name: str) -> tuple[MutuaProcessor, ReplyPattern]:
    processor = PROCESSORS[name]()
    return processor, ReplyPattern.learn(processor)


def encode(processor: MutuaProcessor, messages: list, **kwargs):
    return processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt", **kwargs)


def assert_found(pattern: ReplyPattern, out) -> None:
    found = pattern.roles(out["input_ids"], out["attention_mask"])
    assert torch.equal(found.to_codes(), out["token_type_ids"])


@settings(deadline=None, max_examples=200)
@given(any_conversation(), st.sampled_from(sorted(PROCESSORS)), st.booleans())
def test_ids_and_messages_give_the_same_roles(drawn, name, prompt):
    processor, pattern = learned(name)
    system, turns = drawn
    messages = [*(system if name != "gemma" else []), *turns]
    out = encode(processor, messages, add_generation_prompt=prompt and turns[-1]["role"] == "user")
    assert_found(pattern, out)


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_of_a_batch(name, side):
    processor, pattern = learned(name)
    batch = [TALK, TALK[:2], [user("hi"), assistant("hello there, you")], TALK[:1], [user(PICTURE, PICTURE, "a")]]
    assert_found(pattern, encode(processor, batch, processor_kwargs={"padding_side": side}))
    alone = encode(processor, TALK)
    assert torch.equal(pattern.roles(alone["input_ids"]).to_codes(), alone["token_type_ids"])


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_prompt_that_waits_ends_in_its_block(name):
    processor, pattern = learned(name)
    for messages, block in ((TALK[:1], 0), (TALK[:3], 1)):
        out = encode(processor, messages, add_generation_prompt=True)
        assert_found(pattern, out)
        assert pattern.roles(out["input_ids"]).block_BN[0, -1] == block


@pytest.mark.parametrize("name", sorted(PROCESSORS.keys() - {"mistral", "vicuna", "composed"}))
def test_a_reply_that_is_cut(name):
    processor, pattern = learned(name)
    assert_found(pattern, encode(processor, TALK, continue_final_message=True))


@pytest.mark.parametrize("name", PROCESSORS)
def test_another_pattern_is_found_out(name):
    """Every token of what was learned is needed: with another in its place, some role is another or a row refused."""
    processor, pattern = learned(name)
    out = encode(processor, TALK)
    others = [replace(pattern, end=pattern.header), replace(pattern, header=pattern.end)]
    for place in range(len(pattern.header)):
        header = list(pattern.header)
        header[place] = processor.tokenizer.convert_tokens_to_ids("x")
        others.append(replace(pattern, header=tuple(header)))
    for other in others:
        try:
            found = other.roles(out["input_ids"])
        except ValueError:
            continue
        assert not torch.equal(found.to_codes(), out["token_type_ids"]), other


def test_two_images_side_by_side_are_two_items():
    processor, pattern = learned("chatml")
    out = encode(processor, [user(PICTURE, PICTURE, "a"), assistant("b")])
    assert set(pattern.roles(out["input_ids"]).item_BN.unique().tolist()) == {NONE, 0, 1}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_ids_of_transformers_processors(family):
    """With the processor's ids alone: replies, and images by how they open and close."""
    processor = family.make()
    pattern = ReplyPattern.learn(processor)
    for messages in CHATS.values():
        bare = family.name in ("llava_next", "llava_onevision") and messages is CHATS["side by side"]
        pieces = family.pieces(messages, False)
        tokens = processor.tokenizer(
            "".join(text for text, _ in pieces), add_special_tokens=False, return_offsets_mapping=True
        )
        whose = [who for text, who in pieces for _ in text]
        who = [whose[start] for start, _ in tokens["offset_mapping"]]
        items = torch.tensor([[token if isinstance(token, int) else NONE for token in who]])
        begins = (items != NONE) & (items != items.roll(1, -1))
        begins[0, 1:] &= items[0, 1:] > items[0, :-1].cummax(-1).values
        roles = pattern.roles(torch.tensor([tokens["input_ids"]]), begins_item_BN=begins if bare else None)
        assert roles.is_response_BN[0].tolist() == [token == SAID for token in who]
        assert torch.equal(roles.item_BN, items)


# What is refused.


def refused(text: str, template: str) -> str:
    pattern = ReplyPattern.learn(shaped(template))
    with pytest.raises(ValueError, match="row 0: ") as caught:
        pattern.roles(torch.tensor([PROCESSOR.tokenizer(text)["input_ids"]]))
    return str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "USER: say ASSISTANT: no ASSISTANT: yes</s>",
        "USER: hi ASSISTANT: say ASSISTANT: no</s>",
        "USER: hi yes</s>",
        "USER: hi ASSISTANT: it is",  # a reply that is cut, or a question
        "USER: hi ASSISTANT: yes</s>USER: say ASSISTANT: no, and",
    ],
)
def test_a_header_of_plain_text_that_a_text_may_hold(text):
    assert "row 0: between the tokens" in refused(text, VICUNA)


def test_a_token_over_the_border():
    """As messages the same is refused, too."""
    assert "straddles" in refused("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n\n\nyes<|im_end|>\n", CHATML)


def test_turns_that_do_not_alternate():
    text = "<s>[INST] a [/INST][INST] b [/INST] yes</s>"
    assert "stand 2 headers" in refused(text, MISTRAL)
    assert "the control token" in refused("<|user|>a<|end|><|assistant|>b<|user|>c<|end|>", PARTS)


def test_an_end_of_several_tokens():
    """A mark may enclose the line break behind the end token."""
    template = MARKED.replace("+ '<|end|>' }}{% endgen", "+ '<|end|>\n' }}{% endgen")
    text = "<|user|>a<|end|><|assistant|>b<|end|>\n<|user|>c<|end|><|assistant|>d<|end|>"
    ids = PROCESSOR.tokenizer(text)["input_ids"]
    is_reply = ReplyPattern.learn(shaped(template)).find_replies(ids)
    assert PROCESSOR.decode([token for token, said in zip(ids, is_reply, strict=True) if said]) == "b<|end|>\nd<|end|>"
    assert "would end a reply" in refused(text.replace("b<|end|>\n", "b<|end|>"), template)


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (CLOCK, "today's date"),
        (CHATML.replace("in messages", "in messages[-2:]"), "renders this conversation differently"),
        (MISTRAL.replace(" [/INST]", ""), "gives no tokens that open a reply"),
        (
            MARKED.replace("+ '<|end|>' }}{% endgen", "+ ('<|end|>' if loop.last else '</s>') }}{% endgen"),
            "all replies",
        ),
        (
            MARKED.replace("+ '<|end|>' }}{% endgeneration %}", "}}{% endgeneration %}{{ '<|end|>' }}"),
            "not learn",
        ),
        (BARE_QUESTIONS, "replies are found in wrong places"),
    ],
)
def test_a_template_that_cannot_be_learned(template, why):
    with pytest.raises(ChatTemplateError, match=why):
        ReplyPattern.learn(shaped(template))
