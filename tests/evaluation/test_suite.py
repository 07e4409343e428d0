"""A suite goes on where it was killed, and ends in the same bytes; whatever is in the way is told before or kept."""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from dataclasses import replace
from hashlib import md5
from pathlib import Path

import pytest

from mutua.data.sample import SampleError
from mutua.evaluation import suite
from mutua.evaluation.benchmark import Verdict
from mutua.evaluation.benchmarks import BENCHMARKS, PAPER
from mutua.evaluation.fixtures import write_tsv
from mutua.evaluation.predictions import Predictions, key_of
from mutua.evaluation.questions import Questions, open_questions
from mutua.evaluation.results import Record, bounds_of, score, write_results
from mutua.evaluation.suite import PREDICTIONS, Settings, ask, chosen, open_all, open_output, settings_of
from mutua.evaluation.suite_report import warnings_of, write_report
from mutua.folders import FolderError
from mutua.models.loading import load_model
from mutua.models.model_folder import PACKAGED
from mutua.respond import Answer
from mutua.world import EndedElsewhere, World

SETTINGS = Settings("scripted", "0", "0", "mma", "float32", 3, None)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_tsv(folder)
    return folder


@pytest.fixture
def opened(data: Path) -> dict[str, Questions]:
    return open_all(("mme", "mmbench", "mmmu"), data)


def scripted(model, processor, conversations, *, names, **_) -> list[Answer]:
    """Answers by the name of the question and by its neighbours, as a batch may in truth."""
    return [Answer(f"{'Yes' if len(name) % 2 else 'A'} {len(names)}", "stop", 3) for name in names]


def evaluate(opened, output: Path, settings: Settings = SETTINGS, world: World | None = None) -> None:
    world = world or World()
    with open_output(output, settings, world):
        for questions in opened.values():
            ask(None, None, questions, output, settings, world, lambda *_: None)
        write_results(
            output, settings, {name: score(one, output, settings, None) for name, one in opened.items()}, None
        )


def files(output: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(output)): path.read_bytes() for path in output.rglob("*.json*") if "pred" not in str(path)
    }


def test_killed_at_any_moment_it_goes_on_and_ends_in_the_same_bytes(opened, tmp_path, monkeypatch):
    def slowly(*args, **options):
        time.sleep(0.02)
        return scripted(*args, **options)

    monkeypatch.setattr("mutua.evaluation.suite.respond", slowly)
    evaluate(opened, tmp_path / "unbroken")
    kills = 0
    for pause in (0.03, 0.11, 0.17, 0.08, 30.0):
        child = os.fork()
        if not child:
            try:
                evaluate(opened, tmp_path / "killed")
                os._exit(0)
            finally:
                os._exit(1)  # never back into pytest
        until = time.monotonic() + pause
        while time.monotonic() < until and os.waitpid(child, os.WNOHANG) == (0, 0):
            time.sleep(0.005)
        else:
            if time.monotonic() < until:
                break
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        kills += 1
    assert kills >= 2
    assert files(tmp_path / "killed") == files(tmp_path / "unbroken")
    assert "results.json" in files(tmp_path / "killed")


def test_what_is_answered_is_not_asked_again_and_a_torn_line_is(opened, tmp_path, monkeypatch):
    asked: list[int] = []

    def counted(*args, **options):
        asked.append(len(options["names"]))
        return scripted(*args, **options)

    monkeypatch.setattr("mutua.evaluation.suite.respond", counted)
    evaluate(opened, tmp_path)
    assert sum(asked) == sum(len(questions.all) for questions in opened.values())
    first, told = files(tmp_path), tmp_path / PREDICTIONS / "mme.0.jsonl"
    whole = told.read_bytes()
    told.write_bytes(whole[:-20])
    asked.clear()
    evaluate(opened, tmp_path)
    assert sum(asked) == 1, "the last batch holds one question"
    assert told.read_bytes() == whole
    assert files(tmp_path) == first


def test_two_processes_end_in_the_same_bytes_as_one(opened, tmp_path, monkeypatch):
    monkeypatch.setattr("mutua.evaluation.suite.respond", scripted)
    evaluate(opened, tmp_path / "one")

    class Apart(World):
        """One of two that run one after the other, and agree on nothing."""

        def first(self, make):
            return make() if self.is_first else None

        def any(self, flag):
            return flag

    for rank in (1, 0):
        world = Apart(rank, 2)
        for questions in opened.values():
            (tmp_path / "two" / PREDICTIONS).mkdir(parents=True, exist_ok=True)
            ask(None, None, questions, tmp_path / "two", SETTINGS, world, lambda *_: None)
    evaluate(opened, tmp_path / "two")
    assert files(tmp_path / "two") == files(tmp_path / "one")
    assert len(list((tmp_path / "two" / PREDICTIONS).glob("mme.*"))) == 2


