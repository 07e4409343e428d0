"""Pictures that cannot be used, one row a mistake: by path, in Python, in a message, in a file of samples."""

from __future__ import annotations

import base64
import io
import json
import os
import stat
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_model import make_model, make_processor, picture
from what_users_read import Mistake, check, mutua, rows

import mutua as package
from mutua.data.readers import JsonLines
from mutua.images import ImageError, open_image


@cache
def processor() -> Any:
    return make_processor(make_model())


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


MOVING = encoded(picture(1), "GIF", save_all=True, append_images=[picture(2)])
PAGES = encoded(picture(1), "TIFF", save_all=True, append_images=[picture(2)])
WHOLE = encoded(picture(1, 100))
POSTSCRIPT = encoded(picture(1), "EPS")
METAFILE = b"\xd7\xcd\xc6\x9a" + bytes(6) + b"\x08\0\x06\0\x48\0" + bytes(6) + b"\x01\0\x09\0" + bytes(18)  # 8 x 6


def asked_about(make: Callable[[Path], object]) -> Callable[[Path], Any]:
    """`mutua ask` about what `make` leaves in the folder and names."""
    return lambda place: mutua("ask", make(place), "what is it?")


def written(content: bytes, name: str = "a.png") -> Callable[[Path], Path]:
    def write(place: Path) -> Path:
        (place / name).write_bytes(content)
        return place / name

    return write


def made(kind: int) -> Callable[[Path], Path]:
    """A file of another kind (`stat.S_IFIFO`, ...)."""

    def make(place: Path) -> Path:
        os.mknod(place / "a.png", kind | 0o600)
        return place / "a.png"

    return make


def link(target: str) -> Callable[[Path], Path]:
    def make(place: Path) -> Path:
        (place / "a.png").symlink_to(target)
        return place / "a.png"

    return make


def refusing(error: OSError) -> Callable[[Path], Any]:
    """`mutua ask` about a file that the system does not open, though it is there."""

    def do(place: Path) -> Any:
        path = written(WHOLE)(place)
        with mock.patch("mutua.images.open", create=True, side_effect=error):
            return mutua("ask", path, "what is it?")

    return do


def given(image: Any, question: Any = "what is it?") -> Callable[[Path], Any]:
    """`mutua.ask` in Python."""
    return lambda _: package.ask(None, None, image, question)  # type: ignore[arg-type]  # no model is needed to refuse


def processed(images: Any, text: Any = "<image>") -> Callable[[Path], Any]:
    return lambda _: processor()(images=images, text=text)


def in_message(**part: Any) -> Callable[[Path], Any]:
    """The chat template with one image part."""
    chat = [{"role": "user", "content": [{"type": "text", "text": "what?"}, {"type": "image", **part}]}]
    return lambda _: processor().apply_chat_template(chat, tokenize=True, return_dict=True)


def in_a_file(image: Any) -> Callable[[Path], Any]:
    """The second line of a file of samples."""

    def do(place: Path) -> None:
        picture(1).save(place / "good.png")
        lines = []
        for name in ("good.png", image):
            content = [{"type": "image", "image": name}, {"type": "text", "text": "what is it?"}]
            messages = [{"role": "user", "content": content}, {"role": "assistant", "content": "red"}]
            lines.append(json.dumps({"id": "7", "messages": messages}))
        (place / "data.jsonl").write_text("\n".join(lines))
        JsonLines(place / "data.jsonl").check()

    return do


def closed(place: Path) -> Image.Image:
    image = Image.open(written(WHOLE)(place))
    image.close()
    return image


