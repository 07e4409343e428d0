"""Judges behind a server on this machine that keeps no rule: whatever it does, no score is made up."""

from __future__ import annotations

import errno
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from scripted_judge import Answer, Served, scripted

from mutua.evaluation.benchmark import Question
from mutua.evaluation.benchmarks.mathvista import MATHVISTA
from mutua.evaluation.benchmarks.mme import MME
from mutua.evaluation.judge import Judge, JudgeError, grade, grade_pair, judged_answer, judged_option, judged_yes_no
from mutua.folders import FolderError

PETS = {"A": "cat", "B": "dog"}
AT_ONCE = {"retry-after-ms": "1"}
KEY = "sk-of-a-test-0123456789"


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))  # certificates take a while to load; none is needed here


@pytest.fixture
def judge_of(tmp_path):
    """A judge of the given server, with a cache of its own."""

    def build(served: Served, **options) -> Judge:
        return Judge("judge-1", tmp_path / "judge", url=served.url, **{"retries": 2, "timeout": 5.0, **options})

    return build


def says(text: str | None, **more) -> Answer:
    return Answer(text, **more)


@pytest.mark.parametrize(
    ("said", "option"), [("A", "A"), (" (B) ", "B"), ("It is the dog.", "B"), ("Z", "Z"), ("The answer is A.", "A")]
)
def test_an_option_is_read_from_what_the_judge_says(judge_of, said, option):
    with scripted(lambda *_: says(said)) as served:
        assert judged_option(judge_of(served), "Which pet?", PETS, "the one that purrs") == (option, "")
    prompt = served.requests[0]["messages"][-1]["content"]
    assert "Question: Which pet?\nOptions: A. cat B. dog\nAnswer: the one that purrs\nOption:" in prompt


def test_a_question_with_chinese_in_it_is_judged_in_chinese(judge_of):
    with scripted(lambda *_: says("B")) as served:
        assert judged_option(judge_of(served), "What does 狗 mean?", PETS, "the one that barks") == ("B", "")
        assert judged_option(judge_of(served), "Which pet?", PETS, "狗") == ("B", "")
    chinese, english = (request["messages"][0]["content"] for request in served.requests)
    assert chinese.endswith("问题: What does 狗 mean?\n选项: A. cat B. dog\n答案: the one that barks\n选项:")
    assert english.endswith("Question: Which pet?\nOptions: A. cat B. dog\nAnswer: 狗\nOption:")


@pytest.mark.parametrize(
    ("answers", "read"),
    [
        (["Yes"], "Yes"),
        (["It means no."], "No"),
        (["Unknown", "hm", "yes"], "Yes"),
        (["Unknown"] * 5, "Unknown"),
        (["hm"] * 4 + ["Unknown."], "Unknown"),
    ],
)
def test_yes_or_no_is_asked_up_to_five_times(judge_of, answers, read):
    with scripted(lambda nth, _: says(answers[nth])) as served:
        assert judged_yes_no(judge_of(served), "Is it a dog?", "It barks.") == (read, "")
    asked = [request["temperature"] for request in served.requests]
    assert asked == [0, 0.5, 1, 1.5, 2][: len(answers)]
    assert served.requests[0]["messages"][0]["content"].endswith("Question: Is it a dog?\nAnswer: It barks.\nMeant:")


def test_a_judge_that_fails_after_unknown_leaves_no_score(judge_of):
    for last in (says("hm"), says("busy", status=503, headers=AT_ONCE)):
        with scripted(lambda nth, _, last=last: says("Unknown") if nth < 4 else last) as served:
            assert judged_yes_no(judge_of(served), "Is it a dog?", "It barks.")[0] is None


@pytest.mark.parametrize(("said", "read", "score"), [("Yes", "Yes", 1.0), ("No", "No", 0.0), ("Unknown", None, 0.0)])
def test_what_a_judge_makes_of_a_yes_no_question_of_mme(judge_of, said, read, score):
    question = Question("1", "Is it a dog?", "Is it a dog?", "Yes")
    with scripted(lambda *_: says(said)) as served:
        verdict = MME.verdict(question, "It barks.", judge_of(served))
    assert (verdict.read, verdict.score) == (read, score)


