"""BLIP3-KALE and BLIP3-OCR-200m: pictures and captions in tar and Parquet shards, read in any order."""

from __future__ import annotations

import gzip
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from native_sets import CAPTION, OCR_CAPTION, picture_file, write_parquet_shards, write_tar, write_tar_shards
from PIL import Image, ImageColor
from pydantic import TypeAdapter

from mutua.data.readers import Source
from mutua.data.readers.captions import Captions
from mutua.data.readers.tar_shards import TarShards
from mutua.data.sample import ImagePart, SampleError
from mutua.training.fingerprint import fingerprint

datasets = pytest.importorskip("datasets")
WRITERS = [write_tar_shards, write_parquet_shards]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "tables"))


def opened(path: Path, kind: str = "blip3-kale") -> Captions:
    return TypeAdapter(Source).validate_python({"type": kind, "path": str(path)}).open()


@pytest.mark.parametrize("write", WRITERS)
def test_a_picture_and_then_its_caption(write: Callable[..., Path], tmp_path: Path) -> None:
    reader = pickle.loads(pickle.dumps(opened(write(tmp_path / "shards"))))
    assert len(reader) == 4
    for index in (3, 0, 2, 1):
        sample = reader[index]
        user, assistant = sample.messages
        assert (user.role, assistant.role) == ("user", "assistant")
        (part,) = user.content
        assert isinstance(part, ImagePart)
        assert isinstance(part.image, Image.Image)
        assert part.image.size == (8, 6)
        colour = ImageColor.getrgb(("red", "green")[index % 2])
        assert all(abs(a - b) < 4 for a, b in zip(part.image.getpixel((4, 3)), colour, strict=True))
        assert (assistant.text, sample.source) == (CAPTION, "blip3-kale")
        assert sample.id == f"{index // 2:05d}{index % 2:04d}"
    assert fingerprint(reader) == fingerprint(opened(tmp_path / "shards"))


@pytest.mark.parametrize("write", WRITERS)
def test_of_the_captions_by_granularity_the_second(write: Callable[..., Path], tmp_path: Path) -> None:
    column = {"column": "captions"} if write is write_parquet_shards else {}
    reader = opened(write(tmp_path / "shards", OCR_CAPTION, **column), "blip3-ocr")
    assert [sample.answer for sample in reader] == ['The image contains the text "STOP".'] * 4


@pytest.mark.parametrize(
    ("kind", "caption", "problem"),
    [
        ("blip3-kale", " ", "caption: empty text: write something or leave the part out"),
        ("blip3-ocr", "A sign.", "caption: is no JSON list of texts by granularity: Expecting value"),
        ("blip3-ocr", '[{"text": "A sign."}]', "caption: is no JSON list with an item 1 (got"),
        ("blip3-ocr", '{"text": "A sign."}', "caption: is no JSON list with an item 1 (got"),
        ("blip3-ocr", '[{"text": "A"}, {"txt": "B"}]', "caption: [1].text: is missing, or no text (got"),
        ("blip3-ocr", '[{"text": "A"}, {"text": " "}]', "caption: empty text"),
    ],
)
@pytest.mark.parametrize("write", WRITERS)
def test_a_bad_caption(write: Callable[..., Path], tmp_path: Path, kind: str, caption: str, problem: str) -> None:
    reader = opened(write(tmp_path / "shards", caption), kind)
    with pytest.raises(SampleError) as error:
        reader[1]
    assert str(error.value).startswith(f"{reader.place(1)}: {problem}")
    assert error.value.sample_id == "000000001"


