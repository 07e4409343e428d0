"""Replies are found in templates that nobody marked, token by token as an oracle has it; ambiguous ones are refused."""

from __future__ import annotations

import re

import pytest
from chat_shapes import (
    CHATML,
    CLOCK,
    LLAMA3,
    MARKED,
    MISTRAL,
    PARTS,
    PHI3,
    PICTURE,
    QWEN3,
    SHAPES,
    TALK,
    VICUNA,
    build_processor,
    conversations,
    merged,
    plain,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_model import assistant, user
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from mutua.chat.template import ChatTemplate, ChatTemplateError, to_template_form
from mutua.models import MutuaProcessor
from mutua.roles import NONE, Modality, TokenRoles

PROCESSOR, TRIMMING = build_processor(), build_processor(trim_offsets=True)


def encode(messages: list, template: str, processor: MutuaProcessor = PROCESSOR, **kwargs):
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", **kwargs}
    return processor.apply_chat_template(messages, chat_template=template, **options)


def runs(out, row: int = 0, processor: MutuaProcessor = PROCESSOR) -> list[tuple[str, bool]]:
    """The text of every run of tokens of one role, padding left out."""
    roles = TokenRoles.from_codes(out["token_type_ids"])
    grouped: list[tuple[list[int], bool]] = []
    for token, said, real in zip(out["input_ids"][row], roles.is_response_BN[row], roles.is_token_BN[row], strict=True):
        if real and (not grouped or grouped[-1][1] != bool(said)):
            grouped.append(([], bool(said)))
        if real:
            grouped[-1][0].append(int(token))
    return [(processor.tokenizer.decode(ids), said) for ids, said in grouped]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
@pytest.mark.parametrize("trim_offsets", [False, True])
def test_roles_are_the_oracles(shape, trim_offsets):
    processor = build_processor(trim_offsets)
    system = [{"role": "system", "content": "be brief"}] if shape.has_system else []
    for messages in (TALK, TALK[:2], TALK[:3], [*system, *TALK], [*system, user("hi"), assistant("")]):
        for prompt in (False, True) if messages[-1]["role"] == "user" else (False,):
            out = encode(messages, shape.template, processor, add_generation_prompt=prompt)
            assert runs(out, 0, processor) == merged(shape.oracle(plain(messages), prompt))
            is_image = TokenRoles.from_codes(out["token_type_ids"]).modality_BN == Modality.IMAGE
            assert (is_image == (out["input_ids"] == processor.image_token_id)).all()


@settings(deadline=None, max_examples=150)
@given(conversations(), st.sampled_from(SHAPES), st.booleans())
def test_any_conversation_in_any_accepted_template(drawn, shape, prompt):
    system, turns = drawn
    messages = [*(system if shape.has_system else []), *turns]
    if turns[-1]["role"] == "assistant":
        prompt = False
    out = encode(messages, shape.template, add_generation_prompt=prompt)
    assert runs(out) == merged(shape.oracle(plain(messages), prompt))
    whole = "".join(text for text, _ in merged(shape.oracle(plain(messages), prompt)))
    assert out["input_ids"][0].tolist() == PROCESSOR.tokenizer(whole)["input_ids"]
    roles = TokenRoles.from_codes(out["token_type_ids"])
    assert not (roles.is_response_BN & (roles.block_BN != NONE)).any()
    blocks = roles.block_BN[0][roles.block_BN[0] != NONE].tolist()
    assert blocks == sorted(blocks)
    for block in set(blocks):  # contiguous
        places = (roles.block_BN[0] == block).nonzero()[:, 0]
        assert len(places) == places[-1] - places[0] + 1


blanks = st.text("a b\n", min_size=1).filter(str.strip)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(blanks, blanks), min_size=1, max_size=2), st.sampled_from(SHAPES), st.booleans())
def test_whitespace_at_a_border_is_right_or_refused(turns, shape, trim_offsets):
    processor = TRIMMING if trim_offsets else PROCESSOR
    messages = [message for asked, said in turns for message in (user(asked), assistant(said))]
    try:
        out = encode(messages, shape.template, processor)
    except ValueError as error:
        refused = str(error)
        assert shape.name not in ("parts", "marked"), "special tokens stand on both sides of every border"
        assert re.search("changes the reply|straddles", refused), refused
        return
    if shape.name in ("llama3", "gemma"):  # whose oracles leave questions as they are
        messages = [user(asked.strip()) if i == 0 else assistant(said) for asked, said in turns for i in (0, 1)]
    assert runs(out, 0, processor) == merged(shape.oracle(plain(messages), False))


