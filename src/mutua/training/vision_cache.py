"""Features of a frozen vision encoder, kept in host memory so that no image is encoded twice.

Shape suffixes: I images, P patches, V vision width.
"""

from __future__ import annotations

from hashlib import blake2b

import torch
from torch import Tensor

from mutua.models import MutuaForConditionalGeneration


class VisionCache:
    """`pixel_values` to `vision_features`.

    Once the cache is full it keeps what it has: every image comes up once an epoch, so the oldest entry is the next
    one needed and replacing it would lose every hit.

    Args:
        model: its vision tower must be frozen.
        limit_mb: MiB of features to keep.

    Raises:
        ValueError: a weight of the vision tower is trained, so features would go stale.
    """

    def __init__(self, model: MutuaForConditionalGeneration, limit_mb: int) -> None:
        trained = [n for n, p in model.named_parameters() if ".vision_tower." in n and p.requires_grad]
        if trained:
            raise ValueError(
                f"train.cache_vision_mb: {limit_mb} needs a frozen vision encoder, but {trained[0]} and "
                f"{len(trained) - 1} more are trained; add model.vision_tower.* to train.freeze, or set it to 0"
            )
        self._model = model.model
        self._room = limit_mb * 2**20
        self._features: dict[bytes, Tensor] = {}

    @torch.no_grad()
    def features(self, pixel_values: Tensor) -> Tensor:
        """(I, P, V) for (I, 3, H, W) pixels, on the model's device."""
        self._model.vision_tower.eval()  # a dropout mask must not be cached
        return torch.cat([self._one(pixels[None]) for pixels in pixel_values])

    def _one(self, pixel_values: Tensor) -> Tensor:
        # One image at a time, so that its features do not depend on what shares its batch: a resumed run, which
        # starts with an empty cache, then computes the very same ones.
        key = blake2b(pixel_values.contiguous().numpy().data, digest_size=16).digest()
        device = self._model.device
        if key not in self._features:
            features_1PV = self._model.get_vision_features(pixel_values.to(device))
            if (size := features_1PV.nbytes) > self._room:
                return features_1PV
            self._room -= size
            self._features[key] = features_1PV.cpu()
        return self._features[key].to(device)