def test_what_a_shard_lacks(tmp_path: Path) -> None:
    picture = picture_file()
    path = write_tar(
        tmp_path / "00000.tar",
        {
            "a.jpg": picture,
            "b.txt": b"text",
            "c.jpg": picture,
            "c.png": picture,
            "c.txt": b"text",
            "d.jpg": b"no picture",
            "d.txt": b"text",
            "e.jpg": picture,
            "e.txt": b"\xff",
            "folder/f.JPG": picture,
            "folder/f.txt": "größer".encode(),
            "README": b"",
        },
    )
    reader = opened(path)
    problems = []
    for index in range(len(reader)):
        try:
            problems.append(reader[index].answer)
        except SampleError as error:
            problems.append(str(error).removeprefix(f"{path}: "))
    endings = "(jpg, jpeg, png, webp)"
    assert problems[:3] == [
        "a: has 0 files for its caption (txt), and needs one",
        f"b: has 0 files for its picture {endings}, and needs one",
        f"c: has 2 files for its picture {endings}, and needs one",
    ]
    assert problems[3].startswith("d: picture: ")
    assert problems[4].startswith("e: txt: is no text in UTF-8")
    assert problems[5:] == ["größer", f"README: has 0 files for its picture {endings}, and needs one"]


def test_what_a_table_lacks(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

    def table(name: str, rows: list[dict[str, Any]]) -> Path:
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / name)
        return tmp_path / name

    with pytest.raises(SampleError, match="has no pictures in its columns url, caption, and nothing is fetched"):
        opened(table("urls.parquet", [{"url": "http://a.b/c.jpg", "caption": "text"}]))
    with pytest.raises(SampleError, match="has no column caption or captions: it has jpg"):
        opened(table("pictures.parquet", [{"jpg": b""}]))
    rows = [{"jpg": picture_file(), "caption": None, "key": "0"}, {"jpg": None, "caption": "text", "key": "1"}]
    reader = opened(table("holes.parquet", [*rows, {"jpg": b"x", "caption": "text", "key": "2"}]))
    for index, problem in enumerate(("caption: is missing", "jpg: is missing", "picture: ")):
        with pytest.raises(SampleError) as error:
            reader[index]
        assert str(error.value).startswith(f"{tmp_path / 'holes.parquet'}[{index}]: {problem}")


def test_pictures_as_the_hub_keeps_them(tmp_path: Path) -> None:
    rows = [{"image": Image.new("RGB", (8, 6), "blue"), "caption": CAPTION, "uid": "x"}]
    datasets.Dataset.from_list(rows).to_parquet(str(tmp_path / "train-00000-of-00001.parquet"))
    (sample,) = opened(tmp_path)
    assert (sample.id, sample.answer) == ("x", CAPTION)


def test_a_tar_file_that_is_none(tmp_path: Path) -> None:
    path = write_tar_shards(tmp_path / "shards", shards=1) / "00000.tar"
    whole = path.read_bytes()
    for content in (gzip.compress(whole), b"", whole[:1500], b"x" * 2000):
        path.write_bytes(content)
        with pytest.raises(SampleError, match=r"00000\.tar: (cannot be read as a tar file: .*anew|holds no record)"):
            opened(path)


NEITHER = r"at byte \d+ begins neither a file nor its end, zeros alone: it is damaged, or several in one"
CUT = r"it is cut off at byte \d+, before the zeros that a tar file ends with"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda whole, second, end: whole[:second], CUT),
        (lambda whole, second, end: whole[: second + 100], NEITHER),
        (lambda whole, second, end: whole[:end], CUT),
        (lambda whole, second, end: whole[: end + 100], CUT),
        (lambda whole, second, end: whole[:second] + b"B" + whole[second + 1 :], NEITHER),
        (lambda whole, second, end: whole[:second] + bytes(512) + whole[second:], NEITHER),
        (lambda whole, second, end: whole + whole, NEITHER),
        (lambda whole, second, end: whole, None),
        (lambda whole, second, end: whole[: end + 512], None),
    ],
    ids=["cut", "cut in a header", "no end", "half an end", "a header", "zeros", "two in one", "whole", "a short end"],
)
def test_no_record_of_a_tar_file_is_lost(
    tmp_path: Path, change: Callable[[bytes, int, int], bytes], problem: str | None
) -> None:
    """Behind its first record, where Python's reader takes whatever is no file for the end."""
    path = write_tar(
        tmp_path / "00000.tar", {f"{name}.{part}": picture_file() for name in "abc" for part in ("jpg", "txt")}
    )
    with tarfile.open(path) as file:
        second, last = file.getmember("b.jpg").offset, file.getmember("c.txt")
    end = last.offset_data + (last.size + 511) // 512 * 512
    path.write_bytes(change(path.read_bytes(), second, end))
    if problem is None:
        assert len(opened(path)) == 3
    else:
        for _ in range(2):  # nothing is left in the cache, either
            with pytest.raises(SampleError, match=rf"00000\.tar: cannot be read as a tar file: {problem}\. .*anew$"):
                opened(path)


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    names = ("a.jpg", "a.txt", "caf\udce9.jpg", "caf\udce9.txt", "z.jpg", "z.txt")  # the byte E9, é in Latin-1
    path = write_tar(tmp_path / "00000.tar", {name: picture_file() if "jpg" in name else b"text" for name in names})
    assert b"caf\xe9.jpg" in path.read_bytes()
    reader = opened(path)
    assert [reader[index].answer for index in (0, 2)] == ["text", "text"]
    with pytest.raises(SampleError) as error:
        reader[1]
    assert str(error.value) == f"{path}: caf\\udce9: has a name that is no text in UTF-8: pack it under another"


