"""What goes on from a cache: right, or refused. Whatever fills the cache, and whatever was done to it since."""

from __future__ import annotations

import pytest
import torch
from tiny_model import assistant, make_model, picture, user
from transformers import DynamicCache, GenerationConfig

from mutua.roles import TokenRoles

GREEDY = {"min_new_tokens": 5, "max_new_tokens": 5, "do_sample": False}
ASKED = [user(picture(1), "is it red? is it?")]
TURNS = [*ASKED, assistant("yes"), user("so", picture(2), "and this?")]
ALL = ("input_ids", "token_type_ids", "attention_mask")


@pytest.fixture(scope="module")
def model():
    return make_model("mma")


def cut(inputs: dict, places: slice, *keys: str) -> dict:
    return {key: inputs[key][:, places] for key in keys}


@torch.no_grad()
def filled(model, inputs: dict, tokens: int, images: int) -> DynamicCache:
    """A cache of the first tokens, with so many pictures."""
    cache, pixels = DynamicCache(), {"pixel_values": inputs["pixel_values"][:images]} if images else {}
    model(**cut(inputs, slice(tokens), *ALL), **pixels, past_key_values=cache)
    return cache


def behind_picture(inputs: dict, which: int) -> int:
    """How many tokens there are up to the end of a picture."""
    item_N = TokenRoles.from_codes(inputs["token_type_ids"]).item_BN[0]
    return int((item_N == which).nonzero()[-1]) + 1


def test_a_question_without_roles_behind_its_picture(model, encode):
    """It is no reply, and the picture has not seen it."""
    inputs = encode(ASKED, add_generation_prompt=True)
    past = behind_picture(inputs, 0)
    with torch.no_grad(), pytest.raises(ValueError, match=r"\d+ tokens came without token_type_ids behind \d+ cached"):
        model(**cut(inputs, slice(past, None), "input_ids"), past_key_values=filled(model, inputs, past, 1))
    whole = {key: inputs[key] for key in ("input_ids", "attention_mask")}
    with pytest.raises(ValueError, match="whether they are the rest of it or its reply is not known"):
        model.generate(**whole, **GREEDY, past_key_values=filled(model, inputs, past, 1))


@pytest.mark.parametrize("change", ["batch_repeat_interleave", "reorder_cache", "batch_select_indices"])
def test_a_cut_block_in_rows_that_were_changed(model, encode, change):
    """As with several questions about one picture, which has seen none of them."""
    inputs = encode([ASKED, ASKED], add_generation_prompt=True)
    past, rows = behind_picture(inputs, 0), torch.tensor([1, 0, 0] if change == "batch_select_indices" else [1, 0])
    cache = filled(model, inputs, past, 2)
    getattr(cache, change)(2 if change == "batch_repeat_interleave" else rows)
    count = 4 if change == "batch_repeat_interleave" else len(rows)
    rest = {key: inputs[key][:1, past:].repeat(count, 1) for key in ("input_ids", "token_type_ids")}
    mask = torch.ones(count, inputs["input_ids"].shape[1])
    with torch.no_grad(), pytest.raises(ValueError, match="begins inside prompt block 0"):
        model(**rest, attention_mask=mask, past_key_values=cache)


def test_rows_that_were_changed_where_no_block_is_open(model, encode):
    said = encode([*ASKED, assistant("yes")])
    inputs = encode([*ASKED, assistant("yes"), user("why?")], add_generation_prompt=True)
    past = said["input_ids"].shape[1]
    cache = filled(model, inputs, past, 1)
    cache.batch_repeat_interleave(2)
    rest = {key: inputs[key][:, past:].repeat(2, 1) for key in ("input_ids", "token_type_ids")}
    with torch.no_grad():
        mask = torch.ones(2, inputs["input_ids"].shape[1])
        got = model(**rest, attention_mask=mask, past_key_values=cache).logits
        expected = model(**inputs).logits[:, past:]
    torch.testing.assert_close(got, expected.repeat(2, 1, 1), atol=1e-4, rtol=0.0)


def test_a_cut_block_whose_rest_has_another_number(model, encode):
    """As the codes have that were made from the new part alone."""
    inputs = encode(TURNS, add_generation_prompt=True)
    past = behind_picture(inputs, 1)
    codes = TokenRoles.from_codes(inputs["token_type_ids"][:, past:])
    anew = TokenRoles(codes.document_BN, codes.block_BN.clamp(max=0), codes.modality_BN, codes.item_BN).to_codes()
    rest = {**cut(inputs, slice(past, None), "input_ids"), "token_type_ids": anew}
    with torch.no_grad(), pytest.raises(ValueError, match="begins inside prompt block 1"):
        model(**rest, past_key_values=filled(model, inputs, past, 2))


def test_generate_with_a_cache_of_another_text(model, encode):
    first, second = (encode([user("now", picture(1), text)], add_generation_prompt=True) for text in ("is it?", "no?"))
    cache = DynamicCache()
    model.generate(**first, **GREEDY, past_key_values=cache)
    with pytest.raises(ValueError, match=r"input_ids hold \d+ tokens and the cache \d+: .*an empty cache"):
        model.generate(**second, **GREEDY, past_key_values=cache)
    longer = encode(
        [user("so", picture(1), "which of them is it, then, and why is it that?")], add_generation_prompt=True
    )
    with pytest.raises(ValueError, match=r"the cache holds another text than input_ids: token \d+ of row 0"):
        model.generate(**longer, **GREEDY, past_key_values=cache)


