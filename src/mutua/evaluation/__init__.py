"""Evaluation: what a model answers, how often it is right, and how that looks side by side."""

from mutua.evaluation.accuracy import Accuracy, Record, Score, evaluate
from mutua.evaluation.comparison import measure, to_json
from mutua.evaluation.held_out import HELD_OUT, OF_THE_PACKAGED_MODEL, blind_guess, open_source
from mutua.evaluation.report import figure, table

__all__ = [
    "HELD_OUT",
    "OF_THE_PACKAGED_MODEL",
    "Accuracy",
    "Record",
    "Score",
    "blind_guess",
    "evaluate",
    "figure",
    "measure",
    "open_source",
    "table",
    "to_json",
]
