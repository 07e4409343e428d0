"""Rows of the synthetic copies: coloured squares on grey, in the columns in which each benchmark is published."""

from __future__ import annotations

from string import ascii_uppercase
from typing import Any, TypeAlias

from PIL import Image

from mutua.evaluation.aggregation import MME_COGNITION, MME_PERCEPTION

Rows: TypeAlias = list[dict[str, Any]]

_COLOURS = ("red", "blue", "green", "yellow", "purple", "black")
LETTERS = ascii_uppercase[:4]


def _picture(number: int) -> Image.Image:
    """A square of the n-th colour on grey."""
    picture = Image.new("RGB", (48, 48), "lightgrey")
    picture.paste(_COLOURS[number % len(_COLOURS)], (12, 12, 36, 36))
    return picture


def _options(number: int) -> tuple[dict[str, str], str]:
    """Four colours by letter, and the letter of the picture's own."""
    return {letter: _colour(number + place) for place, letter in enumerate(LETTERS)}, LETTERS[0]


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]


def mme() -> Rows:
    rows: Rows = []
    for number, category in enumerate((*MME_PERCEPTION, *MME_COGNITION)):
        for answer, asked in (("Yes", number), ("No", number + 1)):
            question = f"Is the square {_colour(asked)}? Please answer yes or no."
            rows.append(
                {"question_id": f"{category}/{number:04}.png", "image": _picture(number)}
                | {"question": question, "answer": answer, "category": category}
            )
    return rows


def pope() -> Rows:
    rows: Rows = []
    for category in ("adversarial", "popular", "random"):
        for number in range(1, 5):
            asked = _colour(number + number % 2)
            row = {
                "id": str(len(rows)),
                "question_id": str(number),
                "question": f"Is there a {asked} square in the image?",
            }
            rows.append(
                row
                | {
                    "answer": "no" if number % 2 else "yes",
                    "image_source": f"square_{number}",
                    "image": _picture(number),
                    "category": category,
                }
            )
    return rows


def mmbench() -> Rows:
    rows: Rows = []
    for turn in range(4):
        for number in range(4):
            options, answer = _options(number)
            turned = dict(zip(LETTERS, (options[LETTERS[(place + turn) % 4]] for place in range(4)), strict=True))
            letter = LETTERS[(LETTERS.index(answer) - turn) % 4]
            hint = "There is one square." if number else None
            row = {"index": turn * 1_000_000 + number, "question": "What colour is the square?", "hint": hint}
            rows.append(
                row
                | {
                    "answer": letter,
                    **turned,
                    "category": ("attribute_recognition", "action_recognition")[number % 2],
                    "image": _picture(number),
                    "source": "synthetic",
                    "L2-category": "finegrained_perception",
                    "comment": None,
                    "split": "dev",
                }
            )
    return rows


def seed() -> Rows:
    rows: Rows = []
    for number in range(6):
        options, answer = _options(number)
        choices = {f"choice_{letter.lower()}": wording for letter, wording in options.items()}
        kind = "video" if number == 5 else "image"
        rows.append(
            {
                "answer": answer,
                **choices,
                "data_id": f"s{number}",
                "data_type": kind,
                "image": [_picture(number)],
                "question": "What colour is the square?",
                "question_id": str(101 + number),
                "question_type_id": 1 + number % 2,
                "segment": None,
            }
        )
    return rows


def llava_w() -> Rows:
    return [
        {
            "question_id": number,
            "question": "What do you see?",
            "image": _picture(number),
            "category": ("conv", "detail", "complex")[number % 3],
            "caption": f"A {_colour(number)} square on grey.",
            "gpt_answer": f"I see a {_colour(number)} square.",
            "image_id": f"{number:03}",
        }
        for number in range(6)
    ]


