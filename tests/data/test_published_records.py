"""What is wrong in published files: every record says where and what, and none is left out without a word."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import pytest
from native_sets import (
    SETS,
    change,
    opened,
    write_refcoco,
    write_science_qa,
    write_visual_genome,
    write_vqav2,
    write_vsr,
)

from mutua.data.readers.published import PublishedSet
from mutua.data.sample import SampleError

KINDS = [kind for kind in SETS if not kind.startswith("blip3")]


def error_of(reader: PublishedSet, index: int) -> str:
    with pytest.raises(SampleError) as error:
        reader[index]
    assert str(error.value).startswith(str(reader.path if reader.path.is_file() else reader.files[0].parent))
    return str(error.value).removeprefix(f"{reader.files[0].parent}/")


# By kind: the file, the keys to a value in it, what is put there (None: the key is removed), the sample, its error.
WRONG: list[tuple[str, str, tuple[Any, ...], Any, int, str]] = [
    (
        "vqav2",
        "v2_OpenEnded_mscoco_train2014_questions.json",
        ("questions", 1, "question"),
        None,
        1,
        ": questions[1]: question: Field required",
    ),
    (
        "vqav2",
        "v2_OpenEnded_mscoco_train2014_questions.json",
        ("questions", 1, "image_id"),
        "x",
        1,
        ": questions[1]: image_id: Input should be a valid integer (got 'x')",
    ),
    (
        "vqav2",
        "v2_OpenEnded_mscoco_train2014_questions.json",
        ("questions", 1, "question_id"),
        5,
        1,
        ": questions[1]: question_id: 5 has no answer left in v2_mscoco_train2014_annotations.json",
    ),
    (
        "vqav2",
        "v2_mscoco_train2014_annotations.json",
        ("annotations", 0, "question_id"),
        7,
        3,
        "v2_mscoco_train2014_annotations.json: annotations[0]: question_id: no question 7",
    ),
    (
        "vqav2",
        "v2_mscoco_train2014_annotations.json",
        ("annotations", 0, "question_id"),
        458752000,
        0,
        "v2_mscoco_train2014_annotations.json: annotations[2]: question_id: 458752000 is there twice, also in "
        "annotations[0]: remove one",
    ),
    (
        "vqav2",
        "v2_mscoco_train2014_annotations.json",
        ("annotations", 0, "multiple_choice_answer"),
        " ",
        2,
        "v2_OpenEnded_mscoco_train2014_questions.json: questions[2]: multiple_choice_answer: String should have at "
        "least 1 character (got ' ')",
    ),
    (
        "gqa",
        "train_balanced_questions.json",
        ("07333408", "answer"),
        3,
        1,
        "['07333408']: answer: Input should be a valid string (got 3)",
    ),
    (
        "gqa",
        "train_balanced_questions.json",
        ("07333408",),
        [1],
        1,
        "['07333408']: a record is one JSON object, not list",
    ),
    (
        "ocr-vqa",
        "dataset.json",
        ("761183272", "answers"),
        ["x"],
        0,
        "['761183272']: questions, answers: 2 and 1: they do",
    ),
    (
        "ocr-vqa",
        "dataset.json",
        ("761183272", "split"),
        4,
        0,
        "['761183272']: split: got 4, expected 1 (train), 2 or 3",
    ),
    ("ocr-vqa", "dataset.json", ("761183272", "questions"), "why?", 0, "questions: got 'why?', expected a list"),
    (
        "ocr-vqa",
        "dataset.json",
        ("761183272", "imageURL"),
        None,
        0,
        "questions[0]: imageURL: Input should be a valid string",
    ),
    (
        "a-okvqa",
        "aokvqa_v1p0_train.json",
        (1, "correct_choice_idx"),
        4,
        1,
        "aokvqa_v1p0_train.json[1]: correct_choice_idx: got 4, of 4 choices",
    ),
    ("a-okvqa", "aokvqa_v1p0_train.json", (1, "choices", 2), "", 1, "[1]: choices.2: String should have at least 1"),
    ("a-okvqa", "aokvqa_v1p0_train.json", (1, "split"), "test", 1, "[1]: split: Input should be 'train' or 'val'"),
    ("science-qa", "problems.json", ("1", "answer"), -1, 0, "problems.json['1']: answer: got -1, of 4 choices"),
    (
        "science-qa",
        "problems.json",
        ("1", "split"),
        None,
        0,
        "['1']: split: got None, expected one of train, val, test",
    ),
    ("science-qa", "problems.json", ("1", "image"), "map.png", 0, "['1']: image: file not found: "),
    (
        "refcoco",
        "finetune_refcoco_train.json",
        ("annotations", 1, "image_id"),
        2,
        1,
        ": images[1]: image_id: got 2, and the image in the same place has the id 1",
    ),
    (
        "refcoco",
        "finetune_refcoco_train.json",
        ("annotations", 2),
        None,
        2,
        "images[2]: has no fellow: annotations ends ",
    ),
    (
        "refcoco",
        "finetune_refcoco_train.json",
        ("images", 2),
        None,
        2,
        "annotations[2]: has no fellow: images ends before ",
    ),
    (
        "refcoco",
        "finetune_refcoco_train.json",
        ("annotations", 1, "bbox"),
        [9, 0, 2, 2],
        1,
        "images[1]: the box (x 9.0, y 0.0, width 2.0, height 2.0) has no part in a picture of 8 x 6",
    ),
    (
        "refcoco",
        "finetune_refcoco_train.json",
        ("annotations", 1, "bbox"),
        [9, 0, 2],
        1,
        "images[1]: bbox.3: Field required",
    ),
    (
        "visual-genome",
        "region_descriptions.json",
        (0, "regions", 1, "image_id"),
        3,
        1,
        "region_descriptions.json[0].regions[1]: image_id: got 3, which is not in image_data.json",
    ),
    ("visual-genome", "region_descriptions.json", (0, "regions"), 1, 0, "[0]: regions: is missing, or no list"),
    (
        "visual-genome",
        "region_descriptions.json",
        (0, "regions", 1, "width"),
        0,
        1,
        "the box (x -1.0, y 0.0, width 0.0",
    ),
    (
        "visual-genome",
        "image_data.json",
        (1, "width"),
        "8",
        0,
        "image_data.json[1]: width: got '8', expected a whole number",
    ),
    ("visual-genome", "image_data.json", (1, "image_id"), 1, 0, "image_data.json[1]: image_id: 1 is there twice"),
]


@pytest.mark.parametrize(("kind", "file", "keys", "to", "index", "message"), WRONG)
def test_a_wrong_record_says_where_and_what(
    kind: str, file: str, keys: tuple[Any, ...], to: Any, index: int, message: str, tmp_path: Path
) -> None:
    path = SETS[kind](tmp_path)
    change(tmp_path / file, *keys, to=to)
    reader = opened(kind, path)
    assert message in error_of(reader, index)
    good = 0
    for nth in range(len(reader)):
        try:
            reader[nth]
            good += 1
        except SampleError:
            pass
    assert good >= 1  # the others are read


def test_a_wrong_line_of_vsr(tmp_path: Path) -> None:
    path = write_vsr(tmp_path) / "train.jsonl"
    first, second, third = path.read_text().splitlines()
    path.write_text("\n".join([first, "{", second.replace('"label": 0', '"label": 2'), f"{third[:-1]}, {third[1:]}"]))
    reader = opened("vsr", path)
    assert reader[0].answer == "yes"
    assert error_of(reader, 1).startswith("train.jsonl:2: not valid JSON: ")
    assert error_of(reader, 2) == "train.jsonl:3: label: Input should be 0 or 1 (got 2)"
    assert error_of(reader, 3) == "train.jsonl:4: not valid JSON: the key 'image' is there twice: remove one"


def test_a_key_that_is_there_twice(tmp_path: Path) -> None:
    path = write_science_qa(tmp_path) / "problems.json"
    path.write_text(path.read_text().replace('"answer": 1', '"answer": 0, "answer": 1'))
    assert error_of(opened("science-qa", path), 1) == "problems.json['2']: the key 'answer' is there twice: remove one"


def test_a_wrong_record_among_turns(tmp_path: Path) -> None:
    path = write_vqav2(tmp_path)
    change(tmp_path / "v2_OpenEnded_mscoco_train2014_questions.json", "questions", 2, "question")
    reader = opened("vqav2", path, turns=2)
    assert len(reader) == 2
    assert "questions[2]: question: Field required" in error_of(reader, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_path_that_leads_nowhere(kind: str, tmp_path: Path) -> None:
    with pytest.raises(SampleError, match=f"^path: there is no file or folder {tmp_path}/none; it is to hold .*json"):
        opened(kind, tmp_path / "none")
    with pytest.raises(SampleError, match=f"^path: there is no file or folder {tmp_path}/none.json$"):
        opened(kind, tmp_path / "none.json")
    with pytest.raises(SampleError, match=f"^path: in the folder {tmp_path} there is no .*json"):
        opened(kind, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_or_another_file(kind: str, tmp_path: Path) -> None:
    file = opened(kind, SETS[kind](tmp_path)).files[0]
    whole = file.read_bytes()
    if kind != "vsr":
        file.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(SampleError, match=re.escape(f"{file}: not valid JSON at byte")):
            opened(kind, tmp_path if kind != "refcoco" else file)
    file.write_text("[]" if kind != "vsr" else "\n")
    with pytest.raises(SampleError, match=re.escape(str(file))):
        opened(kind, tmp_path if kind != "refcoco" else file)


def test_files_beside(tmp_path: Path) -> None:
    write_vqav2(tmp_path)
    (tmp_path / "v2_mscoco_train2014_annotations.json").unlink()
    with pytest.raises(SampleError, match="there is no file with the answers, such as"):
        opened("vqav2", tmp_path)
    write_visual_genome(tmp_path)
    (tmp_path / "image_data.json").unlink()
    with pytest.raises(SampleError, match=r"there is no image_data\.json, which has the pictures' sizes"):
        opened("visual-genome", tmp_path)


def test_the_three_refcocos_in_one_folder(tmp_path: Path) -> None:
    for name in ("refcoco", "refcoco+", "refcocog"):
        path = write_refcoco(tmp_path, f"finetune_{name}_train.json")
        assert len(opened("refcoco", path)) == 3
    with pytest.raises(
        SampleError, match=r"there are finetune_refcoco_train\.json and .*: give the path of one of them"
    ):
        opened("refcoco", tmp_path)


@pytest.mark.parametrize("given", ["folder", "file"])
def test_the_pickle_of_refcoco_is_refused(tmp_path: Path, given: str) -> None:
    path = tmp_path / "refs(unc).p"
    path.write_bytes(pickle.dumps([]))
    with pytest.raises(
        SampleError, match="is a pickle, which may run anything where it is read, and is not read: give"
    ):
        opened("refcoco", path if given == "file" else tmp_path)


def test_a_mark_of_byte_order(tmp_path: Path) -> None:
    path = SETS["gqa"](tmp_path) / "train_balanced_questions.json"
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert len(opened("gqa", path)) == 3


def test_text_of_all_the_world(tmp_path: Path) -> None:
    path = write_vsr(tmp_path) / "train.jsonl"
    path.write_text(path.read_text().replace("teddy bear", "熊 é 🧸"), encoding="utf-8")
    assert "熊 é 🧸" in opened("vsr", path)[0].question


def test_half_a_letter_is_refused(tmp_path: Path) -> None:
    path = SETS["gqa"](tmp_path)
    change(tmp_path / "train_balanced_questions.json", "07333408", "question", to="\ud800?")
    assert "['07333408']: " in error_of(opened("gqa", path), 1)


def test_half_a_letter_in_what_names_the_picture_loses_no_other_record(tmp_path: Path) -> None:
    path = SETS["gqa"](tmp_path)
    change(path / "train_balanced_questions.json", "07333408", "imageId", to="\ud800")
    reader = opened("gqa", path, turns=2)
    assert reader[0].answer == "house"
    assert "['07333408']: " in error_of(reader, 1)


def test_a_picture_that_is_not_there(tmp_path: Path) -> None:
    write_vqav2(tmp_path)
    (tmp_path / "train2014").rename(tmp_path / "elsewhere")
    error = error_of(opened("vqav2", tmp_path), 0)
    assert error.startswith("v2_OpenEnded_mscoco_train2014_questions.json: questions[0]: image_id: file not found: ")
    assert error.endswith(f"458752.jpg; paths start at {tmp_path}, and `images` names another folder")
    with pytest.raises(SampleError, match="images: there is no folder"):
        opened("vqav2", tmp_path, images=str(tmp_path / "nowhere"))