def test_a_failure_elsewhere_ends_this_one_without_a_word(opened, tmp_path, monkeypatch):
    monkeypatch.setattr("mutua.evaluation.suite.respond", scripted)
    (tmp_path / PREDICTIONS).mkdir()

    class Failing(World):
        def any(self, flag):
            return True

    with pytest.raises(EndedElsewhere):
        ask(None, None, opened["mme"], tmp_path, SETTINGS, Failing(), lambda *_: None)


def test_a_full_disk_loses_nothing(opened, tmp_path, monkeypatch):
    monkeypatch.setattr("mutua.evaluation.suite.respond", scripted)
    synced = []

    def full(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / PREDICTIONS).mkdir()
    with monkeypatch.context() as patched:
        patched.setattr("mutua.evaluation.predictions.os.fsync", full)
        with pytest.raises(FolderError, match=r"mme\.0\.jsonl cannot be written \(No space left on device\)\. The ans"):
            ask(None, None, opened["mme"], tmp_path, SETTINGS, World(), lambda *_: None)
    assert len(Predictions(tmp_path / PREDICTIONS, "mme").read()) >= 6
    evaluate(opened, tmp_path)


def test_a_damaged_line_is_told_with_its_place(opened, tmp_path, monkeypatch):
    monkeypatch.setattr("mutua.evaluation.suite.respond", scripted)
    evaluate(opened, tmp_path)
    path = tmp_path / PREDICTIONS / "mme.0.jsonl"
    path.write_bytes(b"{}\n" + path.read_bytes())
    with pytest.raises(ValueError, match=r"mme\.0\.jsonl:1: the line is damaged .* remove it"):
        evaluate(opened, tmp_path)


def test_another_prompt_protocol_or_file_is_another_question(opened):
    question, protocol = opened["mme"].all[0], opened["mme"].benchmark.protocol
    others = [
        (opened["mme"].all[1], protocol, "1"),
        (replace(question, prompt=question.prompt + " "), protocol, "1"),
        (question, replace(protocol, max_new_tokens=16), "1"),
        (question, protocol, "2"),
    ]
    assert key_of(question, protocol, "1") not in [key_of(*other) for other in others]


def test_a_limit_takes_whole_groups(opened):
    for name, size in (("mme", 2), ("mmbench", 4)):
        places = chosen(opened[name], 3)
        assert len(places) == 3 * size
        assert places == sorted(places)


def test_a_folder_keeps_to_one_evaluation(tmp_path):
    with open_output(tmp_path, SETTINGS, World()):
        pass
    other = replace(SETTINGS, model="by another path", policy="causal", limit=5)
    with (
        pytest.raises(ValueError, match=r"policy 'mma', not 'causal', limit None, not 5\. Name another folder"),
        open_output(tmp_path, other, World()),
    ):
        pass
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(ValueError, match="is no record of an evaluation"), open_output(tmp_path, SETTINGS, World()):
        pass