def mmmu() -> Rows:
    rows: Rows = []
    for number, subject in enumerate(("Art", "Art", "Physics", "Physics")):
        options, answer = _options(number)
        is_open = number == 3
        pictures: dict[str, Any] = {f"image_{nth}": None for nth in range(1, 8)} | {"image_1": _picture(number)}
        text = "<image 1> What colour is the square?"
        if number == 1:
            pictures["image_2"], text = _picture(number + 1), "Of <image 1> and <image 2>, which colour has the first?"
        rows.append(
            {
                "id": f"validation_{subject}_{number + 1}",
                "question": text,
                "options": str([] if is_open else list(options.values())),
                "explanation": "",
                **pictures,
                "img_type": "['Photographs']",
                "answer": _colour(number) if is_open else answer,
                "topic_difficulty": "Easy",
                "question_type": "open" if is_open else "multiple-choice",
                "subfield": subject,
            }
        )
    return rows


def mathvista() -> Rows:
    rows: Rows = []
    kinds = (("multi_choice", "text"), ("free_form", "integer"), ("free_form", "float"), ("multi_choice", "text"))
    for number, (question_type, answer_type) in enumerate(kinds):
        options, _ = _options(number)
        is_choice = question_type == "multi_choice"
        question = "What colour is the square?" if is_choice else "How many squares are there?"
        hint = (
            "Please answer the question and provide the correct option letter, e.g., A, B, C, D, at the end."
            if is_choice
            else f"Please answer the question requiring an {answer_type} number."
        )
        listed = "\n".join(f"({letter}) {wording}" for letter, wording in options.items())
        query = f"Hint: {hint}\nQuestion: {question}" + (f"\nChoices:\n{listed}" if is_choice else "")
        rows.append(
            {
                "pid": str(number + 1),
                "question": question,
                "image": f"images/{number + 1}.jpg",
                "decoded_image": _picture(number),
                "choices": list(options.values()) if is_choice else None,
                "unit": None,
                "precision": None if is_choice else 1.0,
                "answer": _colour(number) if is_choice else ("1" if answer_type == "integer" else "1.0"),
                "question_type": question_type,
                "answer_type": answer_type,
                "metadata": {
                    "category": "general-vqa",
                    "context": "synthetic scene",
                    "grade": "daily life",
                    "img_height": 48,
                    "img_width": 48,
                    "language": "english",
                    "skills": ["numeric commonsense"],
                    "source": "synthetic",
                    "split": "testmini",
                    "task": "figure question answering",
                },
                "query": query,
            }
        )
    return rows


def mm_vet() -> Rows:
    return [
        {
            "question_id": f"v1_{number}",
            "image": _picture(number),
            "question": "What colour is the square?",
            "answer": _colour(number),
            "image_source": "synthetic",
            "capability": ("rec", "rec,spat", "ocr,math", "know,gen")[number % 4],
        }
        for number in range(4)
    ]


def realworldqa() -> Rows:
    rows: Rows = []
    for number in range(4):
        options, answer = _options(number)
        listed = "\n".join(f"{letter}. {wording}" for letter, wording in options.items())
        asked = "Please answer directly with only the letter of the correct option and nothing else."
        question = f"What colour is the square?\n{listed}\n{asked}"
        if number == 3:
            question, answer = "How many squares are there? Please answer directly with a single word or number.", "1"
        rows.append({"image_path": f"{number}.webp", "image": _picture(number), "question": question, "answer": answer})
    return rows


def cv_bench() -> Rows:
    rows: Rows = []
    for number, source in enumerate(("ADE20K", "COCO", "ADE20K", "COCO", "Omni3D", "Omni3D")):
        options, answer = _options(number)
        listed = "\n".join(f"({letter}) {wording}" for letter, wording in options.items())
        question = "What colour is the square?"
        kind, task = ("3D", "Depth") if source == "Omni3D" else ("2D", ("Count", "Relation")[number % 2])
        rows.append(
            {
                "idx": number,
                "type": kind,
                "task": task,
                "image": _picture(number),
                "question": question,
                "choices": list(options.values()),
                "answer": f"({answer})",
                "prompt": f"{question} Select from the following choices.\n{listed}",
                "filename": f"img/{kind}/{number}.png",
                "source": source,
                "source_dataset": source,
                "source_filename": f"{number}.jpg",
                "target_class": None,
                "target_size": 0,
                "bbox": None,
            }
        )
    return rows
