"""Replies as awkward as models give them, and small benchmarks answered with them: what scorers are compared on.

Made from one seed, without any package: `record_cases.py` runs it where VLMEvalKit is installed.
"""

# ruff: noqa: RUF001 - letters and digits that only look like ASCII are part of the matter

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import Any

Case = dict[str, Any]

FRAMES = (
    "{}", "{}.", "({})", "({}).", "**{}**", "{}\n", " {} ", '"{}"', "'{}'", "`{}`", "{}!", "{}?", "{},", "{};", "{}:",
    "<{}>", "[{}]", "{{{}}}", "#{}", "# {}", "*{}*", "{}/", "{} / ", "-{}", "- {}", "1. {}", "1.{}", "{}.1", "3,{}",
    "The answer is {}", "The answer is {}.", "Answer: {}", "answer={}", "Option {}", "{}\n\n{}", "{}, {}", "{} {}",
    '{{"answer": "{}"}}', "```\n{}\n```", "$\\boxed{{{}}}$", "$$\\text{{{}}}$$", "\\[ x = {} \\]", "<a>{}</a>",
    "<think>A or B? no, wait</think>{}", "Sure! I think it is {}, because of the colour.", "It might well be {}",
    "I am not sure, but {} seems likely to me.", "There are 1,000 of them: {}", "In 3.5 seconds, {}", "{} (90%)",
    "{}, and nothing else in this picture, as far as I can see", "A closer look says {}", "A: {}", "It isn't {}",
    "答案是{}", "答案是{}。", "答案：（{}）", "答えは{}です。", "La réponse est {}.", "Die Antwort lautet „{}“.",
    "Ответ: {}", "الإجابة هي {}", "정답은 {}입니다", "{}\u200b", "\u3000{}\u3000", "{}…", "{} 👍", "…{}", "{}—", "–{}–",
)  # fmt: skip
YES_NO = (
    "Yes", "No", "yes", "no", "YES", "NO", "yEs", "Yes and no", "yes/no", "Yes/No", "yes-no", "no, yes", "Yes, not no",
    "yesterday", "know", "nope", "Yeah", "yep", "Y", "N", "true", "False", "oui", "Nein", "да", "нет", "是", "不是",
    "はい", "no.1", "yes.no", "3.yes", "yes.3", "no.", "ye s", "n o", "ＹＥＳ", "Yes_", "_no_", "non-yes", "not yes",
    "Unknown", "nan", "None", "İ yes", "yes-man -like", "no/yes /so", "",
)  # fmt: skip
MANY_FULL_STOPS = ("0.5 " * 33 + "yes.", "5. " * 33 + "yes.", "a. " * 33 + "yes.", "a. " * 31 + "yes.")
REFUSALS = (
    "Sorry, I can't help with images of people yet.", "I can't process this file.", "Cannot determine the answer",
    "I'm sorry, but without the image provided, I cannot tell. A", "I'm sorry, but I can't assist with that request.",
    "Sorry, I cannot help with that", "As a language model, I cannot see images.", "There is no image.", "N/A", "",
    "   ", "\n", "Z", "(Z)", "Z.", "Z or A", "A, B or Z", "none of the above", "I cannot process this file: A",
    "CANNOT DETERMINE THE ANSWER", "Cannot determine the answer, but maybe B", "?", ".", "...", "🤷",
)  # fmt: skip
CHOICES: tuple[dict[str, str], ...] = (
    {"A": "cat", "B": "dog"},
    {"A": "Yes", "B": "No"},
    {"A": "1", "B": "2", "C": "10", "D": "12"},
    {"A": "red", "B": "blue", "C": "green", "D": "dark red"},
    {"A": "Teddy bear", "B": "rabbit", "C": "CAT", "D": "a dog"},
    {"A": "left of", "B": "right of", "C": "above", "D": "below"},
    {"A": "the man", "B": "the woman", "C": "the man", "D": "neither of them"},
    {"A": "$\\frac{1}{2}$", "B": "$\\sqrt{2}$", "C": "0.5", "D": "$2^{10}$"},
    {"A": "泰迪熊", "B": "兔子", "C": "猫", "D": "狗"},
    {"A": "Vitamin A", "B": "Vitamin B", "C": "Vitamin C", "D": "Vitamin D", "E": "Vitamin E"},
    {"A": "0", "B": "1", "C": "2", "D": "3", "E": "4", "F": "5"},
    {"A": "a", "B": "an", "C": "the"},
    {"A": "It is a sunny day and people are out in the park", "B": "It rains", "C": "None of the above"},
    {"A": "St. Peter's Basilica", "B": "B-flat", "C": "(C)", "D": "A and B", "E": "i", "F": "j", "G": "k", "H": "l"},
)
LETTERS = ("{}", "{}) {}", "({}) {}", "{}. {}", "{}: {}", "{} - {}", "{}. {}.", "Option {}: {}")
_NOISE = (
    "the picture shows a large room with two people who look at something far away while light falls through windows "
    "onto old tables where books lie open beside cups of tea and nobody seems to mind that time goes by so I think"
)


