"""Rows that samples share: no more than are needed, about equally long, and nothing lost or changed on the way."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mutua.data.collate import IGNORE, encode
from mutua.data.packing import images_of, pack_rows, share_rows
from mutua.data.readers import Scenes
from mutua.roles import Modality, TokenRoles

SAMPLES = st.lists(st.tuples(st.integers(1, 60), st.integers(0, 3)), min_size=1, max_size=40)


@given(SAMPLES, st.integers(60, 200), st.sampled_from([None, 3, 5]))
def test_every_sample_has_one_row_and_every_row_has_room(samples, tokens, max_images):
    lengths, images = zip(*samples, strict=True)
    rows = share_rows(lengths, images, tokens=tokens, max_images=max_images)
    assert sorted(place for row in rows for place in row) == list(range(len(samples)))
    for row in rows:
        assert row == sorted(row)
        assert sum(lengths[place] for place in row) <= tokens
        assert max_images is None or sum(images[place] for place in row) <= max_images
    assert rows == share_rows(lengths, images, tokens=tokens, max_images=max_images)
    if max_images is None:  # first fit would not take more than twice the fewest rows; the longest first takes less
        assert len(rows) <= 1 + 3 * sum(lengths) / (2 * tokens)


def test_rows_like_those_of_a_chat_set_are_full():
    """Lengths like LLaVA-Instruct-150k's: 144 visual tokens and a few turns; a step of 128 samples, rows of 4,096."""
    generator = torch.Generator().manual_seed(0)
    used = places = 0
    for _ in range(20):
        text = torch.empty(128).log_normal_(5.3, 0.6, generator=generator).long().clamp(30, 1800)
        lengths = (144 + text).tolist()
        rows = share_rows(lengths, [1] * 128, tokens=4096)
        assert len(rows) <= -(-sum(lengths) // 4096) + 1  # the fewest leave no room to share evenly
        used += sum(lengths)
        places += len(rows) * max(sum(lengths[place] for place in row) for row in rows)
    assert used / places > 0.95


@pytest.mark.parametrize(
    ("lengths", "images", "message"),
    [([5, 11], [0, 0], "sample 1 of the batch has 11 tokens"), ([5], [3], "3 images, and a row holds 10 tokens and 2")],
)
def test_what_fits_no_row_is_refused(lengths, images, message):
    with pytest.raises(ValueError, match=message):
        share_rows(lengths, images, tokens=10, max_images=2)


def test_packed_rows_hold_what_the_samples_were(processor):
    """Ids, roles, labels and pictures of every document are those of its sample; the documents are numbered."""
    samples = [Scenes("train", 9)[place] for place in range(9)]
    batch = encode(samples, processor)
    lengths = batch["attention_mask"].sum(-1).tolist()
    rows = share_rows(lengths, images_of(batch["token_type_ids"]).tolist(), tokens=2 * max(lengths) + 5)
    packed = pack_rows(batch, rows, processor.tokenizer.pad_token_id)
    roles = TokenRoles.from_codes(packed["token_type_ids"])
    assert torch.equal(roles.is_token_BN, packed["attention_mask"].bool())
    assert (packed["labels"][~roles.is_token_BN] == IGNORE).all()
    assert (packed["input_ids"][~roles.is_token_BN] == processor.tokenizer.pad_token_id).all()
    pictures = iter(packed["pixel_values"])
    for row, of_row in enumerate(rows):
        assert int(roles.document_BN[row].max()) + 1 == len(of_row)
        for document, sample in enumerate(of_row):
            here, there = roles.document_BN[row] == document, batch["attention_mask"][sample].bool()
            for name in ("input_ids", "labels"):
                assert torch.equal(packed[name][row, here], batch[name][sample, there])
            alone = TokenRoles.from_codes(batch["token_type_ids"][sample : sample + 1])
            for field in ("block_BN", "modality_BN", "item_BN"):
                assert torch.equal(getattr(roles, field)[row, here], getattr(alone, field)[0, there])
            assert torch.equal(roles.positions()[row, here], alone.positions()[0, there])
            assert torch.equal(next(pictures), batch["pixel_values"][sample])
    assert next(pictures, None) is None
    assert int(roles.count_items(Modality.IMAGE).sum()) == 9
