import math

import pytest

from mutua.training.schedule import learning_rate


def rate(step: int, warmup: int = 10) -> float:
    return learning_rate(step, peak=2.0, steps=111, warmup_steps=warmup, floor=0.1)


def test_warm_up_is_linear_and_ends_at_the_peak() -> None:
    assert [rate(step) for step in range(3)] == pytest.approx([0.2, 0.4, 0.6])
    assert rate(9) == rate(10) == 2.0


def test_cosine_goes_through_the_middle_to_the_floor() -> None:
    assert rate(60) == pytest.approx(2.0 * (0.1 + 0.9 / 2))
    assert rate(85) == pytest.approx(2.0 * (0.1 + 0.9 * 0.5 * (1 + math.cos(0.75 * math.pi))))
    assert rate(110) == pytest.approx(0.2)


def test_it_never_rises_after_the_warm_up() -> None:
    rates = [rate(step, warmup=0) for step in range(111)]
    assert rates[0] == 2.0
    assert rates == sorted(rates, reverse=True)


def test_a_run_of_one_step() -> None:
    assert learning_rate(0, peak=1.0, steps=1, warmup_steps=0, floor=0.1) == 1.0
