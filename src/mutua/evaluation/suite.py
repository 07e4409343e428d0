"""Benchmarks, one after the other: questions to answers, resumable, by one process or by many.

OUTPUT/run.json              what is being evaluated, and how: another command does not go on in this folder
OUTPUT/predictions/*.jsonl   the answers, written batch by batch
OUTPUT/records/*.jsonl       every question with its answer and verdict, in the order of the data
OUTPUT/results.json          the figures; the same bytes however often the run was killed on its way
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from mutua.data.sample import SampleError
from mutua.evaluation.accuracy import spread
from mutua.evaluation.benchmarks import BENCHMARKS
from mutua.evaluation.predictions import Predictions, key_of
from mutua.evaluation.questions import Questions, expect_folder, open_questions
from mutua.folders import FolderError, lock_file, whole_file
from mutua.respond import GREEDY, Answer, encode_conversations, respond
from mutua.unlocking import policy_of
from mutua.world import EndedElsewhere, World

RUN, PREDICTIONS, RECORDS, RESULTS = "run.json", "predictions", "records", "results.json"

# Of a config: none of these changes an answer, or it is told for itself.
_PASSING = ("transformers_version", "auto_map", "architectures", "dtype", "torch_dtype", "attention_policy", "mutua")

Progress = Callable[[str, str, int, int], None]


@dataclass(frozen=True)
class Settings:
    """What makes an evaluation another one.

    Attributes:
        model: its name, as it was given; by another name it is the same model.
        weights: their digest (`digest_of`): a folder may hold another model tomorrow.
        processor: the digest of what turns a question into tensors and an answer into text (`digest_of_processor`).
        policy: the attention policy; empty for models that have none.
        limit: questions of each benchmark; one that is asked in several forms counts once.
    """

    model: str
    weights: str
    processor: str
    policy: str
    dtype: str
    batch_size: int
    limit: int | None


def settings_of(model: Any, processor: Any, name: str, batch_size: int, limit: int | None) -> Settings:
    policy = policy_of(model) or ""
    dtype = str(model.dtype).removeprefix("torch.")
    return Settings(name, digest_of(model), digest_of_processor(model, processor), policy, dtype, batch_size, limit)


def digest_of(model: torch.nn.Module) -> str:
    """Of the names and shapes of all weights and the first numbers of each, which any training changes."""
    digest = blake2b(digest_size=8)
    for name, weight in model.state_dict().items():
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        digest.update(weight.detach().flatten()[:64].to("cpu", torch.float64).numpy().tobytes())
    return digest.hexdigest()


def digest_of_processor(model: Any, processor: Any) -> str:
    """Of what it makes of a picture and a question, and of the configs that say how the model reads and answers."""
    digest = blake2b(digest_size=8)
    picture = Image.linear_gradient("L").convert("RGB").resize((301, 203))
    asked = [
        {"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": "What is 1 + 1?"}]}
    ]
    for name, tensor in sorted(encode_conversations([asked], processor).items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.to(torch.float64).numpy().tobytes())
    for config in (model.config, model.generation_config):
        digest.update(json.dumps(_lasting(config.to_dict()), sort_keys=True, default=str).encode())
    return digest.hexdigest()


def _lasting(content: Any) -> Any:
    """A config without what changes no answer: where it lies, who wrote it, which backend computes attention."""
    if not isinstance(content, dict):
        return content
    kept = {str(key): value for key, value in content.items() if not str(key).startswith("_") and key not in _PASSING}
    return {key: _lasting(value) for key, value in kept.items()}


@contextmanager
def open_output(output: Path, settings: Settings, world: World) -> Iterator[None]:
    """The folder of an evaluation, for this run alone.

    Raises:
        ValueError: it cannot be made, holds another evaluation, or another process is at work in it.
        OSError: it cannot be written.
    """
    locks: list[Any] = []
    world.first(lambda: locks.append(_claimed(output, settings)))
    try:
        yield
    finally:
        for lock in locks:
            lock.close()


def _claimed(output: Path, settings: Settings) -> Any:
    try:
        for folder in (output / PREDICTIONS, output / RECORDS):
            folder.mkdir(parents=True, exist_ok=True)
        lock = (output / ".lock").open("a")
    except OSError as error:
        raise ValueError(
            f"--output {output}: nothing can be written there ({error.strerror}); name another."
        ) from error
    try:
        lock_file(lock)
    except FolderError as error:
        raise ValueError(f"--output {error}") from None
    run, ours = output / RUN, asdict(settings)
    if not run.is_file():
        with whole_file(run) as write:
            write(lambda path: path.write_text(json.dumps(ours, indent=1) + "\n", encoding="utf-8"))
        return lock
    try:
        theirs = json.loads(run.read_text(encoding="utf-8"))
        differing = {name: theirs.get(name) for name in ours if theirs.get(name) != ours[name] and name != "model"}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{run}: is no record of an evaluation ({error!r}): name another --output.") from None
    if differing:
        told = ", ".join(f"{name} {value!r}, not {ours[name]!r}" for name, value in differing.items())
        raise ValueError(f"--output {output} holds another evaluation: {told}. Name another folder.")
    return lock


def chosen(questions: Questions, limit: int | None) -> list[int]:
    """The places of the questions that are asked: whole groups, spread evenly over all."""
    groups = questions.groups()
    return sorted(place for group in spread(len(groups), limit) for place in groups[group])


def ask(
    model: Any,
    processor: Any,
    questions: Questions,
    output: Path,
    settings: Settings,
    world: World,
    progress: Progress,
) -> None:
    """Has the model answer what is not answered yet, batch by batch.

    Batches are the same however often a run is interrupted and however many processes share them: with another
    neighbour in its batch a question may be answered otherwise, by the last bit of a sum.

    Raises:
        ValueError: a picture cannot be used, or a question cannot be encoded.
        FolderError: the answers cannot be written.
    """
    benchmark = questions.benchmark
    predictions = Predictions(output / PREDICTIONS, benchmark.name, world.rank)
    done = predictions.read()
    places = chosen(questions, settings.limit)
    keys = {place: key_of(questions.all[place], questions.protocol, questions.version) for place in places}
    by_length = sorted(places, key=lambda place: (questions.all[place].places, len(questions.all[place].prompt)))
    batches = [by_length[start : start + settings.batch_size] for start in range(0, len(places), settings.batch_size)]
    pending = [batch for batch in batches if any(keys[place] not in done for place in batch)]
    answered = len(places) - sum(map(len, pending))
    world.any(False)  # all have read what is done before one writes more
    progress(settings.model, benchmark.title, answered, len(places))
    failure: ValueError | OSError | None = None
    try:
        for turn in range(0, len(pending), world.size):
            for batch in pending[turn + world.rank : turn + world.rank + 1]:
                answers = _answers(model, processor, questions, batch)
                predictions.add([keys[place] for place in batch], [questions.all[place] for place in batch], answers)
            answered += sum(map(len, pending[turn : turn + world.size]))
            progress(settings.model, benchmark.title, answered, len(places))
    except (ValueError, OSError) as error:
        failure = error
    has_failed = world.any(failure is not None)  # and all have written before one reads
    if failure is not None:
        raise failure
    if has_failed:
        raise EndedElsewhere


def _answers(model: Any, processor: Any, questions: Questions, batch: Sequence[int]) -> list[Answer]:
    return respond(
        model,
        processor,
        [questions.all[place].conversation(questions.pictures(place)) for place in batch],
        max_new_tokens=questions.protocol.max_new_tokens,
        batch_size=len(batch),
        names=[f"{questions.benchmark.name}: question {questions.all[place].id!r}" for place in batch],
        **GREEDY,
    )


def open_all(names: Sequence[str], data: Path | None) -> dict[str, Questions]:
    """Opens the benchmarks, and says in one error what is wrong with any of them."""
    if any(BENCHMARKS[name].samples is None for name in names):
        expect_folder(data)
    opened, problems = {}, []
    for name in names:
        try:
            opened[name] = open_questions(BENCHMARKS[name], data)
        except SampleError as error:
            problems.append(str(error))
    if problems:
        raise SampleError("\n".join([*problems, "Nothing was asked. --tasks names what is to be asked of the suite."]))
    return opened
