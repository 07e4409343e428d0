"""The source `datasets`: folders of `save_to_disk`, Parquet and Arrow files, with splits and columns of other names."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
from foreign_data import COLOURS, chat_table, turns, write_pictures
from PIL import Image, ImageColor
from pydantic import TypeAdapter

from mutua.data.readers import DatasetRows, DatasetsSource, Source
from mutua.data.readers.source_at import source_at
from mutua.data.sample import ImagePart, SampleError
from mutua.training.fingerprint import fingerprint

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))


def saved(table: Any, path: Path) -> Path:
    table.save_to_disk(str(path))
    return path


def parquet(table: Any, path: Path) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    table.to_parquet(str(path))
    return path


def assert_all_there(reader: DatasetRows, size: int = 4) -> None:
    assert len(reader) == size
    for nth, sample in enumerate(reader):
        image = sample.messages[0].content[0]
        assert isinstance(image, ImagePart)
        assert isinstance(image.image, Image.Image)
        assert image.image.getpixel((0, 0)) == ImageColor.getrgb(COLOURS[nth % 3])
        assert (sample.question, sample.answer) == (f"question {nth}", f"answer {nth}")


def test_a_folder_of_save_to_disk(tmp_path: Path) -> None:
    path = saved(chat_table(), tmp_path / "table")
    assert source_at(str(path)) == DatasetsSource(path=path)
    reader = pickle.loads(pickle.dumps(source_at(str(path)).open()))
    assert_all_there(reader)
    assert (reader[-1].id, reader[-1].source) == ("table[3]", "table")
    assert_all_there(DatasetRows(next(path.glob("*.arrow"))))


def test_a_parquet_file_and_a_folder_of_shards(tmp_path: Path) -> None:
    table = chat_table()
    assert_all_there(DatasetRows(parquet(table, tmp_path / "table.parquet")))
    hub = tmp_path / "hub"
    for nth in range(2):
        parquet(table.select(range(2 * nth, 2 * nth + 2)), hub / f"data/train-0000{nth}-of-00002.parquet")
    assert source_at(str(hub)) == DatasetsSource(path=hub)
    assert_all_there(DatasetRows(hub))
    parquet(table.select([0]), hub / "data/test-00000-of-00001.parquet")
    assert_all_there(DatasetRows(hub, split="test"), 1)
    assert_all_there(DatasetRows(hub, split="train"))


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (
            ["train-00000-of-00003", "train-00002-of-00003"],
            "has 2 of 3 files: train-00001-of-00003 is missing: fetch it",
        ),
        (["train-00000-of-00002"], "has 1 of 2 files: train-00001-of-00002 is missing: fetch it"),
        (
            ["train-00000-of-00001", "train-00000-of-00002", "train-00001-of-00002"],
            "train-00000-of-00001.parquet is one of 1, and train-00000-of-00002.parquet of 2: remove those of one kind",
        ),
        (
            ["a/train-00000-of-00001", "b/train-00000-of-00001"],
            "one file is there twice, a/train-00000-of-00001.parquet and b/train-00000-of-00001.parquet: remove one",
        ),
        (
            [f"train-00000-of-00001-{digest * 16}" for digest in "ab"],
            f"one file is there twice, train-00000-of-00001-{'a' * 16}.parquet and train-00000-of-00001-bbbbbbbb",
        ),
        (
            ["train-00000-of-00001", "train-00005-of-00001"],
            "train-00005-of-00001.parquet is none of its 1 files: remove it",
        ),
    ],
    ids=["a hole", "no last", "two layouts", "two folders", "two uploads", "one too many"],
)
def test_a_split_that_is_not_whole(tmp_path: Path, names: list[str], problem: str) -> None:
    for name in (*names, "test-00000-of-00001"):
        parquet(chat_table(1), tmp_path / f"{name}.parquet")
    with pytest.raises(SampleError) as error:
        DatasetRows(tmp_path, split="train")
    assert str(error.value).startswith(f"{tmp_path}: split train: {problem}")
    assert str(error.value).endswith("or name the files' own folder")
    assert_all_there(DatasetRows(tmp_path, split="test"), 1)
    assert_all_there(DatasetRows(tmp_path / f"{names[0]}.parquet"), 1)


@pytest.mark.parametrize("form", ["train-0000{}-of-00002", f"train-0000{{}}-of-00002-{'0af' * 5}0", "train-{}-of-2"])
@pytest.mark.parametrize("first", [0, 1])
def test_a_split_that_is_whole(tmp_path: Path, form: str, first: int) -> None:
    for nth in range(2):
        parquet(chat_table().select(range(2 * nth, 2 * nth + 2)), tmp_path / f"{form.format(first + nth)}.parquet")
    assert_all_there(DatasetRows(tmp_path, split="train"))


def test_linked_folders(tmp_path: Path) -> None:
    for nth, folder in enumerate(("hub/a", "elsewhere")):
        parquet(
            chat_table().select(range(2 * nth, 2 * nth + 2)), tmp_path / folder / f"train-0000{nth}-of-00002.parquet"
        )
    (tmp_path / "hub/b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "hub/a/loop").symlink_to(tmp_path / "hub")
    assert_all_there(DatasetRows(tmp_path / "hub"))
    (tmp_path / "links").mkdir()
    (tmp_path / "links/b").symlink_to(tmp_path / "hub")
    assert source_at(str(tmp_path / "links")) == DatasetsSource(path=tmp_path / "links")


def test_splits(tmp_path: Path) -> None:
    table = chat_table()
    path = saved(datasets.DatasetDict({"train": table, "test": table.select([0])}), tmp_path / "table")
    assert_all_there(DatasetRows(path, split="train"))
    assert_all_there(DatasetRows(path / "test"), 1)
    settings = {"type": "datasets", "path": str(path), "split": "test"}
    assert len(TypeAdapter(Source).validate_python(settings).open()) == 1


def test_columns_of_other_names(tmp_path: Path) -> None:
    rows = [{"question": "what?", "answer": "that", "picture": Image.new("RGB", (8, 6), "red"), "tools": "a hammer"}]
    path = saved(datasets.Dataset.from_list(rows), tmp_path / "table")
    reader = DatasetRows(path, columns={"query": "question", "response": "answer", "image": "picture"})
    assert (reader[0].question, reader[0].answer) == ("what?", "that")
    assert isinstance(reader[0].messages[0].content[0], ImagePart)


def test_paths_of_pictures_and_llava_in_parquet(tmp_path: Path) -> None:
    write_pictures(tmp_path / "pictures")
    rows = [{"id": "a", "image": "red.png", "conversations": turns("<image>\nwhat?", "that")}]
    rows.append({"id": "b", "image": None, "conversations": turns("hi", "ho")})
    reader = DatasetRows(
        parquet(datasets.Dataset.from_list(rows), tmp_path / "t.parquet"), images=tmp_path / "pictures"
    )
    assert [[len(message.content) for message in sample.messages] for sample in reader] == [[2, 1], [1, 1]]
    part = reader.without_images(0).messages[0].content[0]
    assert isinstance(part, ImagePart)
    assert part.image == Path("red.png")


def test_its_fingerprint_stays_where_it_moves(tmp_path: Path) -> None:
    path = saved(chat_table(), tmp_path / "table")
    before = fingerprint(DatasetRows(path))
    (tmp_path / "elsewhere").mkdir()
    assert fingerprint(DatasetRows(path.rename(tmp_path / "elsewhere/table"))) == before
    assert fingerprint(DatasetRows(saved(chat_table(3), tmp_path / "table"))) != before


def test_no_connection_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("opened a connection")

    path = parquet(chat_table(), tmp_path / "table.parquet")
    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert_all_there(DatasetRows(path))
