"""The split backend against the float64 oracle: the cells it covers, its outputs and its gradients."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers.masking_utils import sliding_window_causal_mask_function

from mutua.attention import CAUSAL, MMA, POLICIES, MaskRequest, Policy, allowed_mask, flash, reference, split
from mutua.roles import NONE, Modality, TokenRoles

RECTANGULAR = [policy for policy in POLICIES.values() if policy.is_rectangular]
# Looking ahead in more ways than any policy of ours.
RECTANGULAR.append(
    replace(MMA, looks_ahead=MMA.looks_ahead | {(Modality.AUDIO, Modality.VIDEO), (Modality.TEXT, Modality.AUDIO)})
)
COMMON = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@dataclass(frozen=True)
class Case:
    """A forward: roles of its tokens, what is cached before and spare behind them, and the shapes of q, k, v."""

    policy: Policy
    roles: TokenRoles
    padding_BK: Tensor | None
    past: int
    spare: int
    heads: int
    groups: int
    head_dim: int
    scale: float | None
    seed: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.roles.document_BN.shape

    @property
    def is_real_BN(self) -> Tensor:
        """Tokens that are no padding, by the roles and by the padding mask."""
        is_real_BN = self.roles.is_token_BN
        if self.padding_BK is not None:
            is_real_BN = is_real_BN & self.padding_BK[:, self.past : self.past + self.shape[1]]
        return is_real_BN

    def allowed(self) -> Tensor:
        """The oracle's mask over all keys, bool (B, N, K)."""
        roles, (batch, tokens) = self.roles, self.shape
        real = replace(roles, document_BN=torch.where(self.is_real_BN, roles.document_BN, NONE))
        cached_BK = torch.ones(batch, self.past).bool() if self.padding_BK is None else self.padding_BK[:, : self.past]
        past_BNK = cached_BK[:, None] & self.is_real_BN[:, :, None]
        none_BNK = torch.zeros(batch, tokens, self.spare, dtype=torch.bool)
        return torch.cat([past_BNK, allowed_mask(self.policy, real), none_BNK], -1)

    def plan(self, **kwargs) -> split.Plan:
        batch, tokens = self.shape
        return split.build_mask(
            batch,
            tokens,
            self.past + tokens + self.spare,
            q_offset=torch.tensor(self.past) if self.spare else self.past,
            attention_mask=MaskRequest(self.roles, self.policy, self.padding_BK),
            allow_is_causal_skip=False,
            **kwargs,
        )

    def tensors(self, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        """q, k, v as a model makes them, (B, tokens, heads, D) in memory, and a gradient for the output."""
        batch, tokens = self.shape
        keys = self.past + tokens + self.spare
        generator = torch.Generator().manual_seed(self.seed)
        shapes = [(tokens, self.heads), (keys, self.heads // self.groups), (keys, self.heads // self.groups)]
        return [
            torch.randn(batch, *shape, self.head_dim, generator=generator, dtype=dtype).transpose(1, 2)
            for shape in (*shapes, (tokens, self.heads))
        ]


@st.composite
def rows(draw: st.DrawFn, documents: int) -> tuple[list[int], list[int], list[bool]]:
    """Document, modality and whether it is a response, of every token of 1-4 turns with 0-6 images a document."""
    document, modality, response = [], [], []
    for index in range(draw(st.integers(1, documents))):
        images_left = 6
        for _ in range(draw(st.integers(1, 4))):
            kinds = draw(st.lists(st.sampled_from([0, 1, 0, 1, 2, 3]), min_size=0, max_size=5))
            for kind in kinds:
                if kind and not images_left:
                    continue
                images_left -= kind != 0
                length = draw(st.integers(1, 6))
                modality += [kind] * length
                response += [False] * length
            length = draw(st.integers(0, 4))
            modality += [draw(st.sampled_from([0, 0, 0, 1]))] * length  # what a model says may be an image, too
            response += [True] * length
        document += [index] * (len(modality) - len(document))
    return document, modality, response


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Random packed, padded, cached batches of random heads."""
    past = draw(st.sampled_from([0, 0, 0, 5, 70]))
    spare = draw(st.sampled_from([0, 0, 3]))
    batch = draw(st.integers(1, 3))
    row = rows(1 if past else 5)
    drawn = [draw(row)] * batch if draw(st.booleans()) else [draw(row) for _ in range(batch)]
    tokens = max(2, max(len(document) for document, _, _ in drawn) + draw(st.sampled_from([0, 0, 3])))
    columns: tuple[list, list, list] = ([], [], [])
    for document, modality, response in drawn:
        left = draw(st.integers(0, tokens - len(document)))
        right = tokens - len(document) - left
        columns[0].append([NONE] * left + document + [NONE] * right)
        columns[1].append([0] * left + modality + [0] * right)
        columns[2].append([False] * left + response + [False] * right)
    document_BN, modality_BN, response_BN = map(torch.tensor, columns)
    roles = TokenRoles.from_responses(response_BN, modality_BN, document_BN)
    padding_BK = None
    kind = draw(st.sampled_from(["none", "roles", "left", "holes"]))
    if kind != "none":
        padding_BK = torch.ones(batch, past + tokens, dtype=torch.bool)
        padding_BK[:, past:] = roles.is_token_BN
        if kind == "left" and past:
            for row_index in range(batch):
                padding_BK[row_index, : draw(st.integers(0, past))] = False
        if kind == "holes":
            generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
            padding_BK &= torch.rand(padding_BK.shape, generator=generator) > 0.05
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    return Case(
        policy=draw(st.sampled_from(RECTANGULAR)),
        roles=roles,
        padding_BK=padding_BK,
        past=past,
        spare=spare,
        heads=groups * draw(st.integers(1, 3)),
        groups=groups,
        head_dim=draw(st.sampled_from([4, 7, 16, 32])),
        scale=draw(st.sampled_from([None, 0.1, 0.7])),
        seed=draw(st.integers(0, 9999)),
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


def expected(case: Case, tensors: list[Tensor], allowed_BNK: Tensor) -> list[Tensor]:
    """Output and gradients of q, k, v by the oracle, in float64."""
    q, k, v = (x.detach().double().requires_grad_() for x in tensors[:3])
    repeated = [x.repeat_interleave(case.groups, 1) for x in (k, v)]
    out, _ = reference.attend(q, *repeated, allowed_BNK, case.scale)
    return [out, *torch.autograd.grad(out, (q, k, v), tensors[3].double())]


def measured(case: Case, tensors: list[Tensor], plan: split.Plan) -> list[Tensor]:
    inputs = [x.detach().requires_grad_() for x in tensors[:3]]
    out = split.split_attention(*inputs, plan, case.scale)
    return [out, *torch.autograd.grad(out, inputs, tensors[3])]


def check(case: Case, tolerance: float = 2e-5, dtype: torch.dtype = torch.float32) -> None:
    allowed_BNK, plan, tensors = case.allowed(), case.plan(), case.tensors(dtype)
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


@given(cases())
@settings(COMMON, max_examples=300)
def test_split_equals_the_oracle(case):
    check(case)


@pytest.mark.slow
@given(cases())
@settings(COMMON, max_examples=3000)
def test_split_equals_the_oracle_in_thousands_of_cases(case):
    check(case)


def conversation(image: int, question: int, answer: int, images: int = 1, batch: int = 2) -> TokenRoles:
    """Text, images with two tokens of text between them, a question, an answer; the rows are equal."""
    pieces = [(5, 0, False)] + [(image, 1, False), (2, 0, False)] * images + [(question, 0, False), (answer, 0, True)]
    modality = torch.tensor([kind for length, kind, _ in pieces for _ in range(length)])
    response = torch.tensor([said for length, _, said in pieces for _ in range(length)])
    return TokenRoles.from_responses(
        response.expand(batch, -1), modality.expand(batch, -1), torch.zeros(batch, len(modality), dtype=torch.long)
    )


def case_of(roles: TokenRoles, **changes) -> Case:
    shape = {"past": 0, "spare": 0, "heads": 4, "groups": 2, "head_dim": 64, "scale": None, "seed": 1}
    return Case(**{"policy": MMA, "roles": roles, "padding_BK": None, **shape, **changes})


@pytest.mark.parametrize(("image", "images", "past"), [(576, 1, 0), (150, 4, 0), (800, 1, 300), (40, 3, 1100)])
def test_large_enough_for_every_block_size_of_the_kernels(image, images, past):
    check(case_of(conversation(image, 40, 60, images), past=past, head_dim=32))


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.bfloat16, 3e-2), (torch.float16, 4e-3)], ids=str
)
def test_other_precisions(dtype, tolerance):
    check(case_of(conversation(48, 16, 20, 2), past=9), tolerance, dtype)


def test_equal_rows_share_one_call_per_square_and_one_per_rectangle():
    plan = case_of(conversation(576, 64, 100, batch=4)).plan()
    assert [(part.rows, part.queries, part.is_causal) for part in plan.passes] == [
        ((0, 4), (0, 747), True),
        ((0, 4), (5, 581), False),
    ]
    assert plan.passes[1].keys == ((581, 647),), "the text behind the image, in one piece"


def test_inputs_of_any_layout():
    case = case_of(conversation(30, 8, 9))
    q, k, v, grad = case.tensors()
    plan = case.plan()
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
    tensors, plan = case.tensors(), case.plan()
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
        out = split.split_attention(*case.tensors()[:3], case.plan())
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
    plan, module = case.plan(), torch.nn.Identity()
    with pytest.raises(ValueError, match=r"and_mask.*mutua_sdpa"):
        case.plan(mask_function=sliding_window_causal_mask_function(4))
    for policy in POLICIES.values():
        if policy not in RECTANGULAR:
            with pytest.raises(ValueError, match=rf"'{policy.name}'.*mutua_sdpa"):
                case_of(case.roles, policy=policy).plan()
    with pytest.raises(ValueError, match=r"dropout=0\.1.*mutua_sdpa"):
        split.attend(module, q, k, v, plan, dropout=0.1)
    with pytest.raises(ValueError, match=r"softcap=30\.0.*mutua_sdpa"):
        split.attend(module, q, k, v, plan, softcap=30.0)
    with pytest.raises(ValueError, match=r"torch\.int32.*mutua_sdpa"):
        split.attend(module, q.int(), k.int(), v.int(), plan)
    with pytest.raises(ValueError, match=r"device meta.*mutua_sdpa"):
        split.attend(module, q.to("meta"), k.to("meta"), v.to("meta"), plan)


def test_the_cuda_path_takes_the_arguments_we_give_it():
    """No GPU: fake tensors run the operators' own shape functions."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    case = case_of(conversation(30, 8, 9, images=2))
    passes = case.plan().passes
    with FakeTensorMode():
        q, k, v, grad = (torch.empty(x.shape, dtype=torch.bfloat16, device="cuda") for x in case.tensors())
        for part in passes:
            inputs = [split._queries(q, part), split._keys(k, part), split._keys(v, part)]
            kernel = flash.find_kernel(q, v)
            out, lse = kernel.forward(*inputs, part.is_causal, 0.1)
            assert out.shape == inputs[0].shape
            assert lse.shape == inputs[0].shape[:3]
            assert lse.dtype == torch.float32
            grads = kernel.backward(split._queries(grad, part), *inputs, out, lse, part.is_causal, 0.1)
            assert [x.shape for x in grads] == [x.shape for x in inputs]
        with pytest.raises(ValueError, match=r"not torch.float32.*mutua_sdpa"):
            flash.find_kernel(q.float(), v.float())


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("head_dim", [64, 96, 128])
def test_cuda_equals_the_oracle(dtype, head_dim):
    case = case_of(conversation(144, 33, 50, images=2), head_dim=head_dim, heads=8, groups=4, past=70, spare=5)
    tensors, plan = case.tensors(), case.plan()
    got = measured(case, [x.to("cuda", dtype) for x in tensors], plan)
    rounded = [x.to(dtype) for x in tensors]
    for value, want in zip(got, expected(case, rounded, case.allowed()), strict=True):
        assert float((value.cpu() - want).abs().max() / want.abs().max().clamp(min=1)) < 2e-2
