"""What a run would take before it is started: memory of a device by part, time of a step, samples and tokens.

An estimate from shapes: a micro-batch of the recipe's own samples is gone through by `dry_run`, on a model without
weights, and what is spread over several processes is added by arithmetic. How a step is timed stands at `_seconds`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from math import ceil

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from mutua.attention import auto, get_policy, sdpa
from mutua.attention.abilities import Forward
from mutua.models import MutuaConfig, MutuaForConditionalGeneration
from mutua.models.longest_text import longest_text
from mutua.models.vision import image_side
from mutua.training.batch_shape import BatchShape, SourceLook, batch_shape, look_at_sources, texts_of
from mutua.training.build import freeze
from mutua.training.devices import CPU, Device
from mutua.training.dry_run import PICTURES, DryRun, Kernels, dry_run
from mutua.training.lora import Adapters
from mutua.training.outline import fake_weights, model_without_weights, outline_model
from mutua.training.precision import uses_bf16
from mutua.training.recipe import Recipe
from mutua.training.shards import expect_processes

GATHERED, ON_THEIR_WAY = "gathered weights", "gradients to be spread"
WEIGHTS, FROZEN, GRADIENTS, MOMENTS = "weights, trained", "weights, frozen", "gradients", "AdamW's moments"
CACHE, COPY = "features in the cache", "a checkpoint under way"

REACHED = 0.55
"""The share of a device's rates that a step reaches: the lower of what two measured steps of 4.3 billion weights on an
H200 did (833 and 854 ms, docs/performance.md; at the full rates the sum below gives 0.61 and 0.55 of that)."""

_LAUNCH = 1e-5
"""Seconds that an operation takes at least: PyTorch has to start it, one by one."""

_ADAMW = 40
"""Bytes that the end of a step moves for a weight: clipping reads a gradient, and reads and writes it; AdamW reads
weight, gradient and two moments, and writes all but the gradient. All fp32."""


@dataclass(frozen=True)
class Sizes:
    """Of a model: numbers that one process holds, and bytes of what is exact.

    Attributes:
        weights, trained: of the whole model.
        memory: bytes of weights, gradients and moments in one process.
        gathered: bytes that it holds beside while it computes, of weights and gradients that are spread.
        spread, spread_trained: bytes of the weights that all processes gather, and of the gradients they add up.
        shared: the weights that are in shards.
        root: names of those that are gathered for a whole pass, as they belong to no layer; None in one process.
    """

    weights: int
    trained: int
    memory: dict[str, int]
    gathered: dict[str, int]
    spread: int
    spread_trained: int
    shared: frozenset[nn.Parameter] = field(default=frozenset(), repr=False)
    root: frozenset[str] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Plan:
    """What a run takes.

    Attributes:
        device, count: what it runs on.
        bf16: whether it computes in bf16.
        batch: what a step holds, and where that is known from.
        sizes: of the model.
        memory: bytes of one device at the peak of a step, by part.
        flops: floating-point operations of a step, over all devices.
        seconds: of a step.
        steps: of the run.
    """

    device: Device
    count: int
    bf16: bool
    batch: BatchShape
    sizes: Sizes
    memory: dict[str, int]
    flops: float
    seconds: float
    steps: int

    @property
    def peak(self) -> int:
        """Bytes of one device."""
        return sum(self.memory.values())

    @property
    def reserve(self) -> float:
        """Bytes of the device that should stay free: for CUDA itself, and for gaps between what is held. Of a CPU, for
        the rest of the process and the data workers, and for what its allocator keeps of what was freed."""
        return (0.2 if self.device.name == CPU else 0.1) * self.device.memory

    @property
    def fits(self) -> bool:
        """Whether the reserve stays free."""
        return self.peak + self.reserve <= self.device.memory

    @property
    def tokens_per_second(self) -> float:
        """Without padding."""
        return self.batch.tokens_of_step / self.seconds

    @property
    def hours(self) -> float:
        """Of all steps; evaluations and checkpoints come on top."""
        return self.steps * self.seconds / 3600


class Planner:
    """The model and the data of a recipe, looked at once; plans for it, and for what could be changed in it.

    Args:
        tokens: of every sample, in place of a look at the data.

    Raises:
        ValueError, OSError: a setting that cannot work, with its place.
    """

    def __init__(self, recipe: Recipe, tokens: int | None = None) -> None:
        self.recipe = recipe
        self.config, processor = outline_model(recipe.model, texts_of(recipe))
        longest = longest_text(self.config.text_config)
        self.looks: tuple[SourceLook, ...] = look_at_sources(recipe, self.config, processor, tokens, longest)

    def plan(self, device: Device, count: int, recipe: Recipe | None = None) -> Plan:
        """For `count` devices; `recipe` differs from the planner's in its section `train` alone.

        Raises:
            ValueError: a setting that does not go with so many processes.
        """
        recipe = recipe or self.recipe
        train, is_cuda = recipe.train, device.name != CPU
        expect_processes(train, count)
        bf16 = train.precision != "fp32" if is_cuda else uses_bf16(train, torch.device("cpu"))
        batch = batch_shape(recipe, self.looks, count)
        kernels = Kernels(is_cuda, bf16, _has_dense_mask(self.config, is_cuda, bf16, batch.micro.tokens))
        model = model_without_weights(self.config)
        freeze(model, train.freeze, may_freeze_all=train.lora is not None)
        if train.lora is not None:
            Adapters(model, train.lora)
        sizes = measure(model, count // train.replicas if count > 1 else 1, bf16, is_spread=count > 1)
        with fake_weights(model, sizes.shared if bf16 else ()):
            found = self._dry_run(model, recipe, batch, kernels, sizes.root)
        memory: Counter[str] = Counter(sizes.memory)
        if count == 1:
            del memory[GRADIENTS]  # those that are there at the peak are among what was found
        for part, size in [*sizes.gathered.items(), *found.peak.items()]:
            memory[part] += size
        if not is_cuda:  # of a GPU's batches, all but one micro-batch wait in the machine's memory
            memory[PICTURES] += self._pictures(batch, bf16)
            memory[CACHE] = train.cache_vision_mb * 2**20
            if train.async_checkpoints:
                saved = (WEIGHTS, MOMENTS) if train.lora is not None else (WEIGHTS, FROZEN, MOMENTS)
                memory[COPY] = sum(sizes.memory[part] for part in saved)
        flops = batch.micro_batches * count * sum(flops for flops, _ in found.operations)
        seconds = _seconds(device, bf16, found, batch.micro_batches, sizes, count, train.replicas)
        parts = {part: size for part, size in memory.items() if size}
        return Plan(device, count, bf16, batch, sizes, parts, flops, seconds, train.steps)

    def remedies(self, plan: Plan) -> list[tuple[str, Plan]]:
        """What could be changed to make it fit, each with the plan that it gives."""
        train = self.recipe.train
        changes: list[tuple[str, int, dict[str, object]]] = []
        if not train.gradient_checkpointing:
            changes.append(("train.gradient_checkpointing=true", plan.count, {"gradient_checkpointing": True}))
        if plan.batch.micro.rows > 1:
            rows = plan.batch.micro.rows // 2
            changes.append((f"train.micro_batch_size={rows}", plan.count, {"micro_batch_size": rows}))
        if plan.device.name != CPU and train.batch_size >= 2 * plan.count:
            changes.append((f"--gpus {2 * plan.count}x{plan.device.name}", 2 * plan.count, {}))
        found = []
        for name, count, update in changes:
            recipe = self.recipe.model_copy(update={"train": train.model_copy(update=update)})
            found.append((name, self.plan(plan.device, count, recipe)))
        return found

    def _dry_run(
        self,
        model: MutuaForConditionalGeneration,
        recipe: Recipe,
        batch: BatchShape,
        kernels: Kernels,
        root: frozenset[str] | None,
    ) -> DryRun:
        """Of a step with several micro-batches a later one: then the gradients of those before are there."""
        return dry_run(
            model,
            batch.micro,
            kernels,
            gradient_checkpointing=recipe.train.gradient_checkpointing,
            has_cached_features=recipe.train.cache_vision_mb > 0,
            accumulates=batch.micro_batches > 1 and root is None,
            # A shard of each is counted already. What belongs to no layer stays whole until the backward pass ends.
            gradient_share=(lambda name: 1.0) if root is None else (lambda name: float(name in root)),
        )

    def _pictures(self, batch: BatchShape, bf16: bool) -> int:
        """Bytes of a step's pictures that the micro-batch of the dry run does not have."""
        side = image_side(self.config.vision_config, self.config.image_size)
        return max(0, batch.images_of_process - batch.micro.images) * 3 * side * side * (2 if bf16 else 4)