@pytest.mark.parametrize(
    ("kind", "said", "read", "score"),
    [
        ("integer", "14", "14", 1.0),
        ("integer", "15", "15", 0.0),
        ("integer", "banana", None, 0.0),
        ("text", "banana", "banana", 0.0),
    ],
)
def test_what_a_judge_finds_in_a_reply_to_mathvista(judge_of, kind, said, read, score):
    question = Question("1", "How many?", "How many?", "14", more={"kind": kind})
    with scripted(lambda *_: says(said)) as served:
        verdict = MATHVISTA.verdict(question, "There are as many as days in two weeks.", judge_of(served))
    assert verdict.read == (question.answer if score else read)
    assert verdict.score == score


def test_tasks_ask_as_vlmevalkit_does(judge_of):
    with scripted(lambda nth, _: says(("14", "0.5", "8 6\nbecause")[nth])) as served:
        judge = judge_of(served)
        assert judged_answer(judge, "Hint: a number\nQuestion: how many?", "there are 14") == ("14", "")
        assert grade(judge, "which?", "x<AND>y", "x") == (0.5, "")
        assert grade_pair(judge, "what?", "a cat", "It is a cat.", "{a} dog?") == ((8, 6), "")
    answer, mm_vet, pair = served.requests
    assert (answer["temperature"], answer["max_tokens"]) == (0, 128)
    assert (mm_vet["temperature"], mm_vet["max_tokens"]) == (0, 3)
    assert mm_vet["messages"][0]["content"].endswith("which? | x <AND> y | x |")
    assert pair["temperature"] == 0.2
    assert "max_tokens" not in pair
    assert [message["role"] for message in pair["messages"]] == ["system", "user"]
    assert "[Answer 2]\n{a} dog?\n" in pair["messages"][1]["content"]


@pytest.mark.parametrize("said", ["A or B", "banana", "I'd rather not", "猫", "*" * 500])
def test_nonsense_is_asked_again_and_then_no_option(judge_of, said):
    with scripted(lambda *_: says(said)) as served:
        found, why = judged_option(judge_of(served), "Which pet?", PETS, "hm")
    assert found is None
    assert why == "the judge 'judge-1' was to give one of the options or Z, and said something else in 3 tries"
    assert len(served.requests) == 3


@pytest.mark.parametrize("said", ["1.1", "-0.1", "nan", "5/10", "Score: 0.5", "inf"])
def test_nonsense_is_no_grade(judge_of, said):
    with scripted(lambda *_: says(said)) as served:
        found, why = grade(judge_of(served), "which?", "x", "y")
    assert found is None
    assert "was to give a grade from 0 to 1" in why
    assert [request["temperature"] for request in served.requests] == [0, 0.5, 1, 1.5, 2]


@pytest.mark.parametrize("said", ["8", "8 9 10", "0 5", "nan 9", "11 3", "Assistant 1: 8\n9", "-1 -1"])
def test_nonsense_is_no_pair_of_grades(judge_of, said):
    with scripted(lambda *_: says(said)) as served:
        found, why = grade_pair(judge_of(served), "which?", "a cat", "x", "y")
    assert found is None
    assert "was to give two grades from 1 to 10" in why


def test_a_later_try_may_succeed(judge_of):
    with scripted(lambda nth, _: says(("hm", "0.3")[nth])) as served:
        assert grade(judge_of(served), "which?", "x", "y") == (0.3, "")


@pytest.mark.parametrize("status", [429, 500, 503, 408])
def test_what_passes_is_tried_again(judge_of, status):
    with scripted(lambda nth, _: says("A", status=200 if nth == 2 else status, headers=AT_ONCE)) as served:
        assert judged_option(judge_of(served), "Which pet?", PETS, "hm") == ("A", "")
    assert len(served.requests) == 3


@pytest.mark.parametrize("status", [429, 502])
def test_what_does_not_pass_leaves_no_score(judge_of, status):
    with scripted(lambda *_: says("busy", status=status, headers=AT_ONCE)) as served:
        found, why = grade(judge_of(served), "which?", "x", "y")
    assert found is None
    assert f"was refused, 3 times: Error code: {status}" in why
    assert "busy" in why
    assert len(served.requests) == 3


def test_a_server_that_is_silent_leaves_no_score(judge_of):
    with scripted(lambda *_: says("A", seconds=0.5)) as served:
        found, why = judged_option(judge_of(served, timeout=0.1, retries=1), "Which pet?", PETS, "hm")
    assert (found, why) == (None, "the judge 'judge-1' gave no answer within 0.1 seconds, 2 times")
    assert len(served.requests) == 2


