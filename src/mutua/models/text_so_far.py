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
from torch.nn.functional import pad
from transformers import Cache

from mutua.attention import Policy
from mutua.models.checks import expect_unpacked
from mutua.roles import MAX_BLOCKS, NONE, TokenRoles

_ATTRIBUTE = "_mutua_note"
_POLICY = "_mutua_policy"  # the name of the one under which a cache was filled
_PACKED = "_mutua_packed"  # set where it was filled with packed rows
SAID = "_mutua_said"  # where `generate` filled it, and nothing else since: the ids of its text, the last one included


@dataclass(frozen=True)
class _Note:
    """What a cache holds.

    Attributes:
        rows, length: how many rows there are, and how many tokens each has.
        keys: where the first layer's keys lie in memory: elsewhere, the rows may be others, or in another order.
        is_real_BK: bool, false on padding; None where there is none.
        block_BK: the prompt block of every token, `NONE` where nothing of its block looks ahead. Of tokens behind the
            last column, which the model has said, it is `NONE`.
    """

    rows: int
    length: int
    keys: int | None
    is_real_BK: Tensor | None
    block_BK: Tensor


class TextSoFar:
    """Cached text, if any, and the tokens of this forward.

    Args:
        cache, past: what the model goes on from, and how many tokens it holds.
        is_step: this forward is a single token that the model said.
        is_unlocked: the model may have filled the cache before it was unlocked.
        has_roles: the roles are known, and not those that text has of which nobody says whose it is.

    Attributes:
        padding_BK: bool, false on padding; None where the roles of this forward say all.

    Raises:
        ValueError: the forward begins inside a prompt block whose first part is in the cache; or the cache was filled
            under another policy; or it is not known which cached tokens are padding, or others are said to be.
    """

    def __init__(
        self,
        cache: Cache | None,
        past: int | Tensor,
        policy: Policy,
        roles: TokenRoles,
        attention_mask_BK: Tensor | None,
        is_step: bool = False,
        is_unlocked: bool = False,
        has_roles: bool = True,
    ) -> None:
        self._policy, self._roles, self._is_step = policy, roles, is_step
        self._tokens = roles.document_BN.shape[1]
        # A static cache counts in a tensor, and a look at it would cost every decoded token a wait for the device.
        self._past = None if isinstance(past, Tensor) and is_step else int(past)
        self._offset = past if self._past is None else self._past
        if self._past != 0 and not torch.compiler.is_compiling():
            expect_unpacked(int(getattr(cache, _PACKED, False)))
            self._refuse_other_policy(cache, is_unlocked)
        found = None if torch.compiler.is_compiling() else self._find_note(cache)
        # Rows may have been taken out of the cache, or put in: then what it holds is known of all rows together.
        self._before = found if found is not None and found.rows == len(roles.block_BN) else None
        if found is not None and self._past is not None and not policy.is_causal:
            self._refuse_cut_block(found, self._past, found.keys == _keys(cache), has_roles)
        self.padding_BK: Tensor | None = None
        if attention_mask_BK is not None:
            self.padding_BK = attention_mask_BK.bool()
            if self._before is not None and self._before.keys == _keys(cache) and not is_step:
                _expect_padding_as_cached(self._before, self.padding_BK[:, : self._past])
        elif self._before is not None and (self._before.is_real_BK is None or self._before.keys == _keys(cache)):
            if self._before.is_real_BK is not None:  # else all rows are alike, in whatever order they are by now
                self.padding_BK = torch.cat([self._before.is_real_BK[:, : self._past], roles.is_token_BN], 1)
        elif self._past != 0 and not (is_step and _has_no_padding(cache, len(roles.document_BN))):
            raise ValueError(
                f"attention_mask is missing, and which of the {int(past)} cached tokens are padding is not known (the "
                "cache is static, was changed, or was not filled by this model): pass the attention_mask of all tokens "
                "so far."
            )

    def _refuse_other_policy(self, cache: Cache | None, is_unlocked: bool) -> None:
        """What cached images have seen depends on the policy."""
        filled = getattr(cache, _POLICY, "causal" if is_unlocked else self._policy.name)
        if filled != self._policy.name:
            raise ValueError(
                f"the cache was filled under policy {filled!r}, and this forward is under {self._policy.name!r}, so "
                "images in it have not seen what they should: run the conversation again, from an empty cache."
            )

    def _find_note(self, cache: Cache | None) -> _Note | None:
        """What was left on the cache, if it still tells of all that the cache holds."""
        note: _Note | None = getattr(cache, _ATTRIBUTE, None)
        if note is None or self._past is None or not 0 < self._past <= note.length:
            return None
        return note

    def _refuse_cut_block(self, before: _Note, past: int, is_as_left: bool, has_roles: bool) -> None:
        """Part of a block is in the cache without the rest that it looked ahead to, or could not look ahead to.

        The rest comes now, or the cache was cropped and something else comes in its place. A block goes on until
        something is said, so any token of a prompt behind it belongs to it.

        Args:
            is_as_left: nobody has touched the cache since; else which row is which is not known.
        """
        if past > before.block_BK.shape[1] or (self._is_step and past == before.length):
            return  # the cached text ends with what the model said
        index_K = torch.arange(past, device=before.block_BK.device)
        block_B = before.block_BK[:, past - 1]
        if before.is_real_BK is not None:
            last_B1 = torch.where(before.is_real_BK[:, :past], index_K, 0).amax(-1, keepdim=True)
            block_B = before.block_BK.gather(1, last_B1)[:, 0]
        is_open_B = block_B != NONE
        if not has_roles and self._tokens > 1 and bool(is_open_B.any()):
            raise ValueError(
                f"{self._tokens} tokens came without token_type_ids behind {past} cached ones that end in a prompt: "
                "whether they are the rest of it or its reply is not known. Pass the token_type_ids of these tokens "
                "(to generate, of the whole conversation)."
            )
        index_N = torch.arange(self._tokens, device=self._roles.block_BN.device)
        first_B1 = torch.where(self._roles.is_token_BN, index_N, self._tokens - 1).amin(-1, keepdim=True)
        goes_on_B = self._roles.block_BN.gather(1, first_B1)[:, 0] != NONE
        is_cropped_B = torch.zeros_like(is_open_B)
        if past < before.block_BK.shape[1]:
            is_cropped_B = is_open_B & (before.block_BK[:, past] == block_B)
        if is_as_left and len(is_open_B) == len(goes_on_B):
            is_cut_B = (goes_on_B & is_open_B) | is_cropped_B
        else:
            is_cut_B = (goes_on_B & is_open_B.any()) | is_cropped_B.any()
        if bool(is_cut_B.any()):
            raise ValueError(
                f"this forward begins inside prompt block {int(block_B[is_open_B][0])} of row "
                f"{int(is_cut_B.nonzero()[0])}, whose first {past} tokens "
                "are in the cache: what they looked ahead to is not what comes now. Run a prompt block in one forward, "
                "and crop a cache between blocks."
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
            return self._roles.positions() + self._offset
        return (self.padding_BK.long().cumsum(-1) - 1).clamp(min=0)[:, -self._tokens :]

    def note_on(self, cache: Cache | None) -> None:
        """Leaves on the cache what it holds after this forward."""
        if cache is not None:
            setattr(cache, _POLICY, self._policy.name)
            vars(cache).pop(SAID, None)
            if self._past == 0:
                vars(cache).pop(_PACKED, None)
        if cache is None or self._past is None or torch.compiler.is_compiling():
            return
        roles, before = self._roles, self._before
        real_BK = self.padding_BK
        if real_BK is None:  # then nothing cached is padding
            real_BK = pad(roles.is_token_BN, (self._past, 0), value=True)
        if self._is_step and before is not None:
            has_padding = before.is_real_BK is not None
            block_BK = before.block_BK[:, : self._past]
        else:
            cached_BK = roles.block_BN.new_full((len(roles.block_BN), self._past), NONE)
            if before is not None:
                known_BK = before.block_BK[:, : self._past]
                cached_BK[:, : known_BK.shape[1]] = known_BK
            block_BK = torch.cat([cached_BK, self._open_blocks()], 1)
            is_real, is_packed = torch.stack([real_BK.all(), (roles.document_BN > 0).any()]).tolist()
            has_padding = not is_real
            if is_packed:
                setattr(cache, _PACKED, True)
        length = self._past + self._tokens
        note = _Note(len(block_BK), length, _keys(cache), real_BK if has_padding else None, block_BK)
        setattr(cache, _ATTRIBUTE, note)

    def _open_blocks(self) -> Tensor:
        """The block of every token of this forward, (B, N); `NONE` where nothing of it looks ahead."""
        block_BN = self._roles.block_BN
        looks_BN = torch.where(self._policy.looks_ahead_BN(self._roles), block_BN, NONE)
        # By number, `NONE` first: does some token of the row with this block look ahead?
        is_open_BM = torch.zeros(len(block_BN), MAX_BLOCKS + 1, dtype=torch.bool, device=block_BN.device)
        is_open_BN = is_open_BM.scatter_(1, looks_BN + 1, True).gather(1, block_BN + 1)
        return torch.where(is_open_BN & (block_BN != NONE), block_BN, NONE)


def _expect_padding_as_cached(note: _Note, mask_BP: Tensor) -> None:
    """Tokens keep the positions at which they were cached, so rows may not be padded anew (to mask more behind a reply
    that ended early is all right)."""
    was_BP = torch.ones_like(mask_BP) if note.is_real_BK is None else note.is_real_BK[:, : mask_BP.shape[1]]
    moved_B = (mask_BP & ~was_BP).any(-1) | (mask_BP.long().argmax(-1) != was_BP.long().argmax(-1))
    if bool(moved_B.any()):
        row = int(moved_B.nonzero()[0])
        raise ValueError(
            f"attention_mask says that other cached tokens of row {row} are padding than those that were when they "
            "were cached: a conversation in a batch keeps its padding, so pad a new turn behind it, or run it again "
            "from an empty cache."
        )


def _has_no_padding(cache: Cache | None, rows: int) -> bool:
    """Whether the cache was filled with that many rows and no padding: `generate` then passes no mask.

    No tensor is looked at, so a decoded token need not wait for the device, and a compiled one is no other graph for
    every prompt.
    """
    note: _Note | None = getattr(cache, _ATTRIBUTE, None)
    return note is not None and note.rows == rows and note.is_real_BK is None


def _keys(cache: Cache | None) -> int | None:
    """Where the keys of a cache's first layer lie: other operations than the model's own put them elsewhere."""
    layers = getattr(cache, "layers", None)
    keys = getattr(layers[0], "keys", None) if layers else None
    return None if keys is None else keys.data_ptr()