FLOATS = encoded(Image.fromarray(np.zeros((2, 2), np.float32)), "TIFF")
BY_PATH = [
    Mistake("missing", asked_about(lambda place: place / "a.png"), ("file not found:", "a.png")),
    Mistake("no name", lambda _: mutua("ask", "", "what?"), ("the name of a picture is empty", "give the path")),
    Mistake("a folder", asked_about(lambda place: place), ("is a folder: name a picture in it",)),
    Mistake("inside a file", asked_about(lambda p: written(WHOLE)(p) / "b.png"), ("file not found:", "b.png")),
    Mistake("a FIFO", asked_about(made(stat.S_IFIFO)), ("a.png is a FIFO (named pipe)", "save the picture in a file")),
    Mistake("a socket", asked_about(made(stat.S_IFSOCK)), ("a.png is a socket", "save the picture in a file")),
    Mistake("a device", asked_about(lambda _: "/dev/zero"), ("/dev/zero is a device: name the file",)),
    Mistake("a long name", asked_about(lambda _: "a" * 5000), ("so long a name (5,000 characters): aaa",)),
    Mistake("a NUL in the name", given("a\0.png"), ("no file can have the name 'a\\x00.png'",)),
    Mistake("a dangling link", asked_about(link("b.png")), ("a.png is a link to b.png, which is not there",)),
    Mistake("a link to itself", asked_about(link("a.png")), ("a.png is a link that leads back to itself",)),
    Mistake("no permission", refusing(PermissionError(13, "Permission denied")), ("no permission to read", "a.png")),
    Mistake("a file that vanishes", refusing(FileNotFoundError(2, "No such file")), ("file not found:", "a.png")),
    Mistake("a disk that fails", refusing(OSError(5, "Input/output error")), ("cannot read", "Input/output error")),
    Mistake("a URL", asked_about(lambda _: "https://a.b/c.png"), ("https://a.b/c.png is a URL", "download it first")),
    Mistake("a URL as Path", given(Path("https://a.b/c.png")), ("https:/a.b/c.png is a URL", "download it first")),
    Mistake("a URL, encoded", asked_about(lambda _: "http%3A%2F%2Fa.b%2Fc.png"), ("is a URL", "download it first")),
    Mistake("a long URL", asked_about(lambda _: "s3://" + "a" * 300), ("is a URL", "download it first")),
    Mistake("a file URL", asked_about(lambda p: f"file://{p}/a.png"), ("is a URL: give the path", "without file://")),
    Mistake("an empty file", asked_about(written(b"")), ("not an image:", "a.png is empty, 0 bytes")),
    Mistake("a text", asked_about(written(b"hello")), ("not an image:", "a.png")),
    Mistake("half a file", asked_about(written(WHOLE[:5000])), ("damaged image:", "a.png")),
    Mistake("floats", asked_about(written(FLOATS, "a.tiff")), ("a.tiff holds floating-point pixels", "8 bits")),
    Mistake("moving", asked_about(written(MOVING, "a.gif")), ("a.gif holds several frames or pages", "save the one")),
    Mistake("pages", asked_about(written(PAGES, "a.tif")), ("a.tif holds several frames or pages", "save the one")),
    Mistake(
        "a question like a file, and none", lambda _: mutua("ask", "nope.png"), ("must be the question", "'nope.png'")
    ),
    Mistake("no question, audited", lambda _: mutua("audit", "a.png", "nope.png"), ("the last word must be the",)),
]
IN_PYTHON = [
    Mistake("None", given(None), ("None (NoneType) is no picture", "the path of a file, a PIL image")),
    Mistake("a number", given([7]), ("7 (int) is no picture: a picture is the path of a file",)),
    Mistake("a nested list", given([[picture(1)]]), ("(list) is no picture",)),
    Mistake("the second of two", given([picture(1), "b.png"]), ("picture 2 of 2: file not found: b.png",)),
    Mistake("swapped", given("is it red?", picture(1)), ("the question is no text, but of type Image", "come first")),
    Mistake(
        "swapped paths", given("is it red?", "a.png"), ("must be the question, but 'a.png' is the name of a file",)
    ),
    Mistake("no pixels", given(Image.new("RGB", (0, 5))), ("is empty: 0 x 5 pixels",)),
    Mistake("PIL of floats", given(Image.new("F", (2, 2))), ("holds floating-point pixels of an unknown range",)),
    Mistake("PIL of 32 bits", given(Image.new("I", (2, 2), 200)), ("integers from 200 to 200 in 32 bits", "8 bits")),
    Mistake("PIL, moving", given(Image.open(io.BytesIO(MOVING))), ("holds several frames or pages",)),
    Mistake("PIL, half", given(Image.open(io.BytesIO(WHOLE[:5000]))), ("damaged image: the picture",)),
    Mistake("PIL, closed", lambda place: given(closed(place))(place), ("damaged image: the picture",)),
    Mistake("PIL, too large", given(Image.new("1", (10_000, 10_000))), ("image too large: the picture", "scale it")),
    Mistake("neither bytes nor path", given({"bytes": None}), ("None (NoneType) is no picture",)),
    Mistake("an empty mapping", given({}), ("None (NoneType) is no picture", "the path of a file")),
    Mistake("no bytes", given(b""), ("not an image: the picture given as 0 bytes is empty",)),
    Mistake("bytes of a text", given(b"hello"), ("not an image: the picture given as 5 bytes",)),
    Mistake("no base64", given("data:image/png;base64,a"), ("data:image/png;base64,a: no valid base64",)),
    Mistake("data in words", given("data:text/plain,hello"), ("those with base64 are taken",)),
    Mistake(
        "an array of floats", given(np.zeros((4, 4, 3))), ("the ndarray of shape (4, 4, 3) holds float64", "uint8")
    ),
    Mistake("a tensor of floats", given(torch.zeros(3, 4, 4)), ("the Tensor of shape (3, 4, 4) holds float32", "255")),
    Mistake("two channels", given(np.zeros((5, 4, 2), np.uint8)), ("(5, 4, 2) is no picture", "1, 3 or 4 channels")),
    Mistake("a batch", given(torch.zeros(2, 3, 4, 4, dtype=torch.uint8)), ("(2, 3, 4, 4) is no picture",)),
    Mistake("either end", given(np.zeros((3, 4, 3), np.uint8)), ("channels first or last: make a PIL image",)),
    Mistake(
        "a sparse tensor",
        given(torch.zeros(4, 4, dtype=torch.uint8).to_sparse()),
        ("the Tensor of shape (4, 4) cannot be read as a numpy array", "make a PIL image"),
    ),
    Mistake(
        "a tensor without data",
        given(torch.zeros(4, 4, dtype=torch.uint8, device="meta")),
        ("the Tensor of shape (4, 4) cannot be read as a numpy array", "no data"),
    ),
    Mistake("an array of nothing", given(np.zeros((0, 4, 3), np.uint8)), ("is empty: it has no pixel",)),
]
TO_THE_PROCESSOR = [
    Mistake("a URL", processed("https://a.b/c.png"), ("https://a.b/c.png is a URL", "download it first")),
    Mistake(
        "arguments swapped", lambda _: processor()("is it?", picture(1)), ("text is a string or a list of strings",)
    ),
    Mistake("None among them", processed([picture(1), None], "<image><image>"), ("picture 2 of 2: None (NoneType)",)),
    Mistake("in a row", processed([["a.png"]], ["<image>"]), ("text 1, picture 1 of 1: file not found: a.png",)),
    Mistake(
        "lists and pictures", processed([picture(1), [picture(2)]]), ("side by side: give one list for each text",)
    ),
    Mistake(
        "one too many", processed([picture(1), picture(2)]), ("[2] pictures came for texts with [1] placeholders",)
    ),
    Mistake("one too few", processed([picture(1)], "<image><image>"), ("[1] pictures came", "with [2] placeholders")),
    Mistake(
        "another text's",
        processed([[picture(1), picture(2)], []], ["<image>", "<image>"]),
        ("[2, 0] pictures came for texts with [1, 1] placeholders", "in order"),
    ),
    Mistake("a video", lambda _: processor()(text="a", videos=["a.mp4"]), ("videos and audio have no input",)),
    Mistake("sound", lambda _: processor()(text="a", audio=["a.wav"]), ("videos and audio have no input",)),
    Mistake("no text", processed(None, []), ("text is a string or a list of strings, not []",)),
    Mistake("text of no string", processed(None, [None]), ("text is a string or a list of strings",)),
]
IN_A_MESSAGE = [
    Mistake("a missing file", in_message(path="no.png"), ("messages[0].content[1]: file not found: no.png",)),
    Mistake("a URL", in_message(url="https://a.b/c.png"), ("messages[0].content[1]: https://a.b/c.png is a URL",)),
    Mistake(
        "a URL of OpenAI's",
        in_message(type="image_url", image_url={"url": "https://a.b/c.png", "detail": "auto"}),
        ("messages[0].content[1]: https://a.b/c.png is a URL", "download it first"),
    ),
    Mistake("no image", in_message(image=None), ("messages[0].content[1] is an image part without an image",)),
    Mistake("two images", in_message(image=picture(1), path="a.png"), ("is one image, but holds 'image' and 'path'",)),
    Mistake("an empty row of Arrow", in_message(image={"bytes": None, "path": None}), ("content[1]: None (NoneType)",)),
    Mistake("base64 of nothing", in_message(base64="aGVsbG8="), ("content[1]: not an image: the picture given as 5",)),
]
IN_A_FILE = [
    Mistake("missing", in_a_file("b.png"), ("data.jsonl:2: messages.0.content.0.image: file not found:", "b.png")),
    Mistake("a URL", in_a_file("https://a.b/c.png"), ("data.jsonl:2: messages.0.content.0.image:", "is a URL")),
    Mistake("a number", in_a_file(3), ("data.jsonl:2: messages.0.content.0.image: 3 (int) is no picture",)),
    Mistake("no name", in_a_file(""), ("data.jsonl:2: messages.0.content.0.image: the name of a picture is empty",)),
    Mistake("None", in_a_file(None), ("data.jsonl:2: messages.0.content.0.image: Field required",)),
    Mistake("broken data", in_a_file("data:image/png;base64,AAAA" * 99), ("data.jsonl:2:", "no valid base64")),
]


