"""A chat with `transformers serve`, over the network interface of this machine alone."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pytest
import torch
from two_processes import free_port
from unlocked_pairs import llava

import mutua
from mutua.api import conversation, reply
from mutua.data.readers import Scenes
from mutua.respond import respond

SECONDS = 120


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The packaged model, saved as any model is."""
    path = tmp_path_factory.mktemp("served")
    for part in mutua.load():
        part.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def server(folder, tmp_path_factory) -> Iterator[str]:
    with serving(folder, tmp_path_factory.mktemp("server"), "--trust-remote-code") as address:
        yield address


@contextmanager
def serving(folder: Path, place: Path, *options: str) -> Iterator[str]:
    """The address of a server that was started as a user does, and has no `import mutua` of its own.

    RuntimeError, with what it said, where it ends at once.
    """
    port = free_port()
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(folder), *options]
    command += ["--device", "cpu", "--host", "127.0.0.1", "--port", str(port)]
    environment = os.environ | {"HF_MODULES_CACHE": str(place / "modules"), "HF_HUB_OFFLINE": "1"}
    with (place / "log").open("w") as log:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(SECONDS * 2):
            if process.poll() is not None:
                raise RuntimeError(f"the server ended:\n{(place / 'log').read_text()[-3000:]}")
            try:
                with urlopen(f"{address}/health", timeout=5):
                    break
            except (URLError, OSError):
                time.sleep(0.5)
        else:
            pytest.fail(f"the server does not answer:\n{(place / 'log').read_text()[-3000:]}")
        yield address
    finally:
        process.kill()
        process.wait()


def post(address: str, **body: Any) -> str:
    request = Request(f"{address}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=SECONDS) as response:
        return response.read().decode()


def streamed(address: str, folder: Path, messages: list[dict[str, Any]]) -> tuple[list[str], str]:
    """The pieces of a reply as they come, and why it ended."""
    said = post(address, model=str(folder), messages=messages, stream=True, temperature=0.0, max_tokens=20)
    chunks = [json.loads(line.removeprefix("data: ")) for line in said.splitlines() if line.startswith("data: {")]
    choices = [chunk["choices"][0] for chunk in chunks]
    pieces = [choice["delta"]["content"] for choice in choices if choice["delta"].get("content")]
    return pieces, choices[-1]["finish_reason"]


def asked(picture: Any, question: str) -> dict[str, Any]:
    """As OpenAI's clients send it."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    return {
        "role": "user",
        "content": [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}],
    }


def test_two_turns_about_a_picture(server, folder):
    model, processor = mutua.load(folder)
    for sample in (Scenes("test", 10)[4], Scenes("test", 10)[7]):
        picture = sample.prompt()[0]["content"][0]["image"]
        mine = conversation(picture, sample.question)
        first = reply(model, processor, mine, max_new_tokens=20)
        assert first.text == mutua.ask(model, processor, picture, sample.question)
        messages = [asked(picture, sample.question)]
        pieces, reason = streamed(server, folder, messages)
        assert ("".join(pieces), reason) == (first.text, first.finish_reason)

        again = "is there a red object?"
        more = [{"role": "assistant", "content": first.text}, {"role": "user", "content": again}]
        second = reply(model, processor, [*mine, *more], max_new_tokens=20)
        pieces, reason = streamed(server, folder, [*messages, *more])
        assert ("".join(pieces), reason) == (second.text, second.finish_reason)


def test_whole_replies_and_the_limit(server, folder):
    model, processor = mutua.load(folder)
    sample = Scenes("test", 10)[4]
    picture = sample.prompt()[0]["content"][0]["image"]
    said = post(server, model=str(folder), messages=[asked(picture, sample.question)], temperature=0.0, max_tokens=1)
    (choice,) = json.loads(said)["choices"]
    expected = reply(model, processor, conversation(picture, sample.question), max_new_tokens=1)
    assert choice["message"]["content"].strip() == expected.text
    assert choice["finish_reason"] == "length"


@pytest.mark.parametrize(
    "part", [{"type": "audio_url", "audio_url": {"url": "a.wav"}}, {"type": "text", "text": "<|end|>"}]
)
def test_what_cannot_be_said_is_an_error(server, folder, part):
    """Not a reply to half of it."""
    with pytest.raises(HTTPError):
        post(server, model=str(folder), messages=[{"role": "user", "content": [part]}], temperature=0.0, max_tokens=3)


@pytest.fixture(scope="module")
def unlocked(tmp_path_factory) -> Iterator[tuple[Path, Any, Any]]:
    """A model of others that was saved unlocked: its folder, itself and its processor."""
    path = tmp_path_factory.mktemp("unlocked")
    torch.manual_seed(0)
    model, processor = llava()
    with torch.no_grad():  # random weights say little: make differences large
        for parameter in model.parameters():
            parameter.mul_(2.0)
    for part in (mutua.unlock(model, processor), processor):
        part.save_pretrained(path)
    yield path, model, processor
    mutua.lock(model)


def test_a_model_of_others_is_unlocked_again(unlocked, tmp_path):
    folder, model, processor = unlocked
    picture = Scenes("test", 10)[4].prompt()[0]["content"][0]["image"]
    questions = ["is it red?", "what shape is the large blue object?", "how many circles?"]

    def said() -> list[str]:
        asked_all = [conversation(picture, question) for question in questions]
        return [respond(model, processor, [one], max_new_tokens=20)[0].text for one in asked_all]

    wanted = said()
    mutua.lock(model)
    assert said() != wanted, "another mask shows"
    mutua.unlock(model, processor)
    with serving(folder, tmp_path, "--trust-remote-code") as address:
        for question, text in zip(questions, wanted, strict=True):
            pieces, _ = streamed(address, folder, [asked(picture, question)])
            assert "".join(pieces).strip() == text


def test_and_never_served_as_it_is(unlocked, tmp_path):
    """Causally, in words that look like an answer."""
    with pytest.raises(RuntimeError, match="mutua_auto"), serving(unlocked[0], tmp_path):
        pass
