"""The paper's instruction sets, read from files as their authors publish them: `native_sets` writes them in small."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from native_sets import (
    SETS,
    change,
    opened,
    write_a_okvqa,
    write_science_qa,
    write_visual_genome,
    write_vqav2,
)
from pydantic import ValidationError

from mutua.data.readers.instruction import prompts
from mutua.data.readers.instruction.vsr import as_question
from mutua.data.readers.published import SYSTEM
from mutua.data.sample import ImagePart, Sample
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


def asked(sample: Sample) -> list[str]:
    """The texts of the chat, from the first user message on."""
    return [message.text for message in sample.messages if message.role != "system"]


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
