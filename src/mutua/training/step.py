"""One optimizer step: micro-batches to gradients to new weights."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mutua.models.head_loss import LossOutput
from mutua.training.batches import StepBatch
from mutua.training.precision import step_precision, uses_bf16
from mutua.training.recipe import TrainSettings
from mutua.training.schedule import learning_rate
from mutua.training.vision_cache import VisionCache
from mutua.unlocking import is_unlocked, reply_logits
from mutua.world import World

NOT_FINITE = (
    "Checkpoints from before are intact, and the same command would come to the same place. Start another output, from "
    "one of them (model.path) or anew, with a lower train.learning_rate, longer train.warmup_steps, or train.precision "
    "fp32"
)
"""What to do where training has left the numbers."""


class TrainingError(ValueError):
    """Training cannot go on."""


@dataclass(frozen=True)
class StepMetrics:
    """Of one step: mean loss and accuracy over its supervised tokens, learning rate, gradient norm before clipping, and
    the share of its rows that is no padding."""

    loss: float
    accuracy: float
    learning_rate: float
    grad_norm: float
    utilisation: float


class Stepper:
    """Model and optimizer, and all that a step needs besides a batch."""

    def __init__(
        self,
        model: Any,
        optimizer: torch.optim.Optimizer,
        settings: TrainSettings,
        world: World,
    ) -> None:
        self.model, self.optimizer, self.settings = model, optimizer, settings
        self.world, self.device = world, world.device
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.cache = VisionCache(model, settings.cache_vision_mb) if settings.cache_vision_mb else None
        self.bf16 = uses_bf16(settings, self.device)
        self.begun = 0  # updates of the weights, one that has failed half way included

    def precision(self) -> AbstractContextManager[None]:
        """What a step computes in."""
        return step_precision(self.device, self.bf16)

    def backward(self, batch: StepBatch) -> tuple[Tensor, Tensor]:
        """Begins a step: adds the gradient of the batch; returns its mean loss per supervised token, and how many of
        them it got right.

        Of a share of a batch, these are shares, too: summed over the processes they are those of the whole.
        """
        self.model.train()
        loss, correct = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        for micro_batch in batch.micro_batches:
            inputs = self._inputs(micro_batch)
            with self.precision():
                # Divided by the tokens of the whole batch, not of its own rows: the sum over micro-batches is then the
                # mean over tokens, however unevenly they are spread.
                if is_unlocked(self.model):
                    out = self._forward_unlocked(inputs, batch.supervised_tokens)
                else:
                    out = self.model(**inputs, num_items_in_batch=batch.supervised_tokens, use_cache=False)
            (out.loss * self.world.size).backward()  # gradients are averaged over the processes, and are to be summed
            loss += out.loss.detach()
            correct += out.correct
        return loss, correct

    def _forward_unlocked(self, inputs: dict[str, Tensor], divisor: int) -> Any:
        """What our own model gives by itself: it takes its head and its loss in one."""
        del inputs["supervised_positions"]
        logits_TV, targets_T = reply_logits(self.model, inputs)
        loss = nn.functional.cross_entropy(logits_TV, targets_T, reduction="sum") / divisor
        return LossOutput(loss, (logits_TV.argmax(-1) == targets_T).sum())

    def update(self, index: int, batch: StepBatch, loss: Tensor, correct: Tensor) -> StepMetrics | None:
        """Ends step `index` (counted from 0): new weights from the gradient that `backward` left, with what it gave.

        A batch of no samples changes nothing and gives None.

        Raises:
            TrainingError: loss or gradient is not finite; the weights are still those before the step.
        """
        if not batch.micro_batches:
            self.begun += 1
            return None
        rate = learning_rate(
            index,
            peak=self.settings.learning_rate,
            steps=self.settings.steps,
            warmup_steps=self.settings.warmup_steps,
            floor=self.settings.floor,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        gradient_norm = torch.nn.utils.clip_grad_norm_(self.trained, self.settings.clip or math.inf)
        if isinstance(gradient_norm, DTensor):  # each process has its shard's
            gradient_norm = gradient_norm.full_tensor()
        loss, correct = self.world.add(torch.stack([loss, correct])).unbind()
        # The one place of a step where the host waits for the device.
        mean_loss, right, norm = torch.stack([loss, correct, gradient_norm]).tolist()
        if not (math.isfinite(mean_loss) and math.isfinite(norm)):
            samples = ", ".join(batch.sample_ids[:8])
            raise TrainingError(
                f"step {index + 1}: loss {mean_loss}, gradient norm {norm} (samples {samples} ...). {NOT_FINITE}"
            )
        self.begun += 1
        self.optimizer.step()
        self.optimizer.zero_grad()
        return StepMetrics(mean_loss, right / batch.supervised_tokens, rate, norm, batch.utilisation)

    def _inputs(self, micro_batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The micro-batch on the device; pictures as cached features where the recipe says so."""
        inputs = dict(micro_batch)
        if self.cache is not None and "pixel_values" in inputs:
            with self.precision():
                inputs["vision_features"] = self.cache.features(inputs.pop("pixel_values"))
        return {name: tensor.to(self.device, non_blocking=True) for name, tensor in inputs.items()}
