from __future__ import annotations

from tiny_model import picture

from mutua.data.grid import GridScenes
from mutua.data.order import InOrder, drawn_order, in_order
from mutua.data.sample import ImagePart, Message, Sample, TextPart

RED, BLUE = (ImagePart(image=picture(seed)) for seed in (1, 2))
WHAT, WHY = TextPart(text="what?"), TextPart(text="and why?")
REPLY = Message(role="assistant", content="none")


def sample(*parts: TextPart | ImagePart) -> Sample:
    return Sample(id="a", messages=(Message(role="user", content=parts), REPLY), family="f", source="s")


def test_images_move_and_keep_their_order() -> None:
    given = sample(RED, WHAT, BLUE, WHY)
    line = TextPart(text="what?\n")  # a template would put the two right behind each other
    for order, parts in (("text-first", [line, WHY, RED, BLUE]), ("image-first", [RED, BLUE, line, WHY])):
        moved = in_order(given, order)
        for part, expected in zip(moved.messages[0].content, parts, strict=True):
            assert part is expected or part == expected == line
        assert moved.messages[1] is REPLY
        assert (moved.id, moved.family, moved.source) == ("a", "f", "s")
    assert given.messages[0].content[1] is WHAT


def test_texts_between_which_an_image_was_stay_apart() -> None:
    pieces = (TextPart(text="First:"), RED, TextPart(text="Second:"), BLUE, TextPart(text="Which?"))
    for order in ("text-first", "image-first"):
        assert in_order(sample(*pieces), order).question == "First:\nSecond:\nWhich?"
    spaced = (TextPart(text="Is "), RED, TextPart(text=" larger than "), BLUE, TextPart(text="?"))
    assert in_order(sample(*spaced), "image-first").question == "Is  larger than ?"
    assert in_order(sample(WHAT, WHY, RED), "image-first").question == "what?and why?"  # as it was


def test_what_is_in_order_stays_itself() -> None:
    for parts in ((WHAT,), (RED,), (WHAT, WHY)):
        assert all(in_order(one, order) is one for one in [sample(*parts)] for order in ("text-first", "image-first"))
    assert in_order(one := sample(RED, BLUE, WHAT), "image-first") is one
    assert in_order(one := sample(WHAT, RED), "text-first") is one


def test_both_halves_and_both_orders_over_two_epochs() -> None:
    first, second, third = ([drawn_order(f"0/0/{index}", epoch) for index in range(2000)] for epoch in range(3))
    assert 0.45 < first.count("text-first") / 2000 < 0.55
    assert all(one != other for one, other in zip(first, second, strict=True))
    assert first == third
    assert first != [drawn_order(f"1/0/{index}", 0) for index in range(2000)]


def test_a_source_in_order() -> None:
    scenes = GridScenes("test", 9)
    turned = InOrder(scenes, "text-first")
    assert len(turned) == 9
    for one in (turned[2], turned[:3][2], turned.__getitems__([2])[0]):
        assert [part.type for part in one.messages[0].content] == ["text", "image"]
        assert one.id == scenes[2].id
