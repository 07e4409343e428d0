"""Forwards and caches driven by hand, and generation from features or embeddings: right, or refused."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny_model import assistant, make_model, picture, user
from transformers import DynamicCache, StaticCache

from mutua.roles import TokenRoles

TOLERANCE = {"atol": 1e-4, "rtol": 0.0}
ASKED = [user(picture(1), "is it red? is it?")]
ROWS = [ASKED, [user(picture(2), picture(3), "a longer question, is it not?")], [user("no picture")]]
GREEDY = {"min_new_tokens": 5, "max_new_tokens": 5, "do_sample": False}


@pytest.fixture(scope="module", params=["mma", "causal"])
def model(request):
    return make_model(request.param)


def without(inputs: dict, *keys: str) -> dict:
    return {key: value for key, value in inputs.items() if key not in keys}


@torch.no_grad()
def features(model, inputs: dict) -> torch.Tensor:
    return model.model.get_vision_features(inputs["pixel_values"])


@torch.no_grad()
def embeddings(model, inputs: dict) -> torch.Tensor:
    return model.get_input_embeddings()(inputs["input_ids"])


@pytest.mark.parametrize("options", [{}, {"use_cache": False}, {"cache_implementation": "static"}, {"num_beams": 3}])
def test_generate_from_vision_features(model, encode, options):
    inputs = encode(ROWS, add_generation_prompt=True)
    expected = model.generate(**inputs, **GREEDY, **options)
    cached = {**without(inputs, "pixel_values"), "vision_features": features(model, inputs)}
    assert torch.equal(model.generate(**cached, **GREEDY, **options), expected)


@pytest.mark.parametrize("options", [{}, {"cache_implementation": "static"}, {"num_beams": 3}], ids=str)
def test_generate_from_embeddings(model, encode, options):
    inputs = encode(ROWS, add_generation_prompt=True)
    prompt = inputs["input_ids"].shape[1]
    expected = model.generate(**inputs, **GREEDY, **options)[:, prompt:]
    embedded = {**without(inputs, "input_ids"), "inputs_embeds": embeddings(model, inputs)}
    assert torch.equal(model.generate(**embedded, **GREEDY, **options), expected)


def test_generate_from_embeddings_needs_a_cache(model, encode):
    inputs = encode(ASKED, add_generation_prompt=True)
    with pytest.raises(ValueError, match=r"inputs_embeds=\.\.\., use_cache=False"):
        model.generate(
            **without(inputs, "input_ids"), inputs_embeds=embeddings(model, inputs), use_cache=False, max_new_tokens=2
        )


@torch.no_grad()
def decode_by_hand(
    model, inputs: dict, replies: torch.Tensor, dropped: tuple[str, ...], keys: tuple[str, ...]
) -> torch.Tensor:
    """Logits of every reply token, fed one by one: the prompt without what is dropped, each step with `keys` alone."""
    out = model(**without(inputs, *dropped), past_key_values=DynamicCache())
    collected, codes, mask = [out.logits[:, -1]], inputs["token_type_ids"], torch.ones_like(replies)
    for step in range(replies.shape[1] - 1):
        now = {"input_ids": replies[:, step : step + 1]}
        if "token_type_ids" in keys:
            now["token_type_ids"] = torch.ones_like(codes[:, :1])
        if "attention_mask" in keys:
            now["attention_mask"] = torch.cat([inputs["attention_mask"], mask[:, : step + 1]], 1)
        collected.append(model(**now, past_key_values=out.past_key_values).logits[:, -1])
    return torch.stack(collected, 1)


@pytest.mark.parametrize("keys", [(), ("token_type_ids",), ("attention_mask",)], ids=str)
@pytest.mark.parametrize("dropped", [(), ("attention_mask",)], ids=str)
def test_decoding_left_padded_rows_by_hand(model, encode, keys, dropped):
    """Whatever of roles and attention mask comes along: the cache knows what in it is padding."""
    inputs = encode(ROWS, add_generation_prompt=True)
    prompt = inputs["input_ids"].shape[1]
    replies = model.generate(**inputs, **GREEDY)[:, prompt:]
    full = {
        **inputs,
        "input_ids": torch.cat([inputs["input_ids"], replies], 1),
        "attention_mask": torch.nn.functional.pad(inputs["attention_mask"], (0, 5), value=1),
        "token_type_ids": torch.nn.functional.pad(inputs["token_type_ids"], (0, 5), value=1),
    }
    with torch.no_grad():
        expected = model(**full).logits[:, prompt - 1 : -1]
    got = decode_by_hand(model, inputs, replies, dropped, keys)
    torch.testing.assert_close(got, expected, **TOLERANCE)


def test_a_cache_that_nobody_knows(model, encode):
    """Filled behind the model's back: without an attention mask it is not known what in it is padding."""
    inputs = encode(ASKED, add_generation_prompt=True)
    cache = DynamicCache()
    with torch.no_grad():
        model(**inputs, past_key_values=cache)
        del cache._mutua_note
        with pytest.raises(
            ValueError, match=r"attention_mask is missing, and which of the \d+ cached tokens are padding"
        ):
            model(input_ids=inputs["input_ids"][:, -1:], past_key_values=cache)