def measure(
    model: MutuaForConditionalGeneration, shards: int = 1, bf16: bool = False, is_spread: bool = False
) -> Sizes:
    """Sizes of a model, frozen as it will be.

    Args:
        model: of any tensors, those of the meta device too.
        shards: processes of a replica.
        is_spread: whether there are several processes, so that weights are gathered from shards (`training.shards`).
    """
    parameters = dict(model.named_parameters())
    tower = set(model.model.vision_tower.parameters())
    whole = tower if not any(parameter.requires_grad for parameter in tower) else set()
    if not is_spread:
        whole, shards = set(parameters.values()), 1

    def held(parameter: nn.Parameter) -> int:
        """Numbers of the first process, whose shard is the largest."""
        if parameter in whole or not parameter.dim():
            return parameter.numel()
        return ceil(len(parameter) / shards) * (parameter.numel() // max(1, len(parameter)))

    trained = [parameter for parameter in parameters.values() if parameter.requires_grad]
    memory = {
        WEIGHTS: sum(4 * held(parameter) for parameter in trained),
        FROZEN: sum(4 * held(parameter) for parameter in parameters.values() if not parameter.requires_grad),
        GRADIENTS: sum(4 * held(parameter) for parameter in trained),
        MOMENTS: sum(8 * held(parameter) + 4 for parameter in trained),  # and a count of steps
    }
    numbers = sum(parameter.numel() for parameter in parameters.values())
    numbers_trained = sum(parameter.numel() for parameter in trained)
    if not is_spread:
        return Sizes(numbers, numbers_trained, memory, {}, 0, 0)
    layers = [
        set(module.parameters())
        for module in model.modules()
        if isinstance(module, GradientCheckpointingLayer) and not whole.issuperset(module.parameters())
    ]
    units = [*layers, set(model.model.connector.parameters())]
    in_units = set().union(*units)
    rest = {name: p for name, p in parameters.items() if p not in in_units and p not in whole}
    width = 2 if bf16 else 4
    root_size = sum(parameter.numel() for parameter in rest.values())
    largest = max(sum(parameter.numel() for parameter in unit) for unit in units)
    gathered = {
        GATHERED: width * (root_size + 2 * largest),  # the next layer arrives while one computes
        ON_THEIR_WAY: width * largest + 4 * max(largest, root_size),  # of a layer, whole; and in fp32, to be summed
    }
    shared = frozenset(parameters.values()) - whole
    spread, spread_trained = (
        size * sum(parameter.numel() for parameter in shared if parameter.requires_grad or not is_trained)
        for size, is_trained in ((width, False), (4, True))
    )
    return Sizes(numbers, numbers_trained, memory, gathered, spread, spread_trained, shared, frozenset(rest))


def _seconds(
    device: Device, bf16: bool, found: DryRun, micro_batches: int, sizes: Sizes, count: int, replicas: int
) -> float:
    """Of a step: every operation takes as long as its products or the bytes it moves, whichever is longer, at a share
    of the device's rates. What processes send each other hides behind that unless it takes longer."""
    rate = REACHED * (device.bf16 if bf16 else device.fp32)
    bandwidth = REACHED * device.bandwidth
    work = sum(max(flops / rate, moved / bandwidth, _LAUNCH) for flops, moved in found.operations)
    update = _ADAMW * sizes.memory[GRADIENTS] / 4 / bandwidth
    shards = count // replicas
    sent = micro_batches * (2 * sizes.spread + sizes.spread_trained) * (shards - 1) / shards
    if replicas > 1:
        sent += micro_batches * 2 * sizes.spread_trained / shards * (replicas - 1) / replicas
    return max(micro_batches * work + update, sent / (REACHED * device.link))


def _has_dense_mask(config: MutuaConfig, is_cuda: bool, bf16: bool, tokens: int) -> bool:
    """Whether the default backend gives the language model a mask of tokens x tokens."""
    text = config.text_config
    dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    forward = Forward(
        get_policy(config.attention_policy),
        device="cuda" if is_cuda else "cpu",
        dtype=torch.bfloat16 if bf16 else torch.float32,
        head_dim=dim,
        value_dim=dim,
        has_window=getattr(text, "sliding_window", None) is not None,
        dropout=getattr(text, "attention_dropout", 0.0),
    )
    return auto.choose(forward, tokens, is_padded=True).backend is sdpa
