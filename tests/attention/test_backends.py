"""The dense and the flex backend against the float64 oracle: outputs, and gradients where there are any."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import pytest
import torch
from attention_cases import COMMON, Case, case_of, cases, conversation, expected
from hypothesis import given, settings
from torch import nn
from torch._dynamo.utils import counters
from torch.nn.functional import pad
from transformers.masking_utils import sliding_window_causal_mask_function

from mutua.attention import BACKENDS, POLICIES, auto, flex, oracle, sdpa, split
from mutua.attention.abilities import Forward
from mutua.attention.backends import Backend

POLICY_LIST = list(POLICIES.values())


def module_of(case: Case) -> nn.Module:
    module = nn.Module()
    module.num_key_value_groups = case.groups
    return module


def with_padding(case: Case) -> Case:
    """As the model does: where a row holds padding, a mask says so."""
    if case.padding_BK is not None or bool(case.roles.is_token_BN.all()):
        return case
    return replace(case, padding_BK=pad(case.roles.is_token_BN, (case.past, 0), value=True))


def check(case: Case, backend: Backend, *, has_backward: bool, tolerance: float = 2e-5) -> None:
    case, tensors = with_padding(case), case.tensors()
    inputs = [x.detach().requires_grad_(has_backward) for x in tensors[:3]]
    mask = case.mask(backend.build_mask)
    out_BHND = backend.attend(module_of(case), *inputs, mask, scaling=case.scale)[0].transpose(1, 2)
    wanted = expected(case, tensors, case.allowed())
    # What comes out for padding is nobody's business (and has no gradient, in a model): only real tokens count.
    is_real_BHND = case.is_real_BN[:, None, :, None].expand_as(out_BHND)
    grad_BHND = tensors[3] * is_real_BHND
    got = [out_BHND * is_real_BHND]
    if has_backward:
        got += torch.autograd.grad(out_BHND, inputs, grad_BHND)
        wanted = expected(case, [*tensors[:3], grad_BHND], case.allowed())
    for name, value, want in zip(("out", "dq", "dk", "dv"), got, wanted, strict=False):
        error = float(((value - want).abs().max() / want.abs().max().clamp(min=1)).detach())
        assert error < tolerance, f"{name} is off by {error:.1e}"


@given(cases(POLICY_LIST))
@settings(COMMON, max_examples=150)
def test_dense_equals_the_oracle(case):
    check(case, BACKENDS[sdpa.NAME], has_backward=True)


@given(cases(POLICY_LIST))
@settings(COMMON, max_examples=150)
def test_flex_equals_the_oracle(case):
    """Without its compiler: PyTorch's own definition of FlexAttention, over our block mask and our buckets."""
    with torch.compiler.set_stance("force_eager"):
        check(case, BACKENDS[flex.NAME], has_backward=False)


@given(cases(POLICY_LIST))
@settings(COMMON, max_examples=150)
def test_auto_equals_the_oracle(case):
    """On both sides of its threshold."""
    with mock.patch.dict(auto.SPLIT_FROM, cpu=30), mock.patch.dict(auto.SPLIT_PADDED_FROM, cpu=30):
        check(case, BACKENDS[auto.NAME], has_backward=True)


@pytest.mark.parametrize(
    ("policy", "tokens", "device", "asked", "expected"),
    [
        ("mma", 4096, "cpu", {}, split),
        ("causal", 4096, "cpu", {}, split),
        ("mma", 511, "cpu", {}, sdpa),
        ("prefix", 4096, "cpu", {}, sdpa),
        ("mma", 4096, "cpu", {"dropout": 0.1}, sdpa),
        ("mma", 4096, "cpu", {"has_window": True}, sdpa),
        ("mma", 4096, "cpu", {"value_dim": 32}, sdpa),
        ("mma", 4096, "mps", {}, sdpa),
        ("mma", 4096, "cuda", {"dtype": torch.bfloat16}, split),
        ("mma", 4096, "cuda", {"dtype": torch.bfloat16, "head_dim": 100, "value_dim": 100}, flex),
        ("mma", 4096, "cuda", {"dtype": torch.bfloat16, "head_dim": 288, "value_dim": 288}, flex),
        ("mma", 4096, "cuda", {"dtype": torch.float32}, flex),
        ("prefix", 4096, "cuda", {"dtype": torch.bfloat16}, flex),
        ("mma", 100, "cuda", {"dtype": torch.bfloat16, "softcap": 50.0}, flex),
    ],
)
def test_what_auto_chooses(policy, tokens, device, asked, expected):
    assert auto.choose(Forward(POLICIES[policy], device, **asked), tokens).backend is expected


