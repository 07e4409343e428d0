"""The paper's instruction sets, read from files as their authors publish them: `native_sets` writes them in small."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from native_sets import (
    SETS,
    write_a_okvqa,
    write_refcoco,
    write_science_qa,
    write_visual_genome,
    write_vqav2,
    write_vsr,
)
from pydantic import TypeAdapter, ValidationError

from mutua.data.readers import Source
from mutua.data.readers.instruction import prompts
from mutua.data.readers.instruction.vsr import as_question
from mutua.data.readers.published import SYSTEM, PublishedSet
from mutua.data.sample import ImagePart, Sample, SampleError
from mutua.training.fingerprint import fingerprint
from mutua.training.recipe import DataSettings

SHORT = "Answer the question using a single word or phrase. "
LETTER = "Answer with the option's letter from the given choices directly. "
REGION = "Provide a short description for this region. "
KINDS = [kind for kind in SETS if not kind.startswith("blip3")]

# By kind: the options that keep the order of choices, and of each sample its id, its picture, and its questions with
# their answers.
EXPECTED: dict[str, tuple[dict[str, Any], list[tuple[str, str | None, str, str]]]] = {
    "vqav2": (
        {},
        [
            (
                "458752000",
                "train2014/COCO_train2014_000000458752.jpg",
                SHORT + "What is this photo taken looking through?",
                "net",
            ),
            ("262146000", "train2014/COCO_train2014_000000262146.jpg", SHORT + "What color is the snow?", "white"),
            (
                "458752001",
                "train2014/COCO_train2014_000000458752.jpg",
                SHORT + "What position is this man playing?",
                "pitcher",
            ),
        ],
    ),
    "gqa": (
        {},
        [
            ("02930152", "images/2354786.jpg", SHORT + "Is the sky dark?", "yes"),
            ("07333408", "images/2375429.jpg", SHORT + "What is on the wall?", "pipe"),
            ("02930153", "images/2354786.jpg", SHORT + "What is under the sky?", "house"),
        ],
    ),
    "vsr": (
        {},
        [
            (
                "000000050403: The teddy bear is in front of the person.",
                "train2017/000000050403.jpg",
                SHORT + "Is the teddy bear in front of the person? Please answer yes or no.",
                "yes",
            ),
            (
                "000000401901: The cats are beside the bed.",
                "val2017/000000401901.jpg",
                SHORT + "Are the cats beside the bed? Please answer yes or no.",
                "no",
            ),
            (
                "000000050403: The box contains the teddy bear.",
                "train2017/000000050403.jpg",
                SHORT + "Is it true that the box contains the teddy bear? Please answer yes or no.",
                "no",
            ),
        ],
    ),
    "ocr-vqa": (
        {},
        [
            ("761183272-0", "images/761183272.jpg", SHORT + "Who wrote this book?", "Mary Jones"),
            ("761183272-1", "images/761183272.jpg", SHORT + "What is the title of this book?", "Parrots"),
            ("1445612852-0", "images/1445612852.png", SHORT + "Who wrote this book?", "Li Wei"),
            ("1445612852-1", "images/1445612852.png", SHORT + "What is the title of this book?", "Snow"),
        ],
    ),
    "a-okvqa": (
        {"shuffle": False},
        [
            (
                "22MexNkBPpdZGX6sxbxVBH",
                "train2017/000000299207.jpg",
                LETTER + "What is the man by the bags awaiting?\nOptions:\n"
                "A. skateboarder\nB. train\nC. delivery\nD. cab\n",
                "D",
            ),
            (
                "2Aq7TBEVHJKDPzqSmYpDpC",
                "train2017/000000071212.jpg",
                LETTER + "Where is the dog?\nOptions:\nA. skateboarder\nB. train\nC. delivery\nD. cab\n",
                "A",
            ),
        ],
    ),
    "science-qa": (
        {"shuffle": False},
        [
            (
                "1",
                "images/train/1/image.png",
                LETTER + "Which of these states is farthest north?\nContext: Look at the map.\nOptions:\n"
                "A. West Virginia\nB. Louisiana\nC. Arizona\nD. Oklahoma\n",
                "A",
            ),
            ("2", None, LETTER + "Is ice solid?\nOptions:\nA. no\nB. yes\n", "B"),
        ],
    ),
    "refcoco": (
        {},
        [
            (
                "0",
                "train2014/COCO_train2014_000000581857.jpg",
                REGION + "<bbox>[0.250, 0.250][0.750, 0.750]</bbox>",
                "the lady with the blue shirt",
            ),
            (
                "1",
                "train2014/COCO_train2014_000000580957.jpg",
                REGION + "<bbox>[0.000, 0.000][1.000, 1.000]</bbox>",
                "dog",
            ),
            (
                "2",
                "train2014/COCO_train2014_000000581857.jpg",
                REGION + "<bbox>[0.250, 0.250][0.750, 0.750]</bbox>",
                "woman",
            ),
        ],
    ),
    "visual-genome": (
        {},
        [
            ("1382", "images/1.jpg", REGION + "<bbox>[0.250, 0.500][0.750, 0.833]</bbox>", "the clock is green"),
            ("1383", "images/1.jpg", REGION + "<bbox>[0.000, 0.000][0.500, 1.000]</bbox>", "a tall building"),
            ("2001", "images/2.jpg", REGION + "<bbox>[0.000, 0.000][1.000, 1.000]</bbox>", "a street"),
        ],
    ),
}


def opened(kind: str, path: Path, **settings: Any) -> PublishedSet:
    given = {"type": kind, "path": str(path), **settings}
    return TypeAdapter(Source).validate_python(given).open()


def asked(sample: Sample) -> list[str]:
    """The texts of the chat, from the first user message on."""
    return [message.text for message in sample.messages if message.role != "system"]


def error_of(reader: PublishedSet, index: int) -> str:
    with pytest.raises(SampleError) as error:
        reader[index]
    assert str(error.value).startswith(str(reader.path if reader.path.is_file() else reader.files[0].parent))
    return str(error.value).removeprefix(f"{reader.files[0].parent}/")


def change(path: Path, *keys: Any, to: Any = None) -> None:
    """Puts a value into a JSON file; without one, the key is removed."""
    content = place = json.loads(path.read_text())
    for key in keys[:-1]:
        place = place[key]
    if to is None:
        del place[keys[-1]]
    else:
        place[keys[-1]] = to
    path.write_text(json.dumps(content))


def test_every_kind_is_expected() -> None:
    assert list(EXPECTED) == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_and_answers_word_for_word(kind: str, tmp_path: Path) -> None:
    settings, expected = EXPECTED[kind]
    reader = pickle.loads(pickle.dumps(opened(kind, SETS[kind](tmp_path), **settings)))
    reader.check()
    assert len(reader) == len(expected)
    for index, (id, picture, prompt, answer) in enumerate(expected):
        sample = reader.without_images(index)
        system, user, assistant = sample.messages
        assert (sample.id, sample.source) == (id, kind)
        assert (system.role, system.text) == ("system", SYSTEM)
        assert [part.image for part in user.content[:-1] if isinstance(part, ImagePart)] == (
            [] if picture is None else [Path(picture)]
        )
        assert user.content[-1].text == prompt  # type: ignore[union-attr]
        assert assistant.text == answer
    assert reader[-1].id == expected[-1][0]


@pytest.mark.parametrize("kind", KINDS)
def test_the_system_message_is_a_setting(kind: str, tmp_path: Path) -> None:
    path = SETS[kind](tmp_path)
    assert opened(kind, path, system=None)[0].messages[0].role == "user"
    assert opened(kind, path, system="Be brief.")[0].messages[0].text == "Be brief."
    with pytest.raises(ValidationError, match="at least 1 character"):
        opened(kind, path, system="")


def test_the_system_message_is_the_papers() -> None:
    assert SYSTEM == (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions."
    )


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("a-okvqa", "science-qa")])
def test_several_questions_about_a_picture_in_one_conversation(kind: str, tmp_path: Path) -> None:
    path = SETS[kind](tmp_path)
    expected: dict[str | None, list[tuple[str, str, str]]] = {}
    for id, picture, prompt, answer in EXPECTED[kind][1]:
        expected.setdefault(picture, []).append((id, prompt, answer))
    reader = pickle.loads(pickle.dumps(opened(kind, path, turns=5)))
    assert len(reader) == len(expected) == 2
    for sample, turns in zip(reader, expected.values(), strict=True):
        assert sample.id == turns[0][0]
        assert asked(sample) == [text for _, prompt, answer in turns for text in (prompt, answer)]
        pictures = [message for message in sample.messages if any(isinstance(p, ImagePart) for p in message.content)]
        assert pictures == [sample.messages[1]]
    singles = opened(kind, path)
    assert reader.content == singles.content
    assert reader.place(1) in {singles.place(index) for index in range(len(singles))}


@pytest.mark.parametrize("kind", KINDS)
def test_opened_again_no_file_is_parsed(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = SETS[kind](tmp_path)
    first = opened(kind, path)

    def refuse(*_: Any) -> None:
        raise AssertionError("parsed again")

    monkeypatch.setattr(type(first), "rows", refuse)
    again = opened(kind, path)
    assert [sample.id for sample in again] == [sample.id for sample in first]
    assert fingerprint(again) == fingerprint(first)


def test_a_file_that_changed_is_read_anew(tmp_path: Path) -> None:
    reader = opened("gqa", SETS["gqa"](tmp_path))
    before = fingerprint(reader)
    change(tmp_path / "train_balanced_questions.json", "02930152", "answer", to="no")
    again = opened("gqa", tmp_path)
    assert (reader[0].answer, again[0].answer) == ("yes", "no")
    assert fingerprint(again) != before


@pytest.mark.parametrize(("kind", "write"), [("a-okvqa", write_a_okvqa), ("science-qa", write_science_qa)])
def test_choices_are_shuffled_by_seed_and_question(kind: str, write: Callable, tmp_path: Path) -> None:
    path = write(tmp_path)
    plain = opened(kind, path, shuffle=False)
    orders = set()
    for seed in range(20):
        shuffled, same = opened(kind, path, seed=seed), opened(kind, path, seed=seed)
        for index, sample in enumerate(shuffled):
            assert asked(sample) == asked(same[index])
            of_plain, of_this = (
                dict(re.findall(r"(?m)^([A-Z])\. (.*)$", one.question)) for one in (plain[index], sample)
            )
            assert sorted(of_plain.values()) == sorted(of_this.values())
            assert of_this[sample.answer] == of_plain[plain[index].answer]
        orders.add(asked(shuffled[0])[0])
    assert len(orders) > 5
    assert asked(opened(kind, path)[0]) == asked(opened(kind, path, seed=0)[0])


def test_where_a_right_choice_lands_is_even(tmp_path: Path) -> None:
    path = write_a_okvqa(tmp_path)
    landed = [opened("a-okvqa", path, seed=seed)[0].answer for seed in range(400)]
    assert all(70 < landed.count(letter) < 130 for letter in "ABCD")


def test_boxes_as_thousandths(tmp_path: Path) -> None:
    boxes = [
        opened("visual-genome", write_visual_genome(tmp_path), boxes="thousandths")[nth].question for nth in (0, 1)
    ]
    assert boxes == [REGION + "<bbox>[250, 500][750, 833]</bbox>", REGION + "<bbox>[0, 0][500, 1000]</bbox>"]


def test_pictures_of_visual_genome_in_its_two_folders(tmp_path: Path) -> None:
    reader = opened("visual-genome", write_visual_genome(tmp_path, one_folder=False))
    reader.check()
    paths = [reader.without_images(nth).messages[1].content[0].image for nth in (0, 2)]  # type: ignore[union-attr]
    assert paths == [Path("VG_100K_2/1.jpg"), Path("VG_100K/2.jpg")]


def test_pictures_in_a_folder_of_their_own(tmp_path: Path) -> None:
    write_vqav2(tmp_path / "vqa")
    (tmp_path / "coco").mkdir()
    (tmp_path / "vqa/train2014").rename(tmp_path / "coco/train2014")
    opened("vqav2", tmp_path / "vqa", images=str(tmp_path / "coco")).check()
    error = error_of(opened("vqav2", tmp_path / "vqa"), 0)
    assert error.startswith("v2_OpenEnded_mscoco_train2014_questions.json: questions[0]: image_id: file not found: ")
    assert error.endswith(f"458752.jpg; paths start at {tmp_path / 'vqa'}, and `images` names another folder")
    with pytest.raises(SampleError, match="images: there is no folder"):
        opened("vqav2", tmp_path / "vqa", images=str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("caption", "question"),
    [
        ("The cat is on the mat.", "Is the cat on the mat?"),
        ("The person is at the right side of the bench. ", "Is the person at the right side of the bench?"),
        ("The dogs are facing away from the cat.", "Are the dogs facing away from the cat?"),
        ("The cake has as a part the candle.", "Is it true that the cake has as a part the candle?"),
        ("A TV is off the table", "Is a TV off the table?"),
    ],
)
def test_a_caption_as_a_question(caption: str, question: str) -> None:
    assert as_question(caption) == question


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
    with pytest.raises(SampleError, match=f"^path: there is no file or folder {tmp_path}/none$"):
        opened(kind, tmp_path / "none")
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


def test_the_example_of_the_docs() -> None:
    page = (Path(__file__).parents[2] / "docs/data.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```yaml\n(train:.*?)```", page, re.DOTALL)
    settings = DataSettings.model_validate(yaml.safe_load(example))
    assert [weighted.source.type for weighted in settings.train] == ["vqav2", "a-okvqa", "visual-genome"]


def test_the_prompts_of_the_docs() -> None:
    page = (Path(__file__).parents[2] / "docs/data.md").read_text(encoding="utf-8")
    choice = ["{choice}", "{choice}"]
    assert f"`{prompts.short_answer('{question}')}`" in page
    assert f"`{prompts.letter('{question}', choice, '{hint}')}`".replace("\n", "\\n") in page
    assert f"`{EXPECTED['visual-genome'][1][0][2]}`" in page
    for kind in SETS:
        assert f"`{kind}`" in page