def test_a_batch_goes_on_with_its_padding_or_not_at_all(model, encode):
    """Tokens keep the positions at which they were cached."""
    chats = [ASKED, [user(picture(2), "what?")]]
    inputs = encode(chats, add_generation_prompt=True)
    cache = DynamicCache()
    said = model.generate(**inputs, **GREEDY, past_key_values=cache)
    past = int(cache.get_seq_length())
    new = torch.tensor([[60, 61, 62], [60, 61, 62]])
    mask = torch.cat([inputs["attention_mask"], torch.ones(2, past - inputs["input_ids"].shape[1] + 3)], 1).long()
    codes = torch.ones(2, 3, dtype=torch.long)
    later = {"input_ids": new, "token_type_ids": codes, "past_key_values": cache}
    moved = mask.clone()
    moved[1, : int((mask[1] == 0).sum()) + 2] = 0  # two more of padding, as beside a longer row
    assert said.shape[1] == past + 1
    for wrong in (moved, torch.ones_like(mask)):
        with torch.no_grad(), pytest.raises(ValueError, match="other cached tokens of row 1 are padding"):
            model(**later, attention_mask=wrong)
    ended = mask.clone()
    ended[0, past - 2 : past] = 0  # a reply that ended early
    with torch.no_grad():
        model(**later, attention_mask=ended)


@pytest.mark.parametrize("option", [{"prompt_lookup_num_tokens": 3}, {"assistant_model": "mma"}], ids=str)
def test_guesses_behind_a_cache(model, encode, option):
    inputs = encode([user("is it red? is it red?")], add_generation_prompt=True)
    cache = DynamicCache()
    said = model.generate(**inputs, **GREEDY, past_key_values=cache)
    option = {name: make_model("mma") if value == "mma" else value for name, value in option.items()}
    more = torch.ones(1, said.shape[1] + 1, dtype=torch.long)
    ids = torch.cat([said, said[:, :1]], 1)
    with pytest.raises(ValueError, match="would run the cached text a second time"):
        model.generate(input_ids=ids, attention_mask=more, **GREEDY, past_key_values=cache, **option)


def test_a_prefix_of_the_reply_is_seen_by_generate(model, encode):
    """Zeros appended to the roles are responses where the mask shows them, though Transformers drops such a mask."""
    inputs = encode(ASKED, add_generation_prompt=True)
    prefix = torch.tensor([[70, 71, 72]])
    begun = {
        "input_ids": torch.cat([inputs["input_ids"], prefix], 1),
        "token_type_ids": torch.nn.functional.pad(inputs["token_type_ids"], (0, 3)),
        "attention_mask": torch.nn.functional.pad(inputs["attention_mask"], (0, 3), value=1),
        "pixel_values": inputs["pixel_values"],
    }
    with torch.no_grad():
        expected = model(**begun).logits[:, -1]
    for more in ({}, {"cache_implementation": "static"}, {"use_cache": False}):
        out = model.generate(
            **begun, max_new_tokens=1, do_sample=False, return_dict_in_generate=True, output_logits=True, **more
        )
        torch.testing.assert_close(out.logits[0], expected, atol=1e-4, rtol=0.0)


@pytest.mark.parametrize("implementation", ["dynamic", "static"])
def test_padding_is_known_from_the_roles(model, encode, processor, implementation):
    """Where Transformers cannot tell, as padding is what ends a text, too."""
    inputs = encode([ASKED, [user(picture(2), "what?")]], add_generation_prompt=True)
    pad = processor.tokenizer.pad_token_id
    options = {**GREEDY, "cache_implementation": implementation, "pad_token_id": pad, "eos_token_id": pad}
    expected = model.generate(**inputs, **options)
    bare = {name: value for name, value in inputs.items() if name != "attention_mask"}
    assert torch.equal(model.generate(**bare, **options), expected)


def test_roles_that_are_all_padding(model):
    ids = torch.tensor([[20, 21, 22]])
    with pytest.raises(ValueError, match="token_type_ids hold no roles"):
        model.generate(ids, token_type_ids=torch.zeros_like(ids), **GREEDY)


def test_a_config_of_the_callers_undoes_no_promise(encode):
    model = make_model("mma")
    inputs = encode(ASKED, add_generation_prompt=True)
    likely = int(model.generate(**inputs, max_new_tokens=1, do_sample=False)[0, -1])
    model.generation_config.suppress_tokens = [likely]
    given = GenerationConfig(max_new_tokens=1, do_sample=False)
    assert int(model.generate(**inputs, generation_config=given)[0, -1]) != likely
    room = 4
    model.config.text_config.max_position_embeddings = inputs["input_ids"].shape[1] + room
    given = GenerationConfig(do_sample=False, eos_token_id=-1, cache_implementation="static")
    with pytest.warns(UserWarning, match="the reply may have"):
        said = model.generate(**inputs, generation_config=given, max_new_tokens=room + 5)
    assert said.shape[1] == inputs["input_ids"].shape[1] + room
