"""Figures that VLMEvalKit does not give, and what cannot be counted: see test_harness_cases for the rest."""

from __future__ import annotations

import math

import pytest

from mutua.evaluation.accuracy import Score
from mutua.evaluation.aggregation import circular, cv_bench, mme, pope, yes_no_score


def test_a_reply_that_is_read_as_neither_is_counted_apart():
    score = yes_no_score([("Yes", "Yes"), ("Yes", None), ("No", None), ("No", "No")])
    assert (score.right, score.unread) == (Score(2, 4), 2)
    assert (score.precision, score.recall, score.yes_rate) == (1.0, 0.5, 0.25)


def test_a_model_that_always_says_yes_is_seen():
    overall, categories = pope([("random", "Yes", "Yes"), ("random,popular", "No", "Yes")])
    assert overall.yes_rate == 1
    assert {name: score.right for name, score in categories.items()} == {"random": Score(1, 2), "popular": Score(0, 1)}


def test_where_nothing_was_asked_or_said_no_share_is_made_up():
    score = yes_no_score([])
    assert math.isnan(score.accuracy)
    assert (score.precision, score.recall, score.f1, score.yes_rate) == (0, 0, 0, 0)


def test_both_questions_of_an_image_of_mme_must_be_there():
    score = mme(
        [("count", "1.jpg", True), ("count", "1.jpg", False), ("count", "2.jpg", True), ("count", "2.jpg", True)]
    )
    assert score.perception == 100 * (3 / 4 + 1 / 2)
    assert math.isnan(score.cognition), "it was not asked: that is no 0"
    with pytest.raises(ValueError, match=r"1 came for '1.jpg' in count"):
        mme([("count", "1.jpg", True)])
    with pytest.raises(ValueError, match="no category 'Count'"):
        mme([("Count", "1.jpg", True)])


def test_a_question_of_mmbench_is_open_while_a_rotation_is_and_none_is_wrong():
    verdicts = {7: True, 1_000_007: None, 8: None, 1_000_008: False, 9: True, 1_000_009: True}
    assert circular(verdicts) == {7: None, 8: False, 9: True}
    with pytest.raises(ValueError, match="question 7 came with its options rotated, but not as they stand"):
        circular({1_000_007: True})


def test_cv_benchs_2d_is_a_mean_of_sources():
    score = cv_bench([("ADE20K", True), ("COCO", True), ("COCO", False), ("COCO", False), ("COCO", False)])
    assert score.two_d == (1 + 1 / 4) / 2
    assert math.isnan(score.three_d)
    with pytest.raises(ValueError, match="no source 'coco'"):
        cv_bench([("coco", True)])


def test_an_answer_that_is_neither_yes_nor_no_is_refused():
    with pytest.raises(ValueError, match="is 'yes': it must be"):
        yes_no_score([("yes", "Yes")])
