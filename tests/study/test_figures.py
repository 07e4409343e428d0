"""Figures show what was measured, in colours that stay, with every word inside the picture."""

import pytest
from matplotlib.colors import to_hex
from matplotlib.container import ErrorbarContainer
from matplotlib.text import Text
from study_results import blind, costs, looks, pairs, scores, yes

from mutua.attention import POLICIES
from mutua.evaluation.accuracy import Accuracy, Record, Score
from mutua.evaluation.intervals import Estimate
from mutua.evaluation.paired import paired_rows
from mutua.figures import blank_figure
from mutua.study.comparison import comparison_figure
from mutua.study.curves import curves_figure, draw_curves, family_curves_figure, sweep_figure, thousands
from mutua.study.figures import (
    accuracy_figure,
    cost_figure,
    forest_figure,
    heads_figure,
    layers_figure,
    seeds_figure,
    yes_figure,
)
from mutua.study.statistics import Point
from mutua.study.style import colour, line_style, percent, reach
from mutua.study.summary import (
    Arm,
    Questions,
    accuracies,
    blind_guesses,
    differences,
    over_seeds,
    right_yes_rates,
    yes_rates,
)

TASKS = {"grid": ("exists", "relation"), "pope": ("pope-adversarial",)}
SMALL = {"backbones": ("llama",), "policies": ("causal", "mma"), "seeds": 2, "tasks": TASKS}
ROWS = scores(**SMALL)
TESTED = [row for row in ROWS if row.split == "test"]
VALIDATED = [row for row in ROWS if row.split == "validation"]


def assert_nothing_is_cut(figure) -> None:
    figure.canvas.draw()
    width, height = figure.canvas.get_width_height()
    for text in figure.findobj(Text):
        if text.get_text() and text.get_visible() and (text.axes is None or text.axes.axison):
            box = text.get_window_extent()
            inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1
            # Ticks beyond the limits of an axis have a label too, which is not drawn.
            assert inside or text in ticks_out_of_sight(figure), f"{text.get_text()!r} at {box}"


def ticks_out_of_sight(figure) -> set[Text]:
    out = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            out |= {tick.label1 for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high}
    return out


def drawn(figure, arm: Arm) -> list[tuple[float, float, float]]:
    """(low, value, high) of every dot of an arm that lies along x."""
    out = []
    for axes in figure.axes:
        for container in axes.containers:
            line, _, bars = container
            if isinstance(container, ErrorbarContainer) and to_hex(line.get_color()) == colour(arm):
                for (left, right), value in zip(bars[0].get_segments(), line.get_xdata(), strict=True):
                    out.append((float(left[0]), float(value), float(right[0])))
    return out


def test_every_policy_has_its_own_colour_and_marker():
    arms = [Arm(policy) for policy in POLICIES]
    assert len({colour(arm) for arm in arms}) == len(arms)
    assert len({line_style(arm)["marker"] for arm in arms}) == len(arms)
    assert colour(Arm("mma", "both")) == colour(Arm("mma"))
    assert line_style(Arm("mma", "both"))["fillstyle"] != line_style(Arm("mma"))["fillstyle"]


def test_accuracy_by_family():
    measured = accuracies(TESTED)
    figure = accuracy_figure(measured, blind_guesses([*TESTED, *blind()]))
    assert_nothing_is_cut(figure)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["grid: exists", "grid: relation", "grid: all", "pope-adversarial"]
    expected = [one.estimate for one in measured if one.arm == Arm("mma")]
    for (low, value, high), estimate in zip(drawn(figure, Arm("mma")), expected, strict=True):
        assert (low, value, high) == pytest.approx((100 * estimate.low, 100 * estimate.value, 100 * estimate.high))
    assert "blind guess" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_differences():
    found = differences(TESTED)
    figure = forest_figure(found)
    assert_nothing_is_cut(figure)
    assert len(drawn(figure, Arm("mma"))) == len(found) == 4
    assert drawn(figure, Arm("causal")) == []


def test_one_seed_alone_has_its_interval_over_questions():
    one_seed = [row for row in TESTED if row.seed == 0]
    (found, *_), (bare, *_) = differences(one_seed, pairs(TESTED)), differences(one_seed)
    assert found.estimate.unit == "questions"
    assert found.estimate.is_bounded
    assert not bare.estimate.is_bounded
    assert found.estimate.value == pytest.approx(bare.estimate.value)
    forest_figure(differences(one_seed)).canvas.draw()


def test_every_seed_has_its_dot():
    arm = Arm("mma")
    place = differences(TESTED)[0].place
    seen, unseen = Estimate(0.1, 0.05, 0.15, 400, "questions"), Estimate(0.01, -0.03, 0.05, 400, "questions")
    figure = seeds_figure([(place, Questions("grid"), 0, seen), (place, Questions("grid"), 1, unseen)], arm)
    assert_nothing_is_cut(figure)
    assert sorted(drawn(figure, arm)) == [pytest.approx((-3, 1, 5)), pytest.approx((5, 10, 15))]
    assert [container[0].get_markerfacecolor() for container in figure.axes[0].containers] == [colour(arm), "white"]


def test_no_accuracy_lies_beyond_all_or_nothing():
    found = over_seeds({0: Score(90, 100), 1: Score(100, 100)})
    assert (found.high, found.value) == (1, pytest.approx(0.95))
    assert over_seeds({0: Score(0, 9), 1: Score(2, 9)}).low == 0


