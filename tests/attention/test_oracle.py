"""The oracle against the rule in words, the vectorised rule against the oracle, and the dense mask against both."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.masking_utils import causal_mask_function, sliding_window_causal_mask_function

from mutua.attention import BACKENDS, MMA, POLICIES, MaskRequest, allowed_mask, get_policy, oracle, resolve, rule, sdpa
from mutua.roles import NONE, Modality, TokenRoles

POLICY = st.sampled_from(list(POLICIES.values()))

TEXT, IMAGE, VIDEO, AUDIO = range(4)


@st.composite
def rows(draw: st.DrawFn) -> TokenRoles:
    """Random packed rows: documents of turns of images, texts and responses, padding on either side."""
    response, modality, document = [], [], []
    for index in range(draw(st.integers(1, 3))):
        for _ in range(draw(st.integers(1, 3))):
            for kind in draw(st.lists(st.sampled_from(list(Modality)), min_size=1, max_size=4)):
                # Rings need square images; every run of a modality is one.
                length = draw(st.sampled_from([1, 2, 3]) if kind == Modality.TEXT else st.sampled_from([1, 4, 9]))
                if modality and document[-1] == index and modality[-1] == kind != Modality.TEXT:
                    continue
                response += [False] * length
                modality += [int(kind)] * length
                document += [index] * length
            length = draw(st.integers(0, 3))
            response += [True] * length
            modality += [0] * length
            document += [index] * length
    left, right = draw(st.integers(0, 2)), draw(st.integers(0, 2))
    return TokenRoles.from_responses(
        torch.tensor([[False] * left + response + [False] * right]),
        torch.tensor([[0] * left + modality + [0] * right]),
        torch.tensor([[NONE] * left + document + [NONE] * right]),
    )


def looks_ahead(policy: str, q: int, k: int) -> bool:
    """What each policy adds, said once more, by hand."""
    return {
        "causal": False,
        "mma": q != TEXT and k == TEXT,
        "mma-bidirectional": q != TEXT and k == TEXT,
        "prefix": True,
        "future-visual": q in (IMAGE, VIDEO) and k in (IMAGE, VIDEO),
        "future-text": q in (IMAGE, VIDEO) and k == TEXT,
        "future": q in (IMAGE, VIDEO),
        "concentric": False,
    }[policy] and not (policy == "future" and k == AUDIO)


def ring(local: int, size: int) -> int:
    """How far a patch is from the rim, walking there."""
    side = round(size**0.5)
    row, column = divmod(local, side)
    steps = 0
    while row - steps > 0 and column - steps > 0 and row + steps < side - 1 and column + steps < side - 1:
        steps += 1
    return steps


def brute_force(policy, roles: TokenRoles) -> list[list[bool]]:
    """The rule of the paper, word for word, one cell at a time."""
    document, block, modality, item = (
        x[0].tolist() for x in (roles.document_BN, roles.block_BN, roles.modality_BN, roles.item_BN)
    )

    def allowed(q: int, k: int) -> bool:
        if document[q] == NONE or document[q] != document[k]:
            return False
        if item[q] != NONE and item[q] == item[k]:
            if policy.name == "mma-bidirectional":
                return True
            if policy.name == "concentric":
                start, size = item.index(item[q]), item.count(item[q])
                return ring(k - start, size) <= ring(q - start, size)
        if k <= q:
            return True
        return block[q] == block[k] != NONE and looks_ahead(policy.name, modality[q], modality[k])

    return [[allowed(q, k) for k in range(len(document))] for q in range(len(document))]


@given(rows(), POLICY)
def test_the_oracle_is_the_rule(roles, policy):
    assert oracle.allowed_mask(policy, roles)[0].tolist() == brute_force(policy, roles)


@given(rows(), POLICY, st.sampled_from([None, 1, 3, 8]), st.integers(0, 5), st.integers(0, 5), st.integers(0, 3))
def test_the_vectorised_rule_equals_the_oracle(roles, policy, window, past, forgotten, spare):
    """Behind a cache that may have forgotten its first keys, with room at its end, under any window."""
    tokens, first_key = roles.document_BN.shape[1], min(past, forgotten)
    keys = past + tokens + spare - first_key
    base = causal_mask_function if window is None else sliding_window_causal_mask_function(window)
    padding_BK = torch.ones(1, past + tokens, dtype=torch.bool)
    padding_BK[:, past:] = roles.is_token_BN
    padding_BK[:, : past // 2] = False
    request = MaskRequest(roles, policy, padding_BK)
    allowed = rule.mask_function(request, past, base, request.padding_up_to(first_key + keys))
    expected = oracle.allowed_mask(
        policy, roles, past=past, keys=keys, first_key=first_key, padding_BK=padding_BK, base=base
    )
    assert torch.equal(rule.dense_mask(allowed, 1, (past, tokens), (first_key, keys), "cpu")[:, 0], expected)


@given(rows(), POLICY)
def test_no_response_is_ever_visible_to_its_past(roles, policy):
    mask_NN = allowed_mask(policy, roles)[0]
    for k in roles.is_response_BN[0].nonzero()[:, 0].tolist():
        assert not mask_NN[:k, k].any()


@given(rows(), POLICY)
def test_dense_mask_equals_the_oracle(roles, policy):
    tokens = roles.document_BN.shape[1]
    padding = None if bool(roles.is_token_BN.all()) else roles.is_token_BN
    mask = sdpa.build_mask(1, tokens, tokens, attention_mask=MaskRequest(roles, policy, padding))
    expected = oracle.allowed_mask(policy, roles)
    if mask is None:
        assert torch.equal(expected[0], torch.ones(tokens, tokens).tril().bool())
    else:
        real = roles.is_token_BN[0]  # what a padding token sees is of no interest
        assert torch.equal(mask[:, 0][:, real], expected[:, real])


@given(rows(), POLICY, st.integers(0, 7), st.integers(0, 3))
def test_dense_mask_behind_a_cache(roles, policy, past, spare):
    """Cached keys are all visible, room at the end of a static cache never is, the rest is the rule."""
    tokens = roles.document_BN.shape[1]
    kv_length = past + tokens + spare
    padding = torch.ones(1, kv_length, dtype=torch.bool)
    padding[:, past : past + tokens] = roles.is_token_BN
    request = MaskRequest(roles, policy, padding)
    mask = sdpa.build_mask(
        1, tokens, kv_length, q_offset=torch.tensor(past), attention_mask=request, allow_is_causal_skip=False
    )
    real = roles.is_token_BN[0]
    assert torch.equal(mask[:, 0, real, past : past + tokens], oracle.allowed_mask(policy, roles)[:, real])
    assert mask[:, 0, real, :past].all()
    assert not mask[..., past + tokens :].any()


def test_a_causal_forward_builds_no_mask():
    zeros = torch.zeros(2, 9, dtype=torch.long)
    request = MaskRequest(TokenRoles(zeros, zeros, zeros, zeros - 1), MMA, None)
    assert sdpa.build_mask(2, 9, 9, attention_mask=request) is None, "text alone never looks ahead"


@pytest.mark.parametrize("name", BACKENDS)
def test_a_backend_without_roles_raises(name):
    with pytest.raises(TypeError, match="no token roles"):
        BACKENDS[name].build_mask(1, 4, 4, attention_mask=torch.ones(1, 4))


@pytest.mark.parametrize("name", ["flash_attention_2", "flex_attention", "nonsense"])
def test_implementations_that_would_drop_the_mask_are_refused(name):
    with pytest.raises(ValueError, match=name):
        resolve(name)


def test_one_block_of_three_modalities():
    """Image, sound, then words: under mma both look ahead to the words, and not to each other."""
    modality = torch.tensor([[TEXT, IMAGE, IMAGE, AUDIO, AUDIO, TEXT]])
    roles = TokenRoles.from_responses(torch.zeros(1, 6).bool(), modality, torch.zeros(1, 6))
    drawn = ["".join("x" if cell else "." for cell in row) for row in allowed_mask(get_policy("mma"), roles)[0]]
    assert drawn == ["x.....", "xx...x", "xxx..x", "xxxx.x", "xxxxxx", "xxxxxx"]
    drawn = ["".join("x" if cell else "." for cell in row) for row in allowed_mask(get_policy("future"), roles)[0]]
    assert drawn == ["x.....", "xxx..x", "xxx..x", "xxxx..", "xxxxx.", "xxxxxx"]


def test_concentric_positions():
    """Text, a 3 x 3 image (rings 0 and 1), text; then another document."""
    modality = torch.tensor([[TEXT] + [IMAGE] * 9 + [TEXT] * 2 + [TEXT] + [IMAGE] * 4 + [TEXT]])
    document = torch.tensor([[0] * 12 + [1] * 6])
    roles = TokenRoles.from_responses(torch.zeros(1, 18).bool(), modality, document)
    expected = [0, 1, 1, 1, 1, 2, 1, 1, 1, 1, 3, 4, 0, 1, 1, 1, 1, 2]
    assert get_policy("concentric").positions(roles).tolist() == [expected]


def test_concentric_in_packed_documents_that_count_from_zero():
    """Two packed samples, each with its image number 0 (as a packer that joins encoded samples gives them)."""
    modality = torch.tensor([[IMAGE] * 4 + [TEXT]])
    one = TokenRoles.from_responses(torch.zeros(1, 5).bool(), modality, torch.zeros(1, 5))
    both = TokenRoles(*(torch.cat([x, x], 1) for x in (one.document_BN, one.block_BN, one.modality_BN, one.item_BN)))
    both = replace(both, document_BN=torch.tensor([[0] * 5 + [1] * 5]))
    policy = get_policy("concentric")
    assert policy.positions(both).tolist() == [policy.positions(one)[0].tolist() * 2]
    mask = allowed_mask(policy, both)[0]
    assert torch.equal(mask, torch.block_diag(*[allowed_mask(policy, one)[0]] * 2).bool())


def test_concentric_needs_a_square():
    roles = TokenRoles.from_responses(torch.zeros(1, 3).bool(), torch.ones(1, 3), torch.zeros(1, 3))
    with pytest.raises(ValueError, match="an image of 3 tokens is no square grid"):
        allowed_mask(get_policy("concentric"), roles)


@pytest.mark.parametrize("policy", POLICIES.values(), ids=str)
def test_every_policy_says_what_it_is_and_where_from(policy):
    assert policy.summary.endswith(".")
    assert policy.source


def test_unknown_policy():
    with pytest.raises(ValueError, match="unknown attention policy 'mmma': use one of causal, mma, "):
        get_policy("mmma")
