"""What holds for every family that can be unlocked, on tiny random models: the mask is the oracle's, and nothing else
has changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from unlocked_families import FAMILIES, LONGER, NOT_WORDS, PROMPT, QUESTION, TWO_TURNS, Family, pattern

import mutua
from mutua.attention import MMA, oracle
from mutua.attention.policy import get_policy
from mutua.roles import NONE, TokenRoles
from mutua.unlocking import is_unlocked
from mutua.unlocking.finder import RolesFinder


@pytest.fixture(
    params=[pytest.param(family, id=family.name, marks=[pytest.mark.slow] * family.slow) for family in FAMILIES]
)
def family(request: pytest.FixtureRequest) -> Iterator[Family]:
    yield request.param
    mutua.lock(request.param.model())


@torch.no_grad()
def states(model: Any, inputs: dict[str, Tensor], **more: Any) -> Tensor:
    return model.base_model(**inputs, use_cache=False, **more)[0]


def swapped(inputs: dict[str, Tensor], row: int, place: int) -> dict[str, Tensor]:
    ids = inputs["input_ids"].clone()
    ids[row, place] = 58 if ids[row, place] != 58 else 59
    return {**inputs, "input_ids": ids}


def oracle_masks(family: Family, model: Any, roles: TokenRoles, policy: str) -> Any:
    """Masks as the language model takes them, a dict where its layers differ."""
    config = model.get_decoder().config
    is_item = (roles.item_BN[0] != NONE) & (family.name == "gemma3")  # its own mask lets an image see all of itself

    def full(b: Any, h: Any, q: Tensor, k: Tensor) -> Tensor:
        return (k <= q) | (is_item[q] & (roles.item_BN[0][q] == roles.item_BN[0][k]))

    def sliding(b: Any, h: Any, q: Tensor, k: Tensor) -> Tensor:
        return full(b, h, q, k) & (k > q - config.sliding_window)

    def mask(base: Any) -> Tensor:
        return oracle.allowed_mask(get_policy(policy), roles, base=base)[:, None]

    if "sliding_attention" not in (getattr(config, "layer_types", None) or ()):
        return mask(full)
    return {"full_attention": mask(full), "sliding_attention": mask(sliding)}


@pytest.mark.parametrize("policy", ["mma", pytest.param("prefix", marks=pytest.mark.slow)])
def test_the_mask_is_the_oracles(family: Family, policy: str):
    model = family.model()
    inputs, roles = family.batch([TWO_TURNS])
    masks = oracle_masks(family, model, roles, policy)
    handle = model.get_decoder().register_forward_pre_hook(
        lambda _, args, kwargs: (args, {**kwargs, "attention_mask": masks}), with_kwargs=True
    )
    wanted = states(model, inputs)
    handle.remove()
    mutua.unlock(model, pattern(), policy=policy)
    torch.testing.assert_close(states(model, inputs), wanted, atol=1e-5, rtol=1e-5)


def test_images_see_the_question_and_nothing_sees_a_reply(family: Family):
    model = family.model()
    inputs, roles = family.batch([TWO_TURNS])
    told = {"token_roles": roles.to_codes()}  # an end token that is another one would make other roles
    blocks = [(roles.block_BN[0] == block) & (roles.item_BN[0] != NONE) for block in (0, 1)]
    questions = [int(((roles.block_BN[0] == block) & (inputs["input_ids"][0] == word)).nonzero()[-1]) for block, word in
                 ((0, QUESTION[1]), (1, 32))]  # fmt: skip

    def moved(place: int) -> Tensor:
        more = told if is_unlocked(model) else {}
        return (states(model, inputs, **more) - states(model, swapped(inputs, 0, place), **more)).abs().amax(-1)[0]

    for is_image, question in zip(blocks, questions, strict=True):
        assert float(moved(question)[is_image].max()) == 0.0
    mutua.unlock(model, pattern())
    for is_image, question in zip(blocks, questions, strict=True):
        assert float(moved(question)[is_image].min()) > 1e-5
    for place in roles.is_response_BN[0].nonzero()[:, 0].tolist():
        assert float(moved(place)[:place].max()) == 0.0
    assert float(moved(questions[1])[: int(blocks[1].nonzero()[0])].max()) == 0.0, "the turn before is what it was"


def say(model: Any, inputs: dict[str, Tensor], **options: Any) -> tuple[Tensor, Tensor]:
    """Logits of four greedy tokens, (B, 4, X), and the tokens; nothing but words is said."""
    options = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "suppress_tokens": NOT_WORDS, **options}
    out = model.generate(**inputs, **options, return_dict_in_generate=True, output_logits=True)
    return torch.stack(out.logits, 1), out.sequences[:, -4:]


def test_generation_is_the_same_on_every_path(family: Family):
    model = mutua.unlock(family.model(), pattern())
    inputs, _ = family.batch([PROMPT])
    said, tokens = say(model, inputs)
    for options in ({"use_cache": False}, {"cache_implementation": "static"}):
        torch.testing.assert_close(say(model, inputs, **options)[0], said, atol=1e-4, rtol=1e-4)
    # All at once: the prompt, and what was said after it.
    together, _ = family.batch([[*PROMPT, *tokens[0].tolist()]])
    with torch.no_grad():
        once = model(**together).logits[:, len(inputs["input_ids"][0]) - 1 : -1]
    torch.testing.assert_close(once, said, atol=1e-4, rtol=1e-4)
    both, _ = family.batch([PROMPT, LONGER], "left")
    for options in ({}, {"use_cache": False}, {"cache_implementation": "static"}):
        torch.testing.assert_close(say(model, both, **options)[0][:1], said, atol=1e-4, rtol=1e-4)


def test_causal_is_the_locked_model_and_lock_brings_it_back(family: Family):
    model = family.model()
    batches = [family.batch([TWO_TURNS])[0], family.batch([PROMPT, LONGER], "left")[0]]

    def logits() -> list[Tensor]:
        with torch.no_grad():
            return [model(**inputs).logits for inputs in batches]

    before, weights = logits(), fingerprint(model)
    config = model.config.to_dict()
    mutua.unlock(model, pattern(), policy="causal")
    assert all(map(torch.equal, logits(), before))
    mutua.unlock(model, pattern())
    assert is_unlocked(model)
    assert not torch.equal(logits()[0], before[0])
    assert fingerprint(model) == weights
    mutua.lock(model)
    assert all(map(torch.equal, logits(), before))
    assert model.config.to_dict() == config
    assert not is_unlocked(model)


def fingerprint(model: Any) -> str:
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()


def test_ids_tell_the_roles():
    """What the finder finds is what the batch's maker knows."""
    family = FAMILIES[0]
    finder = RolesFinder.of(family.model().config, pattern(), MMA)
    for side in ("left", "right"):
        inputs, roles = family.batch([TWO_TURNS, PROMPT], side)
        assert torch.equal(finder.find(inputs["input_ids"], inputs["attention_mask"]), roles.to_codes())
