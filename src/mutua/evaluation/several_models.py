"""Several models on several sources."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mutua.data.sample import Sample
from mutua.evaluation.accuracy import MAX_NEW_TOKENS, Accuracy, evaluate, spread
from mutua.evaluation.blind import blind_overall


def measure(
    models: Mapping[str, tuple[Any, Any]],
    sources: Mapping[str, Sequence[Sample]],
    *,
    limit: int | None = None,
    batch_size: int = 64,
    max_new_tokens: int = MAX_NEW_TOKENS,
    progress: Callable[[str, str, int, int], None] | None = None,
) -> dict[str, dict[str, Accuracy]]:
    """The accuracy of every model on every source, by the name of the source, then of the model.

    Args:
        models: by name, with their processors.
        limit: questions per source, spread evenly over it; None asks all.
        max_new_tokens: of each answer.
        progress: called after every batch with (model, source, questions done, questions in all).

    Raises:
        ValueError: a source holds no samples, or one that cannot be read or has no answer; before the first question.
    """
    for source, samples in sources.items():
        expect_answers(source, samples, limit)
    results: dict[str, dict[str, Accuracy]] = {}
    for source, samples in sources.items():
        for name, (model, processor) in models.items():

            def show(done: int, total: int, name: str = name, source: str = source) -> None:
                if progress is not None:
                    progress(name, source, done, total)

            results.setdefault(source, {})[name] = evaluate(
                model,
                processor,
                samples,
                limit=limit,
                batch_size=batch_size,
                max_new_tokens=max_new_tokens,
                progress=show,
            )
    return results


def expect_answers(source: str, samples: Sequence[Sample], limit: int | None) -> None:
    """Reads what will be asked once, pictures too: the last line of a file is not found wrong after an hour."""
    if not len(samples):
        raise ValueError(f"{source} holds no samples: there is nothing to ask.")
    for index in spread(len(samples), limit):
        sample = samples[index]
        if sample.messages[-1].role != "assistant":
            raise ValueError(f"{source}: sample {sample.id!r} has no answer: its last message is from the user.")


def to_json(
    results: Mapping[str, Mapping[str, Accuracy]], blind: Mapping[str, Mapping[str, float] | None] | None = None
) -> dict[str, Any]:
    """Scores and every single answer, as plain JSON values; with `blind` (by source, then family), each score has the
    `blind_guess` of its questions beside it."""
    return {
        source: {
            model: {
                **_summary(accuracy, (blind or {}).get(source) or {}),
                "records": [vars(record) for record in accuracy.records],
            }
            for model, accuracy in by_model.items()
        }
        for source, by_model in results.items()
    }


def _summary(accuracy: Accuracy, blind: Mapping[str, float]) -> dict[str, Any]:
    summary = accuracy.summary()
    for family, score in summary["families"].items():
        if family in blind:
            score["blind_guess"] = blind[family]
    overall = blind_overall(blind, {family: score.total for family, score in accuracy.families.items()})
    if overall is not None:
        summary["overall"]["blind_guess"] = overall
    return summary
