"""Replies are read, and benchmarks counted, as VLMEvalKit does it: on 3,398 awkward replies and 20 small benchmarks.

The replies, the benchmarks and VLMEvalKit's verdicts on them lie in harness_cases.json.gz; `tests/harness` makes the
file. It holds the verdicts of two VLMEvalKits: that of March 2025, which the paper used and Mutua follows, and a later
one. Where Mutua's verdict is another, DIFFERENCES says so and why; nothing else may differ.
"""

from __future__ import annotations

import gzip
import json
import math
import re
from ast import literal_eval
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mutua.evaluation.aggregation import by_group, circular, cv_bench, llava_bench, mm_vet, mme, pope
from mutua.evaluation.extraction import free_form, open_question, option, yes_no
from mutua.evaluation.judge.tasks import read_grade, read_pair

RECORDED = json.loads(gzip.decompress((Path(__file__).parent / "harness_cases.json.gz").read_bytes()))
CASES: list[dict[str, Any]] = RECORDED["cases"]
TABLES: dict[str, list[dict[str, Any]]] = RECORDED["tables"]
PAPERS, LATER = "nvidia-vlmeval==26.3", "ms-vlmeval==0.0.20"
VERDICTS: dict[str, dict[str, Any]] = RECORDED["verdicts"]


def choices_of(row: Mapping[str, Any]) -> dict[str, str]:
    return {letter: row[letter] for letter in "ABCDEFGHI" if letter in row}


def words_of(text: str) -> list[str]:
    return re.sub(r"[.()\[\],:;!*#{}]", " ", text).split()


@dataclass(frozen=True)
class Difference:
    """Replies of some kind, on which Mutua differs from one VLMEvalKit or both, and the reason why."""

    versions: tuple[str, ...]
    kind: str
    covers: Callable[[Mapping[str, Any]], bool]
    reason: str


def letter_is_far_from_the_end(case: Mapping[str, Any]) -> bool:
    words = words_of(case["text"])
    letters = [letter for letter in case["choices"] if letter in words]
    return len(letters) == 1 and words.index(letters[0]) <= len(words) - 5


def is_much_longer_than_the_options(case: Mapping[str, Any]) -> bool:
    return len(case["text"].lower()) > 2 * sum(map(len, case["choices"].values()))


def is_none_in_a_spreadsheet(case: Mapping[str, Any]) -> bool:
    missing = ("none", "None", "n/a", "N/A", "null", "NA", "nan")  # what pandas takes for an empty cell
    return case["text"] in missing or case["text"].startswith("=")