def test_a_server_that_is_slow_is_waited_for(judge_of):
    with scripted(lambda *_: says("A", seconds=0.3)) as served:
        assert judged_option(judge_of(served, retries=0), "Which pet?", PETS, "hm") == ("A", "")


def test_a_server_that_is_not_there_leaves_no_score(judge_of):
    found, why = grade(judge_of(Served("http://127.0.0.1:9/v1"), retries=0), "which?", "x", "y")
    assert found is None
    assert "cannot be reached at http://127.0.0.1:9/v1/, once: " in why


@pytest.mark.parametrize("model", ["judge-1", "judge-1-2024-07-18", "provider/judge-1", "Judge-1", ""])
def test_a_dated_version_is_the_model_that_was_asked(judge_of, model):
    with scripted(lambda *_: says("A", model=model)) as served:
        judge = judge_of(served)
        assert judged_option(judge, "Which pet?", PETS, "hm") == ("A", "")
    assert judge.summary() == {"name": "judge-1", "url": f"{served.url}/", "versions": {model: 1}}


@pytest.mark.parametrize("model", ["judge-2", "judge-1-mini", "judge-10"])
def test_another_model_than_the_one_asked_leaves_no_score(judge_of, model):
    with scripted(lambda *_: says("A", model=model)) as served:
        judge = judge_of(served)
        found, why = judged_option(judge, "Which pet?", PETS, "hm")
        assert found is None
        assert f"was asked, and {model!r} answered: name that one as the judge" in why
        for nth in range(20):
            judged_option(judge, f"Which pet, {nth}?", PETS, "hm")
    assert len(served.requests) == 3, "it gives up"
    assert judge.summary()["versions"] == {}


@pytest.mark.parametrize(
    "body", ["<html>busy</html>", "[]", "{}", '{"choices": []}', '{"choices": [{}]}', "null", '"A"']
)
def test_what_is_no_chat_completion_leaves_no_score(judge_of, body):
    with scripted(lambda *_: says(None, body=body)) as served:
        found, why = judged_option(judge_of(served), "Which pet?", PETS, "hm")
    assert found is None
    assert "answered with something that is no chat completion" in why


@pytest.mark.parametrize("text", ["", "  \n", None])
def test_a_judge_that_says_nothing_leaves_no_score(judge_of, text):
    with scripted(lambda *_: says(text)) as served:
        found, why = judged_answer(judge_of(served), "how many?", "14")
    assert (found, why) == (None, "the judge 'judge-1' said nothing (its answer ended with 'stop')")


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_or_name_is_found_with_one_request(judge_of, status):
    with scripted(lambda *_: says(f"no, not with {KEY}", status=status)) as served:
        judge = judge_of(served)
        reasons = [grade(judge, f"which, {nth}?", "x", "y")[1] for nth in range(5)]
    assert len(served.requests) == 1
    assert served.keys == [f"Bearer {KEY}"]
    assert all(f"Error code: {status}" in why for why in reasons)
    assert reasons[-1].endswith("(and was not asked again)")
    assert KEY not in "".join(reasons)


def test_a_request_that_is_refused_says_nothing_about_the_next(judge_of):
    with scripted(lambda nth, _: says("too long", status=400) if nth < 5 else says("0.7")) as served:
        judge = judge_of(served)
        found = [grade(judge, f"which, {nth}?", "x", "y")[0] for nth in range(7)]
    assert found == [None] * 5 + [0.7] * 2
    assert len(served.requests) == 7


def test_what_was_said_is_not_asked_again_by_anybody(judge_of, tmp_path):
    with scripted(lambda nth, _: says(("hm", "0.3", "0.9")[nth])) as served:
        assert grade(judge_of(served), "which?", "x", "y") == (0.3, "")
        again = judge_of(served)
        assert grade(again, "which?", "x", "y") == (0.3, "")
        assert again.summary()["versions"] == {"judge-1": 2}, "what comes from the disk is counted, too"
        assert len(served.requests) == 2
        assert grade(again, "which other?", "x", "y") == (0.9, "")
    kept = list((tmp_path / "judge").iterdir())
    assert len(kept) == 3
    entry = json.loads(kept[0].read_text())
    assert (entry["request"]["model"], entry["version"]) == ("judge-1", "judge-1")
    assert KEY not in "".join(file.read_text() for file in kept)


