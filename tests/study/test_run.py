"""A study in small: everything that it leaves, and that it does only what is missing."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from small_studies import in_this_process, small  # noqa: F401 (fixtures)
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

from mutua.study import recipes, run
from mutua.study.plan import Arm, Block, Plan
from mutua.study.pool import JobError
from mutua.study.results import BLIND, TRUTH, CostRow, LookRow, PairRow, ScoreRow, YesRow, read_rows
from mutua.study.run import run_study
from mutua.study.work import _ATTENTION_ON_A_CPU, read_arm

ARMS = tuple(Arm(policy, seed, steps=4) for seed in (0, 1) for policy in ("causal", "mma"))
PLAN = Plan((Block("main", ARMS), Block("depth", (*ARMS[:2], *(replace(arm, layers=1) for arm in ARMS[:2])))))


@pytest.fixture
def started(small, in_this_process, monkeypatch) -> list[str]:  # noqa: F811
    """The names of all jobs that were run."""
    names: list[str] = []

    def run_jobs(jobs, processes, watch):
        names.extend(job.name for job in jobs)
        in_this_process(jobs, processes, watch)

    monkeypatch.setattr(run, "run_jobs", run_jobs)
    return names


def test_a_study_from_plan_to_report(started, monkeypatch, tmp_path):
    report = run_study(PLAN, tmp_path, lambda line: None)
    assert report == tmp_path / "report.html"
    assert started == ["encoder grid 4", *(arm.name for arm in PLAN.arms)]
    scores, yes, pairs = (read_rows(tmp_path, kind) for kind in (ScoreRow, YesRow, PairRow))
    assert {row.policy for row in scores} == {"causal", "mma", BLIND}
    assert {row.split for row in scores if row.policy == "mma"} == {"validation", "test"}
    assert {(row.task, row.family) for row in scores if row.split == "test" and row.task == "grid"} == {
        ("grid", family) for family in ("attribute", "exists", "relation")
    }
    assert {row.policy for row in yes} == {"causal", "mma", TRUTH}
    assert {(row.policy, row.baseline) for row in pairs} == {("mma", "causal")}
    for row in pairs:
        (ours,) = (s for s in scores if _same(s, row) and s.policy == "mma")
        (theirs,) = (s for s in scores if _same(s, row) and s.policy == "causal")
        assert (row.both_right + row.only_policy, row.both_right + row.only_baseline) == (ours.correct, theirs.correct)
    assert {row.layers for row in read_rows(tmp_path, CostRow)} == {1, 3}
    looks = read_rows(tmp_path, LookRow)
    assert all(row.value == 0 for row in looks if row.policy == "causal" and row.measure == "image to question")
    assert any(row.value > 0 for row in looks if row.policy == "mma" and row.measure == "image to question")

    monkeypatch.setattr(run, "write_report", lambda folder: folder)  # which takes seconds, and is drawn above

    # Only what is missing is done again, and gives the same.
    before = (tmp_path / "pairs.csv").read_text()
    shutil.rmtree(tmp_path / "runs" / ARMS[1].name)
    started.clear()
    run_study(PLAN, tmp_path, lambda line: None)
    assert started == [ARMS[1].name]
    assert (tmp_path / "pairs.csv").read_text() == before

    # Another arm under the name of one that is there is none of this study's.
    place = tmp_path / "runs" / ARMS[0].name / "arm.json"
    content = json.loads(place.read_text())
    content["arm"]["steps"] = 5
    place.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="holds another arm"):
        run_study(PLAN, tmp_path, lambda line: None)

    # Nor is one that was trained by other recipes, though its name is the same; but where it lies does not matter.
    content["arm"]["steps"] = 4
    place.write_text(json.dumps(content))
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    started.clear()
    run_study(PLAN, moved, lambda line: None)
    assert not started
    monkeypatch.setitem(recipes.BATCH, "grid", 5)
    with pytest.raises(ValueError, match=r"trained with train.batch_size 6, and this study has 5: choose another"):
        run_study(PLAN, moved, lambda line: None)


def _same(score: ScoreRow, pair: PairRow) -> bool:
    names = ("block", "layers", "seed", "task", "family")
    return score.split == "test" and all(getattr(score, name) == getattr(pair, name) for name in names)


def test_what_is_measured_is_reported_where_an_arm_fails(started, tmp_path, monkeypatch):
    whole = run.run_jobs

    def fail(jobs, processes, watch):
        whole(jobs[:1], processes, watch)
        if len(jobs) > 1:
            raise JobError("an arm failed", [jobs[1].name])

    monkeypatch.setattr(run, "run_jobs", fail)
    with pytest.raises(JobError):
        run_study(PLAN, tmp_path, lambda line: None)
    about = json.loads((tmp_path / "study.json").read_text())
    assert (about["measured"], about["failed"]) == (1, [ARMS[1].name])
    assert about["missing"]["main"] == [arm.name for arm in ARMS[1:]]
    assert about["versions"]["torch"] == torch.__version__
    report = (tmp_path / "report.md").read_text()
    assert f"- failed: `{ARMS[1].name}`" in report
    assert f"Not whole: 3 models not measured ({', '.join(about['missing']['main'])})." in report


@pytest.mark.parametrize("mask", [{"is_causal": True}, {"attn_mask": torch.ones(6, 6, dtype=torch.bool)}])
def test_attention_counts_among_the_operations_of_a_step(mask):
    """Two products of N x N x D multiplications and additions forward, five backward."""
    q_BHND = torch.randn(2, 3, 6, 8, requires_grad=True)
    with FlopCounterMode(display=False, custom_mapping=_ATTENTION_ON_A_CPU) as counter:
        scaled_dot_product_attention(q_BHND, q_BHND, q_BHND, **mask).sum().backward()
    assert counter.get_total_flops() == (2 + 5) * 2 * (2 * 3 * 6 * 6 * 8)


def test_an_arm_that_is_not_told_is_named(tmp_path):
    for content in ("", "[]", '{"arm": {"size": 3}}'):
        (tmp_path / "arm.json").write_text(content)
        with pytest.raises(ValueError, match=r"arm\.json: does not say which model this is .* remove its folder"):
            read_arm(tmp_path)


@pytest.mark.slow
def test_orders_in_stages(small, in_this_process, monkeypatch, tmp_path):  # noqa: F811
    monkeypatch.setattr(run, "run_jobs", in_this_process)
    arms = tuple(Arm(policy, steps=4, order="both>image-first") for policy in ("causal", "mma"))
    run_study(Plan((Block("order", arms),)), tmp_path, lambda line: None)
    second = tmp_path / "runs" / arms[1].name / "stage-2" / "recipe.yaml"
    assert "order: image-first" in second.read_text()
    rows = [row for row in read_rows(tmp_path, ScoreRow) if row.split == "test" and row.policy != BLIND]
    assert {row.samples for row in rows} == {4 * 6}