def _long(rng: random.Random, core: str) -> str:
    """500 words around `core`, in sentences of some length; some texts have more than 32 full stops."""
    words = rng.choices(_NOISE.split(), k=500)
    step = rng.choice((5, 12, 40, 1000))
    for place in range(step, len(words), step):
        words[place] += "."
    words.insert(rng.choice((0, 250, 490, 497, 500)), core + rng.choice(("", ".")))
    return " ".join(words)


def _framed(rng: random.Random, cores: Iterable[str], count: int) -> Iterator[str]:
    """Different replies: every core as it is, then `count` more in frames drawn at random, some of them long."""
    seen = dict.fromkeys(cores)
    yield from seen
    cores = list(seen)
    for _ in range(count):
        core = rng.choice(cores)
        reply = _long(rng, core) if rng.random() < 0.02 else rng.choice(FRAMES).replace("{}", core)
        reply = reply.replace("{{", "{").replace("}}", "}")
        if reply not in seen:
            seen[reply] = None
            yield reply


def _cores(choices: dict[str, str]) -> list[str]:
    """What a reply to a multiple-choice question may have at its heart."""
    letters, wordings = list(choices), list(choices.values())
    cores = [form.replace("{}", letter, 1).replace("{}", choices[letter]) for letter in letters for form in LETTERS]
    cores += [*map(str.lower, letters), *wordings, *map(str.upper, wordings), "Ａ", "А"]  # full-width, Cyrillic
    cores += [" and ".join(letters[:2]), "/".join(letters), "".join(letters), f"{letters[0]} {wordings[1]}"]
    cores += [f"not {letters[0]} but {letters[1]}", f"{wordings[0]} or {wordings[1]}", f"A {wordings[1]}"]
    cores += ["\n".join(f"{letter}. {wording}" for letter, wording in choices.items()), ", ".join(wordings)]
    return [*cores, *REFUSALS]


NUMBERS = (
    ("14", "integer"), ("0", "integer"), ("-3", "integer"), ("1400", "integer"), ("1.45", "float"), ("0.6", "float"),
    ("0.0", "float"), ("1000.0", "float"), ("[2007, 2008]", "list"), ("[1.2, 1.4]", "list"), ("yes", "text"),
)  # fmt: skip


def _numbers(rng: random.Random, answer: str, count: int) -> Iterator[str]:
    cores = [answer, f"{answer}.0", f"+{answer}", f"0{answer}", f"{answer}%", f"${answer}", "14.0", "1_400", "1,400"]
    cores += ["１４", "−3", "1.450", ".6", "1e3", "nan", "inf", "None", "0x0e", "fourteen", "2007, 2008", "3/5", "B"]
    return _framed(rng, [*cores, "", " "], count)