def test_a_cache_with_other_rows(model, encode):
    """Rows taken out of a cache: the note on it is of others, so the attention mask has to come along."""
    inputs = encode(ROWS, add_generation_prompt=True)
    cache = DynamicCache()
    token = torch.tensor([[40], [41]])
    with torch.no_grad():
        model(**inputs, past_key_values=cache)
        cache.batch_select_indices(torch.tensor([0, 2]))
        with pytest.raises(ValueError, match="attention_mask is missing"):
            model(input_ids=token, past_key_values=cache)
        mask = torch.nn.functional.pad(inputs["attention_mask"][[0, 2]], (0, 1), value=1)
        got = model(input_ids=token, attention_mask=mask, past_key_values=cache).logits[:, 0]
        alone = [without(encode(ROWS[row], add_generation_prompt=True), "attention_mask") for row in (0, 2)]
        for row, prompt in enumerate(alone):
            cache = model(**prompt, use_cache=True).past_key_values
            expected = model(input_ids=token[row : row + 1], past_key_values=cache).logits[0, 0]
            torch.testing.assert_close(got[row], expected, **TOLERANCE)


@pytest.mark.parametrize("cut", [1, 10, 20, -1])
def test_a_prefill_cut_by_hand_inside_a_block(encode, cut):
    """The look-ahead of what is cached is lost: refused under mma, exact under causal attention."""
    model, causal = make_model("mma"), make_model("causal")
    inputs = encode(ASKED, add_generation_prompt=True)
    cut = inputs["input_ids"].shape[1] + cut if cut < 0 else cut
    first, rest = (
        {key: inputs[key][:, places] for key in ("input_ids", "token_type_ids")}
        for places in (slice(cut), slice(cut, None))
    )
    roles = TokenRoles.from_codes(first["token_type_ids"])
    images = int((roles.modality_BN == 1).sum())
    if images not in (0, 16):
        with torch.no_grad(), pytest.raises(ValueError, match="image tokens, but 1 images give 16"):
            model(**first, pixel_values=inputs["pixel_values"])
        return
    pixels = {"pixel_values": inputs["pixel_values"]}
    for network in (model, causal):
        cache = DynamicCache()
        with torch.no_grad():
            expected = network(**inputs).logits[:, cut:]
            network(**first, **(pixels if images else {}), past_key_values=cache)
            again = {**rest, **({} if images else pixels), "past_key_values": cache}
            if network is model and images:
                with pytest.raises(
                    ValueError, match=rf"begins inside prompt block 0 of row 0, whose first {cut} tokens"
                ):
                    network(**again)
            else:  # nothing of the cached part looks ahead
                torch.testing.assert_close(network(**again).logits, expected, **TOLERANCE)


def test_a_question_fed_token_by_token_is_a_cut_block(encode):
    model = make_model("mma")
    inputs = encode(ASKED)
    last = {key: inputs[key][:, -1:] for key in ("input_ids", "token_type_ids")}
    head = {key: inputs[key][:, :-1] for key in ("input_ids", "token_type_ids")}
    with torch.no_grad():
        cache = model(**head, pixel_values=inputs["pixel_values"], use_cache=True).past_key_values
        with pytest.raises(ValueError, match="begins inside prompt block 0"):
            model(**last, past_key_values=cache)


@pytest.mark.parametrize("shape", [(1, -3), (1, 2), (2, 0)], ids=str)
def test_an_attention_mask_of_another_shape(model, encode, shape):
    inputs = encode(ASKED)
    rows, more = shape
    mask = torch.ones(rows, inputs["input_ids"].shape[1] + more, dtype=torch.long)
    with pytest.raises(ValueError, match=r"attention_mask has shape .*1 rows of 0 cached and .* new tokens"):
        model(**{**inputs, "attention_mask": mask})


def test_an_attention_mask_that_leaves_out_the_cache(model, encode):
    inputs = encode(ASKED)
    with torch.no_grad():
        cache = model(**inputs, use_cache=True).past_key_values
        with pytest.raises(ValueError, match=r"1 rows of \d+ cached and 1 new tokens: pass one of shape"):
            model(input_ids=torch.tensor([[40]]), attention_mask=torch.ones(1, 1), past_key_values=cache)


