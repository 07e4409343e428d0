"""Several conversations in one row, each isolated from the others: less padding, the same loss of every sample.

The samples of a step share as few rows as they need, and share them evenly, so that all rows are about equally long and
little of the batch is padding. What is packed together depends on the step's samples alone: there is no state.

Shape suffixes: S samples, N tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush

import torch
from torch import Tensor

from mutua.data.collate import IGNORE
from mutua.roles import PADDING_CODE, Modality, TokenRoles, in_document


def share_rows(
    lengths: Sequence[int], images: Sequence[int], *, tokens: int, max_images: int | None = None
) -> list[list[int]]:
    """Which samples share a row, in the order of the samples: as few rows as can be, all about equally long.

    The longest sample first, each into the shortest row that has room for it (Graham, "Bounds on Multiprocessing Timing
    Anomalies", SIAM J. Appl. Math. 17, 1969).

    Args:
        lengths, images: tokens and images of each sample.
        tokens: that a row may hold.
        max_images: that a row may hold; None: any number.

    Raises:
        ValueError: a sample fits into no row.
    """
    for place, (length, count) in enumerate(zip(lengths, images, strict=True)):
        if length > tokens or (max_images is not None and count > max_images):
            raise ValueError(
                f"sample {place} of the batch has {length} tokens and {count} images, and a row holds {tokens} tokens"
                + ("" if max_images is None else f" and {max_images} images")
            )
    longest_first = sorted(range(len(lengths)), key=lambda place: (-lengths[place], place))
    rows = max(1, -(-sum(lengths) // tokens), -(-sum(images) // max_images) if max_images else 1)
    while (found := _share(longest_first, lengths, images, rows, tokens, max_images)) is None:
        rows += 1
    return [sorted(row) for row in found if row]


def _share(
    order: Sequence[int],
    lengths: Sequence[int],
    images: Sequence[int],
    rows: int,
    tokens: int,
    max_images: int | None,
) -> list[list[int]] | None:
    """The samples spread over that many rows; None if one finds no room."""
    shared: list[list[int]] = [[] for _ in range(rows)]
    pictures = [0] * rows
    by_length = [(0, row) for row in range(rows)]
    for place in order:
        full = []  # of images: some other row may still take the sample
        while by_length:
            length, row = heappop(by_length)
            if length + lengths[place] > tokens:
                return None
            if max_images is None or pictures[row] + images[place] <= max_images:
                break
            full.append((length, row))
        else:
            return None
        shared[row].append(place)
        pictures[row] += images[place]
        for entry in (*full, (length + lengths[place], row)):
            heappush(by_length, entry)
    return shared


def pack_rows(batch: dict[str, Tensor], rows: Sequence[Sequence[int]], pad_token_id: int) -> dict[str, Tensor]:
    """A batch in which every sample has a row, to one in which samples share rows; padded on the right.

    Args:
        batch: what `mutua.data.collate.encode` gives.
        rows: as `share_rows` gives them, or some of them.
    """
    codes_SN, is_token_SN = batch["token_type_ids"], batch["attention_mask"].bool()
    length = max(int(is_token_SN[row].sum()) for row in map(list, rows))
    packed = {
        "input_ids": torch.full((len(rows), length), pad_token_id, dtype=batch["input_ids"].dtype),
        "attention_mask": torch.zeros(len(rows), length, dtype=batch["attention_mask"].dtype),
        "token_type_ids": torch.full((len(rows), length), PADDING_CODE, dtype=codes_SN.dtype),
        "labels": torch.full((len(rows), length), IGNORE, dtype=batch["labels"].dtype),
    }
    for row, samples in enumerate(rows):
        start = 0
        for document, sample in enumerate(samples):
            is_token_N = is_token_SN[sample]
            end = start + int(is_token_N.sum())
            for name, whole in packed.items():
                given_N = batch[name][sample][is_token_N]
                whole[row, start:end] = in_document(given_N, document) if name == "token_type_ids" else given_N
            packed["labels"][row, start] = IGNORE  # nothing of its own is before it
            start = end
    if "pixel_values" in batch:
        owned = batch["pixel_values"].split(images_of(codes_SN).tolist())
        pictures = [owned[sample] for row in rows for sample in row]
        if any(len(of_sample) for of_sample in pictures):
            packed["pixel_values"] = torch.cat(pictures)
    return packed


def images_of(codes_SN: Tensor) -> Tensor:
    """(S,) how many images each sample has."""
    return TokenRoles.from_codes(codes_SN).count_items(Modality.IMAGE)
