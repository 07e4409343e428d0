"""What README, docs and `--help` print is so: Python blocks and commands run, links and paths lead somewhere.

Everything runs in a stage: a folder with the recipes and pictures of this repository, and what a reader has by then of
their own, such as a picture, a chat or a trained model.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest
import typer
from aki_checkpoint import write_checkpoint
from what_users_read import mutua

from mutua.api import PACKAGED
from mutua.cli import app
from mutua.evaluation.fixtures import write_parquet

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))]
CARD = "src/mutua/packaged/README.md"
GROUPS = [group.typer_instance for group in app.registered_groups]
COMMANDS = sorted(
    {
        command.callback.__module__
        for typers in (app, *GROUPS)
        for command in (*typers.registered_commands, typers.registered_callback)
        if command is not None and command.callback is not app.registered_callback.callback
    }
)

# Added to a command, to have it done in seconds.
SHORTER = {
    "train": "--set train.steps=1 --set train.batch_size=2 --set train.warmup_steps=0 --set train.workers=0 "
    "--set data.tokenizer_texts=50",
    "eval": "--limit 2",
    "ask": "--max-new-tokens 2",
    "chat": "--max-new-tokens 2",
    "look": "--max-new-tokens 2",
    "leakage": "--conversations 1",
    "unlock": "--limit 2 --max-new-tokens 2",
    "eval check": "",
    "eval fixtures": "",
    "eval compare": "",
}
SHORTER_PYTHON = {'"train.steps=500"': ", ".join(map(repr, SHORTER["train"].replace("--set ", "").split()))}

# Not run, by how they begin: of these, options, recipes and paths are looked at.
READ_ONLY = {
    "make": "sets up an environment of its own, trains for minutes",
    "mutua quickstart": "trains for minutes; tests/cli/test_quickstart.py runs it short",
    "mutua study": "trains for minutes to hours; tests/study/test_run.py runs it in small",
    "mutua train recipes/smollm2.yaml": "needs a language model from a package index",
    "mutua plan recipes/tiny-captions.yaml --set model.preset=aki-4b": "needs configs from the hub",
    "mutua eval --data easy-vqa -m runs/smollm2": "needs the two models of the line above",
    "mutua train recipes/tiny": "goes on from a model that takes hours; docs/training.md runs the first",
    "mutua train recipes/aki-4b": "needs the paper's data; tests/training/test_two_stages.py has small ones",
    "mutua eval --suite paper --data data/benchmarks --tasks mm_vet": "needs a judge: tests/cli/test_eval_suite.py",
    "mutua eval -m runs/mine/model --suite paper --data data/benchmarks": "takes seconds; with data/small it is run",
    "torchrun": "starts processes of its own; tests/training/test_processes.py runs two",
    "mutua data check recipes/aki-4b": "finds them missing, exit code 1",
    "mutua eval -m runs/tiny-relation": "measures what took those hours",
    "mutua export aki runs/mine": "needs an AKI model that was trained on; tests/convert/test_aki.py has one",
    "mutua data check pets/llava.json": "finds what is wrong, exit code 1; tests/cli/test_data.py compares its output",
    "mutua data check rows/train": "needs a table; tests/data has some",
    "pip install": "needs a package index",
    ". .venv": "the environment that make run made",
    "tensorboard": "serves until it is stopped",
    "python -m mutua.evaluation.blind": "takes ten seconds",
    "python -m mutua.study.work": "trains for minutes; tests/study/test_run.py runs it in small",
    "python benchmarks/attention.py": "measures for minutes",
    "python benchmarks/training.py": "needs a GPU",
    "python benchmarks/unlocked.py": "measures for minutes",
    "python benchmarks/convert.py": "writes 8.66 GB",
    "python benchmarks/smollm2.py": "needs that language model; tests/study/test_smollm2.py runs it with a small one",
    "python benchmarks/unlock_lora.py": "trains for an hour; tests/study/test_unlock_lora.py runs it in small",
}
PROGRAMS = ("mutua", "make", "pip", "python", "tensorboard", ".", "pytest", "torchrun", "accelerate", "printf")


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory) -> Path:
    """The paper's benchmarks in small, and two evaluations on them."""
    folder = tmp_path_factory.mktemp("benchmarks")
    write_parquet(folder / "data")
    for policy in ("mma", "causal"):
        words = ["eval", "--suite", "paper", "--data", folder / "data", "--tasks", "pope", "--limit", 2]
        done = mutua(*words, "-p", policy, "-o", folder / "runs" / policy)
        assert done.exit_code == 0, done.output
    return folder


