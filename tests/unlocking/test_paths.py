"""Every way to run an unlocked model gives what one forward over all of the text gives, or is refused."""

from __future__ import annotations

import copy
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CompileConfig, DynamicCache
from unlocked_families import (
    ASSISTANT,
    BY_NAME,
    END,
    LONGER,
    NOT_WORDS,
    PROMPT,
    QUESTION,
    REPLY,
    TWO_PICTURES,
    TWO_TURNS,
    USER,
    Family,
    close,
    logits,
    pattern,
)

import mutua
from mutua.unlocking import is_unlocked, policy_of
from mutua.unlocking.finder import ROLES

OPTIONS = {"max_new_tokens": 5, "eos_token_id": None, "suppress_tokens": NOT_WORDS}


@pytest.fixture(params=["llava", pytest.param("qwen2_5_vl", marks=pytest.mark.slow)])
def family(request: pytest.FixtureRequest) -> Family:
    return BY_NAME[request.param]


@pytest.mark.parametrize("how", [{"num_beams": 3}, {"do_sample": True}, {"num_beams": 2, "num_return_sequences": 2}])
def test_beams_and_samples_are_those_of_no_cache(family: Family, model: Any, how: dict):
    inputs, _ = family.batch([PROMPT, LONGER], "left")
    said = []
    for use_cache in (True, False):
        torch.manual_seed(0)
        said.append(model.generate(**inputs, **{"do_sample": False, **OPTIONS, **how}, use_cache=use_cache))
    assert torch.equal(*said)


def test_prompts_padded_on_the_right(family: Family, model: Any):
    both, _ = family.batch([PROMPT, LONGER], "right")
    alone, _ = family.batch([PROMPT])
    length = alone["input_ids"].shape[1]
    close(logits(model, both)[:1, :length], logits(model, alone))
    said = [model.generate(**both, **OPTIONS, do_sample=False, use_cache=use)[:, -5:] for use in (True, False)]
    assert torch.equal(*said)


