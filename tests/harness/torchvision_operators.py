"""Declares two operators of torchvision where it was built for another kind of torch, and would not import.

The harnesses import it for models that are not used here.
"""

import torch

_LIBRARY = torch.library.Library("torchvision", "DEF")  # what it declares goes with it

try:
    _LIBRARY.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _LIBRARY.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
except RuntimeError:  # they are there
    pass
