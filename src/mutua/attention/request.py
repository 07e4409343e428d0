"""What a model asks of a backend: one object per forward, in the place where Transformers expects the attention mask.

Transformers hands it unchanged to the registered mask builder, which turns it into whatever its attention function
takes. Shape suffixes: B batch, N tokens of this forward, K all keys (cached ones included).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

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
    def looks_ahead(self) -> bool:
        """Whether the mask of this forward may differ from a causal one. That of a decode step never does."""
        if self.policy.is_causal or self.shape[1] == 1:
            return False
        if torch.compiler.is_compiling():  # looking at the data would break the graph
            return True
        if self.policy.within_item != "causal" and bool((self.roles.item_BN != NONE).any()):
            return True
        ahead = self.policy.table().any(-1).to(self.roles.modality_BN.device)
        return bool((ahead[self.roles.modality_BN] & (self.roles.block_BN != NONE)).any())

    @property
    def is_packed(self) -> bool:
        """Whether a row holds more than one document."""
        document_BN = self.roles.document_BN
        if torch.compiler.is_compiling():
            return True
        return bool((document_BN > 0).any())


def expect_request(attention_mask: object, backend: str) -> MaskRequest:
    """The request that the model passed; TypeError if something else arrived in its place."""
    if not isinstance(attention_mask, MaskRequest):
        raise TypeError(
            f"the attention backend {backend!r} got {type(attention_mask).__name__} for a mask and no token roles, so "
            "it would silently be causal. Use it with MutuaForConditionalGeneration."
        )
    return attention_mask
