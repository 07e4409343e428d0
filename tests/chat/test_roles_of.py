"""Roles of what Transformers' own processors make of conversations, token by token as an oracle has them."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from vlm_processors import CHATS, FAMILIES, SAID

from mutua.chat import roles_of
from mutua.roles import NONE, Modality, TokenRoles


@cache
def processor_of(family):
    return family.make()


def encode(family, batch: list, side: str = "right", **kwargs):
    return processor_of(family).apply_chat_template(
        batch,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": side},
        **kwargs,
    )


def expected(family, messages: list, prompt: bool) -> list[tuple[int, object]]:
    """(token, who) of one conversation: whose is the token's first character."""
    pieces = family.pieces(messages, prompt)
    whose = [who for text, who in pieces for _ in text]
    tokens = processor_of(family).tokenizer(
        "".join(text for text, _ in pieces), add_special_tokens=False, return_offsets_mapping=True
    )
    starts = [start for start, _ in tokens["offset_mapping"]]
    return [(token, whose[start]) for token, start in zip(tokens["input_ids"], starts, strict=True)]


def assert_roles(roles: TokenRoles, out, row: int, wanted: list[tuple[int, object]]) -> None:
    real = out["attention_mask"][row].bool()
    assert torch.equal(roles.is_token_BN[row], real)
    assert out["input_ids"][row][real].tolist() == [token for token, _ in wanted]
    who = [whose for _, whose in wanted]
    assert roles.is_response_BN[row][real].tolist() == [whose == SAID for whose in who]
    is_image = [isinstance(whose, int) for whose in who]
    assert (roles.modality_BN[row][real] == Modality.IMAGE).tolist() == is_image
    assert roles.item_BN[row][real].tolist() == [whose if isinstance(whose, int) else NONE for whose in who]
    turns = [nth for nth, whose in enumerate(who) if whose == SAID and (nth == 0 or who[nth - 1] != SAID)]
    blocks = [NONE if whose == SAID else sum(turn < nth for turn in turns) for nth, whose in enumerate(who)]
    assert roles.block_BN[row][real].tolist() == blocks


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_of_conversations(family, side):
    batch = list(CHATS.values())
    out = encode(family, batch, side)
    roles = roles_of(processor_of(family), batch, out)
    for row, messages in enumerate(batch):
        assert_roles(roles, out, row, expected(family, messages, False))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
@pytest.mark.parametrize("chat", CHATS)
def test_a_conversation_alone_and_waiting_for_its_reply(family, chat):
    messages = CHATS[chat] if CHATS[chat][-1]["role"] == "user" else CHATS[chat][:-1]
    out = encode(family, messages, add_generation_prompt=True)
    roles = roles_of(processor_of(family), messages, out, add_generation_prompt=True)
    assert_roles(roles, out, 0, expected(family, messages, True))
    assert roles.block_BN[0, -1] == len(messages) // 2