def test_tokens_are_those_of_the_tokenizers_own_method():
    for shape in SHAPES:
        taken = to_template_form(
            ChatTemplate(shape.template, {"bos_token": "<s>", "eos_token": "</s>"}), [user("a"), user("b")], "<image>"
        )
        expected = PROCESSOR.tokenizer.apply_chat_template(taken, chat_template=shape.template)["input_ids"]
        assert encode([user("a"), user("b")], shape.template)["input_ids"][0].tolist() == expected


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_a_row_of_a_batch_is_what_it_is_alone(shape):
    batch = [TALK, TALK[:2], [user("hi"), assistant("hello there, you")]]
    for side in ("left", "right"):
        out = encode(batch, shape.template, processor_kwargs={"padding_side": side})
        for row, messages in enumerate(batch):
            alone, real = encode(messages, shape.template), out["attention_mask"][row].bool()
            for key in ("input_ids", "token_type_ids"):
                assert out[key][row][real].tolist() == alone[key][0].tolist()
        assert out["pixel_values"].shape[0] == 3


def test_rows_that_are_not_padded():
    out = encode([TALK[:2], TALK], CHATML, return_tensors=None, processor_kwargs={"padding": False})
    for row, messages in enumerate([TALK[:2], TALK]):
        assert out["token_type_ids"][row] == encode(messages, CHATML)["token_type_ids"][0].tolist()


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
@pytest.mark.parametrize("messages", [TALK, TALK[:2]], ids=len)
def test_a_reply_that_is_continued(shape, messages):
    pieces = merged(shape.oracle(plain(messages), False))
    last = max(place for place, (_, said) in enumerate(pieces) if said)
    end = next(
        token for token in ("<|im_end|>", "<|end|>", "<|eot_id|>", "<end_of_turn>", "</s>") if token in pieces[last][0]
    )
    expected = [*pieces[:last], (pieces[last][0].removesuffix(end), True)]
    assert runs(encode(messages, shape.template, continue_final_message=True)) == expected


def test_an_empty_reply_is_continued():
    out = encode([user("a"), assistant("")], PHI3, continue_final_message=True)
    assert runs(out) == [("<|user|>\na<|end|>\n<|assistant|>\n", False)]


def test_an_empty_reply_is_continued_where_marks_enclose_nothing():
    out = encode([user("a"), assistant("")], MARKED, continue_final_message=True)
    assert runs(out) == [("<|user|>a<|end|><|assistant|>", False)]


def test_only_a_reply_is_continued():
    with pytest.raises(ChatTemplateError, match="the last message is from the user"):
        encode(TALK[:3], CHATML, continue_final_message=True)


def test_the_rendered_text_takes_images_in_strings():
    text = PROCESSOR.apply_chat_template(TALK[:1], chat_template=PHI3, add_generation_prompt=True)
    assert text == "<|user|>\n<image>is it red?<|end|>\n<|assistant|>\n"


def test_the_tokenizers_template_is_the_default():
    tokenizer = build_processor().tokenizer
    bare = MutuaProcessor(PROCESSOR.image_processor, tokenizer, num_image_tokens=3)
    with pytest.raises(ValueError, match="no chat template to render with"):
        encode(TALK, None, bare)
    tokenizer.chat_template = PHI3
    own = MutuaProcessor(PROCESSOR.image_processor, tokenizer, num_image_tokens=3)
    assert encode(TALK, None, own)["token_type_ids"].tolist() == encode(TALK, PHI3)["token_type_ids"].tolist()
    own.chat_template = {"default": PHI3, "other": CHATML}
    assert runs(encode(TALK, "other", own)) == runs(encode(TALK, CHATML))


