"""What a model asks of a backend: one object per forward, in the place where Transformers expects the attention mask.

Transformers hands it unchanged to the registered mask builder, which turns it into whatever its attention function
takes. Shape suffixes: B batch, N tokens of this forward, K all keys (cached ones included).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import pad

from mutua.attention.policy import Policy
from mutua.roles import NONE, TokenRoles


@dataclass(frozen=True)
class MaskRequest:
    """The roles of the tokens of one forward, the policy, and which keys are padding.

    Attributes:
        roles: of the tokens in this forward (not of cached ones: nothing looks ahead into the past).
        policy: which modality looks ahead to which.
        padding_BK: bool, false where a key is padding; None if there is none. Covers cached keys too.
    """

    roles: TokenRoles
    policy: Policy
    padding_BK: Tensor | None

    # Transformers asks a mask for these two: 2 dimensions would mean "a padding mask, convert me".
    ndim = 0

    @property
    def shape(self) -> torch.Size:
        return self.roles.document_BN.shape

    @property
    def is_base(self) -> bool:
        """Whether the model's own mask and the padding are all there is: nothing looks ahead, no row is packed.

        Answered by one look at the data, from the host; a decode step (always base) and a traced forward (which must
        not look, and so never is) take none.
        """
        if self.shape[1] == 1:
            return True
        if torch.compiler.is_compiling():
            return False
        return self._looks_base

    @cached_property
    def _looks_base(self) -> bool:
        roles = self.roles
        differs_BN = roles.document_BN > 0
        if self.padding_BK is None:  # then only the roles know of padding
            differs_BN = differs_BN | (roles.document_BN == NONE)
        if not self.policy.is_causal:
            differs_BN = differs_BN | self.policy.looks_ahead_BN(roles)
        return not bool(differs_BN.any())

    @cached_property
    def is_padded(self) -> bool:
        """Whether there is padding. Answered by a look at the data, from the host."""
        return self.padding_BK is not None and not bool(self.padding_BK.all())

    def padding_up_to(self, keys: int) -> Tensor | None:
        """`padding_BK` with `keys` columns: what lies beyond it is padding, too (room in a static cache)."""
        if self.padding_BK is None:
            return None
        return pad(self.padding_BK, (0, max(0, keys - self.padding_BK.shape[1])))


class NoRequestError(TypeError):
    """A backend was asked for a mask, and not told of what."""


def expect_request(attention_mask: object, backend: str) -> MaskRequest:
    """The request that the model passed; NoRequestError if something else arrived in its place."""
    if not isinstance(attention_mask, MaskRequest):
        raise NoRequestError(
            f"the attention backend {backend!r} got {type(attention_mask).__name__} for a mask and no token roles, so "
            "it would silently be causal. Use it with MutuaForConditionalGeneration, or call mutua.unlock(model, "
            "processor) first (again after a model that was saved unlocked is loaded)."
        )
    return attention_mask