@pytest.mark.parametrize("static", [False, True])
def test_zeros_appended_to_the_roles_are_responses(model, encode, static):
    """GRPO and RLOO lengthen token_type_ids with zeros and the attention mask with ones."""
    inputs = encode([[*ASKED, assistant("yes it is")], [user("no picture"), assistant("yes it is")]], "left")
    said = TokenRoles.from_codes(inputs["token_type_ids"]).is_response_BN
    zeroed = torch.where(said, 0, inputs["token_type_ids"])
    with torch.no_grad():
        expected = model(**inputs).logits
        keep = inputs["attention_mask"].bool()
        got = model(**{**inputs, "token_type_ids": zeroed}).logits
        torch.testing.assert_close(got[keep], expected[keep], **TOLERANCE)
        # In two forwards, the second of zeros alone.
        prompt = int(said.int().argmax(-1).min())
        config = model.config.text_config
        cache = StaticCache(config=config, max_cache_len=99) if static else DynamicCache()
        first = {key: value[:, :prompt] for key, value in inputs.items() if key != "pixel_values"}
        model(**first, pixel_values=inputs["pixel_values"], past_key_values=cache)
        later = {"input_ids": inputs["input_ids"][:, prompt:], "token_type_ids": zeroed[:, prompt:]}
        out = model(**later, attention_mask=inputs["attention_mask"], past_key_values=cache).logits
    torch.testing.assert_close(out[keep[:, prompt:]], expected[:, prompt:][keep[:, prompt:]], **TOLERANCE)


def test_attention_weights_come_or_the_backend_that_has_them_is_named(encode):
    model, inputs = make_model("mma"), encode(ASKED)
    with pytest.raises(ValueError, match=r"'mutua_auto' computes no attention weights: .*'mutua_reference'"):
        model(**inputs, output_attentions=True)
    with pytest.raises(ValueError, match="computes no attention weights"):
        model.generate(**inputs, max_new_tokens=1, output_attentions=True, return_dict_in_generate=True)
    model.set_attn_implementation("mutua_reference")
    with torch.no_grad():
        attentions = model(**inputs, output_attentions=True).attentions
    assert len(attentions) == model.config.text_config.num_hidden_layers
    torch.testing.assert_close(attentions[0].sum(-1), torch.ones_like(attentions[0][..., 0]))
    roles = TokenRoles.from_codes(inputs["token_type_ids"])
    is_image, length = roles.modality_BN[0] == 1, inputs["input_ids"].shape[1]
    ahead = attentions[0][0, :, is_image][:, :, torch.arange(length) > int(is_image.nonzero()[-1])]
    assert bool((ahead > 0).all()), "the weights are those of mma"


def test_the_config_names_the_backend(encode):
    model = make_model("mma")
    assert model.config._attn_implementation == "mutua_auto"
    for name in ("mutua_split", "mutua_sdpa"):
        model.set_attn_implementation(name)
        assert model.config._attn_implementation == model.config.text_config._attn_implementation == name
    assert model.config.vision_config._attn_implementation not in ("mutua_split", "mutua_sdpa")


@pytest.mark.parametrize("back", [1, 4, 8])
def test_a_cache_cropped_inside_a_block(encode, back):
    """The image in the cache saw the question that was cut off: another one in its place is refused."""
    model, causal = make_model("mma"), make_model("causal")
    inputs = encode(ASKED, add_generation_prompt=True)
    tokens = inputs["input_ids"].shape[1]
    rest = {key: inputs[key][:, tokens - back :] for key in ("input_ids", "token_type_ids")}
    for network in (model, causal):
        with torch.no_grad():
            cache = network(**inputs, use_cache=True).past_key_values
            cache.crop(-back)
            if network is model:
                with pytest.raises(ValueError, match="crop a cache between blocks"):
                    network(**rest, attention_mask=inputs["attention_mask"], past_key_values=cache)
            else:
                out = network(**rest, attention_mask=inputs["attention_mask"], past_key_values=cache).logits
                torch.testing.assert_close(out, network(**inputs).logits[:, -back:], **TOLERANCE)


def test_a_cache_cropped_between_blocks(encode):
    """What the model said is cut off, and something else comes in its place."""
    model = make_model("mma")
    prompt = encode(ASKED, add_generation_prompt=True)
    said, other = (encode([*ASKED, assistant(text)]) for text in ("yes it is", "no it is not"))
    start = prompt["input_ids"].shape[1]
    with torch.no_grad():
        cache = model(**said, use_cache=True).past_key_values
        cache.crop(start - said["input_ids"].shape[1])
        later = {key: other[key][:, start:] for key in ("input_ids", "token_type_ids")}
        out = model(**later, attention_mask=other["attention_mask"], past_key_values=cache).logits
        torch.testing.assert_close(out, model(**other).logits[:, start:], **TOLERANCE)


