"""Several models on several sources."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mutua.data.sample import Sample
from mutua.evaluation.accuracy import Accuracy, evaluate
from mutua.models import MutuaForConditionalGeneration, MutuaProcessor


def measure(
    models: Mapping[str, tuple[MutuaForConditionalGeneration, MutuaProcessor]],
    sources: Mapping[str, Sequence[Sample]],
    *,
    limit: int | None = None,
    batch_size: int = 64,
    progress: Callable[[str, str, int, int], None] | None = None,
) -> dict[str, dict[str, Accuracy]]:
    """The accuracy of every model on every source, by the name of the source, then of the model.

    Args:
        limit: questions per source, spread evenly over it; None asks all.
        progress: called after every batch with (model, source, questions done, questions in all).

    Raises:
        ValueError: a source holds no samples, or one without an answer.
    """
    results: dict[str, dict[str, Accuracy]] = {}
    for source, samples in sources.items():
        for name, (model, processor) in models.items():

            def show(done: int, total: int, name: str = name, source: str = source) -> None:
                if progress is not None:
                    progress(name, source, done, total)

            results.setdefault(source, {})[name] = evaluate(
                model, processor, samples, limit=limit, batch_size=batch_size, progress=show
            )
    return results


def to_json(results: Mapping[str, Mapping[str, Accuracy]]) -> dict[str, Any]:
    """Scores and every single answer, as plain JSON values."""
    return {
        source: {
            model: {**accuracy.summary(), "records": [vars(record) for record in accuracy.records]}
            for model, accuracy in by_model.items()
        }
        for source, by_model in results.items()
    }
