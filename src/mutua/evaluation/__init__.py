"""Evaluation: what a model answers, how often it is right, and how that looks side by side."""

from mutua.evaluation.accuracy import Accuracy, Record, Score, evaluate
from mutua.evaluation.report import figure, table

__all__ = ["Accuracy", "Record", "Score", "evaluate", "figure", "table"]
