"""The proof holds on a right model, and finds every way of being wrong that we could think of."""

from __future__ import annotations

import pytest
import torch
from tiny_model import make_model, make_processor

from mutua.attention import BACKENDS, POLICIES, sdpa
from mutua.inspection.leakage import prove


@pytest.fixture(scope="module")
def processor():
    return make_processor(make_model())


@pytest.mark.parametrize("policy", POLICIES)
def test_the_proof_holds_for_every_policy(policy, processor):
    proof = prove(make_model(policy), processor, conversations=1)
    assert proof.holds, proof
    assert [finding.trials > 0 for finding in proof.findings] == [True] * 4
    assert any(finding.must_move for finding in proof.findings) is (
        policy not in ("causal", "future-visual", "concentric")
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_proof_holds_for_every_backend(backend, processor):
    """Packed documents that each count their blocks from 0 once leaked here, under `mutua_split`."""
    model = make_model("mma")
    model.set_attn_implementation(backend)
    assert prove(model, processor, conversations=1).holds


def broken(monkeypatch, change):
    """A model whose dense mask was tampered with."""
    from transformers import AttentionMaskInterface

    def build(*args, **kwargs):
        request = kwargs["attention_mask"]
        mask = sdpa.build_mask(*args, **{**kwargs, "allow_is_causal_skip": False})
        return change(mask.clone(), request.roles)

    monkeypatch.setitem(AttentionMaskInterface._global_mapping, sdpa.NAME, build)
    model = make_model("mma")
    model.set_attn_implementation(sdpa.NAME)
    return model


def names_of_failures(model, processor) -> list[str]:
    return [
        finding.name.split(":")[0] for finding in prove(model, processor, conversations=1).findings if not finding.ok
    ]


def test_a_mask_that_shows_the_next_token(monkeypatch, processor):
    def change(mask, roles):
        return mask | torch.ones_like(mask).tril(1)

    assert "a response token" in names_of_failures(broken(monkeypatch, change), processor)


def test_a_causal_mask_under_mma(monkeypatch, processor):
    def change(mask, roles):
        return mask & torch.ones_like(mask).tril()

    assert names_of_failures(broken(monkeypatch, change), processor) == ["the question"]


def test_documents_that_see_each_other(monkeypatch, processor):
    def change(mask, roles):
        return torch.ones_like(mask).tril() if (roles.document_BN > 0).any() else mask

    assert names_of_failures(broken(monkeypatch, change), processor) == ["another document"]


def test_padding_that_is_seen(monkeypatch, processor):
    def change(mask, roles):
        return mask | torch.ones_like(mask).tril() & ~roles.is_token_BN[:, None, None, :]

    assert names_of_failures(broken(monkeypatch, change), processor) == ["padding"]