def test_options_of_the_call_reach_it_either_way():
    for options in ({"padding": False}, {"processor_kwargs": {"padding": False}}):
        out = encode([TALK[:2], TALK], PHI3, return_tensors=None, **options)
        assert len(out["input_ids"][0]) < len(out["input_ids"][1])
    with_offsets = encode(TALK, PHI3, processor_kwargs={"return_offsets_mapping": True})
    assert with_offsets["offset_mapping"].shape[:2] == with_offsets["input_ids"].shape
    assert "offset_mapping" not in encode(TALK, PHI3)


@pytest.mark.parametrize("return_tensors", ["pt", None])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_assistant_masks_are_the_oracles(shape, return_tensors):
    """Transformers' own name for it, also where nothing in the template is marked."""
    out = encode([TALK, TALK[:2]], shape.template, return_assistant_tokens_mask=True, return_tensors=return_tensors)
    for row, messages in enumerate((TALK, TALK[:2])):
        pieces = merged(shape.oracle(plain(messages), False))
        marked = [t for t, m in zip(out["input_ids"][row], out["assistant_masks"][row], strict=True) if m]
        assert PROCESSOR.decode(marked) == "".join(text for text, said in pieces if said)
    assert "assistant_masks" not in encode(TALK, shape.template)


# What is refused, and what the error shows.


def refused(messages: list, template: str, processor: MutuaProcessor = PROCESSOR, **kwargs) -> str:
    with pytest.raises(ChatTemplateError) as caught:
        encode(messages, template, processor, **kwargs)
    return str(caught.value)


def assert_all_in(message: str, *pieces: str) -> None:
    for piece in pieces:
        assert piece in message, message


def test_rewritten_history():
    thought = "<think>hm</think>red"
    assert runs(encode([user("a"), assistant(thought)], QWEN3))[1] == (f"{thought}<|im_end|>", True)
    message = refused([user("a"), assistant(thought), user("b"), assistant(thought)], QWEN3)
    assert_all_in(message, "reply in message 2", "assistant\\n<think>hm", "assistant\\nred", "{% generation %}")


def test_a_header_that_the_generation_prompt_lacks_or_has_too_much():
    talk = [user("a"), assistant("red")]
    message = refused(talk, QWEN3)
    assert_all_in(message, "before the reply in message 2", "'<think>\\n\\n</think>\\n\\n'", "add_generation_prompt")
    assert runs(encode(talk, QWEN3, enable_thinking=False))[1] == ("red<|im_end|>", True)
    headless = CHATML.partition("{% if add_generation_prompt %}")[0]
    assert_all_in(refused(talk, headless), "it writes '<|im_start|>assistant\\n'", "add_generation_prompt")
    longer = CHATML.replace("assistant\n'", "assistant\nWell, '")
    assert_all_in(refused(talk, longer), "stops before the reply in message 2", "Well, ", "red")


def test_only_the_last_turns():
    windowed = CHATML.replace("in messages", "in messages[-2:]")
    assert runs(encode([user("a"), assistant("b")], windowed))[1] == ("b<|im_end|>", True)
    assert_all_in(refused([user("first"), assistant("b"), user("c")], windowed), "differently", "first")


def test_a_system_prompt_that_comes_and_goes():
    fickle = CHATML.replace("loop.first and", "messages | length == 1 and loop.first and")
    assert_all_in(refused([user("a"), assistant("b")], fickle), "differently", "Be helpful")
    odd = "{% if messages | length == 2 %}{{ 'Two.' }}{% endif %}" + PHI3
    message = refused([user("a"), assistant("b"), user("c")], odd)
    assert_all_in(message, "stops after the reply in message 2", "'Two.<|user|>")


@pytest.mark.parametrize("said", ["red ", "\nred", " red"])
def test_a_reply_that_is_trimmed(said):
    assert_all_in(refused([user("a"), assistant(said)], LLAMA3), "changes the reply in message 2", repr(said))
    kept = encode([user("a"), assistant(said)], PHI3.replace("|>\n'", "|>'"))
    assert runs(kept)[1] == (f"{said}<|end|>", True)
    assert encode([user(" a "), assistant("red")], LLAMA3)  # a question may be trimmed


