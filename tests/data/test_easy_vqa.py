"""easy-VQA as a source: its size, one item that is known, and its families."""

import builtins
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import TypeAdapter

from mutua.data.readers import EasyVQA, Source
from mutua.data.readers.easy_vqa import family_of
from mutua.data.sample import ImagePart

pytest.importorskip("easy_vqa")


def test_sizes() -> None:
    assert (len(EasyVQA("train")), len(EasyVQA("test"))) == (38_575, 9_673)


def test_known_item() -> None:
    sample = EasyVQA("test")[0]
    assert (sample.id, sample.question, sample.answer) == ("easy-vqa-test-0", "what is the red shape?", "triangle")
    assert (sample.family, sample.source) == ("shape", "easy-vqa")
    image, _ = sample.messages[0].content
    assert isinstance(image, ImagePart)
    assert isinstance(image.image, Path)
    assert image.image.name == "0.png"
    assert Image.open(image.image).size == (64, 64)


@pytest.mark.parametrize(
    ("question", "family"),
    [
        ("what is the blue shape?", "shape"),
        ("what shape is present?", "shape"),
        ("what color is the shape?", "colour"),
        ("what is the color of the circle?", "colour"),
        ("does the image contain a rectangle?", "exists"),
        ("is no circle present?", "absent"),
        ("is there not a gray shape in the image?", "absent"),
    ],
)
def test_families(question: str, family: str) -> None:
    assert family_of(question) == family


def test_answers_suit_their_families() -> None:
    reader = EasyVQA("test")
    answers: dict[str, set[str]] = {}
    for question, answer in zip(reader.questions, reader.answers, strict=True):
        answers.setdefault(family_of(question), set()).add(answer)
    assert answers["shape"] == {"circle", "rectangle", "triangle"}
    assert answers["exists"] == answers["absent"] == {"yes", "no"}
    assert len(answers["colour"]) == 8
    assert set(Counter(map(family_of, reader.questions))) == {"shape", "colour", "exists", "absent"}


def test_pickles_and_opens_from_settings() -> None:
    reader = TypeAdapter(Source).validate_python({"type": "easy-vqa", "split": "test"}).open()
    assert pickle.loads(pickle.dumps(reader))[-1] == reader[len(reader) - 1]


def test_unknown_split() -> None:
    with pytest.raises(ValueError, match="split 'val': easy-vqa has 'train' and 'test'"):
        EasyVQA("val")  # type: ignore[arg-type]


def test_missing_package_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name == "easy_vqa":
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r'pip install "mutua\[train\]"'):
        EasyVQA("test")
