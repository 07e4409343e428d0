"""Features of a frozen vision encoder, kept in host memory so that no image is encoded twice.

Shape suffixes: I images, P patches, V vision width.
"""

from __future__ import annotations

from hashlib import blake2b

import torch
from torch import Tensor

from mutua.models import MutuaForConditionalGeneration

BATCH = 8
"""Images that are encoded at a time. On a CPU that takes a small encoder a third of the time of one by one."""


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
        keys = [
            blake2b(pixels.view(torch.uint8).numpy().data, digest_size=16).digest() for pixels in pixel_values.cpu()
        ]
        misses = {key: place for place, key in enumerate(keys) if key not in self._features}
        places = list(misses.values())
        encoded = [self._encode(pixel_values[places[i : i + BATCH]]) for i in range(0, len(places), BATCH)]
        fresh = dict(zip(misses, (features_PV for batch in encoded for features_PV in batch), strict=False))
        features_IPV = torch.stack([fresh[key] if key in fresh else self._features[key] for key in keys])
        for key, features_PV in fresh.items():
            if features_PV.nbytes <= self._room:
                self._room -= features_PV.nbytes
                self._features[key] = features_PV.clone()
        return features_IPV.to(self._model.device)

    def _encode(self, pixels_I3HW: Tensor) -> Tensor:
        """Always of `BATCH` images, the last ones empty if need be.

        Sums are taken in another order in a batch of another size. In one of the same size an image's features depend
        neither on its place nor on the others, so a resumed run, whose cache is empty, computes the very same ones.
        """
        padded = torch.nn.functional.pad(pixels_I3HW, (0, 0) * 3 + (0, BATCH - len(pixels_I3HW)))
        return self._model.get_vision_features(padded.to(self._model.device)).cpu()