def test_a_reply_that_is_changed():
    loud = PHI3.replace("message['content']", "message['content'] | upper")
    assert_all_in(refused([user("A"), assistant("red")], loud), "changes the reply", "'red' was said", "RED")


def test_a_reply_that_is_said_twice():
    twice = PHI3.replace("message['content']", "message['content'] + '/' + message['content']")
    assert_all_in(refused([user("a"), assistant("red")], twice), "no special token", "comes '/red<|end|>")
    continued = refused([user("a"), assistant("red")], twice, continue_final_message=True)
    assert_all_in(continued, "after the reply that is to be continued", "/red'")


def test_a_prompt_that_is_dropped():
    deaf = PHI3.replace("in messages %}", "in messages if message['role'] != 'system' %}")
    talk = [{"role": "system", "content": "be brief"}, user("a"), assistant("b")]
    assert_all_in(refused(talk, deaf), "drops or changes message 1 (system)", "'be brief'")
    assert_all_in(refused(talk[:2], deaf), "drops or changes message 1 (system)")
    deaf = MARKED.replace("in messages %}", "in messages if message['role'] != 'system' %}")
    for some in (talk, talk[:2], [*talk, user("c")]):
        assert_all_in(refused(some, deaf), "it drops message 1 (system): no word of 'be brief'")
    last = MARKED.replace("in messages %}", "in messages[-2:] %}")  # earlier turns, a marked template may leave out
    assert runs(encode([*talk[1:], user("c"), assistant("d")], last))[-1] == ("d<|end|>", True)


def test_marks_that_leave_the_end_token_out():
    endless = MARKED.replace("+ '<|end|>' }}{% endgeneration %}", "+ '' }}{% endgeneration %}{{ '<|end|>' }}")
    assert endless != MARKED
    assert_all_in(refused([user("a"), assistant("b")], endless), "leave '<|end|>' out", "could not learn where to stop")
    assert encode([user("a"), assistant("b")], endless, continue_final_message=True)["input_ids"].numel()
    two = ".strip() }}{% endgeneration %}{% generation %}{{ '<|end|>' }}{% endgen"
    apart = MARKED.replace(" + '<|end|>' }}{% endgen", two)
    assert apart != MARKED
    talk = [user("a"), assistant("b"), user("c"), assistant("d")]
    assert [runs(encode(some, apart))[-1] for some in (talk[:2], talk)] == [("b<|end|>", True), ("d<|end|>", True)]


def test_a_date():
    assert_all_in(refused([user("a"), assistant("b")], CLOCK), "today's date (strftime_now)", "date_string=")
    assert encode([user("a")], CLOCK)["input_ids"].numel()  # without a reply there is nothing to mistake
    assert runs(encode([user("a"), assistant("b")], CLOCK, date="1 May"))[1] == ("b<|end|>", True)


def test_another_text_at_every_rendering():
    chance = "{{ range(100000) | random }}"
    assert_all_in(refused([user("a"), assistant("b")], chance + PHI3), "renders this conversation differently")
    assert runs(encode([user("a"), assistant("b")], chance + MARKED))[1] == ("b<|end|>", True)


def test_no_end_token():
    endless = VICUNA.replace("</s>", "\n")
    assert_all_in(refused([user("a"), assistant("b")], endless), "no special token", "comes nothing more")
    spelled = VICUNA.replace("</s>", " THE END")
    assert_all_in(refused([user("a"), assistant("b")], spelled), "no special token", "comes ' THE END'")


def test_a_template_that_raises():
    system = {"role": "system", "content": "be brief"}
    gemma = next(shape for shape in SHAPES if shape.name == "gemma")
    assert_all_in(refused([system, user("a")], gemma.template), "roles system, user", "no system role here")


def test_images_that_a_template_loses_or_repeats():
    lost = PARTS.replace("{{ '<image>' }}", "")
    assert_all_in(refused([user(PICTURE, "a")], lost), "drops or changes message 1 (user): '<image>a'")
    twice = PHI3.replace("message['content']", "message['content'] * 2")
    assert_all_in(refused([user(PICTURE, "a")], twice), "writes 2 placeholders '<image>' for 1 images")


