"""The audit of a sample: roles, labels and look-ahead, as the rule has them."""

from __future__ import annotations

import json

import pytest
import torch
from tiny_model import make_model, make_processor, picture
from typer.testing import Result
from what_users_read import mutua

from mutua.attention import POLICIES, oracle
from mutua.data.collate import encode
from mutua.data.sample import Sample
from mutua.inspection.audit import audit, runs
from mutua.roles import TokenRoles

CHAT = [
    {"role": "user", "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "is it [red]?"}]},
    {"role": "assistant", "content": "yes"},
    {"role": "user", "content": "sure?"},
    {"role": "assistant", "content": "no"},
]
# The tiny model has 16 tokens an image.
IMAGE = range(1, 17)


def sample(answered: int = 2) -> Sample:
    messages = json.loads(json.dumps(CHAT[: 2 * answered]))
    messages[0]["content"][0]["image"] = picture(1)
    return Sample(id="1", messages=messages)


@pytest.mark.parametrize("name", POLICIES)
def test_every_token(processor, name):
    batch = encode([sample(), sample(1)], processor)
    audited = audit(batch, processor.tokenizer, POLICIES[name])
    text = "".join(token.text for token in audited.tokens)
    question, reply = f"<|user|>{'<image>' * 16}is it [red]?<|end|><|assistant|>", "yes<|end|>"
    assert text == f"{question}{reply}<|user|>sure?<|end|><|assistant|>no<|end|>"
    assert [t.index for t in audited.tokens if t.role == "image"] == list(IMAGE)
    said = [t for t in audited.tokens if t.role == "response"]
    assert "".join(t.text for t in said) == "yes<|end|>no<|end|>"
    assert [t for t in audited.tokens if t.label] == said
    assert {t.block for t in said} == {None}
    assert audited.blocks == 2
    assert audited.trained_on == len(said)
    headers = [t.index for t in audited.tokens if t.text == "<|assistant|>"]
    asked = headers[0] - IMAGE[-1]  # tokens from the image to the reply, header included
    roles = TokenRoles.from_codes(batch["token_type_ids"][:1], batch["attention_mask"][:1])
    by_oracle_NN = oracle.allowed_mask(POLICIES[name], roles)[0].triu(1)
    for token in audited.tokens:
        ahead = [place for first, last in token.looks_ahead for place in range(first, last + 1)]
        assert ahead == by_oracle_NN[token.index].nonzero()[:, 0].tolist()
        if name == "mma":
            assert ahead == (list(range(17, headers[0] + 1)) if token.role == "image" else [])
    if name == "mma":
        assert audited.ahead_cells == 16 * asked
    assert [len(line) for line in audited.lines() if len(line) > 1] == [16]


def test_padding(processor):
    batch = encode([sample(), sample(1)], processor)
    tokens = audit(batch, processor.tokenizer, POLICIES["mma"], row=1).tokens
    padding = [token for token in tokens if token.role == "padding"]
    assert len(padding) == int((batch["attention_mask"][1] == 0).sum()) > 0
    assert not any(token.label or token.looks_ahead or token.block is not None for token in padding)


def test_runs():
    assert runs(torch.tensor([])) == ()
    assert runs(torch.tensor([1, 2, 5, 7, 8, 9])) == ((1, 2), (5, 5), (7, 9))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    model = make_model("mma")
    model.config.save_pretrained(path)  # an audit needs no weights
    make_processor(model).save_pretrained(path)
    picture(1).save(path / "a.png")
    lines = [{"id": "1", "messages": CHAT}, {"id": "2", "messages": CHAT[:1]}]
    (path / "chat.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def run(folder, *words: object) -> Result:
    return mutua("audit", *words, "--model", folder, env={"COLUMNS": "120"})


def test_the_table(folder):
    result = run(folder, folder / "chat.jsonl")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    image = next(line for line in lines if "'<image>' x 16" in line)
    assert image.split()[0] == "1-16"
    assert "'is it [red]?<|end|><|assistant|>'" in image
    assert sum("trained on" in line for line in lines[1:-1]) == int(lines[-1].split("trained on ")[1].split(",")[0])
    assert lines[-1].startswith("tokens ")
    assert lines[-1].endswith("(policy mma)")
    assert "itself, 17-" in run(folder, folder / "chat.jsonl", "--policy", "mma-bidirectional").stdout


def test_json_holds_every_token(folder):
    record = json.loads(run(folder, folder / "chat.jsonl", "--sample", 2, "--json", "--policy", "causal").stdout)
    assert record["policy"] == "causal"
    assert record["summary"]["tokens"] == len(record["tokens"])
    assert record["summary"]["ahead_cells"] == record["summary"]["trained_on"] == 0
    assert record["tokens"][-1]["text"] == "<|assistant|>"
    assert [token["image"] for token in record["tokens"]][1:17] == [0] * 16


def test_a_question_and_a_foreign_template(folder, tmp_path):
    template = tmp_path / "mine.jinja"
    template.write_text("{% for m in messages %}{{ m['role'] + ': ' + m['content'] + ' ' }}{% endfor %}")
    result = run(folder, folder / "a.png", "is it red?", "--template", template, "--json")
    record = json.loads(result.stdout)
    text = "".join(token["text"] for token in record["tokens"])
    assert text == f"user: {'<image>' * 16}is it red? "
    assert record["summary"]["blocks"] == 1
    refused = run(folder, folder / "chat.jsonl", "--template", template)
    assert refused.exit_code == 1
    assert "{% generation %}" in refused.stderr


def test_mistakes_are_told(folder, tmp_path):
    for words, message in (
        (["nope.jsonl"], "no such file"),
        ([folder / "chat.jsonl", "--sample", 3], "holds 2 samples"),
        ([folder / "a.png"], "the last word must be the question"),
        (["nope.png", "what?"], "file not found"),
        (["what?", "--template", tmp_path / "nope.jinja"], "nope.jinja"),
        (["what?", "--policy", "mmma"], "unknown attention policy"),
        (["what?", "--sample", 2], "--sample chooses from a .jsonl file"),
    ):
        result = run(folder, *words)
        assert result.exit_code == 1, result.output
        assert message in " ".join(result.stderr.split())
        assert "Traceback" not in result.output
    assert mutua("audit").exit_code == 2
