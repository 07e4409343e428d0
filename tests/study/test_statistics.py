"""Statistics against published values, against plain counting, and by how often intervals hold the truth."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mutua.study.statistics import (
    Point,
    caught_up,
    mean_curve,
    paired_by_seed,
    reached,
    relative_gain,
    sign_flip_test,
)

numbers = st.floats(-1, 1).map(lambda value: round(value, 6))


def test_seeds_are_paired_by_name():
    assert paired_by_seed({2: 0.5, 0: 0.9, 7: 1.0}, {0: 0.4, 2: 0.6}) == pytest.approx([0.5, -0.1])
    with pytest.raises(ValueError, match=r"\[1\] and \[2\]"):
        paired_by_seed({1: 0.5}, {2: 0.5})


def test_the_sign_flip_test():
    assert sign_flip_test([1, 2, 3, 4, 5]) == 2 / 32
    assert sign_flip_test([0.3]) == 1
    assert sign_flip_test([0, 0, 0]) == 1
    assert sign_flip_test([0.1, 0.2, -0.3]) == 1
    assert sign_flip_test([0.1] * 30) == pytest.approx(2 / 2**30), "exact, where nobody lists all flips"
    # Darwin's maize, as Fisher had it (The Design of Experiments, section 21): 1,726 of 32,768 on either side.
    darwin = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
    assert sign_flip_test(darwin) == 1726 / 32768


@given(st.lists(numbers, min_size=1, max_size=8))
def test_the_sign_flip_test_is_the_plain_count(values):
    sums = [sum(s * v for s, v in zip(signs, values, strict=True)) for signs in product((1, -1), repeat=len(values))]
    plain = sum(abs(total) >= abs(sum(values)) - 1e-9 for total in sums) / len(sums)
    assert sign_flip_test(values) == plain


@pytest.mark.parametrize("count", [0, 41])
def test_the_sign_flip_test_refuses(count):
    with pytest.raises(ValueError, match=f"{count} differences"):
        sign_flip_test([0.1] * count)


def test_the_relative_gain():
    assert relative_gain({"a": 0.6, "b": 0.5}, {"a": 0.5, "b": 0.5}) == pytest.approx(10)
    assert relative_gain({"a": 60, "b": 40}, {"a": 50, "b": 50}) == pytest.approx(0)
    with pytest.raises(ValueError, match=r"\['a'\] and \['b'\]"):
        relative_gain({"a": 0.6}, {"b": 0.5})
    with pytest.raises(ValueError, match="b: the baseline scores 0"):
        relative_gain({"a": 0.6, "b": 0.1}, {"a": 0.5, "b": 0.0})


def curve(*accuracies: float, step: int = 100) -> list[Point]:
    return [Point(step * n, n, accuracy) for n, accuracy in enumerate(accuracies, 1)]


def test_where_a_curve_comes_to_an_accuracy():
    rising = curve(0.5, 0.6, 0.8)
    assert reached(rising, 0.5) == Point(100, 1, 0.5)
    assert reached(rising, 0.4) == Point(100, 1, 0.5), "before it was first measured"
    assert reached(rising, 0.7) == Point(pytest.approx(250), pytest.approx(2.5), 0.7)
    assert reached(rising, 0.9) is None
    assert reached([], 0.5) is None


def test_where_the_baseline_catches_up():
    ahead = curve(0.6, 0.8, 0.9, 0.9)
    assert caught_up(ahead, curve(0.5, 0.6, 0.895, 0.9)).samples == 300
    assert caught_up(ahead, curve(0.6, 0.6, 0.895, 0.8)) is None, "it falls behind again"
    assert caught_up(ahead, ahead).samples == 100, "never behind"
    assert caught_up(ahead, curve(0.5, 0.6, 0.7, 0.8), margin=0.15).samples == 400
    assert caught_up(ahead, curve(0.9, step=70)) is None, "never measured side by side"


def test_the_mean_curve_is_over_what_all_measured():
    mean = mean_curve([curve(0.5, 0.7, 0.9), curve(0.6, 0.8)])
    assert [point.samples for point in mean] == [100, 200]
    assert [point.accuracy for point in mean] == pytest.approx([0.55, 0.75])
    assert mean_curve([]) == []
