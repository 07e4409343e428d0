"""A training step gone through on shapes alone: what it would hold and compute, without a weight or a number.

The model is made of PyTorch's fake tensors, which have a shape and a type and no memory, and the layers that train run
on them, forward and backward, gradient checkpointing, autocast and adapters as they are. Every operation is seen from
below: the memory that its results take from birth to death, the operations it does and the bytes that it moves. Only
attention is not run: the kernels of other devices are not here (`_Attention`).

Shape suffixes: B rows, N tokens, I images, T supervised tokens, H heads, K keys, D head dimension, W width.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry

from mutua.models import MutuaForConditionalGeneration
from mutua.models.head_loss import head_loss
from mutua.models.vision import image_side
from mutua.training.precision import Fp32Attention, step_precision
from mutua.training.vision_cache import BATCH

WEIGHTS, GRADIENTS, COPIES = "weights", "gradients", "bf16 copies of weights"
PICTURES, HEAD = "pictures", "logits and head"
VISION, CONNECTOR, LANGUAGE = (f"activations, {part}" for part in ("vision encoder", "connector", "language model"))


@dataclass(frozen=True)
class Shape:
    """What a forward pass takes.

    Attributes:
        rows, tokens: of the batch, padding included.
        images, supervised: pictures and supervised tokens, in all rows together.
    """

    rows: int
    tokens: int
    images: int
    supervised: int


@dataclass(frozen=True)
class Kernels:
    """How a device computes, as far as it decides what is held.

    Attributes:
        cuda: whether by CUDA's rules; else by a CPU's.
        bf16: whether under autocast.
        dense: whether the language model's attention gets a mask of rows x tokens x tokens; else it needs none.
    """

    cuda: bool
    bf16: bool
    dense: bool


@dataclass
class DryRun:
    """What a forward and backward pass takes.

    Attributes:
        peak: bytes at the moment at which gradients and activations are most, by what holds them; weights aside.
        operations: of each its floating-point operations (what is computed twice counts twice), and bytes read and
            written.
    """

    peak: Counter[str] = field(default_factory=Counter)
    operations: list[tuple[float, int]] = field(default_factory=list)


def dry_run(
    model: MutuaForConditionalGeneration,
    shape: Shape,
    kernels: Kernels,
    *,
    gradient_checkpointing: bool = False,
    has_cached_features: bool = False,
    accumulates: bool = False,
    gradient_share: Callable[[str], float] = lambda name: 1.0,
) -> DryRun:
    """A micro-batch, forward and backward, as `Stepper.backward` has it.

    Args:
        model: of fake tensors, to be trained, in a `FakeTensorMode` that is active.
        has_cached_features: the features of a frozen vision encoder come from `VisionCache`.
        accumulates: gradients of an earlier micro-batch are there already.
        gradient_share: what stays of a parameter's gradient once it is whole, by name, as a fraction of its bytes.
    """
    watch = _Watch({id(p.untyped_storage()) for p in model.parameters()})
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with ExitStack() as stack:
        if accumulates:
            for name, parameter in trained.items():
                parameter.grad = torch.empty_like(parameter)
                watch.gradient_is_whole(parameter, gradient_share(name))
        for name, parameter in trained.items():

            def note(parameter: Tensor, share: float = gradient_share(name)) -> None:
                watch.gradient_is_whole(parameter, share)

            hook = parameter.register_post_accumulate_grad_hook(note)
            stack.callback(hook.remove)
        stack.enter_context(watch)
        groups = _groups(model.config.text_config)
        stack.enter_context(_DeviceKernels(watch, kernels, groups))
        _set_checkpointing(model, gradient_checkpointing, kernels, lambda: _DeviceKernels(watch, kernels, groups))
        model.train()
        with _precision(kernels):
            loss = _forward(model, shape, kernels, watch, has_cached_features)
        loss.backward()
    for parameter in trained.values():
        parameter.grad = None
    return watch.found


def _forward(
    model: MutuaForConditionalGeneration, shape: Shape, kernels: Kernels, watch: _Watch, has_cached_features: bool
) -> Tensor:
    """The loss, as the model's own forward has it, but for its looks at the data."""
    base, config = model.model, model.config
    ids_BN = torch.zeros(shape.rows, shape.tokens, dtype=torch.long)
    embeds_BNW = base.get_input_embeddings()(ids_BN)
    if shape.images:
        watch.place = PICTURES
        side, dtype = image_side(config.vision_config, config.image_size), torch.bfloat16 if kernels.bf16 else None
        pixels_I3HW = torch.empty(shape.images, 3, side, side, dtype=dtype)
        watch.place = VISION
        if has_cached_features:
            with torch.no_grad():
                some = base.get_vision_features(pixels_I3HW.new_empty(BATCH, 3, side, side))
            features_IPV = some.new_empty(shape.images, *some.shape[1:])
            del some
        else:
            features_IPV = base.get_vision_features(pixels_I3HW)
        watch.place = CONNECTOR
        image_tokens_IPW = base.connector(features_IPV).to(embeds_BNW.dtype)
        watch.enter_backward(image_tokens_IPW, CONNECTOR)
        watch.enter_backward(features_IPV, VISION)
        watch.place = LANGUAGE
        embeds_BNW = _Placed.apply(embeds_BNW, image_tokens_IPW)
        del pixels_I3HW, features_IPV, image_tokens_IPW
    watch.place = LANGUAGE
    hold = watch.hold if kernels.dense else watch.ignore
    mask_B1NN = hold(torch.empty(shape.rows, 1, shape.tokens, shape.tokens, dtype=torch.bool))
    hidden_BNW = base.language_model(
        inputs_embeds=embeds_BNW, attention_mask=mask_B1NN, use_cache=False
    ).last_hidden_state
    positions_T, targets_T = (torch.zeros(shape.supervised, dtype=torch.long) for _ in range(2))
    watch.place = HEAD
    loss, _ = head_loss(hidden_BNW.flatten(0, 1)[positions_T], model.lm_head, targets_T, shape.supervised)
    watch.place = LANGUAGE
    return loss


