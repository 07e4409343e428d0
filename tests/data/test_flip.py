"""Pictures mirrored as augmentation: which samples, when, and that nothing becomes untrue."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from mutua.data.flip import flipped, is_flipped, may_flip
from mutua.data.sample import Sample
from mutua.images import ImageError


def half_red() -> Image.Image:
    picture = Image.new("RGB", (8, 6), "blue")
    picture.paste("red", (0, 0, 4, 6))
    return picture


def sample(question: str = "What is it?", answer: str = "a flag", picture: object = None) -> Sample:
    image = {"type": "image", "image": half_red() if picture is None else picture}
    return Sample.model_validate(
        {
            "id": "1",
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": [image, {"type": "text", "text": question}]},
                {"role": "assistant", "content": answer},
            ],
        }
    )


def left_pixel(one: Sample) -> object:
    return one.messages[1].content[0].image.getpixel((0, 0))  # type: ignore[union-attr]


def test_the_picture_is_mirrored_and_the_text_stays() -> None:
    before = sample()
    after = flipped(before)
    assert (left_pixel(before), left_pixel(after)) == ((255, 0, 0), (0, 0, 255))
    assert [message.text for message in after.messages] == [message.text for message in before.messages]
    assert left_pixel(flipped(after)) == (255, 0, 0)


def test_a_picture_that_is_a_path_still(tmp_path: Path) -> None:
    half_red().save(tmp_path / "flag.png")
    assert left_pixel(flipped(sample(picture=tmp_path / "flag.png"))) == (0, 0, 255)
    with pytest.raises(ImageError, match="file not found"):
        flipped(sample(picture=tmp_path / "none.png"))


@pytest.mark.parametrize(
    "text",
    [
        "What is on the left?",
        "the LEFT one",
        "the leftmost cup",
        "on his right-hand side",
        "rightward",
        "at the topleft",
        "the bottom-right corner",
        "Left: a cat.",
        "turn it counterclockwise",
        "Describe <bbox>[0.250, 0.250][0.750, 0.750]</bbox>",
        "What is at [0.33, 0.18, 0.47, 0.35]?",
        "the box (12, 40)",
        "<|box_start|>(12,34)",
        "<loc0123><loc0456>",
        "Which state is farthest east?",
        "the north-western part",
        "westward",
        "a boat at 3 o'clock",
        '<point x="63.5" y="44.5">',
        "x1=0.1 y1=0.2",
        "<patch_index_0044>",
    ],
)
def test_what_would_become_untrue_is_left_alone(text: str) -> None:
    for one in (sample(question=text), sample(answer=text)):
        assert not may_flip(one)
        assert flipped(one) is one


@pytest.mark.parametrize(
    "text",
    [
        "a bright sky",
        "an upright piano",
        "the copyright",
        "a frightened cat",
        "a wheelwright",
        "(two cats)",
        "2, 3",
        "a beast",
        "at least",
        "a vest",
    ],
)
def test_what_stays_true_is_not(text: str) -> None:
    assert may_flip(sample(answer=text))


def test_the_share_and_that_it_is_drawn_anew_every_epoch() -> None:
    drawn = [[is_flipped(f"0/0/{nth}", epoch, 0.25) for nth in range(4000)] for epoch in (0, 1)]
    assert all(900 < sum(of_epoch) < 1100 for of_epoch in drawn)
    assert 180 < sum(a and b for a, b in zip(*drawn, strict=True)) < 320
    assert drawn[0] == [is_flipped(f"0/0/{nth}", 0, 0.25) for nth in range(4000)]
    assert not any(is_flipped(f"0/0/{nth}", 0, 0.0) for nth in range(100))
    assert all(is_flipped(f"0/0/{nth}", 0, 1.0) for nth in range(100))
