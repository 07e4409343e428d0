"""Benchmarks on their synthetic copies: both layouts ask the same, and known replies give known figures."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest

from mutua.data.sample import SampleError
from mutua.evaluation.benchmark import Benchmark, Judged, Question, Verdict
from mutua.evaluation.benchmarks import BENCHMARKS, PAPER
from mutua.evaluation.fixtures import write_parquet, write_tsv
from mutua.evaluation.intervals import bootstrap
from mutua.evaluation.published import PUBLISHED
from mutua.evaluation.questions import Questions, open_questions

JUDGED = ("llava_w", "mm_vet")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_parquet(folder / "parquet")
    write_tsv(folder / "tsv")
    return folder


def figures(questions: Questions, reply) -> dict[str, float]:
    """What comes of replies, by a function of the question."""
    benchmark = questions.benchmark
    verdicts = [benchmark.verdict(question, reply(question), None) for question in questions.all]
    groups = [[Judged(questions.all[place], verdicts[place]) for place in group] for group in questions.groups()]
    return dict(benchmark.figures([group for group in groups if benchmark.counts(group)]))


def right(question: Question) -> str:
    return question.answer


def main(benchmark: Benchmark, found: dict[str, float]) -> list[float]:
    return [found[name] for name in benchmark.main]


@pytest.mark.parametrize("name", PAPER)
def test_both_layouts_ask_the_same(data: Path, name: str):
    published, kept = (open_questions(BENCHMARKS[name], data / layout) for layout in ("parquet", "tsv"))
    assert (published.layout, kept.layout) == ("parquet", "tsv")
    assert len(published.all) == len(kept.all) > 3
    for place, (one, other) in enumerate(zip(published.all, kept.all, strict=True)):
        assert one.answer == other.answer
        assert one.choices == other.choices
        assert [picture.tobytes() for picture in published.pictures(place)] == [
            picture.tobytes() for picture in kept.pictures(place)
        ]
        if name != "realworldqa":  # whose options the published file has inside the question
            assert one.prompt == other.prompt


@pytest.mark.parametrize("layout", ["parquet", "tsv"])
@pytest.mark.parametrize("name", [name for name in PAPER if name not in JUDGED])
def test_all_right_is_the_highest_score_and_all_wrong_the_lowest(data: Path, name: str, layout: str):
    questions = open_questions(BENCHMARKS[name], data / layout)
    highest = [2000.0, 800.0] if name == "mme" else [100.0] * len(questions.benchmark.main)
    assert main(questions.benchmark, figures(questions, right)) == highest
    if name != "mathvista":  # whose rules leave what they cannot read to the judge
        assert main(questions.benchmark, figures(questions, lambda question: "?")) == [0.0] * len(highest)


@pytest.mark.parametrize("name", JUDGED)
def test_without_a_judge_a_graded_benchmark_has_no_score(data: Path, name: str):
    questions = open_questions(BENCHMARKS[name], data / "parquet")
    verdicts = [questions.benchmark.verdict(question, "red", None) for question in questions.all]
    assert {verdict.score for verdict in verdicts} == {None}
    assert {verdict.why for verdict in verdicts} == {"no judge was given to grade the reply"}
    assert all(map(math.isnan, main(questions.benchmark, figures(questions, right))))


def test_mathvista_leaves_what_its_rules_cannot_read_unscored(data: Path):
    questions = open_questions(BENCHMARKS["mathvista"], data / "parquet")
    said = {question.id: questions.benchmark.verdict(question, "there are 1", None) for question in questions.all}
    assert [verdict.score for verdict in said.values()] == [None] * 4
    assert questions.benchmark.verdict(questions.all[1], "1", None).score == 1


def test_cv_bench_is_strict_and_says_what_lenient_reading_gives(data: Path):
    found = figures(open_questions(BENCHMARKS["cv_bench"], data / "parquet"), lambda question: f"({question.answer})")
    assert found == {"2D": 0.0, "3D": 0.0, "2D lenient": 100.0, "3D lenient": 100.0}


def test_pope_has_accuracy_f1_and_yes_rate_of_each_split(data: Path):
    found = figures(open_questions(BENCHMARKS["pope"], data / "parquet"), lambda question: "Yes.")
    assert (found["accuracy"], found["F1"], found["yes-rate"]) == (50.0, pytest.approx(200 / 3), 100.0)
    assert {name.split()[0] for name in found if " " in name} == {"adversarial", "popular", "random"}


def test_one_wrong_rotation_is_a_wrong_question_of_mmbench(data: Path):
    questions = open_questions(BENCHMARKS["mmbench"], data / "tsv")
    once = questions.all[-1].id
    found = figures(questions, lambda question: "Z" if question.id == once else question.answer)
    assert found["accuracy"] == 75.0


def test_pictures_stand_at_their_places_in_mmmu(data: Path):
    questions = open_questions(BENCHMARKS["mmmu"], data / "parquet")
    (message,) = questions.all[1].conversation(questions.pictures(1))
    kinds = [part.get("text", "picture") for part in message["content"]]
    assert kinds[:4] == ["Question: Of ", "picture", " and ", "picture"]
    assert kinds[4].startswith(", which colour has the first?\nOptions:\nA. ")


def test_videos_are_no_part_of_seed_bench_image(data: Path):
    assert len(open_questions(BENCHMARKS["seed"], data / "parquet").all) == 5


def test_our_own_benchmarks_need_no_folder(monkeypatch: pytest.MonkeyPatch):
    from mutua.data.readers import Scenes

    monkeypatch.setattr("mutua.evaluation.benchmarks.held_out.open_source", None)
    scenes = BENCHMARKS["scenes"].__class__(**{**vars(BENCHMARKS["scenes"]), "samples": lambda: Scenes("test", 6)})
    questions = open_questions(scenes, None)
    assert figures(questions, lambda question: question.answer.upper())["accuracy"] == 100.0
    assert questions.pictures(0)[0].size == (64, 64)


def test_the_bootstrap_draws_within_strata_and_is_the_same_every_time():
    values = [(kind, float(number % 2)) for kind in "ab" for number in range(20)]

    def mean(drawn):
        assert sum(kind == "a" for kind, _ in drawn) == 20
        return {"mean": sum(value for _, value in drawn) / len(drawn)}

    one, other = (bootstrap(values, mean, lambda value: value[0], resamples=200)["mean"] for _ in range(2))
    assert one == other
    assert one.value == 0.5
    assert one.low == pytest.approx(0.5 - 1.96 * 0.5 / 40**0.5, abs=0.04)
    assert not bootstrap([1.0] * 9, lambda drawn: {"mean": sum(drawn) / len(drawn)})["mean"].is_bounded


def test_a_group_counts_as_soon_as_its_verdict_is_sure():
    question = Question("1", "?", "?", "A")
    group = [Judged(question, Verdict(None, score)) for score in (None, 0.0)]
    assert BENCHMARKS["mmbench"].counts(group)
    assert not BENCHMARKS["mme"].counts(group)
    assert not BENCHMARKS["mmbench"].counts([Judged(question, Verdict(None, score)) for score in (None, 1.0)])


def test_the_papers_figures_stand_beside_ours():
    """By the names of the reports; and the gains of its Table 1, which it gives itself, follow from them."""
    assert list(PUBLISHED) == [f"{BENCHMARKS[name].title} {main}" for name in PAPER for main in BENCHMARKS[name].main]
    best = {figure: max(row[model] for model in ("causal", "dual-order", "CCA")) for figure, row in PUBLISHED.items()}
    gains = {figure: 100 * (row["MMA"] / best[figure] - 1) for figure, row in PUBLISHED.items()}
    told = {"SEED-Bench image accuracy": 2.8, "LLaVA-Bench in the wild overall": 10.4, "MMMU val accuracy": 7.8}
    told |= {"MathVista mini accuracy": 3.1, "MM-Vet overall": 4.1, "CV-Bench 2D": 3.2, "CV-Bench 3D": 2.1}
    assert {figure: round(gains[figure], 1) for figure in told} == told


def test_a_question_of_pope_in_several_splits_is_drawn_as_one(data: Path):
    """The published rows ask the same about the same picture up to three times; VLMEvalKit's ask it once."""
    published = open_questions(BENCHMARKS["pope"], data / "parquet")
    assert all(question.group for question in published.all)
    by_group = [{published.all[place].text for place in group} for group in published.groups()]
    assert all(len(texts) == 1 for texts in by_group)
    assert not any(question.group for question in open_questions(BENCHMARKS["pope"], data / "tsv").all)


