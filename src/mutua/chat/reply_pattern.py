"""The replies in rows of token ids, for engines that see nothing else: a server, a harness, vLLM.

How a reply opens and how it ends is learned once, from chats whose replies are known (`reply_spans`): the tokens before
every reply that are always the same, and those that end it. Then replies are found in any row of ids.

A header that begins with a control token cannot occur in a text, as messages may not hold control tokens. One of plain
text can ("ASSISTANT:"): there, every reply's end must have exactly one header before it, and a row where that fails is
refused. What was learned is tried on chats made to mislead it: their replies must come out right, or be refused. Nobody
can tell whose the control tokens of a row are: whoever tokenizes messages must check their texts.

Shape suffixes: B batch, N tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mutua.chat.placeholders import ImageForm, beginnings, feature_ids_of, modalities_of
from mutua.chat.probes import ProbeChat, Probes, Tokens
from mutua.chat.template import ChatTemplateError
from mutua.roles import NONE, Modality, TokenRoles


@dataclass(frozen=True)
class ReplyPattern:
    """How a reply opens and ends, in tokens.

    Attributes:
        header: the tokens directly before every reply.
        end: the tokens with which every reply ends; the first is a control token.
        counts_headers: whether to insist on exactly one header before every end: the header is plain text, which a text
            may hold, or the template lets a reply follow a reply with no header between.
        control_ids: the ids of control tokens, which no reply holds before its end.
        features: the ids of tokens whose embeddings are replaced by features, and their modality.
        images: how the tokens of an image look; None for a processor without images.
    """

    header: Tokens
    end: Tokens
    counts_headers: bool
    control_ids: frozenset[int]
    features: dict[int, Modality]
    images: ImageForm | None

    @classmethod
    def learn(cls, processor: Any) -> ReplyPattern:
        """Probes a processor's chat template.

        Raises:
            ChatTemplateError: replies cannot be found in the template, or not in tokens alone.
        """
        probes = Probes(processor)
        chats = probes.plain_chats()
        end = probes.end_of(chats)
        suffix = _common_suffix([prompt for chat in chats for prompt in chat.prompts])
        misleading = probes.misleading_chats(suffix)
        has_images = getattr(processor, "image_token", None) is not None
        images = ImageForm.learn(processor) if has_images else None
        # Shorter ones first: what stands before the header may be another thing in another chat.
        starts = [place for place in range(len(suffix) - 1, -1, -1) if suffix[place] in probes.control_ids]
        first = next((place for place, token in enumerate(suffix) if probes.decode([token]).strip()), len(suffix))
        for start, counts in [*((start, False) for start in starts), (first, True)]:
            header, controls = suffix[start:], frozenset(probes.control_ids)
            pattern = cls(header, end, counts, controls, feature_ids_of(processor), images)
            if header and pattern._finds(chats) and pattern._finds(misleading, may_refuse=True):
                return pattern
        raise ChatTemplateError(
            "the chat template gives no tokens that open a reply and nothing else: before every reply it has "
            f"{probes.decode(suffix)!r}, and with it replies are found in wrong places. Find the roles from messages."
        )

    def _finds(self, chats: Iterable[ProbeChat], may_refuse: bool = False) -> bool:
        """Whether the replies of the chats come out right; with `may_refuse`, or are refused."""
        for chat in chats:
            try:
                if self.find_replies(chat.ids) != chat.is_reply:
                    return False
            except ValueError:
                if not may_refuse:
                    return False
        return True

    def find_replies(self, ids: Sequence[int]) -> list[bool]:
        """Which tokens of one row, without padding, are replies.

        Raises:
            ValueError: another chat could have the same tokens.
        """
        ids, is_reply, done = list(ids), [False] * len(ids), 0
        while (start := self._open(ids, done)) is not None:
            said, stop = self._end(ids, start)
            if held := [token for token in ids[start:said] if token in self.control_ids]:
                raise ValueError(
                    f"the control token {held[0]} stands between {start} and {stop}, where a reply would be: turns do "
                    "not alternate here, or a text holds it. Find the roles from messages."
                )
            is_reply[start:stop] = [True] * (stop - start)
            # The end of a reply may be the beginning of the next one's header.
            done = max(start, stop - len(self.end))
            if self.counts_headers:
                done = stop
        return is_reply

    def _open(self, ids: list[int], done: int) -> int | None:
        """Where the next reply begins."""
        length = len(self.header)
        if self.counts_headers:
            return self._open_counted(ids, done)
        for at in _places(self.header[0], ids, done):
            if tuple(ids[at : at + length]) == self.header:
                return at + length
            almost = length > 1 and tuple(ids[at : at + length - 1]) == self.header[:-1]
            if almost and at + length <= len(ids):
                raise ValueError(
                    f"the tokens {ids[at : at + length]} at {at} would open a reply, but the last is not "
                    f"{self.header[-1]}: a token straddles the border between prompt and reply."
                )
        return None

    def _open_counted(self, ids: list[int], done: int) -> int | None:
        length = len(self.header)
        ends = [at for at in _places(self.end[0], ids, done) if tuple(ids[at : at + len(self.end)]) == self.end]
        stop = ends[0] if ends else len(ids)
        starts = [
            at + length
            for at in _places(self.header[0], ids[:stop], done)
            if tuple(ids[at : at + length]) == self.header
        ]
        waits = not ends and starts == [len(ids)]
        if (ends and len(starts) != 1) or (not ends and starts and not waits):
            raise ValueError(
                f"between the tokens {done} and {stop} stand {len(starts)} headers {self.header}, and "
                f"{'one reply ends' if ends else 'no reply ends'}: a text may hold such a header. Find the roles from "
                "messages."
            )
        return starts[0] if starts else None

    def _end(self, ids: list[int], start: int) -> tuple[int, int]:
        """Where the text of the reply that begins at `start` ends, and the reply: the row's end for one that is cut."""
        at = next(iter(_places(self.end[0], ids, start)), len(ids))
        stop = min(at + len(self.end), len(ids))
        if tuple(ids[at:stop]) != self.end[: stop - at]:
            raise ValueError(
                f"the tokens {ids[at:stop]} at {at} would end a reply, but are not {list(self.end)}: find the roles "
                "from messages."
            )
        return at, stop

    def roles(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, begins_item_BN: Tensor | None = None
    ) -> TokenRoles:
        """The role of every token.

        Args:
            input_ids: (B, N).
            attention_mask: (B, N), 0 for padding on either side; None where there is none.
            begins_item_BN: bool (B, N), true for the first feature token of every image, as engines know it. None finds
                it by how an image opens and closes; two images with nothing between them then count as one, unless all
                images have the same number of tokens.

        Raises:
            ValueError: in some row, another chat could have the same tokens.
        """
        is_token_BN = torch.ones_like(input_ids).bool() if attention_mask is None else attention_mask.bool()
        is_response_BN, begins_BN = torch.zeros_like(is_token_BN), torch.zeros_like(is_token_BN)
        for row, is_token_N in enumerate(is_token_BN):
            ids = input_ids[row][is_token_N].tolist()
            try:
                found = self.find_replies(ids)
            except ValueError as error:
                raise ValueError(f"row {row}: {error}") from error
            is_response_BN[row, is_token_N] = torch.tensor(found, device=input_ids.device, dtype=torch.bool)
            begins_BN[row, is_token_N] = torch.tensor(self._begins(ids), device=input_ids.device, dtype=torch.bool)
        modality_BN, document_BN = modalities_of(input_ids, self.features), torch.where(is_token_BN, 0, NONE)
        begins_item_BN = begins_BN if begins_item_BN is None else begins_item_BN
        return TokenRoles.from_responses(is_response_BN, modality_BN, document_BN, begins_item_BN)

    def _begins(self, ids: Sequence[int]) -> list[bool]:
        begins = [False] * len(ids)
        for at in beginnings(ids, self.features, self.images):
            begins[at] = True
        return begins


def _common_suffix(rows: Sequence[Tokens]) -> Tokens:
    """The longest end that all rows have in common."""
    length = 0
    for tokens in zip(*(reversed(row) for row in rows), strict=False):
        if len(set(tokens)) > 1:
            break
        length += 1
    return rows[0][len(rows[0]) - length :]


def _places(token: int, ids: Sequence[int], start: int) -> Iterable[int]:
    """Where the token stands, from `start` on."""
    while True:
        try:
            start = ids.index(token, start)
        except ValueError:
            return
        yield start
        start += 1
