"""Roles and the codes in which they travel."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mutua.roles import MAX_BLOCKS, NONE, PADDING_CODE, Modality, TokenRoles, response_codes

TOKENS = st.lists(st.tuples(st.booleans(), st.sampled_from(list(Modality)), st.integers(0, 3)), min_size=1, max_size=40)


def roles_of(tokens: list[tuple[bool, Modality, int]], left: int = 0, right: int = 0) -> TokenRoles:
    documents = sorted(document for _, _, document in tokens)
    pad = [NONE]
    return TokenRoles.from_responses(
        torch.tensor([[False] * left + [response for response, _, _ in tokens] + [False] * right]),
        torch.tensor([[0] * left + [int(modality) for _, modality, _ in tokens] + [0] * right]),
        torch.tensor([pad * left + documents + pad * right]),
    )


@given(TOKENS, st.integers(0, 3), st.integers(0, 3))
def test_codes_hold_everything(tokens, left, right):
    roles = roles_of(tokens, left, right)
    again = TokenRoles.from_codes(roles.to_codes())
    assert torch.equal(again.document_BN, roles.document_BN)
    assert torch.equal(again.block_BN, roles.block_BN)
    assert torch.equal(again.modality_BN, roles.modality_BN)
    assert torch.equal(again.item_BN, roles.item_BN)


@given(TOKENS, st.integers(0, 3), st.integers(0, 3))
def test_padding_does_not_change_roles_or_positions(tokens, left, right):
    plain, padded = roles_of(tokens), roles_of(tokens, left, right)
    inner = slice(left, left + len(tokens))
    assert torch.equal(padded.block_BN[:, inner], plain.block_BN)
    assert torch.equal(padded.positions()[:, inner], plain.positions())
    assert (padded.to_codes()[:, :left] == PADDING_CODE).all()


@given(TOKENS)
def test_a_block_is_contiguous_and_holds_no_response(tokens):
    roles = roles_of(tokens)
    for block in roles.block_BN.unique().tolist():
        if block == NONE:
            continue
        where = (roles.block_BN[0] == block).nonzero()[:, 0]
        assert where[-1] - where[0] + 1 == len(where)
        assert not roles.is_response_BN[0, where].any()
        assert roles.document_BN[0, where].unique().numel() == 1


@given(TOKENS)
def test_positions_restart_with_every_document(tokens):
    documents = sorted(document for _, _, document in tokens)
    expected = [index - documents.index(document) for index, document in enumerate(documents)]
    assert roles_of(tokens).positions()[0].tolist() == expected


def test_blocks_alternate_with_responses():
    is_response = torch.tensor([[False, False, True, True, False, True]])
    roles = TokenRoles.from_responses(is_response, torch.zeros(1, 6), torch.zeros(1, 6))
    assert roles.block_BN.tolist() == [[0, 0, NONE, NONE, 1, NONE]]


def test_items_are_told_apart():
    """Two images side by side are one run, but two items where their beginnings are known; separators cut none."""
    modality = torch.tensor([[0, 1, 1, 1, 1, 0, 2, 3, 1]])
    zeros = torch.zeros_like(modality)
    runs = TokenRoles.from_responses(zeros.bool(), modality, zeros)
    assert runs.item_BN.tolist() == [[NONE, 0, 0, 0, 0, NONE, 1, 2, 3]]
    begins = torch.tensor([[0, 1, 0, 0, 1, 0, 1, 1, 0]]).bool()
    begun = TokenRoles.from_responses(zeros.bool(), modality, zeros, begins)
    assert begun.item_BN.tolist() == [[NONE, 0, 0, 0, 1, NONE, 2, 3, 3]]
    with pytest.raises(ValueError, match="row 0 has visual tokens before its first item begins"):
        TokenRoles.from_responses(zeros.bool(), modality, zeros, begins & (torch.arange(9) > 1))


def test_response_codes_stay_in_the_document():
    roles = roles_of([(False, Modality.TEXT, 3)], right=1)
    new = TokenRoles.from_codes(response_codes(roles.to_codes()))
    assert new.document_BN.tolist() == [[3, NONE]]
    assert new.is_response_BN.tolist() == [[True, False]]


@pytest.mark.parametrize("codes", [torch.zeros(3, dtype=torch.long), torch.zeros(1, 3)])
def test_codes_of_a_wrong_shape_or_type_are_refused(codes):
    with pytest.raises(ValueError, match="token_type_ids must be an integer tensor"):
        TokenRoles.from_codes(codes)


def test_too_many_blocks_are_refused():
    turns = torch.arange(2 * MAX_BLOCKS + 2)[None]
    with pytest.raises(ValueError, match=f"{MAX_BLOCKS + 1} prompt blocks"):
        TokenRoles.from_responses(turns % 2 == 1, torch.zeros_like(turns), torch.zeros_like(turns))


@given(TOKENS, st.data())
def test_padding_inside_a_document_does_not_restart_its_positions(tokens, data):
    """Holes anywhere, as an attention mask may have them: the real tokens keep their positions and their blocks."""
    roles = roles_of(tokens)
    places = data.draw(st.lists(st.integers(0, len(tokens)), max_size=4))
    columns = [x[0].tolist() for x in (roles.is_response_BN, roles.modality_BN, roles.document_BN)]
    for place in sorted(places, reverse=True):
        for column, padding in zip(columns, (False, 0, NONE), strict=True):
            column.insert(place, padding)
    holed = TokenRoles.from_responses(*(torch.tensor([column]) for column in columns))
    assert holed.positions()[holed.is_token_BN].tolist() == roles.positions()[0].tolist()
    assert holed.block_BN[holed.is_token_BN].tolist() == roles.block_BN[0].tolist()


def test_code_zero_on_a_real_token_is_a_response():
    """What GRPO and other generation loops append: zeros, and ones to the attention mask."""
    roles = roles_of([(False, Modality.TEXT, 0), (False, Modality.IMAGE, 0)], left=1)
    codes = torch.nn.functional.pad(roles.to_codes(), (0, 3))
    is_real = torch.tensor([[0, 1, 1, 1, 1, 0]])
    read = TokenRoles.from_codes(codes, is_real)
    assert read.is_response_BN.tolist() == [[False, False, False, True, True, False]]
    assert read.document_BN.tolist() == [[NONE, 0, 0, 0, 0, NONE]]
    assert not TokenRoles.from_codes(codes).is_response_BN.any(), "without an attention mask they are padding"


def test_an_appended_response_belongs_to_the_document_before_it():
    codes = torch.nn.functional.pad(roles_of([(False, Modality.TEXT, 0), (False, Modality.TEXT, 3)]).to_codes(), (0, 1))
    assert TokenRoles.from_codes(codes, torch.ones(1, 3)).document_BN.tolist() == [[0, 3, 3]]


def test_items_are_counted_not_runs():
    """Two images side by side, the second cut in two by a separator; another document that counts from 0 again."""
    roles = TokenRoles(
        document_BN=torch.tensor([[0, 0, 0, 0, 0, 1, 1]]),
        block_BN=torch.zeros(1, 7, dtype=torch.long),
        modality_BN=torch.tensor([[1, 1, 1, 0, 1, 1, 2]]),
        item_BN=torch.tensor([[0, 0, 1, NONE, 1, 0, 1]]),
    )
    assert roles.count_items(Modality.IMAGE).tolist() == [3]
    assert roles.count_items(Modality.VIDEO).tolist() == [1]
    assert roles.count_items(Modality.AUDIO).tolist() == [0]