def rewritten(data: Path, folder: Path, name: str, change) -> Path:
    """A copy of a table of VLMEvalKit's, its rows changed."""
    folder.mkdir(exist_ok=True)
    csv.field_size_limit(1 << 30)
    with next(data.rglob(name)).open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t"))
    with (folder / name).open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t").writerows(change(rows))
    return folder


def test_mmbench_without_all_rotations_is_refused(data: Path, tmp_path: Path):
    folder = rewritten(data / "tsv", tmp_path / "cut", "MMBench_DEV_EN.tsv", lambda lines: lines[:-1])
    with pytest.raises(SampleError, match=r"mmbench: question \d+ has \d options and is asked \d times in MMBench"):
        open_questions(BENCHMARKS["mmbench"], folder)


def test_a_picture_by_its_row_is_of_the_same_file(data: Path, tmp_path: Path):
    """Both tables of CV-Bench count from 0."""

    def refers(rows: list[list[str]]) -> list[list[str]]:
        image, index = (rows[0].index(column) for column in ("image", "index"))
        rows[-1][image] = rows[1][index]
        return rows

    for name in ("CV-Bench-2D.tsv", "CV-Bench-3D.tsv"):
        rewritten(data / "tsv", tmp_path / "both", name, refers)
    shown, known = (
        {question.id: questions.pictures(place)[0].tobytes() for place, question in enumerate(questions.all)}
        for questions in (
            open_questions(BENCHMARKS["cv_bench"], folder) for folder in (tmp_path / "both", data / "tsv")
        )
    )
    by_file = {kind: [id for id in known if (id.split("/")[0] == "Omni3D") == (kind == "3D")] for kind in ("2D", "3D")}
    for ids in by_file.values():
        assert shown[ids[-1]] == known[ids[0]] != known[ids[-1]]


def test_realworldqa_as_it_is_published_is_asked_by_other_rules(data: Path):
    published, kept = (open_questions(BENCHMARKS["realworldqa"], data / layout) for layout in ("parquet", "tsv"))
    assert kept.protocol == BENCHMARKS["realworldqa"].protocol != published.protocol
    assert "exact match" in published.protocol.name