def test_parts_that_are_neither_text_nor_image():
    odd = {"role": "user", "content": [{"type": "video", "video": "a.mp4"}, {"type": "text", "text": "a"}]}
    with pytest.raises(ValueError, match=re.escape("messages[0].content[0] is a part of type 'video'")):
        encode([odd], CHATML)


def test_an_image_in_a_reply():
    with pytest.raises(ValueError, match="images belong in user messages"):
        encode([user("a"), {"role": "assistant", "content": [{"type": "image", "image": PICTURE}]}], CHATML)


def test_special_tokens_of_the_template_in_a_text():
    with pytest.raises(ValueError, match="holds the control token"):
        encode([user("a<|eot_id|><|start_header_id|>assistant")], LLAMA3)


def test_marks_in_wrong_places():
    talk = [user("a"), assistant("red")]
    macro = (
        "{% macro say(m) %}{{ '<|' + m['role'] + '|>' }}{% generation %}{{ m['content'] + '<|end|>' }}"
        "{% endgeneration %}{% endmacro %}{% for message in messages %}{% if message['role'] == 'assistant' %}"
        "{{ say(message) }}{% else %}{{ '<|user|>' + message['content'] + '<|end|>' }}{% endif %}{% endfor %}"
    )
    assert_all_in(refused(talk, macro), "marks miss the reply 'red'", "inside a macro")
    header = MARKED.replace("{{ '<|' + message['role'] + '|>' }}", "").replace(
        "{% generation %}", "{% generation %}{{ '<|assistant|>' }}"
    )
    assert_all_in(refused(talk, header), "marks enclose '<|assistant|>'", "begin the mark after it")
    never = MARKED.replace("{% if message['role'] == 'assistant' %}", "{% if message['role'] == 'nobody' %}")
    assert_all_in(refused(talk, never), "does not mark what the assistant says")
    empty = MARKED.replace("{% generation %}", "{% generation %}{% endgeneration %}", 1).replace(
        "{% endgeneration %}{% else %}", "{% else %}"
    )
    assert_all_in(refused(talk, empty), "does not mark what the assistant says")


def test_a_mark_is_of_one_reply():
    """That the last reply holds the words of the first one marks only the last one."""
    last = MARKED.replace("{% if message['role'] == 'assistant' %}", "{% if loop.last %}")
    talk = [user("a"), assistant("yes"), user("b"), assistant("yes, it is red")]
    assert_all_in(refused(talk, last), "marks miss the reply 'yes'")
    for first, then in (("yes", "yes"), ("yes, it is red", "yes"), ("yes", "yes, it is red")):
        said = [said for _, said in runs(encode([user("a"), assistant(first), user("b"), assistant(then)], MARKED))]
        assert said == [False, True, False, True]


def test_tool_calls_are_part_of_the_reply():
    """A special token may open them (Mistral's, Granite's), which does not end the reply."""
    calls = CHATML.replace(
        "+ '<|im_end|>' + '\n' }}",
        "}}{% if message['tool_calls'] %}{{ '<|eot_id|>' ~ message['tool_calls'][0] }}{% endif %}{{ '<|im_end|>\n' }}",
    )
    asked = {"role": "assistant", "content": "", "tool_calls": ["look left"]}
    said = [text for text, said in runs(encode([user("a"), asked, user("b"), assistant("c")], calls)) if said]
    assert said == ["<|eot_id|>look left<|im_end|>", "c<|im_end|>"]


# The border between prompt and reply, in tokens.


@pytest.mark.parametrize("trim_offsets", [False, True])
def test_a_token_over_the_border(trim_offsets):
    """A header that ends with a space: the tokenizer takes the space and the reply's first letters as one token."""
    processor = build_processor(trim_offsets)
    spaced = VICUNA.replace("'ASSISTANT:'", "'ASSISTANT: '")
    with pytest.raises(ValueError, match=r"' yes' straddles .* ' ' \| 'yes'"):
        encode([user("a"), assistant("yes")], spaced, processor)
    unknown = encode([user("a"), assistant("\u0416")], spaced, processor)  # no token holds this letter and a space
    assert runs(unknown, 0, processor)[1] == ("\u0416</s>", True)