@rows(BY_PATH)
def test_by_path(mistake: Mistake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check(mistake, tmp_path)


@rows(IN_PYTHON)
def test_in_python(mistake: Mistake, tmp_path: Path) -> None:
    check(mistake, tmp_path)


@rows(TO_THE_PROCESSOR)
def test_to_the_processor(mistake: Mistake, tmp_path: Path) -> None:
    check(mistake, tmp_path)


@rows(IN_A_MESSAGE)
def test_in_a_message(mistake: Mistake, tmp_path: Path) -> None:
    check(mistake, tmp_path)


@rows(IN_A_FILE)
def test_in_a_file(mistake: Mistake, tmp_path: Path) -> None:
    check(mistake, tmp_path)


def test_a_long_question_is_no_file_name(tmp_path: Path) -> None:
    """Longer than any file name may be, or with a NUL byte: it is asked."""
    path = written(WHOLE)(tmp_path)
    question = "is it red, " * 30 + "or is it blue?"
    assert len(question.encode()) > 255
    for words in (("ask", path, question, "--max-new-tokens", 1), ("audit", path, question)):
        result = mutua(*words)
        assert result.exit_code == 0, result.output
    for question in ("is it\0 red?", "é" * 200):
        assert package.api.conversation(path, question)[0]["content"][1]["text"] == question


def test_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.socket.connect", mock.Mock(side_effect=AssertionError("opened a connection")))
    for do in (processed("https://a.b/c.png"), in_message(url="http://a.b/c.png")):
        with pytest.raises(ValueError, match="is a URL"):
            do(Path())


@pytest.mark.parametrize(
    ("content", "what"),
    [(POSTSCRIPT, "PostScript"), (METAFILE, "a Windows metafile")],
    ids=["PostScript", "a metafile"],
)
@pytest.mark.parametrize("name", ["a.eps", "a.png"])
def test_no_other_program_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, what: str):
    refuse = mock.Mock(side_effect=AssertionError("ran a program"))
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", refuse)
    monkeypatch.setattr("PIL.WmfImagePlugin.WmfStubImageFile.load", refuse)
    path = written(content, name)(tmp_path)
    for one in (path, content, Image.open(path)):
        with pytest.raises(ImageError, match=f"is {what}, commands for another program to carry out: save it as PNG"):
            open_image(one)


def test_data_urls_are_decoded_here() -> None:
    data = base64.b64encode(WHOLE).decode()
    expected = in_message(image=picture(1, 100))(Path())["pixel_values"]
    address = f"data:image/png;base64,{data}"
    for part in ({"base64": data}, {"url": address}, {"type": "image_url", "image_url": {"url": address}}):
        assert np.array_equal(in_message(**part)(Path())["pixel_values"], expected)