def test_learning_curves():
    for by_time, label in ((False, "samples"), (True, "seconds of training")):
        figure = curves_figure(VALIDATED, by_time=by_time)
        assert_nothing_is_cut(figure)
        assert [axes.get_xlabel() for axes in figure.axes] == [label] * 2
    assert_nothing_is_cut(family_curves_figure(VALIDATED))


def test_a_curve_is_the_mean_and_its_band_the_seeds():
    axes = blank_figure(3, 3).subplots()
    draw_curves(axes, {Arm("mma"): [[Point(1, 5, 0.4), Point(2, 9, 0.6)], [Point(1, 7, 0.6), Point(2, 11, 0.8)]]})
    (line,), (band,) = axes.lines, axes.collections
    assert list(line.get_xdata()) == [1, 2]
    assert list(line.get_ydata()) == pytest.approx([50, 70])
    assert sorted({round(float(y)) for _, y in band.get_paths()[0].vertices}) == [40, 60, 80]
    draw_curves(axes, {Arm("mma"): [[Point(1, 5, 0.4)], [Point(1, 7, 0.6)]]}, by_time=True)
    assert list(axes.lines[1].get_xdata()) == [6]


@pytest.mark.parametrize(("block", "name", "steps"), [("depth", "layers", (1, 3)), ("image tokens", "side", (2, 4))])
def test_sweeps(block, name, steps):
    rows = [row for step in steps for row in scores(block, points=1, **SMALL, **{name: step}) if row.split == "test"]
    figure = sweep_figure(rows, pairs(rows))
    assert_nothing_is_cut(figure)
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == list(map(str, steps))


def test_cost_is_relative_to_causal():
    figure = cost_figure(costs()[:4])
    assert_nothing_is_cut(figure)
    ratios = [text.get_text() for text in figure.axes[0].texts]
    assert ratios == ["1.00", "1.04", "1.09", "1.20"]
    with pytest.raises(ValueError, match="no arm is causal"):
        cost_figure([row for row in costs() if row.policy != "causal"])


def test_how_often_it_says_yes():
    rows = yes(TESTED)
    figure = yes_figure(yes_rates(rows), right_yes_rates(rows))
    assert_nothing_is_cut(figure)
    low, high = figure.axes[0].get_xlim()
    assert low < 45 < 50 < high
    assert high - low >= 20, "a point is no gulf"


def test_what_it_looks_at():
    heads = [row for row in looks() if row.head is not None and row.backbone == "llama"]
    figure = heads_figure(heads)
    assert_nothing_is_cut(figure)
    assert [axes.get_title(loc="left") for axes in figure.axes[:3]] == ["causal", "mma", "prefix"]
    shown = figure.axes[1].images[0].get_array()
    there = [row.value for row in heads if (row.policy, row.layer, row.head) == ("mma", 2, 1)]
    assert shown[2][1] == pytest.approx(sum(there) / len(there))
    by_layer = [row for row in looks() if row.head is None and row.layer is not None]
    assert_nothing_is_cut(layers_figure([row for row in by_layer if row.backbone == "llama"]))


def test_long_and_odd_names_are_drawn_as_they_are():
    names = ("a backbone with rather a long name, 135M", "$x_{")
    rows = [row for row in scores(**{**SMALL, "backbones": names}, points=1) if row.split == "test"]
    for figure in (accuracy_figure(accuracies(rows)), forest_figure(differences(rows))):
        assert_nothing_is_cut(figure)


def test_one_very_wide_interval_does_not_hide_the_others():
    narrow, wide = Estimate(0.02, 0.01, 0.03, 5), Estimate(0.03, -0.6, 0.66, 2)
    assert reach([narrow])[1] < 4
    assert reach([narrow, wide])[1] < 20
    assert reach([Estimate(0.1, -float("inf"), float("inf"), 1)])[1] < 20


def test_ticks_are_short_and_say_where_they_are():
    axes = blank_figure(3, 3).subplots()
    percent(axes.yaxis)
    assert [axes.yaxis.get_major_formatter()(value, 0) for value in (72.5, 75, 77.5)] == ["72.5 %", "75 %", "77.5 %"]
    assert [thousands(value) for value in (0, 500, 2_500, 1_000_000)] == ["0", "500", "2.5k", "1M"]


def test_the_comparison_of_two_models():
    def model(right: int) -> Accuracy:
        return Accuracy(
            tuple(Record(f"{i}", f"family {i % 2}", "?", "yes", "yes" if i < right else "no") for i in range(80))
        )

    rows = paired_rows(model(70), model(40))
    curve = [Point(100 * n, n, 0.1 * n) for n in range(1, 6)]
    figure = comparison_figure(
        {"mma": curve, "causal": curve},
        {"just trained: grid": rows, "packaged: scenes": paired_rows(model(50), model(50))},
        policy="mma",
        baseline="causal",
    )
    assert_nothing_is_cut(figure)
    left, right = figure.axes
    assert {to_hex(line.get_color()) for line in left.lines} == {colour(Arm("mma")), colour(Arm("causal"))}
    labels = [label.get_text() for label in right.get_yticklabels()]
    families = ["family 0", "family 1", "overall"]
    assert labels == ["just trained: grid", *families, "packaged: scenes", *families]
    fillings = [container[0].get_markerfacecolor() for container in right.containers]
    assert fillings == [colour(Arm("mma"))] * 3 + ["white"] * 3
