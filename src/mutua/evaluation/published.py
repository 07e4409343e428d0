"""What the paper reports for its models, to be read beside a score of the same protocol.

From the README of https://github.com/sony/aki: Tables 1 and 2 of arXiv 2503.02597v2. The edition of ICML 2026 (v3) has
further backbones and may differ. AKI-4B is the released model; the others share data, steps and parameters.
"""

from __future__ import annotations

from collections.abc import Mapping

_FIGURES = (
    *(
        "MME perception",
        "MME cognition",
        "MMBench dev en accuracy",
        "SEED-Bench image accuracy",
        "LLaVA-Bench in the wild overall",
    ),
    *("MMMU val accuracy", "MathVista mini accuracy", "POPE F1", "MM-Vet overall", "RealWorldQA accuracy"),
    *("CV-Bench 2D", "CV-Bench 3D"),
)
_ROWS = {
    "AKI-4B": (1491.9, 362.9, 73.1, 69.4, 74.6, 38.7, 32.1, 86.9, 40.8, 58.9, 62.1, 71.8),
    "MMA": (1363.7, 315.4, 71.8, 67.1, 59.6, 37.3, 26.4, 82.7, 30.2, 52.3, 57.8, 64.1),
    "causal": (1226.3, 258.2, 64.9, 64.1, 47.0, 31.1, 24.2, 79.8, 24.3, 50.6, 45.2, 54.3),
    "dual-order": (1267.8, 251.4, 43.8, 54.7, 47.5, 30.7, 25.6, 82.7, 25.0, 50.5, 52.2, 58.1),
    "CCA": (1212.7, 243.6, 67.4, 65.3, 54.0, 34.6, 25.6, 81.9, 29.0, 52.7, 56.0, 62.8),
}

MODELS = tuple(_ROWS)
"""AKI-4B, and of the comparison under equal conditions: MMA, image and text as they come (causal), both orders, and
concentric causal attention."""

PUBLISHED: Mapping[str, Mapping[str, float]] = {
    figure: {model: row[place] for model, row in _ROWS.items()} for place, figure in enumerate(_FIGURES)
}
"""By figure as the report names it, then by model."""