def cases() -> list[Case]:
    """One reply each, with what is needed to read it; more than 3,000."""
    rng = random.Random(20250301)
    made: list[Case] = [
        {"kind": "yes_no", "text": text} for text in _framed(rng, [*YES_NO, *MANY_FULL_STOPS, *REFUSALS], 800)
    ]
    for choices in CHOICES:
        replies = list(_framed(rng, _cores(choices), 60))
        made += [{"kind": "option", "text": text, "choices": choices} for text in replies]
        made += [
            {"kind": "mathvista", "text": text, "type": "multi_choice", "answer": wording, "choices": choices}
            for wording in choices.values()
            for text in rng.sample(replies, 3)
        ]
    for answer, kind in NUMBERS:
        made += [
            {"kind": "mathvista", "text": text, "type": kind, "answer": answer} for text in _numbers(rng, answer, 20)
        ]
    grades = ["0", "1", "0.5", " 0.5", "0.5\n", "1.0", "1.1", "-0.1", "nan", "0.5 | ", "5", "half", "", "Score: 0.5"]
    made += [{"kind": "mm_vet", "text": text} for text in grades]
    reviews = ["8 9", "8, 9", "8,9", "8.5 7", "8  9", " 8 9", "8 9 ", "8 9\nAssistant 2 is better.", "8\n9", "8 / 9"]
    reviews += ["Assistant 1: 8", "0 0", "11 12", "nan 9", "", "eight nine", "8 9 10", "-1 5"]
    return made + [{"kind": "llava_bench", "text": text} for text in reviews]


# Whole benchmarks, a few rows each, so that the ways in which verdicts add up are compared, too.

MME_CATEGORIES = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
    "commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning",
)  # fmt: skip


def _yes_no_reply(rng: random.Random, answer: str) -> str:
    core = rng.choice((answer, answer, answer, rng.choice(YES_NO)))
    return rng.choice(FRAMES[:12]).replace("{}", core) if core else core


def _choice_reply(rng: random.Random, choices: dict[str, str], answer: str) -> str:
    core = rng.choice((answer, f"{answer}. {choices[answer]}", choices[answer], rng.choice(_cores(choices))))
    reply = rng.choice(FRAMES[:5]).replace("{}", core)
    return "" if reply in ("N/A", "=") else reply  # a spreadsheet cannot hold them: see `spreadsheet`


def _mme(rng: random.Random) -> list[Case]:
    rows = []
    for category in MME_CATEGORIES:
        for image in range(4):
            for answer in ("Yes", "No"):
                rows.append({"category": category, "image_path": f"{image}.jpg", "answer": answer})
    rng.shuffle(rows)
    return [{**row, "prediction": _yes_no_reply(rng, row["answer"])} for row in rows]


def _pope(rng: random.Random) -> list[Case]:
    categories = ("adversarial", "popular", "random", "adversarial,popular", "adversarial,popular,random")
    answers = [(rng.choice(categories), rng.choice(("Yes", "No"))) for _ in range(60)]
    return [{"category": c, "answer": a, "prediction": _yes_no_reply(rng, a)} for c, a in answers]


def _mmbench(rng: random.Random) -> list[Case]:
    rows = []
    for question in range(24):
        choices = rng.choice(CHOICES[:7])
        letters, wordings = list(choices), list(choices.values())
        right = rng.randrange(len(letters))
        kind = rng.choice(("knows", "knows", "hedges", "is awkward"))
        hedged = rng.randrange(len(letters))
        for turn in range(len(letters)):
            turned = {letter: wordings[(place + turn) % len(letters)] for place, letter in enumerate(letters)}
            answer = letters[(right - turn) % len(letters)]
            reply = rng.choice((answer, f"({answer})", f"{answer}.", f"The answer is {answer}"))
            if kind == "is awkward":
                reply = _choice_reply(rng, turned, answer)
            elif kind == "hedges" and turn == hedged:
                reply = "I cannot make up my mind."
            skills = {"category": f"skill {question % 3}", "l2-category": f"field {question % 2}", "split": "dev"}
            rows.append(
                {"index": question + turn * 1_000_000, **turned, **skills, "answer": answer, "prediction": reply}
            )
    return rows