@pytest.fixture
def stage(tmp_path, monkeypatch, benchmarks, saved_llava) -> Path:
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    shutil.copytree(ROOT / "docs/images", tmp_path / "docs/images")
    for name in ("scene.png", "a.png", "b.png", "photo.jpg", "pets/images/cat.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "docs/images/scene.png", tmp_path / name)
    questions = ("is there a red object?", "is there a red circle?", "is there a black circle?")
    for name in ("chat.jsonl", "mine.jsonl", "pets.jsonl", "test.jsonl"):
        (tmp_path / name).write_text("\n".join(map(sample, questions)) + "\n")
    llava = [{"from": "human", "value": "<image>is there a red object?"}, {"from": "gpt", "value": "yes"}]
    (tmp_path / "data.json").write_text(json.dumps([{"id": "1", "image": "scene.png", "conversations": llava}]))
    (tmp_path / "recipes/mine.yaml").write_text(
        "name: mine\noutput: runs/mine\nmodel: {preset: tiny}\n"
        "data: {train: [{source: {type: jsonl, path: mine.jsonl}}]}\n"
        "train: {steps: 1, batch_size: 1, learning_rate: 1.0e-3}\n"
    )
    (tmp_path / "models").mkdir()
    (tmp_path / "models/mine").symlink_to(PACKAGED)
    (tmp_path / "models/llava").symlink_to(saved_llava)
    for name in ("mine.jinja", "chat_template.jinja"):
        shutil.copy(PACKAGED / "chat_template.jinja", tmp_path / name)
    for run in ("quickstart/live/mma/stage-1", "quickstart/live/causal/stage-1", "mine", "a", "b"):
        (tmp_path / "runs" / run).mkdir(parents=True)
        (tmp_path / "runs" / run / "model").symlink_to(PACKAGED)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(benchmarks / "data", tmp_path / "data/benchmarks")
    shutil.copytree(benchmarks / "runs", tmp_path / "runs/eval")
    monkeypatch.setattr("mutua.evaluation.blind_guess", lambda source: None)  # ten seconds
    return tmp_path


def sample(question: str) -> str:
    parts = [{"type": "image", "image": "scene.png"}, {"type": "text", "text": question}]
    chat = [{"role": "user", "content": parts}, {"role": "assistant", "content": "yes"}]
    return json.dumps({"id": question, "messages": chat})


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def commands_in(text: str) -> list[str]:
    """The command lines among what is printed as code, continued lines joined, comments left out."""
    shell = re.findall(r"```(?:bash|sh|console)\n(.*?)```", text, re.DOTALL)
    indented = re.findall(r"^ {2,4}(\S.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL).replace("\\\n", " "), re.M)
    lines = [line.strip() for block in shell for line in block.replace("\\\n", " ").splitlines()]
    found = [line for line in [*lines, *indented] if line.split(" ")[0] in PROGRAMS]
    return [re.sub(r"\s{2,}[#(].*", "", line) for line in found]


def is_read_only(command: str) -> bool:
    return any(command.startswith(beginning) for beginning in READ_ONLY)


def read(command: str) -> None:
    """Options, paths and extras that a command names are there."""
    words = shlex.split(command)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", text_of("Makefile"), re.M), command
    for file in (word for word in words if word.endswith((".py", ".txt"))):
        assert (ROOT / file).is_file(), command
        if file.startswith("benchmarks"):
            assert {word for word in words if word.startswith("--")} <= set(
                re.findall(r'"(--[\w-]+)"', text_of("benchmarks/" + Path(file).name))
            ), command
    for extra in re.findall(r"\[(\w+)\]", command):
        assert f"\n{extra} = [" in text_of("pyproject.toml"), command
    if words[1] == "-m" and words[0] == "python":
        assert find_spec(words[2]), command
    if "mutua" in words:  # torchrun starts it as a module
        read_ours(words[words.index("mutua") + 1 :])


def read_ours(words: list[str]) -> None:
    """The words name one of our commands, with options that it has; a recipe is a recipe."""
    command = typer.main.get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command, *words = command.commands[words[0]], *words[1:]
    options = {option for parameter in command.params for option in parameter.opts}
    assert {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)} <= options, words
    if command.name in ("train", "plan") and words:
        from mutua.training import load_recipe

        load_recipe(ROOT / words[0], [value for option, value in pairwise(words) if option == "--set"])


def run(command: str) -> None:
    *before, ours = command.split(" | ")
    _, name, *words = shlex.split(ours)
    if name == "convert":
        prepare_aki(Path(words[2]))
    if name == "train" and "output=" not in command:
        shutil.rmtree("runs/mine", ignore_errors=True)  # what a reader has by then this command makes
    said = f"{shlex.split(before[0])[1]}\n" if before else "is there a red object?\n/quit\n"
    shorter = SHORTER.get(" ".join([name, *words[:1]]), SHORTER.get(name, ""))
    if name == "unlock" and "--calibrate" not in words:
        shorter = ""  # it takes no time, and no such options
    done = mutua(name, *words, *shorter.split(), stdin=said)
    assert done.exit_code == 0, f"{command}\n{done.output}\n{done.exception!r}"


def prepare_aki(target: Path) -> None:
    """What is downloaded, at a tiny size, and a free place to write to."""
    if target.is_dir():
        shutil.rmtree(target)
    source = Path("AKI-4B-phi-3.5-mini")
    if not source.is_dir():
        write_checkpoint(source, tokenizer=True)
        shutil.copytree(source / "vision", "siglip")
        shutil.copytree(source / "language", "phi-3.5")


@pytest.mark.parametrize("page", [*PAGES, CARD])
def test_commands_run(page, stage):
    for command in commands_in(text_of(page)):
        read(command) if is_read_only(command) else run(command)


@pytest.mark.parametrize("module", COMMANDS)
def test_the_examples_of_help_run(module, stage):
    texts = [text for name, text in vars(import_module(module)).items() if name.endswith("EXAMPLES")]
    commands = commands_in("\n".join(texts))
    assert commands
    for command in commands:
        assert len(command) <= 77, f"{command}: help would break it in two lines"
        read(command) if is_read_only(command) else run(command)


def test_what_is_only_read_is_still_printed():
    modules = [import_module(module) for module in COMMANDS]
    texts = [*map(text_of, [*PAGES, CARD])]
    texts += [text for module in modules for name, text in vars(module).items() if name.endswith("EXAMPLES")]
    printed = [command for text in texts for command in commands_in(text)]
    for beginning in READ_ONLY:
        assert any(command.startswith(beginning) for command in printed) or f"`{beginning}" in "".join(texts), beginning


@pytest.mark.parametrize("page", [page for page in PAGES if "```python" in text_of(page)])
def test_python_examples_run(page, stage, capsys):
    blocks = re.findall(r"```python\n(.*?)```", text_of(page), re.DOTALL)
    for line in re.findall(r"```json\n(\{.*?)```", text_of(page), re.DOTALL)[:1]:
        (stage / "pets/data.jsonl").write_text(line.replace("\n", ""))  # wrapped for reading
    (stage / "models/aki-4b").symlink_to(PACKAGED)
    names: dict[str, object] = {}
    for block in blocks:
        for long, short in SHORTER_PYTHON.items():
            block = block.replace(long, short)
        exec(compile(block, page, "exec"), names)
    assert capsys.readouterr().out or not any("print(" in block for block in blocks)


@pytest.mark.parametrize("page", [*PAGES, CARD])
def test_links_and_paths_lead_somewhere(page):
    path, text = ROOT / page, text_of(page)
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (path.parent / target).exists(), f"{page} links to {target}"
    for target in re.findall(r"(?<![\w/.-])(?:src|docs|tests|recipes|benchmarks)/[\w./-]*\w", text):
        assert (ROOT / target).exists() or target == "recipes/x.yaml", f"{page} names {target}"
    for words in re.findall(r"`mutua ([a-z][^`]*)`", text):
        read_ours(shlex.split(words))


def test_every_policy_is_on_the_page():
    from mutua.attention import POLICIES

    text = (ROOT / "docs/attention.md").read_text(encoding="utf-8")
    for policy in POLICIES.values():
        assert f"| `{policy.name}` | {policy.summary} | {policy.source} |" in text


def test_every_preset_and_vision_encoder_is_on_the_page():
    from mutua.composition.presets import PRESETS
    from mutua.models.vision import VISION_ENCODERS

    text = (ROOT / "docs/compose.md").read_text(encoding="utf-8")
    for name, preset in PRESETS.items():
        row = (f"`{name}`", preset.vision, preset.language, preset.connector["type"], preset.summary)
        assert f"| {' | '.join(row)} |" in text
    for name, encoder in VISION_ENCODERS.items():
        assert f"| `{name}` | {encoder.title} |" in text
        sizes = "yes" if encoder.any_size else "no"
        assert f"| {encoder.feature_layer} | {sizes} |" in text.split(f"| `{name}` |")[1].split("\n")[0] + "|"


def test_every_room_is_on_the_page_and_every_file_it_names_is_there():
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    package = ROOT / "src/mutua"
    rooms = {path.name for path in package.iterdir() if (path / "__init__.py").is_file()}
    assert {f"`{room}/`" for room in rooms} <= set(re.findall(r"`[\w.]+/?`", page))
    for name in re.findall(r"`(\w+/\w+\.py)[:`]", page):
        assert (package / name).is_file() or (ROOT / name).is_file(), name
