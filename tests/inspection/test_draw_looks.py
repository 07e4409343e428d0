"""The drawing of where models look: whole, crisp, and with the verdict in words."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from tiny_model import picture

from mutua.inspection.draw_looks import Said, draw_looks

LONG = "is there a small blue square, and if so, what colour is the circle to the left of it? $x^{$ " * 3


@pytest.fixture
def drawings(monkeypatch) -> list:
    """Figures in place of files."""
    from matplotlib.figure import Figure

    kept: list = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: kept.append(figure))
    return kept


def draw(names, size=(64, 64), question=LONG, path="look.png"):
    torch.manual_seed(0)
    maps = {name: torch.rand(6, 6) for name in names}
    said = {name: Said("yes, there is one: a small blue square " * 3, verdict) for name, verdict in names.items()}
    draw_looks(path, picture(1, 64).resize(size), question, maps, said)
    return maps


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_file(tmp_path, suffix):
    path = tmp_path / f"look.{suffix}"
    draw({"mma": True}, path=path)
    if suffix == "png":
        assert Image.open(path).width > 800
    else:
        assert "<svg" in path.read_text()


@pytest.mark.parametrize("size", [(64, 64), (600, 20), (20, 600)])
@pytest.mark.parametrize("models", [1, 2, 4, 8])
def test_titles_are_whole(drawings, models, size):
    draw({f"runs/with/a/long/name/{number}/model (mma)": None for number in range(models)}, size)
    (figure,) = drawings
    figure.draw_without_rendering()
    width, height = figure.get_size_inches() * figure.dpi
    assert max(width, height) <= 3000
    panels = [axes for axes in figure.axes if axes.images]
    assert len(panels) == 1 + models
    titles = [axes.title.get_window_extent() for axes in panels]
    for box in [*titles, figure._suptitle.get_window_extent(), *(axes.get_tightbbox() for axes in figure.axes)]:
        assert min(box.x0, box.y0, width - box.x1, height - box.y1) >= -1
    assert not any(a.overlaps(b) for i, a in enumerate(titles) for b in titles[:i])
    assert not any(figure._suptitle.get_window_extent().overlaps(title) for title in titles)


def test_titles_say_who_what_and_whether_right(drawings):
    said = {"mma": Said("blue", True), "causal": Said("red", False), "prefix": Said("", None)}
    draw_looks("look.png", picture(1, 64), "what?", {name: torch.ones(2, 2) for name in said}, said)
    assert [axes.get_title() for axes in drawings[0].axes[:4]] == [
        "the picture",
        "mma\nblue (right)",
        "causal\nred (wrong)",
        "prefix\nno answer",
    ]
    assert drawings[0]._suptitle.get_text() == "what?"


def test_maps_share_a_scale_of_shares(drawings):
    maps = draw({"mma": True, "causal": False})
    mma, causal = (axes.images[1] for axes in drawings[0].axes[1:3])
    for image, map_SS in zip((mma, causal), maps.values(), strict=True):
        torch.testing.assert_close(torch.tensor(image.get_array()), map_SS / map_SS.sum())
        assert image.get_interpolation() == "nearest"
    assert mma.get_clim() == causal.get_clim()
    assert drawings[0].axes[-1].get_ylabel() == "share of the attention\nto the picture"