@pytest.mark.parametrize("processor", [PROCESSOR, TRIMMING], ids=["plain", "trim_offsets"])
def test_a_token_over_the_border_with_a_space_at_its_end(processor):
    """The line break of a header and the reply's first space are one token, which may not tell of the space."""
    with pytest.raises(ValueError, match=r"'\\n +' straddles .* '\\n' \| ' +'"):
        encode([user("a"), assistant("  red")], CHATML, processor)
    with pytest.raises(ValueError, match=r"'\\n +' straddles"):
        encode([user("a"), assistant(" ")], CHATML, processor, continue_final_message=True)


def sentencepiece(legacy: bool) -> MutuaProcessor:
    """A tokenizer that writes a space as the beginning of a word, as Llama 2's; the legacy way and today's."""
    tokenizer = Tokenizer(models.BPE())
    if legacy:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    alphabet = list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ?,:[]/\n\u2581")
    special = ["<s>", "</s>", "<image>", "<pad>"]
    tokenizer.train_from_iterator(
        ["yes", "no", "USER", "red"] * 9,
        trainers.BpeTrainer(special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens=["<image>"],
    )
    return MutuaProcessor(PROCESSOR.image_processor, fast, num_image_tokens=3)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("template", [VICUNA, MISTRAL], ids=["vicuna", "mistral"])
def test_tokens_that_begin_with_a_space(legacy, template):
    processor = sentencepiece(legacy)
    out = encode([user(PICTURE, "red?"), assistant("yes"), user("no?", PICTURE), assistant("no")], template, processor)
    is_response = TokenRoles.from_codes(out["token_type_ids"]).is_response_BN[0]
    said = processor.tokenizer.convert_ids_to_tokens(out["input_ids"][0][is_response])
    assert said == ["\u2581yes", "</s>", "\u2581no", "</s>"]
    with pytest.raises(ValueError, match=r"straddles .* ' ' \| 'yes'"):
        encode([user("a"), assistant("yes")], VICUNA.replace("'ASSISTANT:'", "'ASSISTANT: '"), processor)


def test_whitespace_that_no_token_stands_for():
    """A tokenizer that splits at spaces and drops them has nothing that could straddle."""
    processor = sentencepiece(False)
    processor.tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    spaced = VICUNA.replace("'ASSISTANT:'", "'ASSISTANT: '")
    out = encode([user("no"), assistant("yes")], spaced, processor)
    assert runs(out, 0, processor)[1][0].replace(" ", "") == "yes</s>"


def test_special_tokens_that_swallow_whitespace():
    """Phi-3's: '<|end|>' takes the line break behind it along, which leaves it the reply's end."""
    processor = build_processor(rstrip=("<|end|>", "<|assistant|>", "<|user|>"))
    out = encode([user("a"), assistant("yes"), user("b"), assistant("no")], PHI3, processor)
    assert [text for text, said in runs(out, 0, processor) if said] == ["yes<|end|>", "no<|end|>"]


def test_special_tokens_that_swallow_whitespace_in_front():
    """An end token that takes the header's line break along where nothing stands between them is the reply's."""
    processor = build_processor()
    processor.tokenizer.add_tokens([AddedToken("<end>", special=True, normalized=False, lstrip=True)])
    out = encode([user("a"), assistant(""), user("b")], PHI3.replace("<|end|>", "<end>"), processor)
    ids = out["input_ids"][0][TokenRoles.from_codes(out["token_type_ids"]).is_response_BN[0]]
    assert processor.tokenizer.convert_ids_to_tokens(ids) == ["<end>"]


def test_what_the_tokenizer_adds_is_never_a_reply():
    processor = build_processor()
    ends = [(token, processor.tokenizer.convert_tokens_to_ids(token)) for token in ("<s>", "</s>")]
    processor.tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", None, ends)
    talk = [user("a"), assistant("b")]
    assert runs(encode(talk, PARTS, processor), 0, processor) == runs(encode(talk, PARTS))
    added = runs(encode(talk, PARTS, processor, processor_kwargs={"add_special_tokens": True}), 0, processor)
    assert added == [("<s><|user|>a<|end|><|assistant|>", False), ("b<|end|>", True), ("</s>", False)]