def test_a_full_disk_is_told_and_nothing_is_left_half(judge_of, tmp_path, monkeypatch):
    def full(path: Path, *_, **__) -> None:
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    with scripted(lambda *_: says("0.3")) as served:
        with monkeypatch.context() as patched:
            patched.setattr(Path, "write_text", full)
            with pytest.raises(FolderError, match=r"judge/.*\.json cannot be written \(No space .* make room and run"):
                grade(judge_of(served), "which?", "x", "y")
        assert list((tmp_path / "judge").iterdir()) == []
        assert grade(judge_of(served), "which?", "x", "y") == (0.3, "")


def test_what_was_of_no_use_is_asked_again_by_the_next_run(judge_of):
    with scripted(lambda nth, _: says("8 7" if nth else "Answer 1: 8, Answer 2: 7")) as served:
        assert grade_pair(judge_of(served), "which?", "a cat", "x", "y")[0] is None
        assert grade_pair(judge_of(served), "which?", "a cat", "x", "y")[0] == (8, 7)
        assert len(served.requests) == 2


def test_what_failed_is_not_remembered(judge_of):
    with scripted(lambda nth, _: says("0.3", status=500 if nth == 0 else 200)) as served:
        assert grade(judge_of(served, retries=0), "which?", "x", "y")[0] is None
        assert grade(judge_of(served, retries=0), "which?", "x", "y") == (0.3, "")


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"text": "0.9"}'])
def test_a_damaged_memory_is_asked_again(judge_of, tmp_path, damage):
    with scripted(lambda *_: says("0.3")) as served:
        grade(judge_of(served), "which?", "x", "y")
        (file,) = (tmp_path / "judge").iterdir()
        file.write_text(damage)
        assert grade(judge_of(served), "which?", "x", "y") == (0.3, "")
    assert len(served.requests) == 2


def test_no_more_requests_are_under_way_than_allowed(judge_of):
    with scripted(lambda *_: says("0.3", seconds=0.02)) as served:
        judge = judge_of(served, concurrency=3)
        with ThreadPoolExecutor(12) as pool:
            found = list(pool.map(lambda nth: grade(judge, f"which, {nth}?", "x", "y"), range(24)))
    assert found == [(0.3, "")] * 24
    assert 1 < served.most_at_once <= 3


def test_no_key_is_said_before_anything_is_asked(monkeypatch, tmp_path):
    for key in (None, "", "  "):
        if key is None:
            monkeypatch.delenv("OPENAI_API_KEY")
        else:
            monkeypatch.setenv("OPENAI_API_KEY", key)
        with pytest.raises(
            JudgeError, match="'judge-1' needs a key: put it into the environment variable OPENAI_API_KEY"
        ):
            Judge("judge-1", tmp_path)


@pytest.mark.parametrize("key", ["sk-…", "sk-a b", "sk-a\nb"])
def test_what_can_be_no_key_is_not_sent(monkeypatch, tmp_path, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(JudgeError, match="OPENAI_API_KEY holds a space or a character that no key has") as refused:
        Judge("judge-1", tmp_path)
    assert key not in str(refused.value)


def test_a_reply_that_is_no_valid_text_is_judged(judge_of):
    with scripted(lambda *_: says("0.3")) as served:
        assert grade(judge_of(served), "which?", "x", "half \ud83d") == (0.3, "")
    assert "half ?" in served.requests[0]["messages"][0]["content"]


def test_a_server_of_ones_own_needs_no_key(monkeypatch, judge_of):
    monkeypatch.delenv("OPENAI_API_KEY")
    with scripted(lambda *_: says("A")) as served:
        assert judged_option(judge_of(served), "Which pet?", PETS, "hm") == ("A", "")


def test_a_url_is_shown_without_what_may_be_a_key(tmp_path):
    judge = Judge("judge-1", tmp_path, url="http://user:word@127.0.0.1:9/v1?key=abc")
    assert judge.summary()["url"] == "http://127.0.0.1:9/v1/"


@pytest.mark.parametrize("options", [{"concurrency": 0}, {"timeout": 0}, {"retries": -1}])
def test_numbers_that_cannot_be_are_refused(tmp_path, options):
    with pytest.raises(ValueError, match="a judge needs at least one request at a time"):
        Judge("judge-1", tmp_path, **options)
