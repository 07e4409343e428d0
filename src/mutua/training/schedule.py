"""The learning rate of a step: a linear warm-up, then half a cosine down to a floor."""

from __future__ import annotations

import math


def learning_rate(step: int, *, peak: float, steps: int, warmup_steps: int, floor: float) -> float:
    """The rate for `step`, counted from 0.

    The last step of the warm-up and the step after it are at `peak`; the last step of the run is at `floor * peak`.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - 1 - warmup_steps)
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))
