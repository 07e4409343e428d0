"""A report says what the numbers say, names its files, and needs nothing but them."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO

import pytest
from PIL import Image
from study_results import QUESTIONS, blind, costs, looks, pairs, scores, whole_study, yes

from mutua.page import Strong
from mutua.study.model_sections import cost_section, look_section, yes_section
from mutua.study.plan import ORDERS, TWO_STAGES
from mutua.study.report import write_report
from mutua.study.results import NULL, CostRow, ScoreRow, write_rows
from mutua.study.sections import score_sections
from mutua.study.summary import (
    Arm,
    Questions,
    accuracies,
    blind_guesses,
    differences,
    image_first_of,
    relative_gains,
)

TASKS = {"grid": ("exists", "relation"), "pope": ("pope-random",)}
SMALL = {"backbones": ("llama",), "policies": ("causal", "mma"), "seeds": 3, "points": 2, "tasks": TASKS}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    whole_study(folder, ("depth", "order", NULL + "shuffled questions"), **SMALL)  # one of each kind
    write_report(folder)
    return folder


class Tags(HTMLParser):
    """What an HTML page opens and closes, and the sources it names."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.sources, self.seen = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_one_page_that_needs_no_other(study):
    text = (study / "report.html").read_text()
    page = Tags(text)
    assert page.open == []
    assert page.sources
    assert all(source.startswith("data:image/webp;base64,") for source in page.sources)
    assert "script" not in page.seen
    assert "an &lt;AVX2&gt; processor" in text
    for said in ("mutua study --quick", "2.13.0", "2026-01-01T10:00:00", "causal, mma, prefix, concentric"):
        assert said in text
    for source in ("scores.csv", "pairs.csv", "yes.csv", "cost.csv", "looks.csv"):
        assert f"From {source}" in text


def test_markdown_with_its_pictures_beside_it(study):
    text = (study / "report.md").read_text()
    pictures = re.findall(r"!\[.*?\]\((figures/[^)]*)\)", text)
    assert len(pictures) == len(set(pictures)) == 14
    for picture in pictures:
        with Image.open(study / picture) as image:
            assert image.width in (1080, 810)  # 9 inches of 120 pixels, and three quarters of them
    headings = re.findall(r"^## (.*)", text, re.M)
    assert headings == [
        "Differences",
        "Seed by seed, on the same questions",
        "Accuracy",
        "Learning curves",
        "Sweep: depth",
        "Block: order",
        "Block: order, under the same policy",
        "Null check: shuffled questions",
        "How often it says yes",
        "Cost",
        "What the model does",
    ]
    for table in re.findall(r"(?:^\|.*\n)+", text, re.M):
        assert len({re.sub(r"\\\|", "", line).count("|") for line in table.splitlines()}) == 1


def test_it_is_small(study):
    assert sum(path.stat().st_size for path in study.rglob("*") if path.is_file()) < 3_000_000
    assert not list(study.rglob("*.partial*"))


