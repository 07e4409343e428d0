"""Intervals against published values, and by how often they hold the truth."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mutua.evaluation.accuracy import Score
from mutua.evaluation.intervals import mean_over, paired_proportions, student_t_quantile

cells = st.tuples(*[st.integers(0, 200)] * 4).filter(any)


@pytest.mark.parametrize(
    ("degrees", "value"),  # the tables of every textbook
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (9, 2.2622), (29, 2.0452), (120, 1.9799)],
)
def test_students_quantile(degrees, value):
    assert student_t_quantile(0.975, degrees) == pytest.approx(value, abs=6e-5)
    assert student_t_quantile(0.025, degrees) == pytest.approx(-value, abs=6e-5)
    assert student_t_quantile(0.5, degrees) == pytest.approx(0, abs=1e-12)


def test_students_quantile_where_it_has_a_formula():
    for p in (0.6, 0.9, 0.99, 0.9995):
        assert student_t_quantile(p, 1) == pytest.approx(math.tan(math.pi * (p - 0.5)))
        assert student_t_quantile(p, 2) == pytest.approx((2 * p - 1) * math.sqrt(2 / (4 * p * (1 - p))))


@pytest.mark.parametrize(("probability", "degrees"), [(0, 3), (1, 3), (math.nan, 3), (0.9, 0)])
def test_students_quantile_refuses(probability, degrees):
    with pytest.raises(ValueError, match=r"must lie between|degrees of freedom"):
        student_t_quantile(probability, degrees)


def test_the_mean_over_seeds():
    found = mean_over([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found.value == 3
    assert found.high - 3 == pytest.approx(2.776445 * math.sqrt(2.5 / 5))
    assert 3 - found.low == pytest.approx(found.high - 3)
    assert (found.count, found.unit, found.excludes_zero) == (5, "seeds", True)
    assert not mean_over([0.1, 0.2]).excludes_zero, "two seeds say little"


def test_one_seed_has_no_interval():
    found = mean_over([0.3])
    assert (found.value, found.low, found.high) == (0.3, -math.inf, math.inf)
    assert not found.is_bounded
    assert not found.excludes_zero


@pytest.mark.parametrize("values", [[], [0.1, math.nan], [math.inf]])
def test_a_mean_of_nothing(values):
    with pytest.raises(ValueError, match="needs at least one"):
        mean_over(values)


def test_students_interval_holds_the_truth_as_often_as_it_says():
    chance = np.random.default_rng(0)
    held = [mean_over(list(chance.normal(0.3, 2, 5))) for _ in range(2_000)]
    assert np.mean([found.low <= 0.3 <= found.high for found in held]) == pytest.approx(0.95, abs=0.015)


def test_paired_proportions_as_published():
    # Fagerland, Lydersen and Laake, Statistics in Medicine 33 (2014), 2850-2875: airway hyper-responsiveness before and
    # after a transplantation, 1, 1, 7, 12; their Newcombe interval is -0.507 to -0.026.
    found = paired_proportions(1, 1, 7, 12)
    assert found.value == pytest.approx(-6 / 21)
    assert (found.low, found.high) == (pytest.approx(-0.507, abs=5e-4), pytest.approx(-0.026, abs=5e-4))
    assert (found.count, found.unit) == (21, "questions")


@given(cells)
def test_paired_proportions_hold_together(counts):
    both, one, other, neither = counts
    found, turned = paired_proportions(both, one, other, neither), paired_proportions(both, other, one, neither)
    assert -1 <= found.low <= found.value <= found.high <= 1
    assert (turned.low, turned.high) == (pytest.approx(-found.high), pytest.approx(-found.low))
    ours, theirs = Score(both + one, sum(counts)), Score(both + other, sum(counts))
    assert found.value == pytest.approx(ours.accuracy - theirs.accuracy)
    assert found.low < found.high


@pytest.mark.parametrize("shares", [(0.5, 0.2, 0.1, 0.2), (0.9, 0.05, 0.01, 0.04), (0.3, 0.1, 0.1, 0.5)])
def test_the_paired_interval_holds_the_truth_as_often_as_it_says(shares):
    drawn = np.random.default_rng(1).multinomial(300, shares, size=2_000)
    found = [paired_proportions(*map(int, counts)) for counts in drawn]
    held = np.mean([one.low <= shares[1] - shares[2] <= one.high for one in found])
    assert 0.94 <= held <= 0.975


def test_answers_that_go_together_narrow_the_interval():
    together, apart = paired_proportions(60, 10, 5, 25), paired_proportions(45, 25, 20, 10)
    assert together.value == apart.value
    assert together.high - together.low < 0.7 * (apart.high - apart.low)


@pytest.mark.parametrize("counts", [(0, 0, 0, 0), (3, -1, 2, 2)])
def test_paired_proportions_refuse(counts):
    with pytest.raises(ValueError, match="none may be negative"):
        paired_proportions(*counts)
