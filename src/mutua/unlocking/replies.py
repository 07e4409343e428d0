"""What a model of others predicts where its replies stand, whatever its head does besides multiplying.

Shape suffixes: B batch, N tokens, K the last tokens of a row, T supervised tokens, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mutua.unlocking.finder import ROLES
from mutua.unlocking.switch import is_unlocked

_IGNORE = -100


def reply_logits(model: Any, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The logits of the supervised tokens, fp32 (T, V), and these tokens, (T,): row after row.

    Args:
        model: locked or unlocked.
        batch: as `mutua.data.collate.encode` makes it, on the model's device.
    """
    inputs: dict[str, Any] = dict(batch)
    targets_BN = inputs.pop("labels")[:, 1:]
    if not is_unlocked(model):
        inputs.pop(ROLES, None)
    is_target_BN = targets_BN != _IGNORE
    # Of a long prompt no logits are needed, and of a large vocabulary they are most of the memory.
    kept = targets_BN.shape[1] - int(is_target_BN.any(0).int().argmax()) + 1
    if "logits_to_keep" in inspect.signature(type(model).forward).parameters:
        inputs["logits_to_keep"] = kept
    logits_BKV = model(**inputs, use_cache=False).logits[:, -kept:-1]
    return logits_BKV[is_target_BN[:, 1 - kept :]].float(), targets_BN[is_target_BN]
