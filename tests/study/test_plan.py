"""Plans: arms of a block differ in what it is about, and every arm is trained once."""

from __future__ import annotations

import pytest

from mutua.study.plan import BACKBONES, CONNECTORS, ORDERS, PAIR, POLICIES, Arm, full_plan, quick_plan


def differing(arms) -> set[str]:
    """Attributes that are not the same for all."""
    return {name for name in vars(arms[0]) if len({getattr(arm, name) for arm in arms}) > 1}


def test_arms_of_a_block_differ_in_what_it_is_about():
    blocks = {block.name: block.arms for block in full_plan().blocks}
    allowed = {
        "main": {"backbone", "connector"},
        "policies": set(),
        "policies by backbone": {"backbone"},
        "depth": {"layers"},
        "image tokens": {"side"},
        "length": {"steps"},
        "order": {"order"},
        "null: shuffled questions": set(),
        "null: blind questions": set(),
        "scenes": set(),
    }
    assert set(blocks) == set(allowed)
    for name, arms in blocks.items():
        assert differing(arms) <= allowed[name] | {"policy", "seed"}, name
        assert len(set(arms)) == len(arms)


def test_every_arm_has_the_causal_one_beside_it():
    for plan in (quick_plan(), full_plan()):
        for block in plan.blocks:
            but_policy = {tuple(v for k, v in vars(arm).items() if k != "policy") for arm in block.arms}
            causal = {tuple(v for k, v in vars(a).items() if k != "policy") for a in block.arms if a.policy == "causal"}
            assert but_policy == causal, block.name


def test_what_a_full_plan_has():
    arms = full_plan().arms
    assert len(set(arms)) == len(arms)
    assert len({arm.name for arm in arms}) == len(arms)
    assert {arm.policy for arm in arms} == set(POLICIES)
    assert {arm.order for arm in arms} == set(ORDERS)
    main = full_plan().blocks[0].arms
    assert {(a.backbone, a.connector, a.policy, a.seed) for a in main} == {
        (b, c, p, s) for b in BACKBONES for c in CONNECTORS for p in PAIR for s in range(5)
    }


def test_a_quick_plan_is_part_of_a_full_one():
    assert set(quick_plan().arms) <= set(full_plan().arms)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"policies": ["causal", "magic"]}, "unknown attention policy 'magic'"),
        ({"policies": ["mma"]}, "causal must be among them"),
        ({"backbones": ["gpt5"]}, "no backbone 'gpt5': choose of llama, qwen3, phi3"),
    ],
)
def test_mistakes(wrong, message):
    for plan in (quick_plan, full_plan):
        with pytest.raises(ValueError, match=message):
            plan(**wrong)


def test_names_of_folders():
    assert Arm("mma").name == "mma-seed-0"
    odd = Arm("causal", 3, backbone="qwen3", layers=6, order="both>image-first")
    assert odd.name == "qwen3-both-then-image-first-layers-6-causal-seed-3"
    assert odd.stages == ("both", "image-first")