DIFFERENCES = (
    Difference(
        (LATER,),
        "option",
        letter_is_far_from_the_end,
        "Since March 2025 VLMEvalKit takes a letter only among the last four words. The paper's figures were made "
        "before, and so are Mutua's.",
    ),
    Difference(
        (LATER,),
        "option",
        is_much_longer_than_the_options,
        "Since March 2025 VLMEvalKit looks for an option's wording only in replies that are at most twice as long as "
        "all options together. The paper's figures were made before, and so are Mutua's.",
    ),
    Difference(
        (LATER,),
        "yes_no",
        lambda case: re.search(r"\d\.\D", case["text"]) is not None and case["text"].count(".") > 32,
        "Both remove 32 full stops at most, and since March 2025 those behind a digit do not count among them.",
    ),
    Difference(
        (PAPERS, LATER),
        "option",
        is_none_in_a_spreadsheet,
        "VLMEvalKit writes replies into a spreadsheet and reads them from there: a reply 'None' comes back as an empty "
        "cell, '=B' as a formula (and options that are numbers throughout as 5.0). They stay what they are here.",
    ),
    Difference(
        (PAPERS, LATER),
        "mmmu",
        lambda case: re.fullmatch("[A-Z]", case["answer"]) is not None,
        "VLMEvalKit takes the answer of an open question that is one capital letter for that of an option. The answer "
        "'C' to an open question is right here.",
    ),
    Difference(
        (PAPERS, LATER),
        "free_form",
        lambda case: case["type"] in ("list", "text"),
        "VLMEvalKit compares the word 'None' with such an answer, so no reply to MathVista's questions for a list can "
        "be right. The reply is compared here.",
    ),
    Difference(
        (PAPERS, LATER),
        "free_form",
        lambda case: case["answer"] in ("0", "0.0"),
        "VLMEvalKit takes a reply that was found to be 0 for none, and asks the judge. There is nothing to ask.",
    ),
    Difference(
        (PAPERS, LATER),
        "grade",
        lambda case: case["text"] == "nan",
        "VLMEvalKit takes a judge's 'nan' for a grade of MM-Vet. It is none here.",
    ),
    Difference(
        (PAPERS,),
        "pair",
        lambda case: re.fullmatch(r" *\d+(, |  | )\d+ *", case["text"]) is not None,
        "VLMEvalKit gives -1 to both answers where a judge of LLaVA-Bench puts more than one space beside its grades. "
        "They are read here.",
    ),
    Difference(
        (PAPERS,),
        "pair",
        lambda case: case["text"] in ("0 0", "11 12", "nan 9", "-1 5"),
        "VLMEvalKit takes any two numbers for grades of LLaVA-Bench, whose scale is 1 to 10. Others are none here.",
    ),
    Difference(
        (PAPERS, LATER),
        "mm_vet",
        lambda case: "," not in case["category"],
        "VLMEvalKit counts a question of MM-Vet that needs one capability twice in the mean of that capability (the "
        "overall mean is not touched). Once here.",
    ),
)


def verdict(case: Mapping[str, Any]) -> Any:
    """What Mutua makes of a reply, in the words of the harness."""
    text = case["text"]
    if case["kind"] == "yes_no":
        return yes_no(text) or "Unknown"
    if case["kind"] == "free_form":
        return free_form(text, case["answer"], case["type"])
    if case["kind"] == "grade":
        return read_grade(text)
    if case["kind"] == "pair":
        return read_pair(text)
    return option(text, case["choices"]) or False


def differences(version: str, case: Mapping[str, Any]) -> list[Difference]:
    """Those of the table that cover the case."""
    return [d for d in DIFFERENCES if version in d.versions and d.kind == case["kind"] and d.covers(case)]


def asked_of_a_reply(version: str) -> list[tuple[dict[str, Any], Any]]:
    """Every reply, a model's or a judge's, with the harness's verdict on it: as bool where it is right or not."""
    asked = []
    for case, theirs in zip(CASES, VERDICTS[version]["cases"], strict=True):
        if case["kind"] == "mathvista":
            kind = "option" if case["type"] == "multi_choice" else "free_form"
            asked.append(({**case, "kind": kind}, theirs if kind == "option" else theirs is not False and theirs != 0))
        elif case["kind"] == "llava_bench":
            if version == PAPERS:  # the other cannot be asked: its module fails to import
                asked.append(({**case, "kind": "pair"}, None if theirs == [-1, -1] else tuple(theirs)))
        else:
            asked.append(({**case, "kind": "grade"} if case["kind"] == "mm_vet" else case, theirs))
    return asked


@pytest.mark.parametrize("version", VERDICTS)
def test_replies_are_read_as_the_harness_reads_them(version):
    for case, theirs in asked_of_a_reply(version):
        if verdict(case) != theirs:
            assert differences(version, case), f"{case}: {verdict(case)!r} here, {theirs!r} in {version}"


def asked_in_tables(version: str) -> list[tuple[str, int, dict[str, Any], bool, bool]]:
    """Of the tables whose rows the harness keeps its verdict on: table, index, reply, whether right here, and there."""
    rows = []
    for name, table in TABLES.items():
        there = (VERDICTS[version]["tables"][name] or {}).get("hits")
        if there is None or name.startswith("mmbench"):
            continue
        for row in table:
            case, here = read(name, row)
            rows.append((name, row["index"], case, here, bool(there[str(row["index"])])))
    return rows