def test_guesses_change_nothing(family: Family, model: Any):
    """Sent along with the prompt, as guesses first are: a picture that saw them would remember wrong ones."""
    inputs, _ = family.batch([[*PROMPT, *REPLY, END, *PROMPT]])  # the first reply is what gets guessed
    lengths = []
    handle = model.get_decoder().register_forward_pre_hook(
        lambda _, args, kwargs: lengths.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    options = {**OPTIONS, "do_sample": False, "max_new_tokens": 8}
    said = model.generate(**inputs, **options)
    lengths.clear()
    assert torch.equal(model.generate(**inputs, **options, prompt_lookup_num_tokens=3), said)
    assert lengths[0] > inputs["input_ids"].shape[1], "nothing was guessed, so this tests nothing"
    handle.remove()
    assistant = mutua.lock(copy.deepcopy(model))
    assert torch.equal(model.generate(**inputs, **options, assistant_model=assistant), said)
    with pytest.raises(ValueError, match="assistant_model is unlocked"):
        model.generate(**inputs, **options, assistant_model=mutua.unlock(assistant, pattern()))


def test_several_pictures_in_one_block(family: Family, model: Any):
    inputs, roles = family.batch([TWO_PICTURES])
    after = logits(model, inputs)
    other = {**inputs, "input_ids": torch.where(inputs["input_ids"] == QUESTION[2], 57, inputs["input_ids"])}
    moved = (after - logits(model, other)).abs().amax(-1)[0]
    for item in (0, 1):
        assert float(moved[roles.item_BN[0] == item].min()) > 1e-5


def test_a_chat_goes_on_from_its_cache(family: Family, model: Any):
    first, _ = family.batch([PROMPT])
    out = model.generate(**first, **OPTIONS, do_sample=False, return_dict_in_generate=True)
    reply = out.sequences[0, first["input_ids"].shape[1] :].tolist()
    second = [END, USER, 33, *QUESTION, ASSISTANT]
    inputs, _ = family.batch([[*PROMPT, *reply, *second]])
    options = {**OPTIONS, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    whole = torch.stack(model.generate(**inputs, **options).logits)
    text = {name: value for name, value in inputs.items() if value.shape == inputs["input_ids"].shape}
    goes_on = torch.stack(model.generate(**text, **options, past_key_values=copy.deepcopy(out.past_key_values)).logits)
    close(goes_on, whole)
    with pytest.raises(ValueError, match="pass the ids of the whole conversation"):
        model.generate(
            input_ids=torch.tensor([second]), attention_mask=text["attention_mask"], past_key_values=out.past_key_values
        )


def test_a_chat_goes_on_with_new_ids_alone():
    """Transformers takes them where the mask is of all tokens; the roles may be of the new ones, too."""
    family = BY_NAME["llava"]
    model = mutua.unlock(family.model(), pattern())
    both, roles = family.batch([[*PROMPT, *REPLY, END, USER, None, *QUESTION, ASSISTANT]])
    codes, behind = roles.to_codes(), int((roles.is_response_BN[0]).nonzero()[-1]) + 1
    cache = DynamicCache(config=model.config.get_text_config())
    cached = {"input_ids": both["input_ids"][:, :behind], "pixel_values": both["pixel_values"][:1]}
    logits(model, cached, token_roles=codes[:, :behind], past_key_values=cache, use_cache=True)
    new = {"input_ids": both["input_ids"][:, behind:], "pixel_values": both["pixel_values"][1:]}
    new["attention_mask"] = both["attention_mask"]
    assert new["input_ids"].shape[1] < behind, "shorter than what is cached"
    options = {**OPTIONS, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    whole = torch.stack(model.generate(**both, **options).logits)
    for given in (codes[:, behind:], codes):
        goes_on = model.generate(**new, token_roles=given, **options, past_key_values=copy.deepcopy(cache)).logits
        close(torch.stack(goes_on), whole)
    with pytest.raises(ValueError, match=r"token_roles hold \d+ tokens, input_ids \d+, the attention_mask"):
        model.generate(**new, token_roles=codes[:, 1:], past_key_values=cache)
    # Behind the second picture: that its block is the second is not known from the rest of it alone.
    cut = int((roles.item_BN[0] == 1).nonzero()[-1]) + 1
    cached = {"input_ids": both["input_ids"][:, :cut], "pixel_values": both["pixel_values"]}
    logits(model, cached, token_roles=codes[:, :cut], past_key_values=(cache := DynamicCache()), use_cache=True)
    anew = replace(roles, block_BN=roles.block_BN.clamp(max=0)).to_codes()[:, cut:]
    rest = {"input_ids": both["input_ids"][:, cut:], "attention_mask": both["attention_mask"], "token_roles": anew}
    with pytest.raises(ValueError, match="begins inside prompt block 1"):
        model.generate(**rest, **options, past_key_values=cache)
    mutua.lock(model)


def test_a_prefix_of_the_reply_is_seen_by_generate(family: Family, model: Any):
    """Zeros appended to the roles are responses where the mask shows them, though Transformers drops such a mask."""
    inputs, roles = family.batch([[*PROMPT, *REPLY]])
    codes = torch.where(roles.is_response_BN, 0, roles.to_codes())
    expected = logits(model, inputs)[:, -1]
    options = {**OPTIONS, "max_new_tokens": 1, "return_dict_in_generate": True, "output_logits": True}
    close(model.generate(**inputs, token_roles=codes, **options, do_sample=False).logits[0], expected)


def test_a_batch_that_is_padded_anew_is_refused(family: Family, model: Any):
    """Tokens keep the positions at which they were cached."""
    first, _ = family.batch([PROMPT, LONGER], "left")
    out = model.generate(**first, **OPTIONS, do_sample=False, return_dict_in_generate=True)
    said = out.sequences[:, first["input_ids"].shape[1] :].tolist()
    chats = [
        [*chat, *reply, END, USER, 33, *QUESTION, ASSISTANT] for chat, reply in zip((PROMPT, LONGER), said, strict=True)
    ]
    chats[1] += [34, 35]  # a longer one, so that the other has more padding now
    inputs, _ = family.batch(chats, "left")
    text = {name: value for name, value in inputs.items() if value.shape == inputs["input_ids"].shape}
    with pytest.raises(ValueError, match=r"another text than input_ids|other cached tokens of row 0 are padding"):
        model.generate(**text, **OPTIONS, past_key_values=out.past_key_values)


def test_decoding_by_hand(family: Family, model: Any):
    inputs, roles = family.batch([[*PROMPT, *REPLY]])
    whole, length = logits(model, inputs), inputs["input_ids"].shape[1] - len(REPLY)
    cache = DynamicCache(config=model.config.get_text_config())
    prompt, _ = family.batch([PROMPT])
    logits(model, prompt, past_key_values=cache, use_cache=True)
    for place in range(length, length + len(REPLY)):
        step = {"input_ids": inputs["input_ids"][:, place : place + 1], "past_key_values": cache, "use_cache": True}
        close(logits(model, step)[:, -1], whole[:, place])
    # Several tokens at once behind a cache may be anything; with their roles, they are what they are.
    cache.crop(-len(REPLY))
    several = {"input_ids": inputs["input_ids"][:, length:], "past_key_values": cache, "use_cache": True}
    with pytest.raises(ValueError, match=r"3 tokens came behind \d+ cached ones, without token_roles"):
        logits(model, several)
    close(logits(model, several, token_roles=roles.to_codes()[:, length:]), whole[:, length:])


def test_a_prompt_block_cut_by_hand(family: Family, model: Any):
    inputs, roles = family.batch([PROMPT])
    codes, cut = roles.to_codes(), inputs["input_ids"].shape[1] - 3
    cache = DynamicCache(config=model.config.get_text_config())
    head = {**inputs, **{n: v[:, :cut] for n, v in inputs.items() if v.shape == inputs["input_ids"].shape}}
    logits(model, head, token_roles=codes[:, :cut], past_key_values=cache, use_cache=True)
    with pytest.raises(ValueError, match="begins inside prompt block 0"):
        logits(model, {"input_ids": inputs["input_ids"][:, cut:]}, token_roles=codes[:, cut:], past_key_values=cache)


def test_rows_of_a_cache_in_another_order():
    """Without an attention mask, whose row is whose padding is no longer known."""
    family = BY_NAME["llava"]
    model = mutua.unlock(family.model(), pattern())
    both, _ = family.batch([PROMPT, LONGER], "left")
    cache = DynamicCache(config=model.config.get_text_config())
    logits(model, both, past_key_values=cache, use_cache=True)
    cache.reorder_cache(torch.tensor([1, 0]))
    step = {"input_ids": torch.tensor([[21], [21]]), "past_key_values": cache}
    with pytest.raises(ValueError, match="attention_mask is missing"):
        logits(model, step)
    mask = torch.cat([both["attention_mask"].flip(0), torch.ones(2, 1, dtype=torch.long)], 1)
    logits(model, step, attention_mask=mask)
    mutua.lock(model)


def test_the_backends_agree(family: Family, model: Any):
    inputs, _ = family.batch([TWO_TURNS, PROMPT], "left")
    real = inputs["attention_mask"].bool()
    auto = logits(model, inputs)[real]
    for backend in ("sdpa", "split", "reference", "mutua_split"):
        mutua.unlock(model, pattern(), backend=backend)
        close(logits(model, inputs)[real], auto)
    weights = mutua.unlock(model, pattern(), backend="reference")(**inputs, output_attentions=True).attentions
    assert weights[0].shape[-1] == inputs["input_ids"].shape[1]


def test_without_a_processor_the_prompt_is_one_block(family: Family, model: Any):
    inputs, _ = family.batch([PROMPT, LONGER], "left")
    options = {**OPTIONS, "do_sample": False}
    said = model.generate(**inputs, **options)
    mutua.unlock(model)
    for use_cache in (True, False):
        assert torch.equal(model.generate(**inputs, **options, use_cache=use_cache), said)
    labels = inputs["input_ids"].clone()
    cache = DynamicCache(config=model.config.get_text_config())
    roles = pattern().roles(inputs["input_ids"], inputs["attention_mask"]).to_codes()
    logits(model, {**inputs, ROLES: roles}, past_key_values=cache, use_cache=True)
    with pytest.raises(ValueError, match="which of the cached tokens are replies is not known"):
        model.generate(**inputs, past_key_values=cache)
    for more in ({}, {"labels": labels}):  # whoever scores an answer passes no labels
        with pytest.raises(ValueError, match="unlocked without its processor"):
            model(**inputs, **more)
    words = {"input_ids": torch.tensor([[20, 21, 22]])}
    assert torch.equal(logits(model, words), logits(mutua.lock(copy.deepcopy(model)), words))
    with pytest.raises(ValueError, match="unlocked without its processor"):
        model.train()(**inputs)
    model.eval()


def test_copies_and_pickles(family: Family):
    inputs, _ = family.batch([PROMPT, LONGER], "left")
    options = {**OPTIONS, "do_sample": False}
    model, buffer = mutua.unlock(family.make().eval(), pattern()), io.BytesIO()
    torch.save(model, buffer)  # before it is used: some models put hooks on themselves that cannot be saved
    buffer.seek(0)
    states, said = logits(model, inputs), model.generate(**inputs, **options)
    for other in (copy.deepcopy(model), torch.load(buffer, weights_only=False)):
        assert torch.equal(logits(other, inputs), states)
        assert torch.equal(other.generate(**inputs, **options), said)
        assert other.generate.model is other
        mutua.lock(other)
        assert not torch.equal(logits(other, inputs), states)
    assert torch.equal(logits(model, inputs), states), "locking a copy locks the copy"


def test_a_saved_model_is_not_silently_causal(family: Family, model: Any, tmp_path: Any):
    inputs, _ = family.batch([PROMPT])
    before = logits(model, inputs)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    with pytest.raises(TypeError, match=r"mutua\.unlock\(model, processor\)"):
        logits(again, inputs)
    with pytest.raises(TypeError, match=r"mutua\.unlock\(model, processor\)"):
        again.generate(**inputs, max_new_tokens=2)
    with pytest.warns(UserWarning, match="saved under policy 'mma', and is now under 'prefix'"):
        mutua.unlock(again, pattern(), policy="prefix")
    assert torch.equal(logits(mutua.unlock(again, pattern()), inputs), before)
    locked = mutua.lock(again)
    assert torch.equal(logits(locked, inputs), logits(mutua.lock(model), inputs))
    assert torch.equal(logits(mutua.lock(type(model).from_pretrained(tmp_path)), inputs), logits(model, inputs))
    locked.save_pretrained(tmp_path / "locked")
    plain = type(model).from_pretrained(tmp_path / "locked")
    assert torch.equal(logits(plain, inputs), logits(model, inputs))


def test_training(family: Family, model: Any):
    """Labels on replies are learned from, with gradient checkpointing too; any others are refused."""
    inputs, roles = family.batch([TWO_TURNS, [*PROMPT, *REPLY, END]])
    labels = torch.where(roles.is_response_BN, inputs["input_ids"], -100)
    model.train()
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        model(**inputs, labels=labels, use_cache=False).loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    model.gradient_checkpointing_disable()
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="stands on a prompt token"):
        model(**inputs, labels=inputs["input_ids"])
    for network in (model.train(), model.eval()):  # a model is loaded in the second mode, and Lightning leaves it there
        outside = network(**inputs).logits[:, :-1]
        with pytest.raises(ValueError, match="the loss trains what follows row 0"):
            torch.nn.functional.cross_entropy(outside.flatten(0, 1), inputs["input_ids"][:, 1:].flatten()).backward()
    for side in ("left", "right"):  # what made it say this: nothing that it saw is predicted
        prompts, _ = family.batch([PROMPT, LONGER], side)
        real = prompts["attention_mask"]
        last = torch.where(real.bool(), torch.arange(real.shape[1]), -1).amax(1)
        model(**prompts).logits[torch.arange(2), last].max().backward()
    states = model(**prompts, output_hidden_states=True).hidden_states[-1]
    states[0, 0] = 0  # as people do who look into a model
    model.zero_grad()


def test_a_second_model_by_its_config(family: Family, model: Any, tmp_path: Path):
    """As TRL loads a reference model: by the name of its class, with what the config says of attention."""
    inputs, _ = family.batch([PROMPT])
    folders = {"unlocked": model, "plain": mutua.lock(copy.deepcopy(model))}
    for name, one in folders.items():
        one.save_pretrained(tmp_path / name)
        again = type(model).from_pretrained(tmp_path / name, attn_implementation=model.config._attn_implementation)
        assert torch.equal(logits(mutua.lock(copy.deepcopy(again)), inputs), logits(folders["plain"], inputs))
        with pytest.raises(TypeError, match=r"mutua\.unlock\(model, processor\)"):
            again(**inputs)
        assert torch.equal(logits(mutua.unlock(again, pattern()), inputs), logits(model, inputs))
        assert torch.equal(logits(mutua.lock(again), inputs), logits(folders["plain"], inputs))
    assert folders["plain"].config._attn_implementation == family.make().config._attn_implementation


def test_adapters(family: Family, model: Any):
    peft = pytest.importorskip("peft")
    inputs, roles = family.batch([TWO_TURNS])
    before = logits(model, inputs)
    adapted = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(target_modules=["q_proj"], r=2))
    assert torch.equal(logits(adapted, inputs), before)
    assert (is_unlocked(adapted), policy_of(adapted)) == (True, "mma")
    locked = mutua.lock(copy.deepcopy(adapted))
    assert not is_unlocked(locked)
    assert torch.equal(logits(locked, inputs), logits(mutua.lock(copy.deepcopy(model)), inputs))
    assert (is_unlocked(object()), policy_of(torch.nn.Linear(1, 1))) == (False, None)
    prompt, _ = family.batch([PROMPT])
    options = {**OPTIONS, "do_sample": False}
    assert torch.equal(adapted.generate(**prompt, **options), model.generate(**prompt, **options))
    adapted.train()
    labels = torch.where(roles.is_response_BN, inputs["input_ids"], -100)
    adapted(**inputs, labels=labels).loss.backward()
    with pytest.raises(ValueError, match="stands on a prompt token"):
        adapted(**inputs, labels=inputs["input_ids"])


@pytest.mark.slow
def test_compiled_in_one_graph():
    """Where the locked model has one graph, the unlocked one has, and a compiled model notices that it is unlocked."""
    family = BY_NAME["llava"]
    model, (inputs, _) = family.model(), family.batch([TWO_TURNS])
    logits(model, inputs)  # Transformers puts hooks on the model then, under a lock that is not traced
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for change in (mutua.lock, lambda model: mutua.unlock(model, pattern()), mutua.lock):
        change(model)
        close(logits(compiled, inputs), logits(model, inputs))
    mutua.unlock(model, pattern())
    raw, _ = family.batch([[*PROMPT[:-1], 20]])
    with pytest.raises(ValueError, match="holds a picture, but no reply"):
        logits(compiled, raw)
    mutua.lock(model)


@pytest.mark.slow
def test_decoding_compiled(family: Family, model: Any):
    inputs, _ = family.batch([PROMPT, LONGER], "left")
    options = {**OPTIONS, "do_sample": False}
    said = model.generate(**inputs, **options)
    compile_config = CompileConfig(backend="eager", fullgraph=True)
    compile_config._compile_all_devices = True
    assert torch.equal(
        model.generate(**inputs, **options, cache_implementation="static", compile_config=compile_config), said
    )
