"""What the rules say on the plainest replies, and on those where scorers disagree; test_harness_cases has more."""

from __future__ import annotations

import pytest

from mutua.evaluation.extraction import NO_OPTION, free_form, open_question, option, strict_letter, yes_no

PETS = {"A": "cat", "B": "dog"}


@pytest.mark.parametrize(
    ("reply", "read"),
    [
        ("Yes.", "Yes"),
        ("No, there is none", "No"),
        ("**YES**", None),  # VLMEvalKit leaves asterisks on the word
        ("yes and no", None),
        ("", None),
        ("yesterday", None),
        ("x. " * 31 + "yes.", "Yes"),
        ("x. " * 32 + "yes.", None),  # and removes 32 full stops
    ],
)
def test_yes_no(reply, read):
    assert yes_no(reply) == read


@pytest.mark.parametrize(
    ("reply", "read"),
    [
        ("(A)", "A"),
        ("The answer is A", "A"),
        ("It is a cat", "A"),
        ("A dog.", "A"),  # an article counts as the letter
        ("a dog.", "B"),
        ("A or B", None),
        ("cat or dog", None),
        ("a bird", None),
        ("Z", NO_OPTION),
        ("I can't process this file.", NO_OPTION),
    ],
)
def test_option(reply, read):
    assert option(reply, PETS) == read


def test_an_open_question_of_mmmu_is_a_choice_between_its_answer_and_any_other():
    assert option("It is 8.", open_question("8")) == "A"
    assert option("It is 9.", open_question("8")) is None


@pytest.mark.parametrize(("reply", "right"), [("A", True), ("(A)", False), ("A.", False), ("a", False), (" A", False)])
def test_the_papers_rule_takes_the_letter_and_nothing_else(reply, right):
    assert strict_letter(reply, "A") is right


def test_numbers_are_compared_as_numbers():
    assert free_form(" 14 ", "14", "integer")
    assert not free_form("14.0", "14", "integer")
    assert free_form("1.450", "1.45", "float")
    assert free_form("[1, 2]", "[1, 2]", "list")
    with pytest.raises(ValueError, match="no answer_type 'number'"):
        free_form("1", "1", "number")  # type: ignore[arg-type]
