"""Who said what: the role of every token, and the integer codes in which roles travel with a batch.

Every token has a *document* (which packed sample it belongs to; padding has none), a *modality* and a *block*. A
conversation alternates prompt blocks (everything the model is given before a reply, reply header included) and
responses; a response token has no block. A token that is not text also has an *item*: which image (or clip) it is part
of. The attention rule needs nothing else.

Shape suffixes: B batch, N tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

NONE = -1
"""The document of padding, the block of a response, the item of text."""


class Modality(IntEnum):
    """What a token stands for. The values are part of the token codes."""

    TEXT = 0
    IMAGE = 1
    VIDEO = 2
    AUDIO = 3


# A code is a bit field: bit 0 is set for every real token (so 0 is padding, the value with which every Transformers
# collator pads `token_type_ids`), bits 1-3 hold the modality, bits 4-15 the block + 1, bits 16-27 the item + 1, the
# bits above the document.
_MODALITY_SHIFT, _BLOCK_SHIFT, _ITEM_SHIFT, _DOCUMENT_SHIFT = 1, 4, 16, 28
MAX_BLOCKS = (1 << (_ITEM_SHIFT - _BLOCK_SHIFT)) - 1
MAX_ITEMS = (1 << (_DOCUMENT_SHIFT - _ITEM_SHIFT)) - 1
PADDING_CODE = 0


@dataclass(frozen=True)
class TokenRoles:
    """Document, block, modality and item of every token, each an int64 tensor of shape (B, N).

    `document_BN` is `NONE` for padding, `block_BN` is `NONE` for responses (and padding), `item_BN` is `NONE` for text
    (and padding); block and item numbers are unique within a document.
    """

    document_BN: Tensor
    block_BN: Tensor
    modality_BN: Tensor
    item_BN: Tensor

    @classmethod
    def from_codes(cls, codes_BN: Tensor, is_real_BN: Tensor | None = None) -> TokenRoles:
        """Reads the codes that `to_codes` wrote (the `token_type_ids` of a batch).

        Code 0 is padding, but what generation loops append for the tokens that the model said: where `is_real_BN` (an
        attention mask) says that such a token is none, it is a response, of the document before it.
        """
        if codes_BN.ndim != 2 or codes_BN.is_floating_point():
            raise ValueError(
                f"token_type_ids must be an integer tensor of shape (batch, tokens), not {codes_BN.dtype} "
                f"{tuple(codes_BN.shape)}: pass those that MutuaProcessor.apply_chat_template returned."
            )
        codes_BN = codes_BN.long()
        is_token_BN = (codes_BN & 1).bool()
        if is_real_BN is not None:
            is_appended_BN = is_real_BN.bool() & ~is_token_BN
            before_BN = codes_BN.gather(1, _last_true(is_token_BN).clamp(min=0))
            codes_BN = torch.where(is_appended_BN, response_codes(before_BN) | 1, codes_BN)
            is_token_BN = is_token_BN | is_appended_BN
        block_BN = ((codes_BN >> _BLOCK_SHIFT) & MAX_BLOCKS) - 1
        item_BN = ((codes_BN >> _ITEM_SHIFT) & MAX_ITEMS) - 1
        return cls(
            document_BN=torch.where(is_token_BN, codes_BN >> _DOCUMENT_SHIFT, NONE),
            block_BN=torch.where(is_token_BN, block_BN, NONE),
            modality_BN=torch.where(is_token_BN, (codes_BN >> _MODALITY_SHIFT) & 7, int(Modality.TEXT)),
            item_BN=torch.where(is_token_BN, item_BN, NONE),
        )

    @classmethod
    def from_responses(
        cls, is_response_BN: Tensor, modality_BN: Tensor, document_BN: Tensor, begins_item_BN: Tensor | None = None
    ) -> TokenRoles:
        """Numbers the prompt blocks and the items, given which tokens are responses.

        Args:
            is_response_BN: bool (B, N), true where the model speaks.
            modality_BN: int (B, N), a `Modality` per token.
            document_BN: int (B, N), the packed sample of each token, `NONE` for padding.
            begins_item_BN: bool (B, N), true for the first visual token of every image (or clip): what is not text
                belongs to the item that began last, also behind a separator. None takes every run of one modality as
                one item.

        A block is a run of prompt tokens of one document: it starts where a document starts and after every response.
        Padding, wherever it stands, cuts no block.
        """
        is_prompt_BN = (document_BN != NONE) & ~is_response_BN
        last_BN = _before(document_BN != NONE)
        was_prompt_BN, was_document_BN = (x.gather(1, last_BN.clamp(min=0)) for x in (is_prompt_BN, document_BN))
        before_BN = (last_BN >= 0) & was_prompt_BN & (was_document_BN == document_BN)
        block_BN = (is_prompt_BN & ~before_BN).long().cumsum(-1) - 1
        modality_BN = torch.where(document_BN != NONE, modality_BN.long(), int(Modality.TEXT))
        item_BN = _number_items(modality_BN, document_BN, begins_item_BN)
        for what, numbers_BN, most in (("prompt blocks", block_BN, MAX_BLOCKS), ("images", item_BN, MAX_ITEMS)):
            if numbers_BN.numel() and int(numbers_BN.max()) >= most:
                raise ValueError(f"a row holds {int(numbers_BN.max()) + 1} {what}; at most {most} fit: split it.")
        return cls(
            document_BN=document_BN.long(),
            block_BN=torch.where(is_prompt_BN, block_BN, NONE),
            modality_BN=modality_BN,
            item_BN=item_BN,
        )

    def to_codes(self) -> Tensor:
        """One int64 per token, (B, N): what travels as `token_type_ids`."""
        codes_BN = (
            1
            | (self.modality_BN << _MODALITY_SHIFT)
            | ((self.block_BN + 1) << _BLOCK_SHIFT)
            | ((self.item_BN + 1) << _ITEM_SHIFT)
            | (self.document_BN << _DOCUMENT_SHIFT)
        )
        return torch.where(self.is_token_BN, codes_BN, PADDING_CODE)

    def to(self, device: torch.device | str) -> TokenRoles:
        """The same on another device."""
        return TokenRoles(*(x.to(device) for x in (self.document_BN, self.block_BN, self.modality_BN, self.item_BN)))

    @property
    def is_token_BN(self) -> Tensor:
        """True for every token that is not padding."""
        return self.document_BN != NONE

    @property
    def is_response_BN(self) -> Tensor:
        """True for every token that the model is to say."""
        return self.is_token_BN & (self.block_BN == NONE)

    def positions(self) -> Tensor:
        """Position of every token within its own document, (B, N); 0 on padding, which does not count.

        Padding may stand anywhere, but a document must be contiguous in its row but for padding.
        """
        is_token_BN = self.is_token_BN
        index_BN = is_token_BN.long().cumsum(-1) - 1
        # The document of the token before, padding skipped: a document starts where it is another one.
        last_BN = _before(is_token_BN)
        before_BN = torch.where(last_BN < 0, NONE, self.document_BN.gather(1, last_BN.clamp(min=0)))
        first_BN = torch.where(is_token_BN & (self.document_BN != before_BN), index_BN, 0).cummax(-1).values
        return torch.where(is_token_BN, index_BN - first_BN, 0)

    def count_items(self, modality: Modality) -> Tensor:
        """How many images (or clips) of a modality every row holds, (B,)."""
        is_item_BN = self.modality_BN == int(modality)
        last_BN = _before(is_item_BN)  # text between two tokens of an image does not make it two
        is_first_BN = last_BN < 0
        for number_BN in (self.document_BN, self.item_BN):
            is_first_BN = is_first_BN | (number_BN.gather(1, last_BN.clamp(min=0)) != number_BN)
        return (is_item_BN & is_first_BN).sum(-1)


def _number_items(modality_BN: Tensor, document_BN: Tensor, begins_item_BN: Tensor | None) -> Tensor:
    """Numbers the items in order of appearance; without beginnings, runs of one modality that is not text."""
    is_item_BN = modality_BN != int(Modality.TEXT)
    if begins_item_BN is None:
        starts_BN = is_item_BN.clone()
        starts_BN[:, 1:] &= (modality_BN[:, 1:] != modality_BN[:, :-1]) | (document_BN[:, 1:] != document_BN[:, :-1])
    else:
        starts_BN = is_item_BN & begins_item_BN
    item_BN = starts_BN.long().cumsum(-1) - 1
    if bool((is_item_BN & (item_BN < 0)).any()):
        row = int((is_item_BN & (item_BN < 0)).any(-1).nonzero()[0])
        raise ValueError(
            f"row {row} has visual tokens before its first item begins: mark the first token of each item."
        )
    return torch.where(is_item_BN, item_BN, NONE)


def _last_true(is_true_BN: Tensor) -> Tensor:
    """The place of the last true at or before every place, -1 where there is none."""
    index_N = torch.arange(is_true_BN.shape[1], device=is_true_BN.device)
    return torch.where(is_true_BN, index_N, -1).cummax(-1).values


def _before(is_true_BN: Tensor) -> Tensor:
    """The place of the last true before every place, -1 where there is none."""
    index_N = torch.arange(is_true_BN.shape[1], device=is_true_BN.device)
    return torch.where(index_N == 0, -1, _last_true(is_true_BN).roll(1, -1))


def in_document(codes: Tensor, document: int) -> Tensor:
    """The codes of one document's tokens, of any shape, as the given document of a packed row has them."""
    first = codes & ((1 << _DOCUMENT_SHIFT) - 1)
    return torch.where(codes == PADDING_CODE, PADDING_CODE, first | (document << _DOCUMENT_SHIFT))


def response_codes(codes_B1: Tensor) -> Tensor:
    """The code of a response token in the same document as each given token: what `generate` appends."""
    return torch.where(codes_B1 == PADDING_CODE, PADDING_CODE, (codes_B1 >> _DOCUMENT_SHIFT << _DOCUMENT_SHIFT) | 1)
