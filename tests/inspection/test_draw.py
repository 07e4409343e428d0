"""The drawn mask is the mask."""

from __future__ import annotations

import pytest
from PIL import Image
from what_users_read import mutua

from mutua.attention import allowed_mask, get_policy
from mutua.inspection.draw import as_text, cells, sketch

CHAT = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "which is red?"}]},
    {"role": "assistant", "content": "the circle"},
]


def test_cells_are_the_mask():
    drawn = sketch(CHAT, image_tokens=2)
    assert drawn.labels == (
        *("user:", "image 1", "image 1", "which", "is", "red?"),
        *("assistant:", "the", "circle"),
    )
    rows = cells(drawn, get_policy("mma")).tolist()
    assert [[cell > 0 for cell in row] for row in rows] == allowed_mask(get_policy("mma"), drawn.roles)[0].tolist()
    assert rows[1] == [1, 1, 0, 2, 2, 2, 2, 0, 0]


def test_text_has_a_line_a_token():
    drawn = sketch(CHAT, image_tokens=2)
    assert len(as_text(drawn, get_policy("causal")).splitlines()) == 1 + len(drawn.labels)
    assert "◆" not in as_text(drawn, get_policy("causal"))
    assert "◆" in as_text(drawn, get_policy("mma"))


def test_nothing_to_draw():
    with pytest.raises(ValueError, match="the conversation is empty"):
        sketch([])


def test_command_writes_png_and_svg(tmp_path):
    for name in ("mask.png", "mask.svg"):
        done = mutua("mask", "-p", "mma", "-p", "prefix", "-o", tmp_path / name)
        assert done.exit_code == 0, done.output
    assert Image.open(tmp_path / "mask.png").width > 300
    assert "<svg" in (tmp_path / "mask.svg").read_text()


@pytest.mark.parametrize("policies", [1, 2, 4, 5, 8])
@pytest.mark.parametrize("words", [3, 85])
def test_panels_are_whole_and_fit_a_screen(tmp_path, monkeypatch, policies, words):
    """Titles and labels lie inside the picture, beside and not over each other."""
    from matplotlib.figure import Figure

    from mutua.attention import POLICIES
    from mutua.inspection.draw import as_figure

    drawings = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path: drawings.append(figure))
    chat = [*CHAT, {"role": "user", "content": "$x^{$ " + "w" * 90 + " word" * words}]
    as_figure(sketch(chat), list(POLICIES.values())[:policies], tmp_path / "mask.png")
    drawing = drawings[0]
    drawing.draw_without_rendering()
    width, height = drawing.get_size_inches() * drawing.dpi
    assert max(width, height) <= 4000
    panels = drawing.axes[:policies]
    titles = [axes.title.get_window_extent() for axes in panels]
    for box in [*titles, *(axes.get_tightbbox() for axes in panels)]:
        assert min(box.x0, box.y0, width - box.x1, height - box.y1) >= 0
    assert not any(a.overlaps(b) for i, a in enumerate(titles) for b in titles[:i])
    assert len({round(axes.get_position().y0, 3) for axes in panels}) == -(-policies // 4) or words > 80


def test_many_tokens_have_no_single_labels(tmp_path):
    from mutua.inspection.draw import LABELLED, as_figure

    drawn = sketch(CHAT, image_tokens=300)
    with pytest.raises(ValueError, match=f"has 307 tokens, and text shows {LABELLED} at most"):
        as_text(drawn, get_policy("mma"))
    as_figure(drawn, [get_policy("mma")], tmp_path / "mask.png")
    assert Image.open(tmp_path / "mask.png").width < 1500
    with pytest.raises(ValueError, match=r"at least 1,000,000,001 tokens.*--image-tokens"):
        sketch(CHAT, image_tokens=1_000_000_000)


def test_command_refuses_other_formats(tmp_path):
    done = mutua("mask", "-o", tmp_path / "mask.gif")
    assert done.exit_code == 1
    assert ".png or .svg" in done.stderr


def test_pictures_side_by_side_are_two():
    """Each sees all of itself under this policy, and nothing of a later one."""
    image = {"type": "image"}
    drawn = sketch([{"role": "user", "content": [image, image, {"type": "text", "text": "which?"}]}], 2)
    assert drawn.roles.item_BN[0].tolist() == [-1, 0, 0, 1, 1, -1]
    allowed_NN = allowed_mask(get_policy("mma-bidirectional"), drawn.roles)[0]
    assert bool(allowed_NN[1, 2])
    assert not bool(allowed_NN[1:3, 3:5].any())