@pytest.mark.parametrize(
    ("tokens", "is_padded", "expected"), [(383, True, sdpa), (384, True, split), (384, False, sdpa)]
)
def test_auto_leaves_padding_out_earlier(tokens, is_padded, expected):
    assert auto.choose(Forward(POLICIES["mma"]), tokens, is_padded).backend is expected


def test_auto_takes_tensors_that_no_flash_kernel_takes():
    """Values of another width than queries and keys (DeepSeek's attention), in a long row."""
    case = case_of(conversation(600, 20, 30), groups=1, head_dim=24)
    q, k, v, _ = case.tensors()
    v = v[..., :16]
    with pytest.raises(ValueError, match="one head dimension, not 24 and 16"):
        split.attend(module_of(case), q, k, v, case.mask(split.build_mask))
    out = auto.attend(module_of(case), q, k, v, case.mask(auto.build_mask))[0].transpose(1, 2)
    torch.testing.assert_close(out, oracle.attend(q, k, v, case.allowed())[0], atol=2e-5, rtol=0.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", [sdpa.NAME, flex.NAME])
@given(cases(POLICY_LIST))
@settings(COMMON, max_examples=2000)
def test_equal_the_oracle_in_thousands_of_cases(name, case):
    with torch.compiler.set_stance("force_eager" if name == flex.NAME else "default"):
        check(case, BACKENDS[name], has_backward=name != flex.NAME)


@pytest.mark.slow
def test_flex_compiled_equals_the_oracle_and_compiles_once_a_bucket():
    """The kernel itself, on grouped heads, a cache and padding; then other lengths of the same bucket."""
    torch._dynamo.reset()
    counters.clear()
    for image, past, policy in [(40, 70, "mma"), (45, 60, "mma"), (60, 0, "future")]:
        roles = conversation(image, 30, 20, images=2)
        case = case_of(roles, policy=POLICIES[policy], past=past, spare=3, head_dim=16)
        padding_BK = torch.ones(2, past + roles.document_BN.shape[1], dtype=torch.bool)
        padding_BK[1, :5] = False
        check(replace(case, padding_BK=padding_BK), BACKENDS[flex.NAME], has_backward=False)
    assert counters["stats"]["unique_graphs"] == 1


def test_flex_in_half_precision():
    case = case_of(conversation(40, 30, 20), head_dim=16)
    mask = case.mask(flex.build_mask)
    with torch.autocast("cpu", torch.bfloat16):
        out_BNHD, _ = flex.attend(module_of(case), *case.tensors()[:3], mask)
    assert out_BNHD.dtype == torch.bfloat16
    wanted = expected(case, case.tensors(), case.allowed())[0]
    assert float((out_BNHD.transpose(1, 2) - wanted.detach()).abs().max()) < 3e-2


def test_softcap_is_applied_or_refused_never_dropped():
    case = case_of(conversation(9, 5, 4), groups=1)
    q, k, v, _ = case.tensors()
    wanted = oracle.attend(q, k, v, case.allowed(), softcap=0.5)[0]
    assert not torch.allclose(wanted, oracle.attend(q, k, v, case.allowed())[0], atol=1e-2)
    for name, backend in BACKENDS.items():
        mask = case.mask(backend.build_mask)
        if name in ("mutua_flex", "mutua_reference"):
            with torch.compiler.set_stance("force_eager"):
                out = backend.attend(module_of(case), q, k, v, mask, softcap=0.5)[0].transpose(1, 2)
            torch.testing.assert_close(out, wanted, atol=2e-5, rtol=0.0)
        else:
            with pytest.raises(ValueError, match=r"softcap=0\.5.*mutua_flex"):
                backend.attend(module_of(case), q, k, v, mask, softcap=0.5)


@pytest.mark.parametrize("name", BACKENDS)
def test_dropout_is_applied_or_refused_never_dropped(name):
    case = case_of(conversation(9, 5, 4))
    q, k, v, _ = case.tensors()
    mask, attend = case.mask(BACKENDS[name].build_mask), BACKENDS[name].attend
    if name in ("mutua_sdpa", "mutua_auto"):
        plain, dropped = (attend(module_of(case), q, k, v, mask, dropout=p)[0] for p in (0.0, 0.5))
        assert not torch.allclose(plain, dropped)
    else:
        with pytest.raises(ValueError, match=r"dropout=0\.5.*mutua_sdpa.*attention_dropout"):
            attend(module_of(case), q, k, v, mask, dropout=0.5)


@pytest.mark.parametrize("name", BACKENDS)
def test_sinks_are_refused(name):
    case = case_of(conversation(9, 5, 4))
    mask = case.mask(BACKENDS[name].build_mask)
    with pytest.raises(ValueError, match=r"s_aux: no backend"):
        BACKENDS[name].attend(module_of(case), *case.tensors()[:3], mask, s_aux=torch.zeros(4))


def test_flex_refuses_a_backward_on_a_cpu():
    case = case_of(conversation(9, 5, 4))
    q, k, v, _ = case.tensors()
    with pytest.raises(ValueError, match=r"no backward on a CPU: use 'mutua_split'"):
        flex.attend(module_of(case), q.requires_grad_(), k, v, case.mask(flex.build_mask))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    ("name", "past"), [(sdpa.NAME, 0), (sdpa.NAME, 30), (flex.NAME, 30), (auto.NAME, 30), ("mutua_reference", 30)]
)
def test_a_sliding_window_keeps_what_lies_behind(name, policy, past):
    """Looking ahead goes beyond the window; a question before its image does not come back into view."""
    roles = conversation(36, 20, 60, images=2)
    case = case_of(roles, policy=POLICIES[policy], past=past)
    window = sliding_window_causal_mask_function(16)
    allowed_BNK, q_1N1 = case.allowed(window), past + torch.arange(roles.document_BN.shape[1])[None, :, None]
    k_11K = torch.arange(allowed_BNK.shape[2])
    assert not allowed_BNK[(k_11K <= q_1N1 - 16).expand_as(allowed_BNK)].any(), "the oracle itself"
    tensors = case.tensors()
    mask = case.mask(BACKENDS[name].build_mask, mask_function=window)
    with torch.compiler.set_stance("force_eager"):
        out = BACKENDS[name].attend(module_of(case), *tensors[:3], mask)[0].transpose(1, 2)
    torch.testing.assert_close(out.double(), expected(case, tensors, allowed_BNK)[0], atol=2e-5, rtol=0.0)