def read(name: str, row: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """A row of a multiple-choice table or of MathVista's: its reply as a case, and whether it is right."""
    if name.startswith("mathvista"):
        if row["question_type"] == "free_form":
            case = {"kind": "free_form", "text": row["res"], "answer": row["answer"], "type": row["answer_type"]}
            return case, verdict(case)
        choices = dict(zip("ABCDEFGH", literal_eval(row["choices"]), strict=False))
        case = {"kind": "option", "text": row["res"], "choices": choices}
        return case, verdict(case) == row["answer_option"]
    if "A" not in row:
        case = {
            "kind": "mmmu",
            "text": row["prediction"],
            "answer": row["answer"],
            "choices": open_question(row["answer"]),
        }
        return case, verdict(case) == "A"
    case = {"kind": "option", "text": row["prediction"], "choices": choices_of(row)}
    return case, verdict(case) == row["answer"]


@pytest.mark.parametrize("version", VERDICTS)
def test_rows_of_benchmarks_are_right_where_the_harness_says_so(version):
    rows = asked_in_tables(version)
    assert len(rows) > 300
    for name, index, case, here, there in rows:
        if here != there:
            assert differences(version, case), f"{name}, row {index}, {case}: {here} here, {there} in {version}"


@pytest.mark.parametrize("version", VERDICTS)
def test_every_difference_that_is_listed_exists(version):
    differing = [case for case, theirs in asked_of_a_reply(version) if verdict(case) != theirs]
    differing += [case for _, _, case, here, there in asked_in_tables(version) if here != there]
    for difference in DIFFERENCES:
        if version in difference.versions and difference.kind != "mm_vet":
            assert any(difference in differences(version, case) for case in differing), difference.reason


# How verdicts add up. Where a difference of the table covers a row, the harness's verdict on it is counted.


@pytest.mark.parametrize("version", VERDICTS)
@pytest.mark.parametrize("name", [name for name in TABLES if name.split()[0] in ("realworldqa", "seed", "mmmu")])
def test_multiple_choice_adds_up(version, name):
    hits = {index: there for table, index, _, _, there in asked_in_tables(version) if table == name}
    splits = {row["index"]: row.get("split", "none") for row in TABLES[name]}
    figures = VERDICTS[version]["tables"][name]
    for split, score in by_group((splits[index], hit) for index, hit in hits.items()).items():
        assert score.accuracy == pytest.approx(figures[split]["Overall"], abs=1e-12)
    for row in TABLES[name]:
        if "category" in row:
            within = ((r.get("split", "none"), r["category"], hits[r["index"]]) for r in TABLES[name])
            scores = by_group((f"{split}/{category}", hit) for split, category, hit in within)
            score = scores[f"{row.get('split', 'none')}/{row['category']}"]
            assert score.accuracy == pytest.approx(figures[row.get("split", "none")][row["category"]], abs=1e-12)


@pytest.mark.parametrize("version", VERDICTS)
@pytest.mark.parametrize("name", [name for name in TABLES if name.startswith("mmbench")])
def test_mmbench_counts_a_question_once_all_rotations_are_right(version, name):
    figures = VERDICTS[version]["tables"][name]
    verdicts: dict[int, bool | None] = {}
    covered = set()
    for row in TABLES[name]:
        case, hit = read(name, row)
        verdicts[row["index"]] = hit if verdict(case) else None
        if differences(version, case):
            covered.add(row["index"] % 1_000_000)
    here = circular(verdicts)
    there = {int(question): bool(hit) for question, hit in figures["hits"].items()}
    assert here.keys() == there.keys()
    assert None in here.values()
    assert {question for question in here if bool(here[question]) != there[question]} <= covered
    assert Counter(there.values())[True] > 5
    assert by_group(("dev", hit) for hit in there.values())["dev"].accuracy == pytest.approx(figures["dev"]["Overall"])


@pytest.mark.parametrize("version", VERDICTS)
@pytest.mark.parametrize("name", [name for name in TABLES if name.startswith("mme")])
def test_mme_adds_up(version, name):
    figures = dict(VERDICTS[version]["tables"][name])
    score = mme(
        (row["category"], row["image_path"], yes_no(row["prediction"]) == row["answer"]) for row in TABLES[name]
    )
    assert score.perception == pytest.approx(figures.pop("perception"), abs=1e-9)
    assert score.cognition == pytest.approx(figures.pop("reasoning"), abs=1e-9)
    assert {category: pair.total for category, pair in score.categories.items()} == pytest.approx(figures, abs=1e-9)


@pytest.mark.parametrize("version", VERDICTS)
@pytest.mark.parametrize("name", [name for name in TABLES if name.startswith("pope")])
def test_pope_adds_up(version, name):
    overall, categories = pope((row["category"], row["answer"], yes_no(row["prediction"])) for row in TABLES[name])
    assert overall.unread
    figures = VERDICTS[version]["tables"][name]
    assert figures.keys() == {"Overall", *categories}
    for split, score in {"Overall": overall, **categories}.items():
        shares = {"Overall": score.f1, "acc": score.accuracy, "precision": score.precision, "recall": score.recall}
        assert {name: 100 * share for name, share in shares.items()} == pytest.approx(figures[split], abs=1e-9)


def test_cv_bench_adds_up():
    hits = {}
    for name in ("cv-bench 2d", "cv-bench 3d"):
        sources = {row["index"]: row["source"] for row in TABLES[name]}
        there = VERDICTS[LATER]["tables"][name]["hits"]
        hits[name] = [(sources[int(index)], bool(hit)) for index, hit in there.items()]
    score = cv_bench([*hits["cv-bench 2d"], *hits["cv-bench 3d"]])
    two_d = VERDICTS[LATER]["tables"]["cv-bench 2d"]["2D"]
    assert score.ade20k.accuracy == pytest.approx(two_d["ADE20K"], abs=1e-12)
    assert score.coco.accuracy == pytest.approx(two_d["COCO"], abs=1e-12)
    assert score.two_d == pytest.approx(two_d["Overall"], abs=1e-12)
    assert score.three_d == pytest.approx(VERDICTS[LATER]["tables"]["cv-bench 3d"]["3D"]["Overall"], abs=1e-12)


@pytest.mark.parametrize("version", VERDICTS)
def test_mathvista_adds_up(version):
    table, figures = TABLES["mathvista 0"], VERDICTS[version]["tables"]["mathvista 0"]
    hits = figures["hits"]
    of_groups = [
        (group, bool(hits[str(row["index"])]))
        for row in table
        for group in ("Overall", row["task"], *literal_eval(row["skills"]))
    ]
    for group, score in by_group(of_groups).items():
        assert (score.total, score.correct) == (figures[group]["tot"], figures[group]["hit"])
        assert 100 * score.accuracy == pytest.approx(figures[group]["acc"], abs=1e-9)


@pytest.mark.parametrize("version", VERDICTS)
def test_mm_vet_adds_up(version):
    figures = {name: figure["acc"] for name, figure in VERDICTS[version]["tables"]["mm-vet 0"].items()}
    rows = TABLES["mm-vet 0"]
    means = mm_vet((row["category"], row["score"]) for row in rows)
    assert means.pop("overall") == pytest.approx(figures.pop("Overall"), abs=1e-9)
    twice = [row for row in rows if differences(version, {"kind": "mm_vet", **row})]
    assert means["rec"] != pytest.approx(figures["rec"], abs=0.1)
    means = mm_vet((row["category"], row["score"]) for row in [*rows, *twice])
    del means["overall"]
    assert means == pytest.approx(figures, abs=1e-9)


def test_llava_bench_adds_up():
    figures = VERDICTS[PAPERS]["tables"]["llava-bench 0"]
    rows = TABLES["llava-bench 0"]
    for category in ("overall", "conv", "detail", "complex"):
        grades = [(row["gpt4_score"], row["score"]) for row in rows if category in ("overall", row["category"])]
        assert llava_bench(grades) == pytest.approx(figures[category]["Relative Score (main)"], abs=1e-9)
    assert math.isnan(llava_bench([]))