def _choice_rows(rng: random.Random, count: int, **columns: tuple[str, ...]) -> list[Case]:
    rows = []
    for _ in range(count):
        choices = rng.choice(CHOICES[:10])  # none with a letter that has numbers only: see `spreadsheet`
        answer = rng.choice(list(choices))
        drawn = {name: rng.choice(values) for name, values in columns.items()}
        rows.append({**choices, **drawn, "answer": answer, "prediction": _choice_reply(rng, choices, answer)})
    return rows


def _mmmu(rng: random.Random) -> list[Case]:
    rows = _choice_rows(rng, 40, split=("dev", "validation"), category=("Art", "Music"))
    for answer in ("8", "blue whale", "x^2", "C", "0.5", "['5', 'five']"):
        for reply in (answer, f"It is {answer}.", "A", "B", "Other answers", "no idea", "C"):
            rows.append({"split": "validation", "category": "Math", "answer": answer, "prediction": reply})
    return rows


def _spreadsheet(rng: random.Random) -> list[Case]:
    choices = {"A": "cat", "B": "none", "C": "dog"}
    return [{**choices, "answer": "B", "prediction": text} for text in ("None", "=B", "N/A", "null", "B", "none!")]


def _mathvista(rng: random.Random) -> list[Case]:
    """Replies with what a judge made of them, "res"."""
    rows: list[Case] = []
    for answer, kind in NUMBERS:
        for found in (answer, "14.0", "5", "", "unclear", f" {answer}"):
            rows.append({"question_type": "free_form", "answer_type": kind, "answer": answer, "res": found})
    for choices in CHOICES[:6]:
        answer = rng.choice(list(choices))
        shared = {"question_type": "multi_choice", "answer_type": "text", "choices": str(list(choices.values()))}
        for found in (answer, choices[answer], "A", "", f"({answer}) {choices[answer]}"):
            rows.append({**shared, "answer": choices[answer], "answer_option": answer, "res": found})
    tasks, skills = (
        ("geometry problem solving", "figure question answering"),
        ("['arithmetic']", "['algebraic', 'logic']"),
    )
    return [{**row, "task": rng.choice(tasks), "skills": rng.choice(skills), "log": "Succeed"} for row in rows]


def _mm_vet(rng: random.Random) -> list[Case]:
    categories = ("ocr,math", "rec", "rec,know,gen", "ocr,spat", "rec,ocr,spat,math", "gen,know")
    return [{"category": rng.choice(categories), "score": rng.randrange(11) / 10} for _ in range(50)]


def _llava_bench(rng: random.Random) -> list[Case]:
    kinds = ("conv", "detail", "complex")
    return [
        {"category": rng.choice(kinds), "gpt4_score": rng.randint(1, 10), "score": rng.randint(1, 10)}
        for _ in range(60)
    ]


def tables() -> dict[str, list[Case]]:
    """The rows of each small benchmark, by a name that starts with the benchmark's. Rows have an `index`."""
    rng = random.Random(20250302)
    made = {
        **{f"mme {n}": _mme(rng) for n in range(3)},
        **{f"pope {n}": _pope(rng) for n in range(3)},
        **{f"mmbench {n}": _mmbench(rng) for n in range(3)},
        **{f"mmmu {n}": _mmmu(rng) for n in range(2)},
        **{f"realworldqa {n}": _choice_rows(rng, 60) for n in range(2)},
        "seed 0": _choice_rows(rng, 60, category=("Scene Understanding", "Instance Counting")),
        "cv-bench 2d": _choice_rows(rng, 80, split=("2D",), source=("ADE20K", "COCO", "COCO")),
        "cv-bench 3d": _choice_rows(rng, 60, split=("3D",), source=("Omni3D",)),
        "spreadsheet 0": _spreadsheet(rng),
        "mathvista 0": _mathvista(rng),
        "mm-vet 0": _mm_vet(rng),
        "llava-bench 0": _llava_bench(rng),
    }
    return {
        name: [{"index": n, "question": "which?", **row} for n, row in enumerate(rows)] for name, rows in made.items()
    }
