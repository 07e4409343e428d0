"""Boxes to patches, for grids of patches finer and coarser than the cells, and beside them."""

from __future__ import annotations

import pytest
import torch

from mutua.data.answer_box import Box, cell_box
from mutua.inspection.pointing import chance, patches_on, points_at


def test_scenes_have_four_patches_a_cell():
    assert patches_on(cell_box(5, 3), 6).nonzero().tolist() == [[2, 4], [2, 5], [3, 4], [3, 5]]
    for side in (3, 6, 12):
        assert torch.stack([patches_on(cell_box(cell, 3), side) for cell in range(9)]).sum(0).eq(1).all()
        assert chance(cell_box(4, 3), side) == pytest.approx(1 / 9)


@pytest.mark.parametrize("side", [2, 4, 7, 16])
def test_a_grid_has_a_patch_a_cell(side):
    for cell in range(side * side):
        assert patches_on(cell_box(cell, side), side).flatten().nonzero().tolist() == [[cell]]


@pytest.mark.parametrize("side", [1, 4, 5, 14, 24])
def test_patches_that_do_not_fit_the_cells(side):
    """A patch belongs to the cell in which its centre lies; where cells are smaller, the cell to the patch."""
    for cell in range(9):
        box = cell_box(cell, 3)
        on = patches_on(box, side)
        row, column = divmod(cell, 3)
        assert on[int((row + 0.5) / 3 * side), int((column + 0.5) / 3 * side)]
        for y, x in on.nonzero().tolist():
            overlap_x = min(box.right, (x + 1) / side) - max(box.left, x / side)
            overlap_y = min(box.bottom, (y + 1) / side) - max(box.top, y / side)
            assert overlap_x * overlap_y >= 0.2 * min(1 / side**2, 1 / 9)


def test_pointing_is_at_the_largest_value():
    map_SS = torch.zeros(4, 4)
    map_SS[1, 2] = 0.1
    assert points_at(map_SS, cell_box(6, 4))
    assert not points_at(map_SS, cell_box(5, 4))
    assert points_at(map_SS, Box(0.5, 0.0, 1.0, 0.5))