class _Watch(TorchDispatchMode):
    """Sees every operation: what its results hold until they are freed, what it computes and moves.

    Attributes:
        place: the part of the model to which what is made now is counted.
    """

    def __init__(self, weights: set[int]) -> None:
        super().__init__()
        self.found, self.place = DryRun(), LANGUAGE
        self._held: Counter[str] = Counter()
        self._weights, self._known = weights, {key: (WEIGHTS, 0) for key in weights}  # by the id of a live storage

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        inputs = [x for x in tree_iter((args, kwargs)) if isinstance(x, Tensor)]
        outputs = [x for x in tree_iter(out) if isinstance(x, Tensor)]
        is_cast = func is torch.ops.aten._to_copy.default and _key(inputs[0]) in self._weights
        fresh = [x for x in outputs if _key(x) not in self._known]
        for tensor in fresh:
            self.hold(tensor, COPIES if is_cast else None)
        if fresh or func._schema.is_mutable:
            count = flop_registry.get(func._overloadpacket)
            flops = 0.0 if count is None else float(count(*args, **kwargs, out_val=out))
            self.note(flops, sum(x.nbytes for x in (*inputs, *fresh)))
        return out

    def note(self, flops: float, moved: int) -> None:
        """An operation is done."""
        self.found.operations.append((flops, moved))

    def hold(self, tensor: Tensor, part: str | None = None) -> Tensor:
        """The tensor, whose memory counts until it is freed."""
        storage = tensor.untyped_storage()
        if id(storage) not in self._known:
            self._count(id(storage), part or self.place, storage.nbytes())
            weakref.finalize(storage, self._free, id(storage)).atexit = False
        return tensor

    def ignore(self, tensor: Tensor) -> Tensor:
        """The tensor, whose memory does not count: it stands for what would not be there."""
        self._free(_key(tensor))
        self._known[_key(tensor)] = (self.place, 0)
        return tensor

    def gradient_is_whole(self, parameter: Tensor, share: float) -> None:
        """From now on the gradient of a parameter counts as such, and its share alone."""
        assert parameter.grad is not None
        self.hold(parameter.grad)
        key = _key(parameter.grad)
        if self._known[key][0] != GRADIENTS:
            self._free(key)
            self._count(key, GRADIENTS, round(parameter.grad.nbytes * share))

    def enter_backward(self, tensor: Tensor, place: str) -> None:
        """What the backward pass makes once it has the gradient of the tensor counts to that part."""
        if tensor.requires_grad:
            tensor.register_hook(lambda _: setattr(self, "place", place))

    def _count(self, key: int, part: str, size: int) -> None:
        self._known[key] = (part, size)
        self._held[part] += size
        if self._held.total() > self.found.peak.total():
            self.found.peak = +self._held

    def _free(self, key: int) -> None:
        part, size = self._known.pop(key)
        self._held[part] -= size


