"""The split backend against the float64 oracle: the cells it covers, its outputs and its gradients."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from unittest import mock

import pytest
import torch
from attention_cases import COMMON, Case, case_of, cases, conversation, expected
from hypothesis import given, settings
from torch import Tensor
from transformers.masking_utils import sliding_window_causal_mask_function

from mutua.attention import CAUSAL, MMA, POLICIES, MaskRequest, flash, packed, split
from mutua.roles import Modality, TokenRoles

RECTANGULAR = [policy for policy in POLICIES.values() if policy.is_rectangular]
# Looking ahead in more ways than any policy of ours.
RECTANGULAR.append(
    replace(MMA, looks_ahead=MMA.looks_ahead | {(Modality.AUDIO, Modality.VIDEO), (Modality.TEXT, Modality.AUDIO)})
)


def covered(passes: tuple[split.Pass, ...], shape: tuple[int, ...]) -> Tensor:
    """How many passes cover each cell, int (B, N, K)."""
    count_BNK = torch.zeros(shape, dtype=torch.int)
    for part in passes:
        rows, queries = slice(*part.rows), slice(*part.queries)
        for keys in part.keys:
            cells = torch.ones(queries.stop - queries.start, keys[1] - keys[0], dtype=torch.int)
            count_BNK[rows, queries, keys[0] : keys[1]] += cells.tril() if part.is_causal else cells
    return count_BNK


def measured(case: Case, tensors: list[Tensor], plan: split.Plan) -> list[Tensor]:
    inputs = [x.detach().requires_grad_() for x in tensors[:3]]
    out = split.split_attention(*inputs, plan, case.scale)
    return [out, *torch.autograd.grad(out, inputs, tensors[3])]


def check(case: Case, tolerance: float = 2e-5, dtype: torch.dtype = torch.float32) -> None:
    allowed_BNK, plan, tensors = case.allowed(), case.mask(split.build_mask), case.tensors(dtype)
    assert torch.equal(covered(plan.passes, allowed_BNK.shape), allowed_BNK.int()), plan
    assert sum(part.cells for part in plan.passes) == int(allowed_BNK.sum())
    for name, got, want in zip(
        ("out", "dq", "dk", "dv"), measured(case, tensors, plan), expected(case, tensors, allowed_BNK),
        strict=True,
    ):  # fmt: skip
        assert got.dtype == dtype
        error = float(((got - want).abs().max() / want.abs().max().clamp(min=1)).detach())
        assert error < tolerance, f"{name} is off by {error:.1e} with {plan}"
        if name in ("out", "dq"):
            assert not got.transpose(1, 2)[~case.is_real_BN].any(), f"{name} of padding"


@given(cases(RECTANGULAR))
@settings(COMMON, max_examples=300)
def test_split_equals_the_oracle(case):
    check(case)


@given(cases(RECTANGULAR))
@settings(COMMON, max_examples=150)
def test_packed_calls_equal_the_oracle(case):
    """The path that CUDA takes for uneven rows, over a kernel that loops over the sequences."""
    with mock.patch.dict(split.MOST_CALLS, cpu=0):
        check(case)


@pytest.mark.slow
@pytest.mark.parametrize("most_calls", [math.inf, 0])
@given(cases(RECTANGULAR))
@settings(COMMON, max_examples=3000)
def test_split_equals_the_oracle_in_thousands_of_cases(most_calls, case):
    with mock.patch.dict(split.MOST_CALLS, cpu=most_calls):
        check(case)


def test_uneven_rows_take_one_call_for_squares_and_one_for_rectangles():
    """Sixteen rows, each of another length and with another place for its image; behind a cache one call more."""
    length = 200
    modality, response = torch.zeros(16, length, dtype=torch.long), torch.ones(16, length, dtype=torch.bool)
    document = torch.zeros(16, length, dtype=torch.long)
    for row in range(16):
        modality[row, 5 + row : 45 + 2 * row], response[row, : 60 + 3 * row] = 1, False
        document[row, 120 + 5 * row :] = -1
    modality, response = modality.where(document == 0, 0), response & (document == 0)
    roles = TokenRoles.from_responses(response, modality, document)
    for past, calls in ((0, [True, False]), (30, [True, False, False])):
        case = case_of(roles, past=past)
        with mock.patch.dict(split.MOST_CALLS, cpu=4):
            plan = case.mask(split.build_mask)
            check(case)
        assert len(plan.passes) >= 32
        assert [call.is_causal for call in plan.packed] == calls
    assert case_of(conversation(30, 8, 9)).mask(split.build_mask).packed is None, "rows alike share slices"


@pytest.mark.parametrize(
    ("image", "images", "past"),
    [
        (576, 1, 0),
        (40, 3, 1100),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in [(150, 4, 0), (800, 1, 300)]),
    ],
)
def test_large_enough_for_every_block_size_of_the_kernels(image, images, past):
    check(case_of(conversation(image, 40, 60, images), past=past, head_dim=32))


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.bfloat16, 3e-2), (torch.float16, 4e-3)], ids=str
)
def test_other_precisions(dtype, tolerance):
    check(case_of(conversation(48, 16, 20, 2), past=9), tolerance, dtype)


def test_equal_rows_share_one_call_per_square_and_one_per_rectangle():
    plan = case_of(conversation(576, 64, 100, batch=4)).mask(split.build_mask)
    assert [(part.rows, part.queries, part.is_causal) for part in plan.passes] == [
        ((0, 4), (0, 747), True),
        ((0, 4), (5, 581), False),
    ]
    assert plan.passes[1].keys == ((581, 647),), "the text behind the image, in one piece"


def test_inputs_of_any_layout():
    case = case_of(conversation(30, 8, 9))
    q, k, v, grad = case.tensors()
    plan = case.mask(split.build_mask)
    want = measured(case, [q, k, v, grad], plan)
    layouts = {
        "contiguous": lambda x: x.contiguous(),
        "last dimension strided": lambda x: x.transpose(-1, -2).contiguous().transpose(-1, -2),
        "a slice": lambda x: torch.cat([x, x], -1)[..., : x.shape[-1]],
    }
    for name, layout in layouts.items():
        for got, expect in zip(measured(case, [layout(x) for x in (q, k, v, grad)], plan), want, strict=True):
            torch.testing.assert_close(got, expect, atol=1e-6, rtol=1e-6, msg=name)
    broadcast = [x[:, :, :1].expand_as(x) for x in (q, k, v)] + [torch.ones(()).expand_as(grad)]
    for got, expect in zip(measured(case, broadcast, plan), expected(case, broadcast, case.allowed()), strict=True):
        torch.testing.assert_close(got.double(), expect, atol=2e-5, rtol=2e-5)


def test_checkpointing_recomputes_the_same():
    case = case_of(conversation(30, 8, 9))
    tensors, plan = case.tensors(), case.mask(split.build_mask)
    want = measured(case, tensors, plan)
    for reentrant in (False, True):
        inputs = [x.detach().requires_grad_() for x in tensors[:3]]
        out = torch.utils.checkpoint.checkpoint(split.split_attention, *inputs, plan, use_reentrant=reentrant)
        out.backward(tensors[3])
        for got, expect in zip([x.grad for x in inputs], want[1:], strict=True):
            assert torch.equal(got, expect)


def test_autocast_computes_in_its_dtype():
    case = case_of(conversation(30, 8, 9))
    with torch.autocast("cpu", torch.bfloat16):
        out = split.split_attention(*case.tensors()[:3], case.mask(split.build_mask))
    assert out.dtype == torch.bfloat16


def test_compiling_breaks_the_graph_and_changes_nothing():
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter, frames = CompileCounter(), 0

    def forward(roles: TokenRoles, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        tokens = q.shape[2]
        plan = split.build_mask(2, tokens, tokens, attention_mask=MaskRequest(roles, MMA, None))
        return split.attend(torch.nn.Identity(), q * 2, k, v, plan)[0] + 1

    compiled = torch.compile(forward, backend=counter)
    for image in (30, 29, 28):  # of the same length
        case = case_of(conversation(image, 38 - image, 9))
        q, k, v, _ = case.tensors()
        torch.testing.assert_close(compiled(case.roles, q, k, v), forward(case.roles, q, k, v))
        frames = frames or counter.frame_count
    assert counter.frame_count == frames > 1, "another layout compiles nothing anew"


def test_what_needs_no_plan():
    text = conversation(0, 4, 0, images=0)
    request = MaskRequest(text, MMA, torch.ones(2, 9, dtype=torch.bool))
    assert split.build_mask(2, 9, 9, attention_mask=request) is None, "plain causal attention will do"
    assert split.build_mask(2, 9, 20, q_offset=torch.tensor(0), attention_mask=request) is None, "an empty static cache"
    image = MaskRequest(conversation(4, 3, 2), MMA, None)
    tokens = image.shape[1]
    assert isinstance(split.build_mask(2, tokens, tokens, attention_mask=image), split.Plan)
    assert split.build_mask(2, tokens, tokens, attention_mask=MaskRequest(image.roles, CAUSAL, None)) is None
    step = TokenRoles.from_codes(torch.ones(2, 1, dtype=torch.long))
    padding = torch.tensor([[False] * 2 + [True] * 8, [True] * 10])
    mask = split.build_mask(2, 1, 12, q_offset=9, attention_mask=MaskRequest(step, MMA, padding))
    assert torch.equal(mask[:, 0, 0], torch.nn.functional.pad(padding, (0, 2))), "a decode step takes one line"
    assert split.build_mask(2, 1, 10, q_offset=9, attention_mask=MaskRequest(step, MMA, None)) is None


def test_refusals():
    case = case_of(conversation(4, 3, 2))
    q, k, v, _ = case.tensors()
    plan, module = case.mask(split.build_mask), torch.nn.Identity()
    with pytest.raises(ValueError, match=r"more than causal \(a sliding window, say\).*mutua_sdpa"):
        case.mask(split.build_mask, mask_function=sliding_window_causal_mask_function(4))
    for policy in POLICIES.values():
        if policy not in RECTANGULAR:
            with pytest.raises(ValueError, match=rf"'{policy.name}'.*mutua_sdpa"):
                case_of(case.roles, policy=policy).mask(split.build_mask)
    with pytest.raises(ValueError, match=r"dropout=0\.1.*mutua_sdpa"):
        split.attend(module, q, k, v, plan, dropout=0.1)
    with pytest.raises(ValueError, match=r"softcap=30\.0.*mutua_flex"):
        split.attend(module, q, k, v, plan, softcap=30.0)
    with pytest.raises(ValueError, match=r"torch\.int32.*mutua_sdpa"):
        split.attend(module, q.int(), k.int(), v.int(), plan)
    with pytest.raises(ValueError, match=r"device meta.*mutua_sdpa"):
        split.attend(module, q.to("meta"), k.to("meta"), v.to("meta"), plan)


def test_keys_of_many_pictures_are_gathered_once():
    """A token behind each of 20 pictures: 20 ranges that the first looks ahead to, 19 of them the second, and so on."""
    case = case_of(conversation(3, 8, 9, images=20))
    check(case)
    gathers, places = case.mask(split.build_mask).gathers
    assert len(gathers) == 1
    assert [place for place in places if place is not None] == [(0, 2 * nth) for nth in range(19)]


def test_the_cuda_path_takes_the_arguments_we_give_it():
    """No GPU: fake tensors run the operators' own shape functions."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    case = case_of(conversation(30, 8, 9, images=2))
    plan = case.mask(split.build_mask)
    passes, (gathers, places) = plan.passes, plan.gathers
    with FakeTensorMode():
        q, k, v, grad = (torch.empty(x.shape, dtype=torch.bfloat16, device="cuda") for x in case.tensors())
        sizes = [sum(last - first for first, last in gather.keys) for gather in gathers]
        kept, values = (
            [torch.empty(*x.shape[:2], size, x.shape[3], dtype=x.dtype, device="cuda") for size in sizes]
            for x in (k, v)
        )
        for part, place in zip(passes, places, strict=True):
            inputs = [split._queries(q, part), split._keys(k, part, kept, place), split._keys(v, part, values, place)]
            kernel = flash.find_kernel(q, v)
            out, lse = kernel.forward(*inputs, part.is_causal, 0.1)
            assert out.shape == inputs[0].shape
            assert lse.shape == inputs[0].shape[:3]
            assert lse.dtype == torch.float32
            grads = kernel.backward(split._queries(grad, part), *inputs, out, lse, part.is_causal, 0.1)
            assert [x.shape for x in grads] == [x.shape for x in inputs]
        for call in packed.pack(passes, q.shape[2], k.shape[2], torch.device("cpu")):
            q_THD, k_THD, v_THD, grad_THD = (
                torch.empty(len(places), *x.transpose(1, 2).shape[2:], dtype=torch.bfloat16, device="cuda")
                for x, places in ((q, call.q_T), (k, call.k_T), (v, call.k_T), (grad, call.q_T))
            )
            ends = [
                torch.empty(ends.shape, dtype=ends.dtype, device="cuda")
                for ends in (call.lengths.q_ends, call.lengths.k_ends)
            ]
            lengths = flash.Lengths(*ends, call.lengths.q, call.lengths.k)
            out, lse = kernel.packed_forward(q_THD, k_THD, v_THD, lengths, call.is_causal, 0.1)
            assert (out.shape, lse.shape) == (q_THD.shape, q_THD.shape[:2])
            inputs = (q_THD, k_THD, v_THD)
            grads = kernel.packed_backward(grad_THD, *inputs, out, lse, lengths, call.is_causal, 0.1)
            assert [x.shape for x in grads] == [x.shape for x in inputs]
        with pytest.raises(ValueError, match=r"not torch.float32.*mutua_sdpa"):
            flash.find_kernel(q.float(), v.float())


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("head_dim", [64, 96, 128])
@pytest.mark.parametrize("most_calls", [math.inf, 0], ids=["slices", "packed"])
def test_cuda_equals_the_oracle(dtype, head_dim, most_calls, monkeypatch):
    monkeypatch.setitem(split.MOST_CALLS, "cuda", most_calls)
    case = case_of(conversation(144, 33, 50, images=2), head_dim=head_dim, heads=8, groups=4, past=70, spare=5)
    roles = TokenRoles(*(getattr(case.roles, field.name).to("cuda") for field in fields(TokenRoles)))
    tensors, plan = case.tensors(), replace(case, roles=roles).mask(split.build_mask)
    assert (plan.packed is None) is (most_calls == math.inf)
    got = measured(case, [x.to("cuda", dtype) for x in tensors], plan)
    rounded = [x.to(dtype) for x in tensors]
    for value, want in zip(got, expected(case, rounded, case.allowed()), strict=True):
        assert float((value.cpu() - want).abs().max() / want.abs().max().clamp(min=1)) < 2e-2
