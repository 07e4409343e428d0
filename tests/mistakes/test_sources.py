"""What people read when their data are not what a run needs: wrong files, wrong forms, wrong pictures."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from foreign_data import turns, write_lines, write_pictures
from what_users_read import Mistake, check, lock_folder, mutua, rows

HI = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
CHAT = {"image": "red.png", "conversations": turns("<image>\nwhat?", "that")}


def file(name: str, content: Any, *words: object) -> Callable[[Path], Any]:
    """Checks a file of that content with `mutua eval`, which stops at the first sample that is wrong."""

    def do(place: Path) -> Any:
        write_pictures(place)
        text = content if isinstance(content, str | bytes) else json.dumps(content)
        (place / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return mutua("eval", "--data", place / name, *words)

    return do


def item(**row: Any) -> Callable[[Path], Any]:
    """A LLaVA file whose second item is wrong."""
    return file("data.json", [CHAT, row])


def said(kind: str, content: str) -> Callable[[Path], Any]:
    """Reads `data.json` by the reader that the user says."""

    def do(place: Path) -> Any:
        (place / "data.json").write_text(content)
        return mutua("eval", "--data", f"{kind}:{place / 'data.json'}")

    return do


def found(row: dict[str, Any], *words: object) -> Callable[[Path], Any]:
    """`mutua data check` of a file with that row; what it prints is what the user reads."""

    def do(place: Path) -> Any:
        write_pictures(place)
        result = mutua("data", "check", write_lines(place / "data.jsonl", CHAT, row), *words)
        assert result.exit_code == 1
        raise ValueError(result.stdout)

    return do


def table(**columns: Any) -> Callable[[Path], Any]:
    """Opens a Parquet file of one row as the source `datasets`."""

    def do(place: Path) -> Any:
        settings = {name[1:]: columns.pop(name) for name in list(columns) if name.startswith("_")}
        datasets = pytest.importorskip("datasets")
        datasets.config.HF_DATASETS_CACHE = place / "cache"
        from mutua.data.readers import DatasetRows

        datasets.Dataset.from_list([columns]).to_parquet(str(place / "t.parquet"))
        return DatasetRows(place / "t.parquet", **settings)[0]

    return do


def locked(of: str) -> Callable[[Path], Any]:
    """Opens a folder of shards, of which those of 2024 may not be read."""

    def do(place: Path) -> Any:
        datasets = pytest.importorskip("datasets")
        from mutua.data.readers import DatasetRows
        from mutua.data.readers.captions import KALE

        for year in ("2024", "2025"):
            (place / "shards" / year).mkdir(parents=True)
            datasets.Dataset.from_list([{"messages": HI}]).to_parquet(str(place / "shards" / year / "0.parquet"))
        with pytest.MonkeyPatch.context() as patch:
            lock_folder(patch, "2024")
            return {"rows": DatasetRows, "captions": KALE}[of](place / "shards")

    return do


def splits(**settings: Any) -> Callable[[Path], Any]:
    def do(place: Path) -> Any:
        datasets = pytest.importorskip("datasets")
        from mutua.data.readers import DatasetRows

        one = datasets.Dataset.from_list([{"messages": HI}])
        datasets.DatasetDict({"train": one, "test": one}).save_to_disk(str(place / "saved"))
        return DatasetRows(place / "saved", **settings)

    return do


def without_datasets(place: Path) -> Any:
    (place / "t.parquet").write_bytes(b"PAR1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("sys").modules, "datasets", None)
        return mutua("eval", "--data", place / "t.parquet")


def damaged_table(name: str, content: bytes) -> Callable[[Path], Any]:
    def do(place: Path) -> Any:
        pytest.importorskip("datasets")
        path = place / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        return mutua("eval", "--data", path if path.suffix != ".json" else path.parent)

    return do


def recipe(source: str) -> Callable[[Path], Any]:
    """`mutua train` with a source, whose path starts in the folder."""

    def do(place: Path) -> Any:
        write_lines(place / "data.jsonl", CHAT)
        (place / "recipe.yaml").write_text(
            f"name: mine\noutput: {place / 'run'}\nmodel: {{preset: tiny}}\n"
            f"data: {{train: [{{source: {source.replace('PLACE', str(place))}}}]}}\n"
            "train: {steps: 1, batch_size: 1, learning_rate: 1e-3}\n"
        )
        result = mutua("train", place / "recipe.yaml")
        assert not (place / "run" / "model").exists()
        return result

    return do


def fifo(name: str) -> Callable[[Path], Any]:
    def do(place: Path) -> Any:
        os.mkfifo(place / name)
        return mutua("eval", "--data", place / name)

    return do


MISTAKES = [
    # paths
    Mistake(
        "no name of data", lambda place: mutua("eval", "-d", "imagenet"), ("no data 'imagenet'", "easy-vqa, scenes")
    ),
    Mistake(
        "no such file", lambda place: mutua("data", "check", place / "x.json"), ("x.json: no such file or folder",)
    ),
    Mistake("no such file after a type", lambda place: mutua("eval", "-d", f"llava:{place}/x.json"), ("no such file",)),
    Mistake("a folder of nothing", lambda place: mutua("eval", "-d", place), ("a folder without data that is known",)),
    Mistake("a folder as a file", lambda place: mutua("eval", "-d", f"llava:{place}"), ("is no file: name the file",)),
    Mistake("a FIFO as a table", fifo("t.parquet"), ("t.parquet: is neither a file nor a folder",)),
    Mistake("a FIFO", fifo("data.json"), ("data.json: is neither a file nor a folder",)),
    Mistake(
        "another kind of file", file("data.csv", "a,b"), ("data.csv: is neither", "say which reader is meant", "llava:")
    ),
    Mistake("a list as lines", said("jsonl", "[]"), ("data.json: holds a JSON list", "the type llava reads it")),
    Mistake("a row of LLaVA as ours", said("jsonl", json.dumps(CHAT)), ("data.json:1: ", "are read by the type llava")),
    Mistake(
        "JSON as a table", said("datasets", "[]"), ("data.json: is no folder of save_to_disk", "by the type llava")
    ),
    # files
    Mistake("a list that is cut off", file("data.json", '[{"id": 1}, {"id'), ("data.json: not valid JSON", "cut off")),
    Mistake("a list with an error", file("data.json", "[{}, oops]"), ("not valid JSON at byte 5", "item 1")),
    Mistake("one object", file("data.json", '{\n"data": []\n}'), ("neither a JSON list of samples nor JSON Lines",)),
    Mistake("an empty list", file("data.json", "[]"), ("data.json holds no samples",)),
    Mistake(
        "a line that is no JSON", file("data.jsonl", '{"conversations": []}\n{'), ("data.jsonl:1: no conversation",)
    ),
    Mistake("not UTF-8", file("data.json", b'[{"id": "\xff"}]'), ("data.json[0]: not valid JSON", "0xff")),
    # rows
    Mistake(
        "no conversation", item(question="a"), ("data.json[1]: no conversation in its columns question", "messages,")
    ),
    Mistake("a row that is none", file("data.json", [3]), ("data.json[0]: a row is a mapping of columns", "not 3")),
    Mistake(
        "two conversations", item(messages=HI, query="hi"), ("messages and query hold a conversation each", "remove")
    ),
    Mistake(
        "an unknown speaker", item(conversations=[{"from": "usr", "value": "hi"}]), ("conversations.0.from: 'usr'",)
    ),
    Mistake(
        "a tool", item(conversations=[{"from": "function", "value": "1"}]), ("'function' is no speaker: use one of",)
    ),
    Mistake(
        "an empty answer", item(conversations=turns("hi", "")), ("[1]: conversations.1.value: is missing or empty",)
    ),
    Mistake("a blank answer", item(conversations=turns("hi", " ")), ("[1]: conversations.1.value: empty text",)),
    Mistake(
        "the wrong order", item(conversations=turns("hi", "ho")[::-1]), ("message 0 is 'assistant' where 'user' is",)
    ),
    Mistake("a video", item(messages=HI, videos=["a.mp4"]), ("data.json[1]: videos: a sample has no place for it",)),
    Mistake(
        "tools", item(messages=HI, tools="[]"), ("[1]: tools: a sample has no place", "got '[]'", "remove the column")
    ),
    Mistake("preferences", item(prompt="hi", chosen="a", rejected="b"), ("[1]: chosen: a sample has no place for it",)),
    Mistake(
        "an answer with a call",
        item(messages=[HI[0], {**HI[1], "tool_calls": [1]}]),
        ("messages.1.tool_calls: a message has no place for it (got [1]): remove it",),
    ),
    # pictures
    Mistake(
        "a mark without a picture",
        item(conversations=turns("<image>hi", "ho")),
        ("[1]: conversations.0.value: 1 place",),
    ),
    Mistake(
        "fewer marks than pictures",
        item(images=["red.png", "blue.png"], conversations=turns("<image>hi", "ho")),
        ("1 place for a picture", "and 2 pictures in images or image: give each place its picture"),
    ),
    Mistake(
        "a mark in an answer",
        item(image="red.png", conversations=turns("hi", "<image>ho")),
        ("[1]: conversations.1: image in the assistant message: images belong in user messages",),
    ),
    Mistake("a key twice", file("d.jsonl", '{"id": "1", "messages": [], "id": "2"}'), ("'id' is there twice",)),
    Mistake(
        "a picture twice", file("d.json", '[{"image": "a", "image": "b"}]'), ("[0]: not valid JSON: the key 'image'",)
    ),
    Mistake("UTF-16", file("d.json", json.dumps([CHAT]).encode("utf-16")), ("d.json", "can't decode byte 0xff")),
    Mistake(
        "a list for a line", file("d.jsonl", '{"id": "1", "messages": []}\n[]'), ("d.jsonl:1", "at least one user")
    ),
    Mistake(
        "a text without its speaker",
        item(conversations=[{"value": "hi"}]),
        ("conversations.0.from: None is no speaker",),
    ),
    Mistake(
        "a number for a text",
        item(conversations=[{"from": "human", "value": 3}]),
        ("conversations.0.value: is a text or a list of parts, not 3",),
    ),
    Mistake(
        "half a letter in an id", item(**{**CHAT, "id": "\ud800"}), ("data.json[1]: id: 'utf-8' codec can't encode",)
    ),
    Mistake("no name", lambda _: mutua("data", "check", ""), ("'' names no data: give a file or folder",)),
    Mistake("a type and no path", lambda _: mutua("data", "check", "llava:"), ("'llava:' names no data",)),
    Mistake("two columns of pictures", item(**CHAT, images=["red.png"]), ("images and image hold pictures each",)),
    Mistake("a picture that is null", item(**{**CHAT, "image": [None]}), ("[1]: image.0: is no picture (got None)",)),
    Mistake("a missing picture", item(**{**CHAT, "image": "x.png"}), ("[1]: file not found", "`images` names another")),
    Mistake(
        "a picture on the web", item(**{**CHAT, "image": "http://a.b/c.png"}), ("http://a.b/c.png is a URL", "download")
    ),
    Mistake("a broken picture", item(**{**CHAT, "image": "data.json"}), ("data.json[1]: not an image",)),
    # tables
    Mistake(
        "without the package", without_datasets, ("the datasets package is not installed", 'pip install "mutua[train]"')
    ),
    Mistake("a damaged table", damaged_table("t.parquet", b"hello"), ("t.parquet: cannot be read as a table",)),
    Mistake("a damaged Arrow file", damaged_table("t.arrow", b"hello"), ("t.arrow: cannot be read as a table",)),
    Mistake("a damaged folder", damaged_table("t/state.json", b"{"), ("t: cannot be read as a table",)),
    Mistake(
        "no conversation in a table", table(text="hi"), ("no conversation in its columns text", "columns: {messages:")
    ),
    Mistake("no such column", table(chat=HI, _columns={"messages": "talk"}), ("no column 'talk'; it has chat",)),
    Mistake("no such folder of pictures", table(messages=HI, _images="nope"), ("images: there is no folder nope",)),
    Mistake("a split of one table", table(messages=HI, _split="test"), ("no split 'test': it is one table",)),
    Mistake("several splits", splits(), ("has several splits; it has test, train: set split to one",)),
    Mistake("no such split", splits(split="val"), ("no split 'val'; it has test, train",)),
    Mistake("a folder that may not be read", locked("rows"), ("shards/2024: cannot be read (Permission denied)",)),
    Mistake("captions that may not be read", locked("captions"), ("shards/2024: cannot be read (Permission denied)",)),
    # recipes
    Mistake("an unknown type", recipe("{type: lava, path: x}"), ("data.train.0.source", "'lava'", "llava", "datasets")),
    Mistake("no path", recipe("{type: llava}"), ("data.train.0.source.path: is missing",)),
    Mistake(
        "an unknown key", recipe("{type: llava, path: x, image: y}"), ("image: unknown key; did you mean 'images'?",)
    ),
    Mistake("a missing file", recipe("{type: llava, path: PLACE/x.json}"), ("x.json: no such file",)),
    Mistake(
        "a missing folder of pictures",
        recipe("{type: llava, path: PLACE/data.jsonl, images: PLACE/pics}"),
        ("images: there is no folder", "pics; give the one where the paths of the pictures start"),
    ),
    # mutua data check
    Mistake(
        "check: a missing picture",
        found({**CHAT, "image": "x.png"}),
        ("1 missing or broken picture", "data.jsonl:2: file"),
    ),
    Mistake(
        "check: no answer", found({"conversations": turns("hi")}), ("1 no answer to learn from", "data.jsonl:2: 'hi'")
    ),
    Mistake(
        "check: a bad row", found({"a": 1}), ("1 cannot be read", "data.jsonl:2: no conversation in its columns a")
    ),
    Mistake(
        "check: a page without a folder",
        lambda place: mutua("data", "check", "scenes", "-o", place / "no" / "page.html"),
        ("--output", "page.html", "there is no folder"),
    ),
    Mistake(
        "check: pictures of what names none",
        lambda place: mutua(
            "data", "check", write_lines(place / "d.jsonl", {"id": "1", "messages": HI}), "--images", place
        ),
        ("--images is for files of LLaVA and its like", "is read as jsonl"),
    ),
]


def test_more_samples_to_show_than_there_are(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "d.jsonl", {"id": "1", "messages": HI})
    assert mutua("data", "check", path, "--show", "1000000000000").exit_code == 0


def test_what_the_terminal_cannot_show_is_spelled_out(tmp_path: Path) -> None:
    row = json.dumps({"id": "\u2603", "messages": [{**HI[0], "content": "\xe9?"}, HI[1]]}) + "\n"
    (tmp_path / "d.jsonl").write_text(row)
    result = mutua("data", "check", tmp_path / "d.jsonl", charset="ascii")
    assert (result.exit_code, result.exception) == (0, None)
    assert "\\u2603" in result.stdout
    assert "user: \\xe9?" in result.stdout


@rows(MISTAKES)
def test_sources(mistake: Mistake, tmp_path: Path) -> None:
    check(mistake, tmp_path)
