"""Evaluation: what a model answers, how often it is right, and how that looks side by side."""

from mutua.evaluation.accuracy import Accuracy
from mutua.evaluation.held_out import OF_THE_PACKAGED_MODEL, blind_guess, open_source
from mutua.evaluation.several_models import measure, to_json

__all__ = ["OF_THE_PACKAGED_MODEL", "Accuracy", "blind_guess", "measure", "open_source", "to_json"]
