"""The text that a forward goes on from: padding and positions of its tokens, and of those in the cache.

A cache knows neither which of its keys are padding nor in which prompt block its text ends. The model leaves a note of
both on every cache that it fills, so that the forward after it, written by hand, is as right as in `generate`, or is
refused.

Shape suffixes: B batch, N tokens of this forward, K all tokens (cached ones included).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import Cache

from mutua.attention import Policy
from mutua.roles import NONE, TokenRoles

_ATTRIBUTE = "_mutua_note"


@dataclass(frozen=True)
class _Note:
    """What a cache holds: how many tokens, which are padding, and in which block (that looks ahead) each row ends."""

    length: int
    is_real_BK: Tensor
    document_B: Tensor
    block_B: Tensor


class TextSoFar:
    """Cached text, if any, and the tokens of this forward.

    Args:
        cache, past: what the model goes on from, and how many tokens it holds.
        is_step: this forward is a single token that the model said.

    Attributes:
        padding_BK: bool, false on padding; None where the roles of this forward say all.

    Raises:
        ValueError: the forward begins inside a prompt block whose first part is in the cache; or it is not known which
            cached tokens are padding.
    """

    def __init__(
        self,
        cache: Cache | None,
        past: int | Tensor,
        policy: Policy,
        roles: TokenRoles,
        attention_mask_BK: Tensor | None,
        is_step: bool = False,
    ) -> None:
        self._policy, self._roles, self._is_step = policy, roles, is_step
        self._tokens = roles.document_BN.shape[1]
        # A static cache counts in a tensor, and a look at it would cost every decoded token a wait for the device.
        self._past = None if isinstance(past, Tensor) and is_step else int(past)
        before = None if torch.compiler.is_compiling() else self._find_note(cache)
        if before is not None and before.length == self._past and not is_step:
            self._refuse_cut_block(before)
        self.padding_BK: Tensor | None = None
        if attention_mask_BK is not None:
            self.padding_BK = attention_mask_BK.bool()
        elif before is not None:
            self.padding_BK = torch.cat([before.is_real_BK[:, : self._past], roles.is_token_BN], 1)
        elif self._past != 0:
            raise ValueError(
                f"attention_mask is missing, and which of the {int(past)} cached tokens are padding is not known (this "
                "model did not fill the cache, or it was changed since): pass the attention_mask of all tokens so far."
            )

    def _find_note(self, cache: Cache | None) -> _Note | None:
        """What was left on the cache, if it still tells of all that the cache holds."""
        note: _Note | None = getattr(cache, _ATTRIBUTE, None)
        if note is None or self._past is None or not 0 < self._past <= note.length:
            return None
        # Rows may have been taken out of the cache, or put in.
        return note if len(note.block_B) == len(self._roles.block_BN) else None

    def _refuse_cut_block(self, before: _Note) -> None:
        """The images of the cached part could no longer see the rest of their block: that is the look-ahead itself."""
        if self._policy.is_causal or not bool((before.block_B != NONE).any()):
            return
        index_N = torch.arange(self._tokens, device=self._roles.document_BN.device)
        first_B1 = torch.where(self._roles.is_token_BN, index_N, self._tokens - 1).amin(-1, keepdim=True)
        block_B, document_B = (x.gather(1, first_B1)[:, 0] for x in (self._roles.block_BN, self._roles.document_BN))
        is_cut_B = (block_B != NONE) & (block_B == before.block_B) & (document_B == before.document_B)
        if bool(is_cut_B.any()):
            row = int(is_cut_B.nonzero()[0])
            raise ValueError(
                f"this forward begins inside prompt block {int(block_B[row])} of row {row}, whose first "
                f"{before.length} tokens are in the cache: they could no longer look ahead. Run a prompt block in one "
                "forward."
            )

    def positions(self, has_roles: bool) -> Tensor:
        """Position of every token of this forward, (B, N); padding does not count."""
        if self._past == 0 and has_roles:
            return self._policy.positions(self._roles)
        if self._policy.within_item == "rings" and self._past != 0:
            raise ValueError(
                f"policy {self._policy.name!r} gives an image fewer positions than tokens, so where cached text ends "
                "is not known: pass position_ids (`generate` does so by itself)."
            )
        if self.padding_BK is None:
            return self._roles.positions()
        return (self.padding_BK.long().cumsum(-1) - 1).clamp(min=0)[:, -self._tokens :]

    def note_on(self, cache: Cache | None) -> None:
        """Leaves on the cache what it holds after this forward."""
        if cache is None or self._past is None or torch.compiler.is_compiling():
            return
        roles = self._roles
        is_real_BK = roles.is_token_BN if self.padding_BK is None else self.padding_BK
        length = self._past + self._tokens
        if self._is_step:  # a response, without a block
            setattr(cache, _ATTRIBUTE, _Note(length, is_real_BK, roles.document_BN[:, 0], roles.block_BN[:, 0]))
            return
        index_N = torch.arange(self._tokens, device=roles.document_BN.device)
        last_B1 = torch.where(roles.is_token_BN, index_N, 0).amax(-1, keepdim=True)
        document_B, block_B = (x.gather(1, last_B1)[:, 0] for x in (roles.document_BN, roles.block_BN))
        looks_ahead_BN = self._policy.sees_bits(block_B.device)[roles.modality_BN] != 0
        if self._policy.within_item != "causal":
            looks_ahead_BN = looks_ahead_BN | (roles.item_BN != NONE)
        # A block of which nothing looks ahead may go on in another forward.
        is_open_B = (looks_ahead_BN & (roles.block_BN == block_B[:, None])).any(-1)
        block_B = torch.where(is_open_B, block_B, NONE)
        setattr(cache, _ATTRIBUTE, _Note(length, is_real_BK, document_B, block_B))
