"""Transformers without its progress bars and reports, where the screen is ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging


def silence() -> None:
    """From here on Transformers reports errors only, and draws no bars."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()


@contextmanager
def quiet() -> Iterator[None]:
    """As `silence`, until the block ends."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    silence()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
