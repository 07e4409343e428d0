"""What unlocking does to a model that nobody has trained for it: the same samples locked and unlocked, no training.

Two measures, paired by sample: the loss on the replies that the data holds, and the model's own greedy answers.

Shape suffixes: B batch, T supervised tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mutua.data.bulk import read_samples
from mutua.data.collate import IGNORE, encode, named
from mutua.data.sample import Sample, SampleError
from mutua.evaluation.accuracy import MAX_NEW_TOKENS, Accuracy, Record, evaluate, spread
from mutua.evaluation.intervals import Estimate, mean_over
from mutua.evaluation.paired import PairedRow, paired_rows
from mutua.evaluation.several_models import expect_answers
from mutua.evaluation.words import counted, points, verdict
from mutua.respond import to_model
from mutua.unlocking import expect_unlocked, lock, reply_logits, saved_policy, unlock

LOCKED, UNLOCKED = "locked", "unlocked"
BATCH = 8  # samples: of a batch the logits of all replies are held


@dataclass(frozen=True)
class ReplyLoss:
    """Of one sample: its supervised tokens, and the mean loss over them, in nats, locked and unlocked."""

    id: str
    tokens: int
    locked: float
    unlocked: float


@dataclass(frozen=True)
class Calibration:
    """A model, locked and unlocked, on the same samples.

    Attributes:
        policy: that it was unlocked under.
        was_unlocked: it was saved under this policy, and may have been trained so.
        losses, locked, unlocked: in the order of the samples.
    """

    policy: str
    was_unlocked: bool
    losses: tuple[ReplyLoss, ...]
    locked: Accuracy
    unlocked: Accuracy

    @property
    def tokens(self) -> int:
        """Supervised tokens of all samples."""
        return sum(loss.tokens for loss in self.losses)

    @property
    def locked_loss(self) -> float:
        """Mean over supervised tokens, in nats."""
        return math.fsum(loss.locked * loss.tokens for loss in self.losses) / self.tokens

    @property
    def unlocked_loss(self) -> float:
        return math.fsum(loss.unlocked * loss.tokens for loss in self.losses) / self.tokens

    @property
    def loss_difference(self) -> Estimate:
        """Unlocked - locked, the mean over samples of their mean losses, with Student's interval.

        It speaks of other samples of the same kind; each counts the same, however long its reply is.
        """
        return mean_over([loss.unlocked - loss.locked for loss in self.losses], "samples")

    @property
    def accuracies(self) -> list[PairedRow]:
        """Unlocked against locked: a row a family, then all samples."""
        return paired_rows(self.unlocked, self.locked)

    @property
    def changed(self) -> list[tuple[Record, Record]]:
        """The answers that differ, (locked, unlocked)."""
        pairs = zip(self.locked.records, self.unlocked.records, strict=True)
        return [(before, after) for before, after in pairs if before.answer != after.answer]

    @property
    def said(self) -> str:
        """What was seen, in a sentence."""
        loss, right = self.loss_difference, self.accuracies[-1].difference
        told = f"loss on the replies {nats(loss)} nats a token, answers right {points(right)} points"
        of = counted(len(self.losses), "samples")
        if not loss.is_bounded:
            return f"One sample says nothing of others: {told}. Give more."
        # A rising loss is as bad as a falling accuracy.
        seen = {
            {"more": "worse", "less": "better"}.get(verdict(loss)),
            {"more": "better", "less": "worse"}.get(verdict(right)),
        }
        seen.discard(None)
        if not seen:
            is_same = not self.changed and all(one.locked == one.unlocked for one in self.losses)
            return f"Unlocked, it is the same on {of}." if is_same else f"No difference seen on {of}: {told}."
        how = seen.pop() if len(seen) == 1 else "better in one way and worse in the other"
        state = "Unlocked, as it was saved" if self.was_unlocked else "Unlocked untrained"
        return f"{state}, it is {how} on {of}: {told}."

    def to_json(self) -> dict[str, Any]:
        """All figures and every sample, as plain JSON values; what has no bound is null."""
        records = [
            {
                "id": before.id,
                "family": before.family,
                "question": before.question,
                "expected": before.expected,
                "answers": {LOCKED: before.answer, UNLOCKED: after.answer},
                "tokens": loss.tokens,
                "loss": {LOCKED: loss.locked, UNLOCKED: loss.unlocked},
            }
            for loss, before, after in zip(self.losses, self.locked.records, self.unlocked.records, strict=True)
        ]
        return {
            "policy": self.policy,
            "samples": len(records),
            "tokens": self.tokens,
            "loss": {
                LOCKED: self.locked_loss,
                UNLOCKED: self.unlocked_loss,
                "difference": _plain(self.loss_difference),
            },
            "accuracy": {
                row.family: {
                    LOCKED: row.baseline.summary(),
                    UNLOCKED: row.policy.summary(),
                    "difference": _plain(row.difference),
                }
                for row in self.accuracies
            },
            "changed": len(self.changed),
            "said": self.said,
            "records": records,
        }


def calibrate(
    model: Any,
    processor: Any,
    samples: Sequence[Sample],
    policy: str = "mma",
    *,
    limit: int | None = None,
    batch_size: int = BATCH,
    max_new_tokens: int = MAX_NEW_TOKENS,
    progress: Callable[[str, int, int], None] | None = None,
) -> Calibration:
    """Measures a model of others locked, then unlocked under the policy; it is left locked.

    Args:
        samples: each ends with an assistant message, the expected answer; the loss is over all of its replies.
        limit: how many samples to take, spread evenly; None takes all.
        progress: called after every batch with (what is measured, samples done, samples in all).

    Raises:
        ValueError: the model cannot be unlocked, a sample has no answer or cannot be encoded, there are no samples, or
            a loss is not finite.
    """
    expect_answers("the data", samples, limit)
    was_unlocked = saved_policy(model.config) == policy
    expect_unlocked(unlock(model, processor, policy))
    indices = spread(len(samples), limit)
    losses: dict[str, list[tuple[int, float]]] = {}
    answers: dict[str, Accuracy] = {}

    def shown(what: str) -> Callable[[int, int], None] | None:
        return None if progress is None else lambda done, total: progress(what, done, total)

    try:
        for state in (UNLOCKED, LOCKED):
            if state == LOCKED:
                lock(model)
            losses[state] = _losses(model, processor, samples, indices, batch_size, shown(f"{state}: loss"))
            answers[state] = evaluate(
                model,
                processor,
                samples,
                limit=limit,
                batch_size=batch_size,
                max_new_tokens=max_new_tokens,
                progress=shown(f"{state}: answers"),
            )
    finally:
        lock(model)
    paired = [
        ReplyLoss(record.id, tokens, before, after)
        for record, (tokens, before), (_, after) in zip(
            answers[LOCKED].records, losses[LOCKED], losses[UNLOCKED], strict=True
        )
    ]
    return Calibration(policy, was_unlocked, tuple(paired), answers[LOCKED], answers[UNLOCKED])


@torch.no_grad()
def _losses(
    model: Any,
    processor: Any,
    samples: Sequence[Sample],
    indices: Sequence[int],
    batch_size: int,
    progress: Callable[[int, int], None] | None,
) -> list[tuple[int, float]]:
    """Of every sample its supervised tokens and the mean loss over them, in nats."""
    was_training = model.training
    model.eval()
    found: list[tuple[int, float]] = []
    try:
        for first in range(0, len(indices), batch_size):
            read = read_samples(samples, indices[first : first + batch_size])
            for sample, (tokens, loss) in zip(read, _batch_losses(model, processor, read), strict=True):
                if not tokens or not math.isfinite(loss):
                    problem = f"the loss on its reply is {loss}" if tokens else "it holds no reply to predict"
                    raise SampleError(f"{_name(sample)}: {problem}")
                found.append((tokens, loss))
            if progress is not None:
                progress(len(found), len(indices))
    finally:
        model.train(was_training)
    return found


def _batch_losses(model: Any, processor: Any, samples: Sequence[Sample]) -> list[tuple[int, float]]:
    batch = _encode(samples, processor)
    counts_B = (batch["labels"][:, 1:] != IGNORE).sum(-1)
    logits_TV, targets_T = reply_logits(model, to_model(model, batch))
    loss_T = nn.functional.cross_entropy(logits_TV, targets_T, reduction="none").double()
    return [
        (len(of_row_T), float(of_row_T.mean()) if len(of_row_T) else math.nan)
        for of_row_T in loss_T.split(counts_B.tolist())
    ]


def _encode(samples: Sequence[Sample], processor: Any) -> dict[str, Tensor]:
    """As `encode`, with an error that names the sample."""
    try:
        return encode(samples, processor)
    except ValueError:
        for sample in samples:
            try:
                encode([sample], processor)
            except ValueError as error:
                raise SampleError(f"{_name(sample)}: {error}") from error
        raise


def _name(sample: Sample) -> str:
    return named(sample) or f"sample {sample.id!r}"


def nats(estimate: Estimate) -> str:
    """ "+0.312 (+0.201 to +0.423)"."""
    between = f" ({estimate.low:+.3f} to {estimate.high:+.3f})" if estimate.is_bounded else ""
    return f"{estimate.value:+.3f}{between}"


def _plain(estimate: Estimate) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in asdict(estimate).items()
    }
