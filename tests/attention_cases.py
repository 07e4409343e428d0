"""Random forwards to try a backend on: roles, padding, cache, heads; and what the float64 oracle says of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from torch import Tensor

from mutua.attention import MMA, MaskRequest, Policy, oracle
from mutua.roles import NONE, TokenRoles

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

    def allowed(self, base: Callable[..., Any] | None = None) -> Tensor:
        """The oracle's mask over all keys, bool (B, N, K)."""
        return oracle.allowed_mask(
            self.policy,
            self.roles,
            past=self.past,
            keys=self.past + self.shape[1] + self.spare,
            padding_BK=self.padding_BK,
            base=base,
        )

    def mask(self, build_mask: Callable[..., Any], **kwargs) -> Any:
        """What that backend's builder makes of this forward."""
        batch, tokens = self.shape
        return build_mask(
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
def rows(draw: st.DrawFn, documents: int, squares: bool) -> tuple[list[int], list[int], list[bool]]:
    """Document, modality and whether it is a response, of every token of 1-4 turns with 0-6 images a document.

    With `squares`, every image is a square number of tokens.
    """
    image_length = st.sampled_from([1, 4, 9]) if squares else st.integers(1, 6)
    document, modality, response = [], [], []
    for index in range(draw(st.integers(1, documents))):
        images_left = 6
        for _ in range(draw(st.integers(1, 4))):
            kinds = draw(st.lists(st.sampled_from([0, 1, 0, 1, 2, 3]), min_size=0, max_size=5))
            for kind in kinds:
                if kind and not images_left:
                    continue
                images_left -= kind != 0
                length = draw(image_length if kind else st.integers(1, 6))
                between = int(squares and kind != 0)  # or two images in a row would count as one
                modality += [kind] * length + [0] * between
                response += [False] * (length + between)
            length = draw(st.integers(0, 4))
            said = 0 if squares else draw(st.sampled_from([0, 0, 0, 1]))  # what a model says may be an image, too
            modality += [said] * length
            response += [True] * length
        document += [index] * (len(modality) - len(document))
    return document, modality, response


@st.composite
def cases(draw: st.DrawFn, policies: Sequence[Policy]) -> Case:
    """Random packed, padded, cached batches of random heads."""
    past = draw(st.sampled_from([0, 0, 0, 5, 70]))
    spare = draw(st.sampled_from([0, 0, 3]))
    batch = draw(st.integers(1, 3))
    policy = draw(st.sampled_from(policies))
    row = rows(1 if past else 5, policy.within_item == "rings")
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
    kinds = ["none", "roles", "left"]
    if policy.within_item != "rings":  # an image with holes is no grid
        kinds.append("holes")
    kind = draw(st.sampled_from(kinds))
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
        policy=policy,
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


def expected(case: Case, tensors: list[Tensor], allowed_BNK: Tensor) -> list[Tensor]:
    """Output and gradients of q, k, v by the oracle, in float64."""
    q, k, v = (x.detach().double().requires_grad_() for x in tensors[:3])
    repeated = [x.repeat_interleave(case.groups, 1) for x in (k, v)]
    out, _ = oracle.attend(q, *repeated, allowed_BNK, case.scale)
    return [out, *torch.autograd.grad(out, (q, k, v), tensors[3].double())]


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
