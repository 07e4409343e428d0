"""A source looked through: everything is counted, every finding has its place, bad rows and Ctrl-C do not end it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from foreign_data import turns, write_lines, write_llava, write_pictures
from tiny_model import picture

from mutua.data.check import NOTED, SKIPPED, check_source
from mutua.data.limits import SampleLimits
from mutua.data.readers import Llava, Scenes
from mutua.data.sample import ImagePart, Message, Sample, TextPart
from mutua.data.sheet import sheet
from mutua.training.samples import SAMPLE_ERRORS


def written(folder: Path, *rows: Any) -> Llava:
    write_pictures(folder)
    return Llava(write_lines(folder / "data.jsonl", *rows))


def row(*said: str, image: str | None = "red.png", **fields: Any) -> dict[str, Any]:
    return {"image": image, "conversations": turns(*(said or ("what is it?", "red"))), **fields}


def test_nothing_to_complain_of(tmp_path: Path) -> None:
    report = check_source(Scenes("train", 20), "scenes")
    assert (report.read, report.replies, report.pictures, report.counts) == (20, 20, {1: 20}, {})
    assert report.is_usable
    assert len(report.shown) == 3
    assert report.lengths == {}


def test_pictures_that_a_source_only_names_are_opened_too(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    named = [
        Message(role="user", content=(ImagePart(image=tmp_path / f"{name}.png"), TextPart(text="what?")))
        for name in ("red", "blue", "none")
    ]
    said = Message(role="assistant", content=(TextPart(text="that"),))
    report = check_source([Sample(id=str(nth), messages=(asked, said)) for nth, asked in enumerate(named)], "named")
    assert report.pictures == {1: 2}
    assert report.counts == {"picture": 1}
    assert report.findings["picture"][0].place == "sample 2"


def test_counts(tmp_path: Path) -> None:
    report = check_source(Llava(write_llava(tmp_path)), "data.json", show=2)
    assert (report.samples, report.read, report.replies, report.pictures) == (3, 3, 4, {0: 1, 1: 1, 3: 1})
    assert report.counts == {"no picture": 1}
    assert [sample.id for sample in report.shown] == ["a", "b"]


@pytest.mark.parametrize(
    ("rows", "kind", "place", "text"),
    [
        ([row(image="none.png")], "picture", 1, "file not found"),
        ([row(image="data.jsonl")], "picture", 1, "not an image"),
        ([row(image="data:image/png;base64,AAAA")], "picture", 1, "not an image"),
        ([row("hi", "")], "unreadable", 1, "conversations.1.value: is missing or empty"),
        ([row("hi", "  ")], "unreadable", 1, "conversations.1.value: empty text"),
        ([row(), "no row"], "unreadable", 2, "a row is a mapping"),
        ([row("hi")], "unanswered", 1, "'hi'"),
        ([row(image=None)], "no picture", 1, "'what is it?'"),
        ([row("hi", "...")], "says nothing", 1, "'...'"),
        ([row("hi", "N/A.")], "says nothing", 1, "'N/A.'"),
        ([row("hi <|end|>", "ho")], "looks like control", 1, "<|end|> in 'hi <|end|>'"),
        ([row(id="1"), row(id="2", image="blue.png"), row("again", "red", id="1")], "same id", 3, "'1', as "),
        ([row(), row("what is it?", "blue")], "same question", 2, "'what is it?', as "),
    ],
)
def test_findings(tmp_path: Path, rows: list[Any], kind: str, place: int, text: str) -> None:
    report = check_source(written(tmp_path, *rows), "data.jsonl")
    assert report.counts == {kind: 1}
    (found,) = report.findings[kind]
    assert found.place == f"{tmp_path / 'data.jsonl'}:{place}"
    assert text in found.text
    assert report.read == len(rows)
    assert report.is_usable == (kind in NOTED)
    assert (kind in SKIPPED) == (kind not in NOTED)


@pytest.mark.parametrize("said", ["0", "none", "nothing", "no", "nano", "是"])
def test_answers_that_say_something(tmp_path: Path, said: str) -> None:
    assert not check_source(written(tmp_path, row("hi", said)), "data.jsonl").counts


def test_the_same_words_about_another_picture_are_another_question(tmp_path: Path) -> None:
    source = written(tmp_path, row(), row(image="blue.png"), row("what was it?", "red"))
    assert not check_source(source, "data.jsonl").counts


def test_with_a_model(tmp_path: Path, processor: Any) -> None:
    source = written(tmp_path, row(), row("hi <|end|>", "ho"), row("hi " * 200, "ho"), row("hi <|nope|>", "ho"))
    report = check_source(source, "data.jsonl", processor=processor, limits=SampleLimits(120))
    assert report.counts == {"control": 1, "long": 1}
    assert report.findings["control"][0].text == "<|end|> in 'hi <|end|>'"
    assert "tokens, and 120 are allowed" in report.findings["long"][0].text
    assert len(report.tokens) == 3
    assert report.lengths["median"] < 120 < report.lengths["most"] == report.lengths["95 %"]
    assert json.loads(json.dumps(report.summary()))["found"] == report.counts


def test_what_is_cut_to_fit_is_not_too_long(tmp_path: Path, processor: Any) -> None:
    source = written(tmp_path, row("hi", "ho", "hi " * 200, "ho"))
    for cuts, counts in ((False, {"long": 1}), (True, {})):
        limits = SampleLimits(120, cuts=cuts)
        assert check_source(source, "data.jsonl", processor=processor, limits=limits).counts == counts


def test_more_pictures_than_a_packed_row_holds(tmp_path: Path, processor: Any) -> None:
    source = written(tmp_path, row(), row(image=None))
    for key, said in ((None, "0 are allowed"), ("data.packing.tokens", "data.packing.max_images allows 0 in a row")):
        report = check_source(source, "data.jsonl", processor=processor, limits=SampleLimits(images=0, key=key))
        assert report.counts == {"many pictures": 1, "no picture": 1}
        assert report.findings["many pictures"][0].text == f"1 images, and {said}"


def test_what_it_calls_unusable_is_what_a_run_skips(tmp_path: Path, processor: Any) -> None:
    from mutua.data.collate import Collator

    rows = [row(), row(image="none.png"), row("hi", " "), row("hi"), row("<|end|>", "ho"), row(image=None)]
    for nth, one in enumerate(rows):
        alone = written(tmp_path / str(nth), one)
        try:
            Collator(processor)([alone[0]])
            is_skipped = False
        except SAMPLE_ERRORS:
            is_skipped = True
        assert check_source(alone, "", processor=processor).is_usable != is_skipped
        assert is_skipped == (0 < nth < 5)


def test_few_of_many_findings_are_kept(tmp_path: Path) -> None:
    report = check_source(written(tmp_path, *(row("hi", "", id=str(nth)) for nth in range(9))), "data.jsonl", keep=2)
    assert (report.counts, len(report.findings["unreadable"])) == ({"unreadable": 9}, 2)


def test_an_empty_source(tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text("[]")
    report = check_source(Llava(tmp_path / "data.json"), "data.json")
    assert report.counts == {"empty": 1}
    assert not report.is_usable


def test_ctrl_c_gives_what_was_found(tmp_path: Path) -> None:
    class Stopped(Sequence):
        def __len__(self) -> int:
            return 9

        def __getitem__(self, index: Any) -> Any:
            if index == 4:
                raise KeyboardInterrupt
            raise ValueError("bad")

    report = check_source(Stopped(), "stopped")
    assert (report.samples, report.read, report.counts) == (9, 4, {"unreadable": 4})
    assert report.findings["unreadable"][0].place == "sample 0"


def test_each_sample_is_read_once(tmp_path: Path) -> None:
    read: list[int] = []

    class Counted(Llava):
        def without_images(self, index: int) -> Sample:
            read.append(index)
            return super().without_images(index)

    done: list[tuple[int, int]] = []
    source = Counted(write_llava(tmp_path))
    check_source(source, "data.json", progress=lambda *numbers: done.append(numbers))
    assert read == [0, 1, 2]
    assert done == [(1, 3), (2, 3), (3, 3)]


def test_a_page_to_look_at() -> None:
    asked = Message(role="user", content=(ImagePart(image=picture(1, 500)), TextPart(text="is a < b & c?")))
    page = sheet(
        {"pets": [Sample(id="<1>", messages=(asked, Message(role="assistant", content=(TextPart(text="yes"),))))]}
    )
    assert "is a &lt; b &amp; c?" in page
    assert "&lt;1&gt;" in page
    assert 'src="data:image/webp;base64,' in page
    assert 'alt="500 x 500"' in page
