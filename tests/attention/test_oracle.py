"""The oracle against the rule written as loops, and the dense backend against the oracle."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mutua.attention import BACKENDS, CAUSAL, MMA, MaskRequest, allowed_mask, get_policy, resolve, sdpa
from mutua.roles import NONE, Modality, TokenRoles

POLICY = st.sampled_from([CAUSAL, MMA])


@st.composite
def rows(draw: st.DrawFn) -> TokenRoles:
    """Random packed rows: documents of turns of images, texts and responses, padding on either side."""
    response, modality, document = [], [], []
    for index in range(draw(st.integers(1, 3))):
        for _ in range(draw(st.integers(1, 3))):
            for kind in draw(st.lists(st.sampled_from(list(Modality)), min_size=1, max_size=4)):
                length = draw(st.integers(1, 4))
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


def brute_force(policy, roles: TokenRoles) -> list[list[bool]]:
    """The rule of the paper, word for word, one cell at a time."""
    document, block, modality = (x[0].tolist() for x in (roles.document_BN, roles.block_BN, roles.modality_BN))

    def allowed(q: int, k: int) -> bool:
        if document[q] == NONE or document[q] != document[k]:
            return False
        if k <= q:
            return True
        same_block = block[q] == block[k] and block[q] != NONE
        return same_block and policy.name == "mma" and modality[q] != 0 and modality[k] == 0

    return [[allowed(q, k) for k in range(len(document))] for q in range(len(document))]


@given(rows(), POLICY)
def test_the_oracle_is_the_rule(roles, policy):
    assert allowed_mask(policy, roles)[0].tolist() == brute_force(policy, roles)


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
    expected = allowed_mask(policy, roles)
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
    assert torch.equal(mask[:, 0, real, past : past + tokens], allowed_mask(policy, roles)[:, real])
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


def test_unknown_policy():
    with pytest.raises(ValueError, match="unknown attention policy 'mmma': use one of causal, mma"):
        get_policy("mmma")
