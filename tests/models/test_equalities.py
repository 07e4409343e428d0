"""However a conversation is computed, the numbers are the same (1e-4 on float32 logits)."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from tiny_model import assert_checkpointing_changes_no_gradient, assistant, make_model, make_processor, picture, user
from transformers import CompileConfig, DynamicCache, StaticCache

from mutua.roles import TokenRoles

TOLERANCE = {"atol": 1e-4, "rtol": 0.0}

ONE = [user(picture(1), "what colour is the circle?")]
SHORT = [user(picture(2), "is it red?")]
TWO_IMAGES = [user(picture(3), "and", picture(4), "which is red?")]
TEXT = [user("is there a small blue square?")]
TURNS = [user(picture(5), "what is it?"), assistant("a circle"), user(picture(6), "and this one?")]
CONVERSATIONS = {"one": ONE, "short": SHORT, "two images": TWO_IMAGES, "text": TEXT, "turns": TURNS}


@pytest.fixture(scope="module", params=[("mma", "mlp"), ("mma", "resampler"), ("causal", "mlp")], ids="-".join)
def model(request):
    return make_model(*request.param)


@pytest.fixture(scope="module")
def processor(model):
    return make_processor(model)


def logits(model, inputs) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs).logits


def real(values: torch.Tensor, inputs: dict, row: int) -> torch.Tensor:
    return values[row, inputs["attention_mask"][row].bool()]


def grow(model, inputs: dict, steps: int, cache) -> torch.Tensor:
    """Greedy decoding by hand, all logits of the generated positions: (B, steps, vocabulary)."""
    inputs, collected = dict(inputs), []
    for _ in range(steps):
        now = dict(inputs)
        if cache is not None and cache.get_seq_length() > 0:
            now = {key: inputs[key][:, -1:] for key in ("input_ids", "token_type_ids")}
            now["attention_mask"] = inputs["attention_mask"]
        with torch.no_grad():
            last = model(**now, past_key_values=cache).logits[:, -1]
        collected.append(last)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], last.argmax(-1, keepdim=True)], 1)
        inputs["attention_mask"] = torch.nn.functional.pad(inputs["attention_mask"], (0, 1), value=1)
        inputs["token_type_ids"] = torch.nn.functional.pad(inputs["token_type_ids"], (0, 1), value=1)
    return torch.stack(collected, 1)


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_cached_equals_uncached_equals_static(model, encode, name):
    inputs = encode(CONVERSATIONS[name], add_generation_prompt=True)
    uncached = grow(model, inputs, 4, None)
    static = StaticCache(config=model.config.text_config, max_cache_len=inputs["input_ids"].shape[1] + 9)
    torch.testing.assert_close(grow(model, inputs, 4, DynamicCache()), uncached, **TOLERANCE)
    torch.testing.assert_close(grow(model, inputs, 4, static), uncached, **TOLERANCE)


@pytest.mark.parametrize("side", ["left", "right"])
def test_batched_equals_single(model, encode, side):
    names = list(CONVERSATIONS)
    inputs = encode([CONVERSATIONS[name] for name in names], side)
    together = logits(model, inputs)
    for row, name in enumerate(names):
        alone = logits(model, encode(CONVERSATIONS[name]))[0]
        torch.testing.assert_close(real(together, inputs, row), alone, **TOLERANCE)


@pytest.mark.parametrize("options", [{}, {"cache_implementation": "static"}, {"use_cache": False}], ids=str)
@pytest.mark.parametrize("search", [{}, {"num_beams": 3}], ids=["greedy", "beam"])
def test_generate_in_a_left_padded_batch_equals_one_by_one(model, encode, options, search):
    options = {"min_new_tokens": 6, "max_new_tokens": 6, "do_sample": False, **options, **search}
    names = list(CONVERSATIONS)
    inputs = encode([CONVERSATIONS[name] for name in names], add_generation_prompt=True)
    together = model.generate(**inputs, **options)[:, inputs["input_ids"].shape[1] :]
    for row, name in enumerate(names):
        alone = encode(CONVERSATIONS[name], add_generation_prompt=True)
        expected = model.generate(**alone, **{**options, "use_cache": True, "cache_implementation": None})
        assert together[row].tolist() == expected[0, alone["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize(
    ("name", "compiled"),
    [("one", False), ("text", False), ("one", True), pytest.param("text", True, marks=pytest.mark.slow)],
)
def test_generate_with_a_static_cache_and_no_padding(model, encode, name, compiled):
    """`generate` passes no mask then."""
    inputs = encode({"one": ONE, "text": TEXT}[name], add_generation_prompt=True)
    options: dict = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    expected = model.generate(**inputs, **options)
    if compiled:
        torch._dynamo.reset()
        compiling = CompileConfig(backend="aot_eager", fullgraph=True, mode=None)
        compiling._compile_all_devices = True  # by default only where it pays
        options["compile_config"] = compiling
    assert torch.equal(model.generate(**inputs, **options, cache_implementation="static"), expected)


def test_static_steps_by_hand_know_where_they_are(model, encode):
    inputs = encode(ONE, add_generation_prompt=True)
    tokens = inputs["input_ids"].shape[1]
    said = torch.tensor([[7, 9]])
    everything = {**inputs, "input_ids": torch.cat([inputs["input_ids"], said], 1)}
    everything["token_type_ids"] = torch.cat([inputs["token_type_ids"], torch.ones_like(said)], 1)
    del everything["attention_mask"]
    expected = logits(model, everything)[:, -1:]
    cache = StaticCache(config=model.config.text_config, max_cache_len=tokens + 4)
    logits(model, {**inputs, "past_key_values": cache})
    for place in range(2):
        got = logits(model, {"input_ids": said[:, place : place + 1], "past_key_values": cache})
    torch.testing.assert_close(got, expected, **TOLERANCE)


@pytest.mark.parametrize("use_cache", [True, False])
def test_the_score_of_a_beam_is_the_likelihood_of_its_tokens(model, encode, use_cache):
    """Every beam of a row with two images must have looked at these two, in their order."""
    inputs = encode([TWO_IMAGES, TEXT, ONE], add_generation_prompt=True)
    prompt = inputs["input_ids"].shape[1]
    out = model.generate(
        **inputs,
        min_new_tokens=4,
        max_new_tokens=4,
        num_beams=3,
        do_sample=False,
        use_cache=use_cache,
        return_dict_in_generate=True,
        output_scores=True,
        length_penalty=0.0,
    )
    said = out.sequences[:, prompt:]
    full = {
        **inputs,
        "input_ids": out.sequences,
        "attention_mask": torch.nn.functional.pad(inputs["attention_mask"], (0, 4), value=1),
        "token_type_ids": torch.nn.functional.pad(inputs["token_type_ids"], (0, 4), value=1),
    }
    steps = logits(model, full)[:, prompt - 1 : -1].log_softmax(-1)
    expected = steps.gather(-1, said[..., None])[..., 0].sum(-1)
    torch.testing.assert_close(out.sequences_scores, expected, atol=1e-3, rtol=0.0)


def test_generate_without_an_attention_mask(model, encode):
    inputs = encode(ONE, add_generation_prompt=True)
    expected = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    del inputs["attention_mask"]
    assert torch.equal(model.generate(**inputs, max_new_tokens=5, do_sample=False), expected)


def test_prompt_lookup_and_sampling_and_streaming(model, encode, processor):
    from transformers import TextIteratorStreamer

    inputs = encode(ONE, add_generation_prompt=True)
    greedy = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    assert torch.equal(model.generate(**inputs, max_new_tokens=8, do_sample=False, prompt_lookup_num_tokens=2), greedy)
    streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True)
    model.generate(**inputs, max_new_tokens=8, do_sample=False, streamer=streamer)
    assert "".join(streamer) == processor.decode(greedy[0, inputs["input_ids"].shape[1] :])
    sampled = []
    for use_cache in (True, False):
        torch.manual_seed(1)
        options = {"do_sample": True, "temperature": 5.0, "use_cache": use_cache}
        sampled.append(model.generate(**inputs, max_new_tokens=8, **options))
    assert torch.equal(*sampled)
    assert not torch.equal(sampled[0], greedy)


def test_two_documents_in_one_row_equal_two_rows(model, encode):
    rows = [encode([*TURNS, assistant("a square")]), encode(TWO_IMAGES), encode(TEXT)]
    codes = []
    for document, row in enumerate(rows):
        roles = TokenRoles.from_codes(row["token_type_ids"])
        codes.append(replace(roles, document_BN=roles.document_BN + document).to_codes())
    packed = {
        "input_ids": torch.cat([row["input_ids"] for row in rows], 1),
        "token_type_ids": torch.cat(codes, 1),
        "pixel_values": torch.cat([row["pixel_values"] for row in rows if "pixel_values" in row]),
    }
    separate = torch.cat([logits(model, row) for row in rows], 1)
    torch.testing.assert_close(logits(model, packed), separate, **TOLERANCE)
    padded = {**packed, "attention_mask": torch.ones_like(packed["input_ids"])}
    torch.testing.assert_close(logits(model, padded), separate, **TOLERANCE)


def test_text_packed_by_positions_equals_separate(model, encode):
    """As Transformers' and TRL's collators pack: no roles, no mask, and positions that begin anew."""
    texts = [encode([user(question), assistant("yes")])["input_ids"] for question in ("is it red?", "which one is it?")]
    separate = torch.cat([logits(model, {"input_ids": ids}) for ids in texts], dim=1)
    positions = torch.cat([torch.arange(ids.shape[1])[None] for ids in texts], dim=1)
    packed = {"input_ids": torch.cat(texts, dim=1), "position_ids": positions}
    torch.testing.assert_close(logits(model, packed), separate, **TOLERANCE)


def test_a_cached_chat_equals_a_full_re_run(model, encode):
    """Turn by turn with one cache, the second image arriving later, against everything in one forward."""
    full = encode(TURNS, add_generation_prompt=True)
    first = encode(TURNS[:2])
    split = first["input_ids"].shape[1]
    assert torch.equal(full["input_ids"][:, :split], first["input_ids"])
    cache = DynamicCache()
    with torch.no_grad():
        model(**first, past_key_values=cache)
        later = {key: full[key][:, split:] for key in ("input_ids", "token_type_ids")}
        out = model(**later, pixel_values=full["pixel_values"][1:], past_key_values=cache).logits
    torch.testing.assert_close(out, logits(model, full)[:, split:], **TOLERANCE)


def test_gradient_checkpointing_changes_no_gradient(model, encode):
    assert_checkpointing_changes_no_gradient(copy.deepcopy(model), encode([*ONE, assistant("red")]))


def test_gradient_checkpointing_keeps_nothing_of_a_frozen_vision_encoder(model, encode):
    """Transformers then has all embeddings require gradients, and a graph of the whole encoder would be kept."""
    model, inputs = copy.deepcopy(model), encode([*ONE, assistant("red")])
    model.model.vision_tower.requires_grad_(False)
    model.gradient_checkpointing_enable()
    model.train()
    features = []
    model.model.connector.register_forward_pre_hook(lambda _, args: features.append(args[0]))
    model(**inputs)
    assert not features[-1].requires_grad
    next(model.model.vision_tower.parameters()).requires_grad_(True)
    model(**inputs)
    assert features[-1].requires_grad


def test_pixels_may_have_a_gradient_where_nothing_is_trained(model, encode):
    """As maps of saliency take it, of what the model says next."""
    model, inputs = copy.deepcopy(model).requires_grad_(False), encode(ONE)
    pixels = inputs["pixel_values"].clone().requires_grad_(True)
    model(**{**inputs, "pixel_values": pixels}).logits[:, -1].sum().backward()
    assert pixels.grad.abs().sum() > 0


def test_bf16_is_close_to_fp32(model, encode):
    # Small weights, as in a trained model: with large ones softmax is a switch, and rounding flips it.
    model = make_model(model.config.attention_policy, model.config.connector, initializer_range=0.05)
    inputs = encode(TURNS)
    exact = logits(model, inputs)
    inputs["pixel_values"] = inputs["pixel_values"].bfloat16()
    rough = logits(model.bfloat16(), inputs).float()
    assert (rough - exact).abs().max() < 0.05 * exact.abs().max()


def test_the_oracle_backend_gives_the_same_logits(model, encode):
    inputs = encode([ONE, TURNS])
    expected = logits(model, inputs)
    model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            out = model(**inputs, output_attentions=True)
    finally:
        model.set_attn_implementation("auto")
    keep = inputs["attention_mask"].bool()
    torch.testing.assert_close(out.logits[keep], expected[keep], **TOLERANCE)
    assert out.attentions[0].shape[-1] == inputs["input_ids"].shape[1]


def test_a_loss_over_the_kept_positions_is_the_loss(model, encode):
    """Logits only where a target follows: the same loss and the same gradient of the head."""
    model = copy.deepcopy(model)
    inputs = encode([[*ONE, assistant("red")], TURNS])
    labels = torch.where(TokenRoles.from_codes(inputs["token_type_ids"]).is_response_BN, inputs["input_ids"], -100)
    kept = (labels != -100).any(0).nonzero()[:, 0] - 1
    losses, gradients = [], []
    for positions in (0, kept):
        model.zero_grad()
        out = model(**inputs, labels=labels, logits_to_keep=positions)
        out.loss.backward()
        losses.append(out.loss.detach())
        gradients.append(model.lm_head.weight.grad.clone())
    assert out.logits.shape[1] == len(kept) < inputs["input_ids"].shape[1]
    torch.testing.assert_close(losses[1], losses[0], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-6, rtol=1e-5)
