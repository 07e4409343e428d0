"""What an unlocked model would do wrong without a word, and what cannot be unlocked: one row a mistake."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import peft
import pytest
import torch
import transformers as t
from torch import Tensor
from unlocked_families import (
    FAMILIES,
    IMAGE,
    PROMPT,
    TEXT,
    TWO_TURNS,
    VISION,
    llava,
    paligemma,
    pattern,
)
from vlm_processors import FAMILIES as PROCESSORS
from what_users_read import Mistake, check, rows

import mutua
from mutua.roles import in_document

LLAVA = next(family for family in FAMILIES if family.name == "llava")


def forward(chat: list, *dropped: str, processor: Any = None, **changes: Any) -> Callable[[Path], Any]:
    """A forward over a chat, some of its inputs changed; `changes` are values, or functions of the inputs."""

    def do(_: Path) -> Any:
        model = mutua.unlock(LLAVA.model(), processor or pattern())
        try:
            inputs, roles = LLAVA.batch([chat])
            inputs |= {"token_roles": roles.to_codes()}
            inputs |= {name: value(inputs) if callable(value) else value for name, value in changes.items()}
            return model(**{name: value for name, value in inputs.items() if name not in ("token_roles", *dropped)
                            or (name in changes)})  # fmt: skip
        finally:
            mutua.lock(model)

    return do


def on_the_model(do: Callable[[Any, dict[str, Tensor]], Any]) -> Callable[[Path], Any]:
    def run(_: Path) -> Any:
        model = mutua.unlock(LLAVA.model(), pattern())
        try:
            return do(model, LLAVA.batch([PROMPT])[0])
        finally:
            mutua.lock(model)

    return run


def unlocked(make: Callable[[], Any], **options: Any) -> Callable[[Path], Any]:
    return lambda _: mutua.unlock(make(), **{"processor": pattern(), **options})


def other_backend(model: Any, inputs: dict[str, Tensor]) -> Any:
    before = model.config.text_config._attn_implementation
    model.model.language_model.set_attn_implementation("sdpa")
    try:
        return model(**inputs)
    finally:
        model.model.language_model.set_attn_implementation(before)


def past_the_hooks(model: Any, inputs: dict[str, Tensor]) -> Any:
    return model.model.forward(**inputs)


def filled_before(policy: str | None) -> Callable[[Path], Any]:
    """A step behind a cache that the model filled locked (None), or under another policy."""

    def do(model: Any, inputs: dict[str, Tensor]) -> Any:
        mutua.lock(model) if policy is None else mutua.unlock(model, pattern(), policy=policy)
        cache = t.DynamicCache()
        model(**inputs, past_key_values=cache)
        mutua.unlock(model, pattern())
        mask = torch.ones(1, cache.get_seq_length() + 1, dtype=torch.long)
        return model(input_ids=torch.tensor([[20]]), attention_mask=mask, past_key_values=cache)

    return on_the_model(do)


def raw_text(model: Any, inputs: dict[str, Tensor]) -> Any:
    mutua.unlock(model, pattern(), policy="prefix")
    return model(input_ids=torch.tensor([[1, 11, 12, 13]]))


def embedded(inputs: dict[str, Tensor]) -> Tensor:
    return LLAVA.model().get_input_embeddings()(inputs["input_ids"])


def packed_codes(inputs: dict[str, Tensor]) -> Tensor:
    codes = inputs["token_roles"].clone()
    codes[:, 6:] = in_document(codes[:, 6:], 1)
    return codes


def mllama() -> Any:
    vision = {**VISION, "attention_heads": 4, "num_global_layers": 1, "vision_output_dim": 64}
    text = {**TEXT, "num_hidden_layers": 3, "cross_attention_layers": [1], "bos_token_id": 1}
    config = t.MllamaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE)
    return _on_meta(t.MllamaForConditionalGeneration, config)


def idefics() -> Any:
    config = t.IdeficsConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    return _on_meta(t.IdeficsForVisionText2Text, config)


def qwen3_5() -> Any:
    text = {**TEXT, "layer_types": ["linear_attention", "full_attention"]}
    return _on_meta(t.Qwen3_5ForConditionalGeneration, t.Qwen3_5Config(text_config=text, image_token_id=IMAGE))


def lfm2_vl() -> Any:
    text = {**TEXT, "layer_types": ["conv", "full_attention"]}
    config = t.Lfm2VlConfig(text_config=t.Lfm2Config(**text), image_token_id=IMAGE)
    return _on_meta(t.Lfm2VlForConditionalGeneration, config)


def _on_meta(model: type, config: Any) -> Any:
    with torch.device("meta"):
        return model(config)


def weightless() -> Any:
    with torch.device("meta"):
        return llava()


def text_only() -> Any:
    return t.LlamaForCausalLM(t.LlamaConfig(**TEXT))


def t5() -> Any:
    return _on_meta(t.T5ForConditionalGeneration, t.T5Config(d_model=16, d_kv=8, num_layers=1, num_heads=2))


def with_windows() -> Any:
    return llava(t.MistralConfig(**{**TEXT, "sliding_window": 4}))


def adapted() -> Any:
    return peft.get_peft_model(LLAVA.make(), peft.LoraConfig(target_modules=["q_proj"]))


def wrong_processor() -> Any:
    return PROCESSORS[0].make()


def replaced() -> Any:
    model = LLAVA.make()
    model.generate = print
    return model


RAW = [*PROMPT[:-1], 20]
positions = torch.tensor([[*range(6), *range(5)]])

MISTAKES = [
    # What would be causal, or leak, without a word.
    Mistake(
        "a 4D mask", forward(PROMPT, attention_mask=torch.ones(1, 1, 11, 11)), ("attention_mask is (1, 1, 11, 11)",)
    ),
    Mistake(
        "a mask cut short",
        forward(PROMPT, attention_mask=torch.ones(1, 8, dtype=torch.long)),
        ("attention_mask has shape (1, 8)", "pass one of shape (1, 11)"),
    ),
    Mistake("a raw text", forward(RAW), ("row 0 holds a picture, but no reply", "add_generation_prompt=True")),
    Mistake(
        "a raw text under prefix",
        on_the_model(raw_text),
        ("row 0 holds text that would see what follows it, but no reply", "add_generation_prompt=True"),
    ),
    Mistake("a cache of a locked run", filled_before(None), ("the cache was filled under policy 'causal'", "'mma'")),
    Mistake("a cache of another policy", filled_before("prefix"), ("the cache was filled under policy 'prefix'",)),
    Mistake("a control token in a reply", forward([*TWO_TURNS[:-1], 1]), ("who says what", "roles_of(")),
    Mistake(
        "packed by positions",
        forward(PROMPT, "attention_mask", position_ids=positions),
        ("position_ids begin anew within a row", "leave packing off"),
    ),
    Mistake(
        "packed for flash attention",
        forward(PROMPT, "attention_mask", cu_seq_lens_q=torch.tensor([0, 4, 8], dtype=torch.int32)),
        ("cu_seq_lens_q says that several samples are packed in a row", "pass token_roles"),
    ),
    Mistake(
        "packed, and a cache",
        forward(PROMPT, token_roles=packed_codes, past_key_values=t.DynamicCache()),
        ("packed rows (several documents in a row) cannot be decoded",),
    ),
    Mistake("embeddings alone", forward(PROMPT, "input_ids", inputs_embeds=embedded), ("came without token_roles",)),
    Mistake(
        "roles of other tokens",
        forward(PROMPT, token_roles=lambda inputs: inputs["token_roles"].roll(1, 1)),
        ("token 2 of row 0 is image by its id, but text by its role",),
    ),
    Mistake(
        "roles of fewer tokens",
        forward(PROMPT, token_roles=lambda inputs: inputs["token_roles"][:, 1:]),
        ("token_roles has shape (1, 10), but the forward holds (1, 11) tokens",),
    ),
    Mistake("another implementation", on_the_model(other_backend), ("was changed to 'sdpa'", "mutua.unlock(")),
    Mistake(
        "forward called by itself", on_the_model(past_the_hooks), ("no token_roles arrived", "call the model itself")
    ),
    Mistake(
        "attention weights",
        on_the_model(lambda model, inputs: model(**inputs, output_attentions=True)),
        ("computes no attention weights", "backend='mutua_reference'"),
    ),
    Mistake(
        "a prefill in chunks",
        on_the_model(lambda model, inputs: model.generate(**inputs, prefill_chunk_size=4)),
        ("prefill_chunk_size=4 would cut prompt blocks",),
    ),
    Mistake(
        "continuous batching",
        on_the_model(lambda model, inputs: model.generate_batch(inputs["input_ids"].tolist())),
        ("continuous batching builds causal masks", "mutua.lock(model)"),
    ),
    Mistake(
        "continuous batching by generate",
        on_the_model(lambda model, inputs: model.generate(**inputs, cache_implementation="paged")),
        ("continuous batching builds causal masks",),
    ),
    Mistake(
        "answers given to generate",
        on_the_model(lambda model, inputs: model.generate(**inputs, labels=inputs["input_ids"])),
        ("generate was given labels",),
    ),
    Mistake(
        "generate from embeddings",
        on_the_model(lambda model, inputs: model.generate(inputs_embeds=embedded(inputs))),
        ("generate needs the ids of the prompt",),
    ),
    # What cannot be unlocked.
    Mistake("cross-attention", unlocked(mllama), ("'mllama'", "looks at pictures by cross-attention")),
    Mistake("cross-attention in between", unlocked(idefics), ("'idefics'", "looks at pictures by cross-attention")),
    Mistake("linear attention", unlocked(qwen3_5), ("'qwen3_5'", "layers of type linear_attention")),
    Mistake("convolutions", unlocked(lfm2_vl), ("'lfm2_vl'", "layers of type conv")),
    Mistake("an encoder and a decoder", unlocked(t5), ("'t5'", "sees no question")),
    Mistake("no weights yet", unlocked(weightless), ("no weights yet (it is on the meta device): load them first",)),
    Mistake("text alone", unlocked(text_only), ("'llama'", "nothing that could look ahead")),
    Mistake("no model", unlocked(lambda: "llava"), ("takes a Transformers model, not str",)),
    Mistake("a wrapped model", unlocked(adapted), ("not PeftModel", "before PEFT")),
    Mistake("our own model", unlocked(lambda: mutua.load()[0]), ("never locked", "attention_policy")),
    Mistake("a model that was changed", unlocked(replaced), ("own generate was replaced",)),
    Mistake("flash", unlocked(LLAVA.model, backend="flash_attention_2"), ("flash", "Use 'split'")),
    Mistake("no backend", unlocked(LLAVA.model, backend="fast"), ("'fast'", "mutua_split")),
    Mistake("split and windows", unlocked(with_windows, backend="split"), ("sliding window", "mutua_sdpa")),
    Mistake("no policy", unlocked(LLAVA.model, policy="all"), ("unknown attention policy 'all'",)),
    Mistake("rings", unlocked(LLAVA.model, policy="concentric"), ("'concentric'", "mutua.compose")),
    Mistake(
        "items without a processor",
        unlocked(LLAVA.model, policy="mma-bidirectional", processor=None),
        ("where one image ends", "processor"),
    ),
    Mistake("another model's processor", unlocked(LLAVA.model, processor=wrong_processor()), ("own processor",)),
    Mistake(
        "a tokenizer", unlocked(LLAVA.model, processor=wrong_processor().tokenizer), ("takes the model's processor",)
    ),
    Mistake(
        "a processor without a template",
        unlocked(LLAVA.model, processor=SimpleNamespace(tokenizer=wrong_processor().tokenizer)),
        ("processor",),
    ),
]


@rows(MISTAKES)
def test_what_is_said(mistake: Mistake, tmp_path: Path):
    check(mistake, tmp_path)


def test_paligemma_says_that_it_needs_none():
    model = paligemma().eval()
    with pytest.warns(UserWarning, match="whole prompt see itself already"):
        assert mutua.unlock(model, pattern()) is model
    mutua.lock(model)
