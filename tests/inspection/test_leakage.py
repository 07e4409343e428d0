"""The proof holds on a right model, and finds every way of being wrong that we could think of."""

from __future__ import annotations

import pytest
import torch
from tiny_model import make_model, make_processor

from mutua.attention import BACKENDS, POLICIES, flex, sdpa
from mutua.inspection.leakage import prove


@pytest.fixture(scope="module")
def processor():
    return make_processor(make_model())


@pytest.mark.parametrize("policy", POLICIES)
def test_the_proof_holds_for_every_policy(policy, processor):
    proof = prove(make_model(policy), processor, conversations=1)
    assert proof.holds, proof
    assert [finding.trials > 0 for finding in proof.findings] == [True] * 6
    assert any(finding.must_move for finding in proof.findings) is (
        policy not in ("causal", "future-visual", "concentric")
    )


@pytest.mark.parametrize(
    "backend",
    [pytest.param(name, marks=pytest.mark.slow if name == flex.NAME else ()) for name in BACKENDS],  # it compiles
)
def test_the_proof_holds_for_every_backend(backend, processor):
    """Packed documents that each count their blocks from 0 once leaked here, under `mutua_split`."""
    model = make_model("mma")
    model.set_attn_implementation(backend)
    assert prove(model, processor, conversations=1).holds


@pytest.mark.parametrize("policy", ["mma", "causal", "future-text"])
@pytest.mark.parametrize(
    "backend",
    [
        "mutua_auto",
        "mutua_sdpa",
        "mutua_split",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("mutua_flex", "mutua_reference")),
    ],
)
def test_the_proof_holds_in_long_rows(backend, policy):
    """Two pictures of 289 tokens: more than 512, from where on `mutua_auto` is `mutua_split`."""
    model = make_model(policy, grid=17)
    model.set_attn_implementation(backend)
    proof = prove(model, make_processor(model), conversations=1)
    assert proof.holds, proof


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


def one_dimension_outweighs_the_rest(model):
    """As in large language models: one dimension of the final states is nearly constant, and a thousand times the
    others."""
    layers, width = model.model.language_model.layers, model.model.language_model.embed_tokens.weight.shape[1]
    with torch.no_grad():
        model.model.language_model.embed_tokens.weight[:, 0] = 30.0
        model.model.connector.down.weight[0] = 0.0
        model.model.connector.down.bias[0] = 30.0
        for layer in layers:
            layer.self_attn.o_proj.weight[0] = 0.0
            layer.mlp.down_proj.weight[0] = 0.0
        model.model.language_model.norm.weight[:] = 1.0
        model.model.language_model.norm.weight[0] = 100.0
    model.lm_head.weight = torch.nn.Parameter(torch.randn(model.lm_head.weight.shape[0], width))
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "backend",
    [pytest.param(n, marks=[pytest.mark.slow] if n in ("mutua_flex", "mutua_reference") else []) for n in BACKENDS],
)
def test_what_is_not_seen_moves_nothing_to_the_last_bit(backend, dtype, processor):
    model = make_model("mma").to(dtype)
    model.set_attn_implementation(backend)
    findings = prove(model, processor, conversations=1).findings
    assert [finding.moved for finding in findings if not finding.must_move] == [0.0] * 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_dimension_with_huge_values_hides_no_leak(monkeypatch, processor, dtype):
    def change(mask, roles):
        return mask | torch.ones_like(mask).tril(1)

    model = one_dimension_outweighs_the_rest(make_model("mma")).to(dtype)
    assert prove(model, processor, conversations=1).holds
    leaking = one_dimension_outweighs_the_rest(broken(monkeypatch, change)).to(dtype)
    found = prove(leaking, processor, conversations=1).findings[0]
    assert (found.name, found.verdict) == ("a response token: states before it", "leak")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_proves_nothing(processor, value):
    model = make_model("mma")
    with torch.no_grad():
        model.model.connector.down.weight[:] = value
    proof = prove(model, processor, conversations=1)
    assert not proof.holds
    assert {finding.verdict for finding in proof.findings} == {"not finite"}


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


def test_a_mask_of_the_first_row_for_all_rows(monkeypatch, processor):
    """It was once in our oracle."""

    def change(mask, roles):
        return mask[:1].expand_as(mask) & roles.is_token_BN[:, None, None, :]

    assert names_of_failures(broken(monkeypatch, change), processor) == ["a reply in a padded batch"]


def test_long_rows_that_see_the_next_token(monkeypatch, processor):
    def change(mask, roles):
        return mask | torch.ones_like(mask).tril(1) if mask.shape[-1] >= 512 else mask

    assert names_of_failures(broken(monkeypatch, change), processor) == ["a reply in a long row"]