@pytest.mark.parametrize("name", [sdpa.NAME, flex.NAME, auto.NAME, "mutua_reference"])
def test_a_mask_of_the_models_own_is_each_rows_own(name):
    """As Gemma 3's: an image sees all of itself, by arrays with a row for each of the batch that end with the keys."""
    case = case_of(conversation(36, 20, 60, images=2), past=30)
    keys = 30 + case.shape[1]
    item_BK = torch.full((case.shape[0], keys), -1)
    for row in range(case.shape[0]):
        item_BK[row, 40 + 7 * row : 52 + 7 * row] = 0

    def base(b, h, q, k):
        return (k <= q) | ((item_BK[b, q] == item_BK[b, k]) & (item_BK[b, q] >= 0))

    allowed_BNK, tensors = case.allowed(base), case.tensors()
    assert not torch.equal(allowed_BNK[0], allowed_BNK[1]), "the oracle itself"
    mask = case.mask(BACKENDS[name].build_mask, mask_function=base)
    with torch.compiler.set_stance("force_eager"):
        out = BACKENDS[name].attend(module_of(case), *tensors[:3], mask)[0].transpose(1, 2)
    torch.testing.assert_close(out.double(), expected(case, tensors, allowed_BNK)[0], atol=2e-5, rtol=0.0)


def test_auto_takes_the_mask_to_layers_on_another_device():
    """With `device_map`, layers come after layers of another device; here the other one is "meta"."""
    case = case_of(conversation(300, 200, 100), policy=POLICIES["mma"])
    deferred = case.mask(auto.build_mask)
    q, _, v, _ = case.tensors()
    here, _ = deferred.resolve(q, v, 0.0, None)
    there, mask = deferred.resolve(q.to("meta"), v.to("meta"), 0.0, None)
    assert (here.NAME, there.NAME, mask.device.type) == (split.NAME, sdpa.NAME, "meta")
    assert mask.shape == (case.shape[0], 1, case.shape[1], case.shape[1])


def test_auto_takes_what_applies_a_bias_of_the_models_own():
    case = case_of(conversation(300, 200, 100), policy=POLICIES["mma"])
    deferred = case.mask(auto.build_mask)
    q, k, v, _ = case.tensors()
    assert deferred.resolve(q, v, 0.0, None)[0] is split
    bias = torch.zeros(1, q.shape[1], q.shape[2], k.shape[2])
    with_bias, _ = auto.attend(module_of(case), q, k, v, case.mask(auto.build_mask), position_bias=bias)
    by_sdpa, _ = sdpa.attend(module_of(case), q, k, v, case.mask(sdpa.build_mask), position_bias=bias)
    assert torch.equal(with_bias, by_sdpa)
