"""JSON Lines: what is read, and that every error names file, line, field and value."""

import io
import json
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import TypeAdapter

from mutua.data.readers import JsonLines, Source
from mutua.data.sample import ImagePart, SampleError


def line(image: str = "cat.png", **fields: Any) -> str:
    user = {"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "what is it?"}]}
    return json.dumps({"id": "1", "messages": [user, {"role": "assistant", "content": "a cat"}], **fields})


def written(folder: Path, *lines: str) -> JsonLines:
    Image.new("RGB", (4, 3), "red").save(folder / "cat.png")
    (folder / "data.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return JsonLines(folder / "data.jsonl")


def test_reads_samples_and_skips_empty_lines(tmp_path: Path) -> None:
    reader = written(tmp_path, line(), "", "  ", line(id="zwölf", source="pets"), "")
    reader.check()
    assert len(reader) == 2
    assert [(sample.id, sample.source) for sample in reader] == [("1", "data.jsonl"), ("zwölf", "pets")]
    assert reader[-1] == reader[1]
    assert [sample.id for sample in reader[:1]] == ["1"]
    image = reader[0].messages[0].content[0]
    assert isinstance(image, ImagePart)
    assert isinstance(image.image, Image.Image)
    assert image.image.size == (4, 3)
    assert image.image.getpixel((0, 0)) == (255, 0, 0)


def test_reader_and_samples_pickle(tmp_path: Path) -> None:
    reader = pickle.loads(pickle.dumps(written(tmp_path, line(), line(id="2"))))
    assert pickle.loads(pickle.dumps(reader[1])).id == "2"


def test_construction_reads_no_sample(tmp_path: Path) -> None:
    assert len(written(tmp_path, "not json")) == 1


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{", "not valid JSON: Expecting property name"),
        ("[]", "a line is one JSON object, not list"),
        ("[" * 100_000, "not valid JSON: "),
        (
            '{"id": "1", "messages": [{"role": "user", "content": "\\ud800"}]}',
            "messages.0.content.0.text: 'utf-8' codec",
        ),
        (line(3), "messages.0.content.0.image: 3 (int) is no picture: a picture is the path of a file"),
        (line("x.png"), "messages.0.content.0.image: file not found: "),
        (line("notes.txt"), "messages.0.content.0.image: not an image: "),
        (line("cut.png"), "messages.0.content.0.image: damaged image: "),
        (
            line("http://a.b/c.png"),
            "messages.0.content.0.image: http://a.b/c.png is a URL, and no network is used",
        ),
        (line(familly="a"), "familly: Extra inputs are not permitted (got 'a')"),
        ('{"id": "1"}', "messages: Field required"),
        ('{"id": "1", "messages": [{"role": "user", "content": ""}]}', "messages.0.content.0.text: empty text"),
        ('{"id": "1", "messages": [{"role": "bot", "content": "hi"}]}', "messages.0.role: Input should be 'system'"),
        ('{"id": "1", "messages": [{"role": "assistant", "content": "hi"}]}', "messages: message 0 is 'assistant'"),
    ],
)
def test_errors_name_the_place(tmp_path: Path, bad: str, message: str) -> None:
    reader = written(tmp_path, line(), "", bad)
    (tmp_path / "notes.txt").write_text("no picture")
    whole = io.BytesIO()
    Image.frombytes("L", (64, 64), random.Random(0).randbytes(64 * 64)).save(whole, "PNG")
    (tmp_path / "cut.png").write_bytes(whole.getvalue()[:1000])
    with pytest.raises(SampleError) as error:
        reader.check()
    assert str(error.value).startswith(f"{tmp_path / 'data.jsonl'}:3: {message}")


def test_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_bytes(b'{"id": "\xff"}')
    with pytest.raises(SampleError, match=r"data\.jsonl:1: not valid JSON: .*can't decode byte 0xff"):
        JsonLines(tmp_path / "data.jsonl").check()


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match=r"none\.jsonl: no such file"):
        JsonLines(tmp_path / "none.jsonl")


def test_opens_from_settings(tmp_path: Path) -> None:
    path = written(tmp_path, line()).path
    reader = TypeAdapter(Source).validate_python({"type": "jsonl", "path": str(path)}).open()
    assert reader[0].answer == "a cat"
