"""An unlocked model in its users' hands: what they pass, set, wrap and break around it changes nothing."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, SuppressTokensLogitsProcessor
from unlocked_families import (
    ASSISTANT,
    BY_NAME,
    LONGER,
    NOT_WORDS,
    PROMPT,
    TWO_TURNS,
    USER,
    VOCABULARY,
    Family,
    close,
    logits,
    pattern,
)

import mutua
from mutua.models.generate import NotFiniteError

WORDS_ALONE = [USER, 15, 16, 17, ASSISTANT]
OPTIONS = {"max_new_tokens": 5, "eos_token_id": None, "suppress_tokens": NOT_WORDS, "do_sample": False}


@pytest.fixture(params=["llava", *(pytest.param(name, marks=pytest.mark.slow) for name in ("qwen2_5_vl", "gemma3"))])
def family(request: pytest.FixtureRequest) -> Family:
    return BY_NAME[request.param]


def test_a_row_without_a_picture_beside_one_with(family: Family, model: Any):
    both, _ = family.batch([PROMPT, WORDS_ALONE], "left")
    for row, chat in enumerate((PROMPT, WORDS_ALONE)):
        alone, _ = family.batch([chat])
        close(logits(model, both)[row, -1], logits(model, alone)[0, -1])
        assert torch.equal(model.generate(**both, **OPTIONS)[row, -5:], model.generate(**alone, **OPTIONS)[0, -5:])


def test_embeddings_and_positions_of_ones_own():
    """Of a model that takes them: others count positions by ids, or generate from ids alone."""
    family = BY_NAME["llava"]
    model, (inputs, roles) = mutua.unlock(family.model(), pattern()), family.batch([PROMPT])
    wanted, said = logits(model, inputs), model.generate(**inputs, **OPTIONS)
    close(logits(model, inputs, position_ids=torch.arange(wanted.shape[1])[None]), wanted)
    own = {**inputs, "inputs_embeds": model.get_input_embeddings()(inputs["input_ids"]).detach()}
    assert torch.equal(model.generate(**own, **OPTIONS), said)
    del own["input_ids"]
    close(logits(model, own, token_roles=roles.to_codes()), wanted)
    assert torch.equal(model.generate(**own, token_roles=roles.to_codes(), **OPTIONS), said[:, -5:])
    mutua.lock(model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_another_precision_behind_unlock(family: Family, dtype: torch.dtype):
    inputs, _ = family.batch([TWO_TURNS])
    model = mutua.unlock(copy.deepcopy(mutua.lock(family.model())), pattern())
    whole, half = logits(model, inputs), model.to(dtype)
    short = {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}
    found = logits(half, short)
    torch.testing.assert_close(found.float(), whole, atol=0.05, rtol=0.05)
    causal = logits(mutua.lock(half), short)
    assert float((found - causal).abs().max()) > 0.05
    assert torch.equal(logits(mutua.unlock(half, pattern()), short), found), "unlocked behind it, the same"


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing(family: Family, use_reentrant: bool):
    inputs, roles = family.batch([TWO_TURNS])
    labels = torch.where(roles.is_response_BN, inputs["input_ids"], -100)
    gradients = []
    for checkpoints in (False, True):
        model = mutua.unlock(copy.deepcopy(mutua.lock(family.model())), pattern()).train()
        if checkpoints:
            model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
            model.enable_input_require_grads()
        model(**inputs, labels=labels, use_cache=False).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-5, rtol=1e-4)


def test_the_implementation_that_was_set_is_set_again(family: Family):
    model, (inputs, _) = family.model(), family.batch([PROMPT])
    own = model.config.text_config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        before = logits(model, inputs)
        assert not torch.equal(logits(mutua.unlock(model, pattern()), inputs), before)
        assert torch.equal(logits(mutua.lock(model), inputs), before)
    finally:
        mutua.lock(model).set_attn_implementation(own)


def test_twice_is_once(family: Family, model: Any):
    inputs, _ = family.batch([PROMPT])
    before = logits(model, inputs)
    assert torch.equal(logits(mutua.unlock(model, pattern()), inputs), before)
    hooks = sum(len(part._forward_pre_hooks) for part in model.modules())
    mutua.lock(mutua.lock(mutua.unlock(model, pattern())))
    assert sum(len(part._forward_pre_hooks) for part in model.modules()) == hooks - 3


def test_a_forward_that_broke_leaves_nothing(family: Family, model: Any):
    inputs, _ = family.batch([PROMPT])
    before = logits(model, inputs)

    def breaks(*_: Any) -> None:
        raise KeyError("in the middle")

    handle = model.get_decoder().layers[1].register_forward_pre_hook(breaks)
    with pytest.raises(KeyError, match="in the middle"):
        logits(model, inputs)
    handle.remove()
    assert torch.equal(logits(model, inputs), before)


def test_decoding_of_ones_own(family: Family, model: Any, tmp_path: Path):
    """A function, and one from a folder that calls `generate` in turn."""
    inputs, _ = family.batch([PROMPT, LONGER], "left")

    def mine(model: Any, input_ids: Tensor, **more: Any) -> Any:
        return model._sample(input_ids, **more)

    said = model.generate(**inputs, **OPTIONS)
    assert torch.equal(model.generate(**inputs, **OPTIONS, custom_generate=mine), said)
    (tmp_path / "custom_generate").mkdir()
    (tmp_path / "custom_generate" / "generate.py").write_text(
        "def generate(model, **options):\n    return model.generate(**options)\n"
    )
    options = {**OPTIONS, "custom_generate": str(tmp_path), "trust_remote_code": True}
    assert torch.equal(model.generate(**inputs, **options), said)


def test_a_model_that_turned_nan_says_nothing(family: Family, model: Any):
    inputs, _ = family.batch([PROMPT])
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.get_output_embeddings().weight.fill_(float("nan"))
    with pytest.raises(NotFiniteError, match=r"not finite \(nan\)"):
        broken.generate(**inputs, **OPTIONS)
    mutua.lock(broken)


def test_processors_of_ones_own(family: Family, model: Any):
    inputs, _ = family.batch([PROMPT])
    own = LogitsProcessorList([SuppressTokensLogitsProcessor([n for n in range(VOCABULARY) if n != 42], device="cpu")])
    config = GenerationConfig(**{**OPTIONS, "suppress_tokens": None})
    by_name = model.generate(**inputs, logits_processor=own, max_new_tokens=3)
    by_place = model.generate(inputs.pop("input_ids"), config, own, **inputs)
    assert by_name[0, -3:].tolist() == by_place[0, -3:].tolist() == [42, 42, 42]


def test_models_side_by_side_in_threads():
    policies = {"llava": "mma", "gemma3": "prefix"}
    models = [mutua.unlock(BY_NAME[name].model(), pattern(), policy) for name, policy in policies.items()]
    inputs = [BY_NAME[name].batch([PROMPT, LONGER], "left")[0] for name in policies]
    wanted = [model.generate(**given, **OPTIONS) for model, given in zip(models, inputs, strict=True)]

    def are_right(which: int) -> list[bool]:
        return [torch.equal(models[which].generate(**inputs[which], **OPTIONS), wanted[which]) for _ in range(3)]

    try:
        with ThreadPoolExecutor(4) as threads:
            assert list(threads.map(are_right, (0, 1, 0, 1))) == [[True] * 3] * 4
    finally:
        for model in models:
            mutua.lock(model)


def test_under_causal_nothing_has_to_be_known(family: Family):
    """A raw text with its answer, say, whose tokens do not tell who says what."""
    raw, _ = family.batch([[USER, 15, None, 16, 17, 18]])
    before = logits(mutua.lock(family.model()), raw)
    assert torch.equal(logits(mutua.unlock(family.model(), pattern(), policy="causal"), raw), before)
    mutua.lock(family.model())