class _DeviceKernels(TorchFunctionMode):
    """What the device's own kernels would do in place of those of a CPU."""

    def __init__(self, watch: _Watch, kernels: Kernels, groups: int) -> None:
        super().__init__()
        self.watch, self.kernels, self.groups = watch, kernels, groups

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            mask = kwargs.get("attn_mask")
            is_text = mask is not None  # the others look at whole pictures
            groups = self.groups if is_text and self.kernels.cuda and not self.kernels.dense else 1
            kept = mask if self.kernels.dense else None
            qkv = args[:3]
            if torch.is_autocast_enabled("cpu"):
                qkv = tuple(x.to(torch.bfloat16) for x in qkv)
            return _Attention.apply(*qkv, kept, groups, is_text and not self.kernels.dense, self.watch)
        if func is F.layer_norm and self.kernels.cuda and torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):  # CUDA's autocast has it in fp32
                floats: Any = [x.float() if isinstance(x, Tensor) else x for x in args]
                return func(*floats, **kwargs)
        return func(*args, **kwargs)


class _Attention(torch.autograd.Function):
    """What a flash kernel keeps for its backward pass: its inputs and output, and a log-sum-exp a query. With a mask,
    that as numbers, too, anew in every layer."""

    @staticmethod
    def forward(
        ctx: Any,
        q_BHND: Tensor,
        k_BHKD: Tensor,
        v_BHKD: Tensor,
        mask_B1NK: Tensor | None,
        groups: int,
        is_causal: bool,
        watch: _Watch,
    ) -> Tensor:
        batch, heads, tokens, dim = q_BHND.shape
        keys = k_BHKD.shape[2]
        ctx.watch, ctx.flops = watch, 4.0 * batch * heads * tokens * keys * dim * (0.5 if is_causal else 1.0)
        numbers = None if mask_B1NK is None else torch.empty_like(mask_B1NK, dtype=q_BHND.dtype)
        out_BHND = q_BHND.new_empty(batch, tokens, heads, v_BHKD.shape[-1]).transpose(1, 2)
        lse_BHN = q_BHND.new_empty(batch, heads, tokens, dtype=torch.float32)
        ctx.given = k_BHKD.shape, v_BHKD.shape
        if groups > 1:  # the kernel takes grouped heads as they are
            k_BHKD, v_BHKD = (x.new_empty(batch, heads // groups, *x.shape[2:]) for x in (k_BHKD, v_BHKD))
        ctx.save_for_backward(q_BHND, k_BHKD, v_BHKD, out_BHND, lse_BHN, numbers)
        watch.note(ctx.flops, 0)
        return out_BHND

    @staticmethod
    def backward(ctx: Any, grad_BHND: Tensor) -> tuple[Tensor | None, ...]:
        q_BHND = ctx.saved_tensors[0]
        ctx.watch.note(2.5 * ctx.flops, 0)  # five products for two
        gradients = (
            q_BHND.new_empty(shape[0], shape[2], shape[1], shape[3]).transpose(1, 2)
            for shape in (q_BHND.shape, *ctx.given)
        )
        return *gradients, None, None, None, None


class _Placed(torch.autograd.Function):
    """Visual tokens in their places among those of the text."""

    @staticmethod
    def forward(ctx: Any, embeds_BNW: Tensor, image_tokens_IPW: Tensor) -> Tensor:
        ctx.shape = image_tokens_IPW.shape
        return torch.empty_like(embeds_BNW)

    @staticmethod
    def backward(ctx: Any, grad_BNW: Tensor) -> tuple[Tensor, Tensor]:
        return torch.empty_like(grad_BNW), grad_BNW.new_empty(ctx.shape)


@contextmanager
def _precision(kernels: Kernels) -> Iterator[None]:
    """As `step_precision`; CUDA's autocast is that of a CPU here, but for what `_DeviceKernels` knows."""
    if kernels.cuda:
        with torch.autocast("cpu", torch.bfloat16, enabled=kernels.bf16):
            yield
    else:
        with step_precision(torch.device("cpu"), kernels.bf16):
            yield


def _set_checkpointing(
    model: MutuaForConditionalGeneration, is_wanted: bool, kernels: Kernels, again: Callable[[], _DeviceKernels]
) -> None:
    """On or off; modes do not reach what the backward pass computes again, so they come with it."""

    @contextmanager
    def recomputing() -> Iterator[None]:
        with again(), nullcontext() if kernels.cuda or not kernels.bf16 else Fp32Attention():
            yield

    if not is_wanted:
        model.activation_checkpointing_disable()
        return
    model.activation_checkpointing_enable(
        activation_checkpointing_kwargs={"use_reentrant": False, "context_fn": lambda: (nullcontext(), recomputing())}
    )


def _groups(text_config: Any) -> int:
    """Query heads that share a key head."""
    heads = text_config.num_attention_heads
    return heads // (getattr(text_config, "num_key_value_heads", None) or heads)


def _key(tensor: Tensor) -> int:
    return id(tensor.untyped_storage())