def test_a_cache_whose_rows_changed_places(encode):
    """Rows of different padding: the note on the cache tells of other rows, so the attention mask has to come along."""
    model, order = make_model("mma"), torch.tensor([2, 0, 1])
    inputs, token = encode(ROWS, add_generation_prompt=True), torch.tensor([[40], [41], [42]])
    with torch.no_grad():
        cache = model(**inputs, use_cache=True).past_key_values
        cache.reorder_cache(order)
        with pytest.raises(ValueError, match="was changed"):
            model(input_ids=token[order], past_key_values=cache)
        mask = torch.nn.functional.pad(inputs["attention_mask"], (0, 1), value=1)
        got = model(input_ids=token[order], attention_mask=mask[order], past_key_values=cache).logits
        cache = model(**inputs, use_cache=True).past_key_values
        expected = model(input_ids=token, attention_mask=mask, past_key_values=cache).logits
    torch.testing.assert_close(got, expected[order], **TOLERANCE)


def test_what_generate_is_given(encode):
    model = make_model("mma")
    inputs = encode(ASKED, add_generation_prompt=True)
    ids, rest = inputs["input_ids"], without(inputs, "input_ids")
    plain = model.generate(**inputs, **GREEDY)[0, ids.shape[1] :].tolist()
    config = copy.deepcopy(model.generation_config)
    config.suppress_tokens, config.max_new_tokens, config.min_new_tokens = plain, 5, 5
    for said in (
        model.generate(ids, config, **rest),
        model.generate(ids, generation_config=config, **rest),
        model.generate(ids, suppress_tokens=torch.tensor(plain), **rest, **GREEDY),
    ):
        assert not set(said[0, ids.shape[1] :].tolist()) & set(plain)
    assert config.suppress_tokens == plain, "the caller's own is left alone"
    config.prefill_chunk_size = 4
    with pytest.raises(ValueError, match="prefill_chunk_size=4"):
        model.generate(ids, config, **rest)
    with pytest.raises(ValueError, match="Transformers hands the assistant no pictures"):
        model.generate(**inputs, **GREEDY, assistant_model=make_model("mma"))
    with pytest.raises(ValueError, match="images came without token_type_ids"):
        model.generate(**without(inputs, "token_type_ids"), num_beams=2, max_new_tokens=2)


@pytest.mark.parametrize("first", [ROWS[:1], ROWS[1:2]])
def test_padding_that_comes_in_a_later_turn(encode, first):
    """Turn one has no padding, and no mask is ever passed: the cache still knows which of its tokens are padding."""
    model, turn = make_model("mma"), encode([*first, *first], add_generation_prompt=True)
    later = encode([[user("is it?")], [user("a longer question, is it not?")]], add_generation_prompt=True)
    step = {"input_ids": torch.full((2, 1), 5)}
    with torch.no_grad():
        cache = DynamicCache()
        for inputs in (turn, step, later, step):
            said = model(**without(inputs, "attention_mask"), past_key_values=cache).logits
        known, mask = DynamicCache(), torch.ones(2, 0, dtype=torch.long)
        for inputs in (turn, step, later, step):
            mask = torch.cat([mask, inputs.get("attention_mask", torch.ones(2, 1, dtype=torch.long))], 1)
            expected = model(**{**inputs, "attention_mask": mask}, past_key_values=known).logits
    assert not bool(later["attention_mask"].all())
    torch.testing.assert_close(said, expected, **TOLERANCE)


def test_a_language_model_of_another_backend_is_never_causal_without_a_word(encode):
    """`resolve` sees what `set_attn_implementation` of the whole model is given, and not what is done to its parts."""
    model = make_model("mma")
    model.config.text_config._attn_implementation = "sdpa"
    with pytest.raises(ValueError, match=r"was changed to 'sdpa', which cannot apply a look-ahead mask"):
        model(**encode(ASKED))


def test_text_alone_needs_its_roles_where_text_looks_ahead(encode):
    """TRL's collator for text drops them: trained causally, it would be used as a prefix model."""
    model, inputs = make_model("prefix"), encode([user("is it red?")], add_generation_prompt=True)
    model(**inputs)
    with pytest.raises(ValueError, match=r"policy 'prefix' lets text look ahead, too, and without token_type_ids"):
        model(**without(inputs, "token_type_ids"))
    make_model("mma")(**without(inputs, "token_type_ids"))
