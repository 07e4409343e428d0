"""Pointing accuracy: does the patch that a model looks at most lie on the object that the answer rests on?

Shape suffixes: S patches a side.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mutua.data.answer_box import Box


def patches_on(box: Box, side: int) -> Tensor:
    """Which patches lie on a part of the picture, bool (S, S): those whose centre does, and the one at its own centre.

    The last is for patches larger than the box.
    """
    edges_S = torch.arange(side, dtype=torch.float64) / side
    middles_S = edges_S + 0.5 / side
    across_S = _within(middles_S, box.left, box.right), _within((box.left + box.right) / 2, edges_S, edges_S + 1 / side)
    down_S = _within(middles_S, box.top, box.bottom), _within((box.top + box.bottom) / 2, edges_S, edges_S + 1 / side)
    return (down_S[0][:, None] & across_S[0][None]) | (down_S[1][:, None] & across_S[1][None])


def points_at(map_SS: Tensor, box: Box) -> bool:
    """Whether the patch with the largest value lies on the box."""
    return bool(patches_on(box, len(map_SS)).flatten()[map_SS.argmax()])


def chance(box: Box, side: int) -> float:
    """How often a patch drawn at random lies on the box."""
    return float(patches_on(box, side).double().mean())


def _within(place: Tensor | float, first: Tensor | float, last: Tensor | float) -> Tensor:
    return torch.as_tensor(place >= first) & torch.as_tensor(place < last)