def test_what_makes_an_evaluation_another_one():
    """Weights, and what turns questions into tensors and tokens into answers; not where it lies or how it computes."""
    network, processor = load_model(PACKAGED)
    before = settings_of(network, processor, "m", 64, None)
    weight = next(network.parameters())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weight, "data", weight.data + 1e-6)
        assert settings_of(network, processor, "m", 64, None) != before
    for changed, name, value in (
        (processor, "chat_template", processor.chat_template + "!"),
        (processor.image_processor, "image_mean", [0.1, 0.2, 0.3]),
        (network.generation_config, "suppress_tokens", [1]),
        (network.config.text_config, "rms_norm_eps", 1e-3),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(changed, name, value)
            assert settings_of(network, processor, "m", 64, None).processor != before.processor, name
    assert settings_of(*load_model(PACKAGED, attn_implementation="mutua_sdpa"), "m", 64, None) == before


def test_a_file_that_nobody_knows_is_said_to_be_one(tmp_path, monkeypatch):
    """Of VLMEvalKit's layout, where a set may have fewer questions than are published: its MD5 tells."""
    monkeypatch.setattr("mutua.evaluation.suite.respond", scripted)
    write_tsv(tmp_path / "data")
    pope = open_questions(BENCHMARKS["pope"], tmp_path / "data")
    with open_output(tmp_path, SETTINGS, World()):
        ask(None, None, pope, tmp_path, SETTINGS, World(), lambda *_: None)
    outcome = score(pope, tmp_path, SETTINGS, None)
    assert outcome.unlike_the_paper == "another file than VLMEvalKit's"
    (told,) = warnings_of({"pope": outcome})
    assert told.startswith("POPE: POPE.tsv is not the file of VLMEvalKit of March 2025")
    known = md5((tmp_path / "data/POPE.tsv").read_bytes()).hexdigest()
    pope = open_questions(replace(BENCHMARKS["pope"], md5=known), tmp_path / "data")
    assert pope.is_whole
    assert not score(pope, tmp_path, SETTINGS, None).unlike_the_paper


def test_bounds_of_a_figure_that_counts_what_is_said(data):
    """F1 of POPE: of an open reply to a question whose answer is no, the worst is a yes."""
    pope = open_questions(BENCHMARKS["pope"], data).all
    yes, no = (next(one for one in pope if one.answer == answer) for answer in ("Yes", "No"))
    records = [Record(yes, "Yes", False, Verdict("Yes", 1.0)), Record(no, "?", False, Verdict(None, None, why="-"))]
    least, most = bounds_of(BENCHMARKS["pope"], records)["F1"]
    assert (round(least, 1), most) == (66.7, 100.0)


def test_a_part_of_a_set_is_said_to_be_one(opened, tmp_path, monkeypatch):
    monkeypatch.setattr("mutua.evaluation.suite.respond", scripted)
    some = replace(SETTINGS, limit=2)
    with open_output(tmp_path, some, World()):
        ask(None, None, opened["mme"], tmp_path, some, World(), lambda *_: None)
    outcome = score(opened["mme"], tmp_path, some, None)
    assert outcome.unlike_the_paper == "a part of the set"
    asked, whole = len(outcome.records), len(opened["mme"].all)
    assert f"MME: {asked} of its {whole} questions were asked (--limit)." in warnings_of({"mme": outcome})
    report = write_report(tmp_path, some, {"mme": outcome}, None).read_text()
    assert "| MME perception (a part of the set: not to be compared) |" in report


def test_measured_answers_are_greedy_whatever_the_model_does_in_chats(opened, tmp_path, monkeypatch):
    asked = []

    def seen(model, processor, conversations, **options):
        asked.append(options)
        return scripted(model, processor, conversations, names=options["names"])

    monkeypatch.setattr(suite, "respond", seen)
    evaluate({"mme": opened["mme"]}, tmp_path)
    assert {tuple(options[name] for name in ("do_sample", "num_beams", "repetition_penalty")) for options in asked} == {
        (False, 1, 1.0)
    }


def test_a_folder_that_cannot_be_made_is_told_with_its_option(tmp_path):
    file = tmp_path / "file"
    file.touch()
    for output in (file, file / "below"):
        with (
            pytest.raises(
                ValueError, match=r"--output .*file.*: nothing can be written there \(Not a directory\); name"
            ),
            open_output(output, SETTINGS, World()),
        ):
            pass


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (errno.ENOLCK, r"lies on a file system that cannot lock files \(No locks available\): name a folder on one"),
        (errno.EAGAIN, "another process is at work in it; wait for it, or name another"),
    ],
)
def test_a_folder_that_cannot_be_locked_is_told_with_its_option(tmp_path, monkeypatch, error, told):
    def fail(*_: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr("fcntl.lockf", fail)
    with pytest.raises(ValueError, match=f"--output {tmp_path}:? {told}"), open_output(tmp_path, SETTINGS, World()):
        pass


def test_what_waits_for_a_judge_is_counted_and_scores_nothing(data, tmp_path, monkeypatch):
    monkeypatch.setattr("mutua.evaluation.suite.respond", scripted)
    opened = open_all(PAPER, data)
    evaluate(opened, tmp_path)
    found = json.loads((tmp_path / "results.json").read_text())["benchmarks"]
    assert found["mm_vet"]["figures"]["overall"]["value"] is None
    assert found["mm_vet"]["unscored"] == {"no judge was given to grade the reply": 4}
    assert found["llava_w"]["figures"]["overall"]["value"] is None
    assert found["mathvista"]["figures"]["accuracy"]["value"] is None
    least, most = found["mathvista"]["bounds"]["accuracy"]
    assert least < most
    assert found["mme"]["unread"] > 0
    assert found["mme"]["bounds"] == {}
    assert {name for name, one in found.items() if one["judge"]} == set()


def test_a_figure_of_which_nothing_was_asked_is_no_score_and_is_told(data, tmp_path, monkeypatch):
    monkeypatch.setattr("mutua.evaluation.suite.respond", scripted)
    opened = open_all(("mme", "cv_bench"), data)
    settings = replace(SETTINGS, limit=1)
    evaluate(opened, tmp_path, settings)
    outcomes = {name: score(one, tmp_path, settings, None) for name, one in opened.items()}
    told = " ".join(warnings_of(outcomes))
    assert "MME cognition: no question of it was asked." in told
    assert "CV-Bench 3D: no question of it was asked." in told
    assert (
        json.loads((tmp_path / "results.json").read_text())["benchmarks"]["mme"]["figures"]["cognition"]["value"]
        is None
    )


def test_every_missing_benchmark_is_named_at_once(tmp_path):
    with pytest.raises(SampleError, match=r"(?s)mme: nothing in .*pope: nothing in .*Nothing was asked\. --tasks"):
        open_all(("mme", "pope"), tmp_path)
