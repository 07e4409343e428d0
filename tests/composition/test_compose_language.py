"""Every language model inside a composed one: the same without an image, the rule with one, however it is computed."""

from __future__ import annotations

import pytest
import torch
from tiny_model import assistant, picture, user
from tiny_parts import LANGUAGE, VISION, compose_from_folders, text_tokenizer
from transformers import AutoModelForImageTextToText, AutoProcessor, Gemma3Config, Gemma3ForConditionalGeneration

import mutua
from mutua.inspection.leakage import prove
from mutua.roles import Modality, TokenRoles

CHATS = [
    [user(picture(1), "what colour is the circle?")],
    [user("is there a small blue square?")],
    [user(picture(2), "and", picture(3), "which is red?"), assistant("yes"), user("sure?")],
]
GREEDY = {"min_new_tokens": 6, "max_new_tokens": 6, "do_sample": False}
TOLERANCE = {"atol": 1e-4, "rtol": 0.0}


def encode(processor, messages, **options):
    return dict(
        processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt", **options)
    )


@torch.no_grad()
def logits(model, inputs) -> torch.Tensor:
    return model(**inputs).logits


def said(model, inputs, **options) -> list[list[int]]:
    return model.generate(**inputs, **GREEDY, **options)[:, inputs["input_ids"].shape[1] :].tolist()


@pytest.fixture
def left_padded() -> dict[str, torch.Tensor]:
    ids = torch.randint(2, 300, (2, 14), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, :5] = 0
    return {"input_ids": ids, "attention_mask": mask}


def test_without_an_image_it_is_the_language_model(by_language, left_padded):
    mask = left_padded["attention_mask"]
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    alone = logits(by_language.language, {**left_padded, "position_ids": positions})
    composed = logits(by_language.model, left_padded)
    assert torch.equal(composed[mask.bool()], alone[mask.bool()])
    for use_cache in (True, False):
        options = {"min_new_tokens": 8, "max_new_tokens": 8, "do_sample": False, "use_cache": use_cache}
        expected = by_language.language.generate(**left_padded, pad_token_id=0, suppress_tokens=[300], **options)
        assert torch.equal(by_language.model.generate(**left_padded, **options), expected)


def test_a_table_without_spare_rows_grows(tmp_path, left_padded):
    made = compose_from_folders(tmp_path, "siglip", "smollm2", vocab_size=300)
    assert made.processor.tokenizer.convert_tokens_to_ids(["<image>", "<|pad|>"]) == [300, 301]
    assert made.model.lm_head.weight.shape[0] == made.model.config.text_config.vocab_size == 302
    assert made.model.lm_head.weight is made.model.get_input_embeddings().weight
    ids = left_padded["input_ids"][:1]
    composed, alone = logits(made.model, {"input_ids": ids}), logits(made.language, {"input_ids": ids})
    torch.testing.assert_close(composed[..., :300], alone, atol=1e-5, rtol=0.0)


def test_saved_and_loaded_by_the_auto_classes(by_language, tmp_path):
    by_language.model.save_pretrained(tmp_path)
    by_language.processor.save_pretrained(tmp_path)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path)
    processor = AutoProcessor.from_pretrained(tmp_path)
    inputs = encode(processor, CHATS)
    assert inputs.keys() == encode(by_language.processor, CHATS).keys()
    assert torch.equal(inputs["token_type_ids"], encode(by_language.processor, CHATS)["token_type_ids"])
    assert torch.equal(logits(model, inputs), logits(by_language.model, inputs))
    assert model.generation_config.suppress_tokens == [processor.image_token_id]
    is_tied = model.lm_head.weight is model.get_input_embeddings().weight
    assert is_tied is by_language.language.config.tie_word_embeddings


def test_cached_uncached_static_batched_and_single_agree(by_language):
    together = encode(by_language.processor, CHATS, add_generation_prompt=True)
    single = [encode(by_language.processor, chat, add_generation_prompt=True) for chat in CHATS]
    expected = [said(by_language.model, inputs)[0] for inputs in single]
    for options in ({}, {"use_cache": False}, {"cache_implementation": "static"}):
        assert said(by_language.model, together, **options) == expected
    with torch.no_grad():
        rows = by_language.model(**together).logits
    for row, inputs in enumerate(single):
        real = together["attention_mask"][row].bool()
        torch.testing.assert_close(rows[row, real], logits(by_language.model, inputs)[0], **TOLERANCE)


def test_the_rule_by_perturbation(by_language):
    proof = prove(by_language.model, by_language.processor, conversations=1)
    assert proof.holds, proof.findings


def test_the_placeholder_is_never_said(by_language):
    model, processor = by_language.model, by_language.processor
    inputs = encode(processor, CHATS[:1], add_generation_prompt=True)
    head = model.lm_head.weight.detach().clone()
    with torch.no_grad():
        hidden = model.model(**inputs).last_hidden_state[0, -1]
        model.lm_head.weight[processor.image_token_id] = hidden  # now by far the likeliest
        try:
            assert int(logits(model, inputs)[0, -1].argmax()) == processor.image_token_id
            assert processor.image_token_id not in said(model, inputs)[0]
        finally:
            model.lm_head.weight.copy_(head)