def test_shards_that_are_not_all_there(tmp_path: Path) -> None:
    """Shards by their numbers alone are read as they are: nothing says how many they are."""
    write_parquet_shards(tmp_path, shards=3)
    (tmp_path / "00001.parquet").unlink()
    assert len(opened(tmp_path)) == 4
    for old, new in (("00000", "kale-00000-of-00003"), ("00002", "kale-00002-of-00003")):
        (tmp_path / f"{old}.parquet").rename(tmp_path / f"{new}.parquet")
    missing = "split kale: has 2 of 3 files: kale-00001-of-00003 is missing: fetch it"
    with pytest.raises(SampleError, match=missing):
        opened(tmp_path)
    write_tar_shards(tmp_path)
    for old, new in (("00000", "kale-00000-of-00003"), ("00001", "kale-00002-of-00003")):
        (tmp_path / f"{old}.tar").rename(tmp_path / f"{new}.tar")
    with pytest.raises(SampleError, match=missing):
        opened(tmp_path)


@pytest.mark.parametrize("write", WRITERS)
def test_shards_in_a_linked_folder(write: Callable[..., Path], tmp_path: Path) -> None:
    write(tmp_path / "kale/disk1", shards=1)
    write(tmp_path / "elsewhere", shards=1)
    (tmp_path / "kale/disk2").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "kale/again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "kale/disk1/loop").symlink_to(tmp_path / "kale")
    assert len(opened(tmp_path / "kale")) == 4


def test_a_tar_file_that_changes_under_the_reader(tmp_path: Path) -> None:
    path = write_tar_shards(tmp_path / "shards", shards=1) / "00000.tar"
    reader = opened(path)
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(SampleError, match="000000000: picture: the file is cut off, or has changed"):
        reader[0]


def test_opened_again_no_tar_file_is_gone_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tar_shards(tmp_path)
    first = opened(tmp_path)

    def refuse(*_: Any) -> None:
        raise AssertionError("gone through again")

    monkeypatch.setattr(TarShards, "_rows", refuse)
    assert [sample.id for sample in opened(tmp_path)] == [sample.id for sample in first]


def test_beside_tar_files_parquet_files_are_lists_of_addresses(tmp_path: Path) -> None:
    write_tar_shards(tmp_path)
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.Table.from_pylist([{"url": "http://a.b/c.jpg", "caption": "text"}]), tmp_path / "00000.parquet")
    assert len(opened(tmp_path)) == 4


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match=f"^path: there is no file or folder {tmp_path}/none; it is to hold .tar "):
        opened(tmp_path / "none")
    with pytest.raises(SampleError, match=f"^path: there is no file or folder {tmp_path}/none.tar$"):
        opened(tmp_path / "none.tar")
    with pytest.raises(SampleError, match=r"^path: .* is no \.tar or \.parquet file, and holds none: give the shards"):
        opened(tmp_path)