@pytest.mark.slow
def test_a_second_report_takes_the_place_of_the_first(tmp_path):
    write_rows(tmp_path, CostRow, costs())
    assert write_report(tmp_path) == tmp_path / "report.html"
    write_rows(tmp_path, CostRow, costs()[:4])
    write_report(tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert "llama" in text
    assert "phi3" not in text
    assert "study.json is not beside the results" in text


def test_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no results to report: none of scores\.csv, pairs\.csv"):
        write_report(tmp_path)
    write_rows(tmp_path, ScoreRow, [])
    with pytest.raises(ValueError, match="no results"):
        write_report(tmp_path)
    write_rows(tmp_path, CostRow, costs())
    for text, said in (("{", "is no JSON"), ("[]", "holds list")):
        (tmp_path / "study.json").write_text(text)
        with pytest.raises(ValueError, match=said):
            write_report(tmp_path)


def sentences(rows, paired=(), missing=None) -> str:
    return "\n".join(text for section in score_sections(rows, paired, missing or {}) for text in section.sentences)


def on_test(**settings) -> list[ScoreRow]:
    return [row for row in scores(**{**SMALL, "points": 1, **settings}) if row.split == "test"]


def exact(share: dict[str, list[int]], **changed) -> list[ScoreRow]:
    """One family; right answers of 100 by policy, then by seed."""
    row = replace(on_test()[0], family="exists", correct=0, total=100, **changed)
    return [
        replace(row, policy=policy, seed=seed, correct=correct)
        for policy, of_seeds in share.items()
        for seed, correct in enumerate(of_seeds)
    ]


def test_a_difference_is_said_and_none_is_not():
    seen = sentences(exact({"causal": [50, 52, 48, 50, 51], "mma": [60, 63, 57, 61, 60]}))
    assert (
        "grid: exists: mma against causal, in points over 5 seeds: right more often: llama +10.0 (+8.8 to +11.2)."
        in seen
    )
    assert "mean over 1 family: +19.9 % (+17.7 to +22.1) over 5 seeds, a gain." in seen
    turned = sentences(exact({"causal": [60, 63, 57, 61, 60], "mma": [50, 52, 48, 50, 51]}))
    assert "right less often: llama -10.0" in turned
    assert "a loss" in turned
    unclear = sentences(exact({"causal": [50, 52, 48, 50, 51], "mma": [40, 63, 57, 49, 55]}))
    assert "in points over 5 seeds: no difference seen: llama +2.6 (" in unclear
    assert "over 5 seeds, no difference seen" in unclear
    tie = sentences(exact({"causal": [50, 52], "mma": [50, 52]}))
    assert "in points over 2 seeds: tie: llama +0.0 (+0.0 to +0.0)." in tie


def test_one_seed_has_no_interval_unless_its_questions_are_paired():
    rows = exact({"causal": [50], "mma": [70]})
    assert "no interval: llama +20.0." in sentences(rows)
    assert "over 1 seed, which has no interval" in sentences(rows)
    assert "one seed, these two models: right more often: llama +20.0 (" in sentences(rows, pairs(rows))
    bold, tests = score_sections(rows, pairs(rows), {})[0].tables[1:]
    assert not any(isinstance(cell, Strong) for row in bold.rows for cell in row)
    assert "1 seed" not in {row[4] for row in tests.rows}, "over questions"


def test_a_baseline_of_nothing_has_no_relative_gain():
    said = sentences(exact({"causal": [0, 0], "mma": [9, 8]}))
    assert "No relative gain: grid: exists: the baseline scores 0 there" in said


def test_seeds_are_counted():
    rows = exact({"causal": [50, 50, 50], "mma": [90, 52, 20]})
    said = sentences(rows, pairs(rows))
    assert "mma: of 3 intervals over the questions of one seed and family, 1 lie above 0, 1 below, 1 hold 0." in said


def test_a_null_check_counts_what_is_seen():
    rows = exact({"causal": [50, 52, 48], "mma": [50, 51, 49]}, block=NULL + "shuffled questions")
    said = sentences(rows, pairs(rows))
    assert "Nothing can be gained here." in said
    assert "Of 1 intervals over all families and tasks, 0 leave out 0; by chance alone about 0.1 would." in said
    assert "mma: of 3 intervals over the questions of one seed and family, 0 lie above 0, 0 below, 3 hold 0." in said


def test_what_is_missing_is_said():
    rows = on_test(policies=("causal", "mma"))
    missing = {"main": ["mma-seed-3", "mma-seed-4", "causal-seed-3", "causal-seed-4"]}
    said = "Not whole: 4 models not measured (mma-seed-3, mma-seed-4, causal-seed-3, ...)."
    for section in score_sections(rows, [], missing):
        assert section.sentences[0] == said
    said = sentences(rows, missing={"depth": ["layers-1-mma-seed-0", "layers-1-causal-seed-0"]})
    assert "Not whole" not in said
    assert "Nothing measured yet: 2 models." in said


def test_what_learning_curves_say():
    rows = []
    for samples, causal, mma in ((100, 40, 50), (200, 50, 80), (300, 60, 90)):
        rows += exact(
            {"causal": [causal], "mma": [mma], "prefix": [55]}, split="validation", samples=samples, seconds=samples / 2
        )
    said = sentences(rows)
    share = "after 44 % of the samples and 44 % of the seconds that causal took."
    assert f"mma comes to causal's last accuracy in 1 of 1 curve, {share}" in said
    assert "prefix comes to causal's last accuracy in 0 of 1 curve." in said
    (table,) = score_sections(rows, [], {})[0].tables
    by_arm = {row[2]: row for row in table.rows}
    assert by_arm["mma"][-1] == "not by the end"
    assert by_arm["prefix"][-1] == "300 samples"
    untrained = exact({"causal": [40], "mma": [40]}, split="validation", samples=0, seconds=0.0)
    assert sentences(untrained) == ""


def test_only_the_same_questions_are_compared():
    rows = exact({"causal": [50, 50], "mma": [60, 60]})
    rows[-1] = replace(rows[-1], total=99)
    with pytest.raises(
        ValueError, match=r"scores\.csv: mma answered 99 questions of grid: exists and causal 100 \(seed 1"
    ):
        differences(rows)


def test_an_unfinished_study_is_reported_as_far_as_it_is():
    full = on_test(policies=("causal", "mma", "prefix"))
    partial = [row for row in full if row.policy != "prefix" or row.seed == 0]
    assert {one.arm.policy: one.estimate.count for one in differences(partial)} == {"mma": 3, "prefix": 1}
    assert "prefix against causal, in points over 1 seed: no interval" in sentences(partial)
    alone = [row for row in full if row.policy == "mma"]
    assert differences(alone) == relative_gains(alone) == []
    assert [section.heading for section in score_sections(alone, [], {})] == ["Accuracy"]


def test_orders_are_compared_by_policy_and_by_order():
    rows = [row for order in ORDERS for row in on_test(order=order, block="order", policies=("causal", "mma"))]
    assert {(one.arm, one.baseline) for one in differences(rows)} == {
        (Arm("mma", order), Arm("causal", order)) for order in ORDERS
    }
    in_two_stages = {"both>image-first", "image-first>both"}
    assert {(one.arm, one.baseline) for one in differences(rows, baseline_of=image_first_of)} == {
        (Arm(policy, order), Arm(policy, TWO_STAGES if order in in_two_stages else "image-first"))
        for order in ORDERS
        for policy in ("causal", "mma")
        if order not in ("image-first", TWO_STAGES)
    }
    by_policy, by_order = score_sections(rows, pairs(rows), {})
    assert "mma, both against causal, both" in "\n".join(by_policy.sentences)
    assert "mma, both then image-first against mma, image-first then image-first" in "\n".join(by_order.sentences)


def test_all_questions_of_a_task_are_all_its_families():
    rows = on_test(policies=("causal",), seeds=2)
    one = next(one for one in accuracies(rows) if one.questions == Questions("grid"))
    shares = [
        sum(row.correct for row in rows if row.task == "grid" and row.seed == seed) / (2 * QUESTIONS) for seed in (0, 1)
    ]
    assert one.estimate.value == pytest.approx(sum(shares) / 2)
    assert one.estimate.count == 2


def test_a_blind_guess_of_some_families_is_none_of_the_task():
    some = [row for row in blind() if row.family in ("relation", "pope-random")]
    guesses = blind_guesses([*on_test(), *some])
    assert (4, Questions("grid", "relation")) in guesses
    assert (4, Questions("grid")) not in guesses
    assert guesses[4, Questions("pope", "pope-random")] == 0.5


def test_the_gain_over_backbones_and_over_seeds():
    rows = [
        replace(row, backbone=backbone)
        for backbone, gain in (("a", 0), ("b", 10), ("c", 20))
        for row in exact({"causal": [50, 50], "mma": [49 + gain, 51 + gain]})
    ]
    gains = {
        (gain.place.backbone if gain.place else gain.estimate.unit): gain.estimate for gain in relative_gains(rows)
    }
    assert [round(gains[name].value, 6) for name in ("a", "b", "c", "seeds", "backbones")] == [0, 20, 40, 20, 20]
    assert gains["seeds"].high - 20 == pytest.approx(12.706 * 2, rel=1e-4), "a spread of 2 over two seeds"
    assert not gains["backbones"].excludes_zero, "it is not in every backbone"
    twice = [*rows, *(replace(row, connector="another", correct=50) for row in rows)]
    of_both = {gain.backbone: gain.estimate for gain in relative_gains(twice) if gain.place is None}
    assert {name: round(estimate.value, 6) for name, estimate in of_both.items() if name} == {"a": 0, "b": 10, "c": 20}
    (last,) = (gain.estimate for gain in relative_gains(twice) if gain.estimate.unit == "backbones")
    assert (round(last.value, 6), last.count) == (10, 3)


def test_the_gain_is_the_mean_over_families_however_many_a_task_has():
    rows = [
        replace(row, task=task, family=family)
        for task, family, gain in (("grid", "exists", 30), ("pope", "pope-random", 0), ("pope", "pope-popular", 0))
        for row in exact({"causal": [50, 50], "mma": [50 + gain, 50 + gain]})
    ]
    assert relative_gains(rows)[0].estimate.value == pytest.approx(20)


def test_what_models_do_in_numbers():
    cost = cost_section(costs()).tables[0]
    assert ("llama", "mma", "64.0 (1.04x)", "62.4 to 72.8", "832 (1.04x)", "0.25 (1.00x)", "5 seeds") in cost.rows
    alone = cost_section([row for row in costs() if row.policy == "mma"])
    assert not alone.pictures
    assert alone.tables[0].rows[0][2] == "64.0"
    assert "mma: of 1 intervals, 0 lie above the share where yes is right" in "\n".join(
        yes_section(yes([*on_test(seeds=2)])).sentences
    )
    whole = look_section([row for row in looks() if row.layer is None]).tables[0]
    assert whole.rows[1][:4] == ("llama, mlp", "mma", "0.5", "0.1")


def test_a_measure_that_is_the_same_everywhere_is_one_sentence() -> None:
    whole = [row for row in looks() if row.layer is None]
    same = [replace(row, measure="pointing, chance", value=0.0625) for row in whole]
    section = look_section([*whole, *same])
    assert "pointing, chance: 0.0625 in every model." in section.sentences
    assert len(section.tables) == len(look_section(whole).tables)


def test_pictures_have_few_colours(study):
    for path in (study / "figures").iterdir():
        with Image.open(BytesIO(path.read_bytes())) as image:
            assert image.mode == "P"


def test_odd_words_break_no_page(tmp_path):
    rows = [replace(row, backbone="a|b <b>*x*</b> $y$") for row in exact({"causal": [50, 51], "mma": [60, 62]})]
    write_rows(tmp_path, ScoreRow, rows)
    (tmp_path / "study.json").write_text(json.dumps({"command": "a | `b` <i>", "versions": {}, "plan": None}))
    write_report(tmp_path)
    assert Tags((tmp_path / "report.html").read_text()).open == []
    assert r"a\|b \<b\>\*x\*\</b\> \$y\$" in (tmp_path / "report.md").read_text()


def test_families_that_nobody_has_learned_are_named():
    def told(causal: list[int], guess: int) -> str:
        rows = exact({"causal": causal, "mma": [52, 55]})
        return sentences([*rows, replace(rows[0], policy="blind guess", correct=guess)])

    said = "grid: exists: no model is seen above the best guess without the picture, so differences say nothing there"
    assert f"{said}: llama (50.0 %)." in told([50, 54], 50)
    assert said not in told([70, 71], 50)
    assert said not in told([100, 100], 50), "all right in every seed: there is no interval"
    assert said not in told([50, 54], 30)


def test_curves_that_level_off_are_compared_where_they_came_there_first():
    rows = []
    for samples, causal, mma in ((100, 40, 60), (200, 60, 60), (1000, 60, 61)):
        rows += exact({"causal": [causal], "mma": [mma]}, split="validation", samples=samples, seconds=samples / 2)
    assert "in 1 of 1 curve, after 50 % of the samples and 50 % of the seconds that causal took." in sentences(rows)


def test_exact_ties_are_no_matter_of_chance():
    rows = exact({"causal": [50, 52], "mma": [50, 52], "prefix": [50, 55]})
    assert "Of 1 intervals over all families and tasks, 0 leave out 0" in sentences(rows)
    assert "Every difference is an exact tie, or has no interval." in sentences(rows[:4])
    assert "Aside from these: exact ties, or without an interval, 1." in sentences(rows)
