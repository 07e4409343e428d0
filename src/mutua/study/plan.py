"""What a study compares: arms, each a training run or a few stages of one, and the blocks that set them side by side.

Arms of one block differ in what the block is about, in the policy and in the seed, and in nothing else. An arm that
stands in several blocks is trained once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal, TypeAlias

from mutua.attention import get_policy
from mutua.study.results import BASELINE

Task: TypeAlias = Literal["grid", "scenes"]
QuestionKind: TypeAlias = Literal["own", "shuffled", "blind"]

BACKBONES = ("llama", "qwen3", "phi3")
CONNECTORS = ("mlp", "resampler")
POLICIES = ("causal", "mma", "mma-bidirectional", "prefix", "future", "concentric")
METHOD = "mma"
PAIR = (BASELINE, METHOD)

IMAGE_FIRST, DUAL_ORDER = "image-first", "both"
# The paper's dual-order training, and its ablations: in both stages, in the first one only, in the second one only.
# A second stage begins the schedule of the learning rate anew, so the last two are compared with TWO_STAGES.
TWO_STAGES = f"{IMAGE_FIRST}>{IMAGE_FIRST}"
ORDERS = (
    *(IMAGE_FIRST, "text-first", DUAL_ORDER),
    *(TWO_STAGES, f"{DUAL_ORDER}>{IMAGE_FIRST}", f"{IMAGE_FIRST}>{DUAL_ORDER}"),
)


@dataclass(frozen=True)
class Arm:
    """One model of a study.

    Attributes:
        policy: its attention policy.
        seed: of its weights, the order of its samples and dropout; arms of one seed meet the same samples.
        task: what it learns: grid scenes, or the scenes of 64 x 64 pixels mixed with easy-VQA.
        backbone: family of the language model (`model_type`).
        connector: "mlp" keeps the patch grid, "resampler" has as many latents as there are patches.
        order: of image and text in its training samples; stages are joined by ">", each with its share of the steps.
        layers: of the language model.
        side: patches a side, and so side x side visual tokens.
        steps: optimizer steps, over all stages.
        questions: its own; "shuffled" between samples; or "blind", which the text alone answers. Null checks.
    """

    policy: str
    seed: int = 0
    task: Task = "grid"
    backbone: str = "llama"
    connector: str = "mlp"
    order: str = IMAGE_FIRST
    layers: int = 3
    side: int = 4
    steps: int = 800
    questions: QuestionKind = "own"

    @property
    def name(self) -> str:
        """Names its folder: what differs from the usual, then policy and seed."""
        usual = Arm(self.policy)
        odd = [
            str(value).replace(">", "-then-") if isinstance(value, str) else f"{key}-{value}"
            for key, value in vars(self).items()
            if key not in ("policy", "seed") and value != getattr(usual, key)
        ]
        return "-".join([*odd, self.policy, f"seed-{self.seed}"])

    @property
    def stages(self) -> tuple[str, ...]:
        """The order of image and text, stage by stage."""
        return tuple(self.order.split(">"))


@dataclass(frozen=True)
class Block:
    """A question that the study asks, and the arms that answer it."""

    name: str
    arms: tuple[Arm, ...]


@dataclass(frozen=True)
class Plan:
    """All that a study trains."""

    blocks: tuple[Block, ...]

    @property
    def arms(self) -> tuple[Arm, ...]:
        """Each once, in the order in which they are trained: the first blocks first."""
        return tuple(dict.fromkeys(arm for block in self.blocks for arm in block.arms))


def quick_plan(policies: Sequence[str] = PAIR, backbones: Sequence[str] = BACKBONES[:1], seeds: int = 2) -> Plan:
    """The effect on grid scenes and nothing else: a first look.

    Raises:
        ValueError: no such policy or backbone.
    """
    _expect_known(policies, backbones)
    return Plan((_block("main", seeds, policies, backbones, ("mlp",)),))


def full_plan(policies: Sequence[str] = POLICIES, backbones: Sequence[str] = BACKBONES, seeds: int = 5) -> Plan:
    """Every question of the protocol; the main arms with all seeds, the others with three at most.

    Raises:
        ValueError: no such policy or backbone.
    """
    _expect_known(policies, backbones)
    few = min(seeds, 3)
    usual = [Arm(policy, seed) for seed in range(few) for policy in PAIR]
    others = [policy for policy in policies if policy not in PAIR]
    pair = [policy for policy in policies if policy in PAIR]
    blocks = [
        _block("main", seeds, pair, backbones, CONNECTORS),
        _block("policies", few, policies, backbones[:1], ("mlp",)),
        _sweep("depth", usual, layers=(1, 2, 3, 4, 6)),
        _sweep("image tokens", usual, side=(2, 3, 4, 5, 6)),
        _sweep("length", usual, steps=(800, 4800)),
        _sweep("order", usual, order=ORDERS),
        _sweep("null: shuffled questions", usual, questions=("shuffled",)),
        _sweep("null: blind questions", usual, questions=("blind",)),
        _scenes(PAIR, few),
    ]
    if others and len(backbones) > 1:
        blocks.insert(2, _block("policies by backbone", few, policies, backbones[1:], ("mlp",)))
    return Plan(tuple(blocks))


def _block(
    name: str, seeds: int, policies: Sequence[str], backbones: Sequence[str], connectors: Sequence[str]
) -> Block:
    choices = product(range(seeds), backbones, connectors, policies)
    return Block(name, tuple(Arm(policy, seed, backbone=b, connector=c) for seed, b, c, policy in choices))


def _sweep(name: str, usual: Sequence[Arm], **values: Sequence[Any]) -> Block:
    """The usual arms with every value of one attribute."""
    ((attribute, choices),) = values.items()
    return Block(name, tuple(replace(arm, **{attribute: value}) for value in choices for arm in usual))


def _scenes(policies: Sequence[str], seeds: int) -> Block:
    return Block(
        "scenes",
        tuple(Arm(policy, seed, task="scenes", layers=4, side=6) for seed in range(seeds) for policy in policies),
    )


def _expect_known(policies: Sequence[str], backbones: Sequence[str]) -> None:
    for policy in policies:
        get_policy(policy)
    if BASELINE not in policies:
        raise ValueError(
            f"policies {', '.join(policies)}: {BASELINE} must be among them, for the others to be compared with."
        )
    for backbone in backbones:
        if backbone not in BACKBONES:
            raise ValueError(f"no backbone {backbone!r}: choose of {', '.join(BACKBONES)}.")
