"""The source `llava`: JSON lists and JSON Lines of LLaVA, ShareGPT and ms-swift."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from foreign_data import llava_rows, turns, write_lines, write_llava, write_pictures
from native_sets import write_llava_instruct
from PIL import Image
from pydantic import TypeAdapter

from mutua.data.readers import DatasetsSource, JsonLinesSource, Llava, LlavaSource, Source
from mutua.data.readers.source_at import source_at
from mutua.data.sample import ImagePart, Sample, SampleError, TextPart
from mutua.training.fingerprint import fingerprint

RED, GREEN, BLUE = (255, 0, 0), (0, 128, 0), (0, 0, 255)


def said(sample: Sample) -> list[tuple[Any, ...]]:
    """Role, texts and colours of pictures, message by message."""
    return [
        (
            message.role,
            *(part.image.getpixel((0, 0)) if isinstance(part, ImagePart) else part.text for part in message.content),
        )
        for message in sample.messages
    ]


@pytest.mark.parametrize("layout", [{}, {"indent": 2}, {"ensure_ascii": False}])
def test_a_json_list(tmp_path: Path, layout: dict[str, Any]) -> None:
    reader = Llava(write_llava(tmp_path, **layout))
    reader.check()
    assert [sample.id for sample in reader] == ["a", "b", "c"]
    assert said(reader[0]) == [("user", RED, "what colour is it?"), ("assistant", "it is red")]
    assert said(reader[-2]) == [
        ("user", "the first", RED),
        ("assistant", "red"),
        ("user", "and ", BLUE, " or ", GREEN, "?"),
        ("assistant", "blue, green"),
    ]
    assert said(reader[2]) == [("user", "say hello"), ("assistant", "hällo")]
    assert reader[0].source == "data.json"
    assert [sample.id for sample in reader[1:]] == ["b", "c"]


def test_json_lines_of_share_gpt_and_ms_swift(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    path = write_lines(
        tmp_path / "data.jsonl",
        {"conversations": [{"from": "system", "value": "be brief"}, *turns("hi", "ho")]},
        {"conversations": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]},
        {"messages": [{"role": "user", "content": "<image>hi"}], "images": ["red.png"]},
        {"query": "hi <image>", "response": "ho", "images": ["red.png"], "history": [["a", "b"]], "system": "be brief"},
    )
    reader = Llava(path)
    assert [said(sample) for sample in reader] == [
        [("system", "be brief"), ("user", "hi"), ("assistant", "ho")],
        [("user", "hi"), ("assistant", "ho")],
        [("user", RED, "hi")],
        [("system", "be brief"), ("user", "a"), ("assistant", "b"), ("user", "hi", RED), ("assistant", "ho")],
    ]
    assert [sample.id for sample in reader] == [f"data.jsonl[{nth}]" for nth in range(4)]


def test_a_folder_for_pictures(tmp_path: Path) -> None:
    write_pictures(tmp_path / "pictures")
    (tmp_path / "data.json").write_text(json.dumps(llava_rows()))
    settings = {"type": "llava", "path": str(tmp_path / "data.json"), "images": str(tmp_path / "pictures")}
    TypeAdapter(Source).validate_python(settings).open().check()
    with pytest.raises(SampleError) as error:
        Llava(tmp_path / "data.json").check()
    assert str(error.value) == (
        f"{tmp_path / 'data.json'}[0]: file not found: {tmp_path / 'red.png'}; paths start at {tmp_path}, and `images` "
        "names another folder"
    )
    assert error.value.sample_id == "a"


def test_llava_instruct_as_published(tmp_path: Path) -> None:
    path = write_llava_instruct(tmp_path)
    settings = {"type": "llava", "path": str(path), "images": str(tmp_path / "train2017"), "system": "Be kind."}
    reader = TypeAdapter(Source).validate_python(settings).open()
    reader.check()
    bus, cat = reader
    assert [message.text for message in bus.messages] == [
        "Be kind.",
        "What are the colors of the bus in the image?",
        "The bus in the image is white and red.",
        "What feature can be seen on the back of the bus?",
        "The back of the bus features an advertisement.",
    ]
    assert [type(part) for part in cat.messages[1].content] == [TextPart, ImagePart]
    assert cat.question == "Where is the cat positioned in the image?"


def test_a_system_message_of_its_own_stays(tmp_path: Path) -> None:
    own = {"conversations": [{"from": "system", "value": "be brief"}, *turns("hi", "ho")]}
    path = write_lines(tmp_path / "data.jsonl", own, {"conversations": turns("hi", "ho")})
    assert [sample.messages[0].text for sample in Llava(path, system="be kind")] == ["be brief", "be kind"]


def test_reader_pickles_small(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text(json.dumps([{"conversations": turns("what?" * 100, "that")} for _ in range(1000)]))
    pickled = pickle.dumps(Llava(path))
    assert len(pickled) < 40_000
    assert pickle.loads(pickled)[999].answer == "that"


def test_its_fingerprint_is_the_whole_file(tmp_path: Path) -> None:
    path = write_llava(tmp_path)
    before = fingerprint(Llava(path))
    assert before == fingerprint(Llava(path))
    path.write_text(path.read_text().replace("it is red", "it is not"))
    assert fingerprint(Llava(path)) != before


def test_what_a_path_holds_is_seen_by_looking(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "hi"}]}
    ours = write_lines(tmp_path / "ours.jsonl", {"id": "1", **row})
    swift = write_lines(tmp_path / "swift.jsonl", row)
    pictures = write_lines(tmp_path / "pictures.jsonl", {"id": "1", "images": [], **row})
    llava = write_llava(tmp_path)
    assert source_at(str(ours)) == JsonLinesSource(path=ours)
    assert source_at(str(swift)) == LlavaSource(path=swift)
    assert source_at(str(pictures)) == LlavaSource(path=pictures)
    assert source_at(str(llava)) == LlavaSource(path=llava)
    assert source_at(f"llava:{ours}") == LlavaSource(path=ours)
    assert source_at(f"datasets:{tmp_path}") == DatasetsSource(path=tmp_path)
    broken = tmp_path / "broken.jsonl"
    broken.write_text("{\n")
    assert source_at(str(broken)) == JsonLinesSource(path=broken)


def test_photos_are_turned_here_too(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.new("RGB", (8, 6)).save(tmp_path / "turned.jpg", exif=exif)
    path = write_lines(tmp_path / "data.jsonl", {"image": "turned.jpg", "conversations": turns("what?", "that")})
    (part, _) = Llava(path)[0].messages[0].content
    assert isinstance(part, ImagePart)
    assert isinstance(part.image, Image.Image)
    assert part.image.size == (6, 8)
