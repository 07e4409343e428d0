"""Where drawings begin: matplotlib, which is an extra, without a display and without global state."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def blank_figure(width: float, height: float, *, dpi: int = 150) -> Figure:
    """A figure of so many inches, to draw in and save. ImportError, with the remedy, where matplotlib is missing."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('figures need matplotlib: pip install "mutua[train]"') from error
    # Figure and canvas by hand: pyplot would keep global state and look for a display.
    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    return figure