def test_look_ahead_reaches_beyond_a_sliding_window():
    """Gemma 3, layers with a window of 6: the mask worked out token by token, by Transformers' own model."""
    torch.manual_seed(0)
    language = LANGUAGE["gemma3"](vocab_size=300)
    model, processor = mutua.compose(
        vision=VISION["siglip"](), connector="mlp", language=language, tokenizer=text_tokenizer()
    )
    inputs = encode(processor, [*CHATS[2], assistant("no it is not")])
    roles = TokenRoles.from_codes(inputs["token_type_ids"])
    tokens = roles.block_BN.shape[1]
    block, is_image = roles.block_BN[0].tolist(), (roles.modality_BN[0] == Modality.IMAGE).tolist()
    full, windowed = (torch.zeros(1, 1, tokens, tokens, dtype=torch.bool) for _ in range(2))
    for q in range(tokens):
        for k in range(tokens):
            ahead = k > q and is_image[q] and not is_image[k] and block[q] == block[k] >= 0
            full[0, 0, q, k] = k <= q or ahead
            windowed[0, 0, q, k] = (q - 6 < k <= q) or ahead
    assert bool((windowed[0, 0] & ~full[0, 0].tril()).any())
    assert tokens > 40
    with torch.no_grad():
        embeds = model.get_input_embeddings()(inputs["input_ids"])
        image = model.get_image_features(inputs["pixel_values"]).pooler_output
        embeds[0, torch.tensor(is_image)] = image.flatten(0, 1)
        ours = model.model(**inputs).last_hidden_state
        decoder = model.model.language_model
        backend = decoder.config._attn_implementation
        decoder.config._attn_implementation = "sdpa"
        masks = {"full_attention": full, "sliding_attention": windowed}
        expected = decoder(inputs_embeds=embeds, attention_mask=masks, use_cache=False).last_hidden_state
        decoder.config._attn_implementation = backend
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0.0)


def test_a_window_wider_than_any_text_stays_where_layers_ask_for_it():
    """Gemma 3, Olmo 3 make a mask of the window for such layers, and fail if there is none."""
    language = LANGUAGE["gemma3"](vocab_size=300, sliding_window=4096)
    model, processor = mutua.compose(
        vision=VISION["siglip"](), connector="mlp", language=language, tokenizer=text_tokenizer()
    )
    assert model.config.text_config.sliding_window == 4096
    assert logits(model, encode(processor, CHATS[0])).isfinite().all()
    wide = mutua.compose(
        vision=VISION["siglip"](),
        connector="mlp",
        language=LANGUAGE["phi3"](vocab_size=300, sliding_window=4096),
        tokenizer=text_tokenizer(),
    )[0]
    assert wide.config.text_config.sliding_window is None


@pytest.mark.parametrize("with_image", [True, False])
def test_longrope_past_the_switch(with_image, tmp_path):
    """Short factors up to 48 positions, long ones from there on: what is cached by then no longer fits."""
    made = compose_from_folders(tmp_path, "siglip", "phi3-longrope", original_max_position_embeddings=48)
    model, processor = made.model, made.processor
    chat = [user(*([picture(1)] if with_image else []), "what colour is it?")]
    inputs = encode(processor, chat, add_generation_prompt=True)
    options = {"min_new_tokens": 30, "max_new_tokens": 30, "do_sample": False}
    cached, uncached = (model.generate(**inputs, **options, use_cache=use_cache) for use_cache in (True, False))
    assert inputs["input_ids"].shape[1] < 48 < cached.shape[1]
    assert torch.equal(cached, uncached)
    if not with_image:
        text = {key: inputs[key] for key in ("input_ids", "attention_mask")}
        assert torch.equal(made.language.generate(**text, **options, suppress_tokens=[300]), cached)
    prompt = model(**inputs, use_cache=True)
    with pytest.raises(ValueError, match="longrope: the text now passes original_max_position_embeddings"):
        model(
            input_ids=torch.full((1, 40), 5),
            token_type_ids=torch.ones(1, 40, dtype=torch.long),
            past_key_values=prompt.past_key_values,
        )


def test_the_language_model_of_a_composite_checkpoint(tmp_path):
    """Gemma 3 from 4B on is published with a vision encoder of its own."""
    torch.manual_seed(0)
    vision = VISION["siglip"]().to_dict()
    whole = Gemma3ForConditionalGeneration(
        Gemma3Config(
            text_config=LANGUAGE["gemma3"](vocab_size=300).to_dict(), vision_config=vision, mm_tokens_per_image=4
        )
    ).eval()
    whole.save_pretrained(tmp_path)
    text_tokenizer().save_pretrained(tmp_path)
    model, _ = mutua.compose(vision=VISION["clip"](), connector="mlp", language=tmp_path)
    ids = torch.arange(5, 30)[None]
    assert torch.equal(logits(model, {"input_ids": ids})[..., :300], logits(whole, {"input_ids": ids}))
