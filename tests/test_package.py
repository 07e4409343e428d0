"""What `import mutua` costs and what the package carries."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

import mutua
from mutua.api import PACKAGED

ROOT = Path(__file__).parents[1]
HEAVY = "torch transformers numpy PIL pydantic matplotlib yaml easy_vqa tensorboard peft"


def loaded_by(code: str) -> set[str]:
    """Which of the heavy packages a fresh interpreter has imported after `code`; it may not open a connection."""
    guarded = (
        "import socket, sys\n"
        "def refuse(*_, **__): raise AssertionError('opened a connection')\n"
        f"socket.socket.connect = refuse\n{code}\n"
        f"print('loaded', *[name for name in {HEAVY.split()} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", guarded], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split()[1:])


def test_import_loads_nothing_heavy():
    assert loaded_by("import mutua\ndir(mutua)") == set()


@pytest.mark.parametrize("words", ["--version", "--help", "train --help", "eval --help", "convert aki --help"])
def test_the_command_answers_before_anything_heavy_is_loaded(words):
    code = (
        "from mutua.cli import app\n"
        f"try: app({words.split()}, standalone_mode=False)\n"
        "except SystemExit as done: assert not done.code"
    )
    assert loaded_by(code) <= {"pydantic"}, "which Typer takes"


def test_using_it_loads_no_more_than_it_needs():
    optional = {"matplotlib", "easy_vqa", "tensorboard", "peft", "pydantic"}  # yaml comes with huggingface_hub
    assert not loaded_by("import mutua\nmutua.load, mutua.ask, mutua.compose") & optional


def test_every_public_name_is_there_and_no_room_has_its_name():
    package = Path(mutua.__file__).parent
    rooms = {path.stem for path in package.iterdir()}
    for name in mutua.__all__:
        assert getattr(mutua, name) is not None
        assert name in dir(mutua)
        assert name not in rooms, "importing the room would put it in the place of what is public"
    assert not hasattr(mutua, "nonsense")


def test_the_packaged_model_is_small_and_safe():
    files = list(PACKAGED.rglob("*"))
    assert sum(file.stat().st_size for file in files) <= 12 * 2**20
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md", "recipe.yaml", "run.json"} <= {
        file.name for file in files
    }
    assert not [file for file in files if file.suffix in (".bin", ".pt", ".pkl", ".pickle")]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a wheel of the repository puts into an environment."""
    folder = tmp_path_factory.mktemp("wheel")
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_a_wheel_carries_the_whole_package_and_nothing_else(installed: Path):
    def files(folder: Path, parent: Path) -> set[str]:
        every = (file.relative_to(parent).as_posix() for file in folder.rglob("*") if file.is_file())
        return {name for name in every if "__pycache__" not in name}

    repository = files(ROOT / "src/mutua", ROOT / "src") | {f"mutua/{name}" for name in files(ROOT / "recipes", ROOT)}
    assert files(installed / "mutua", installed) == repository
    (record,) = (path for path in installed.iterdir() if path.name != "mutua")
    assert (record / "entry_points.txt").read_text().split() == [
        *("[console_scripts]", "mutua", "=", "mutua.__main__:main"),
        *("[lmms_eval.models]", "mutua", "=", "mutua.evaluation.harness:lmms_eval_models"),
    ]


def test_what_a_wheel_installs_answers_and_finds_its_recipes(installed: Path, tmp_path: Path):
    code = (
        "import mutua, sys\nfrom PIL import Image\nfrom mutua.training import load_recipe\n"
        "assert mutua.__file__.startswith(sys.argv[1])\n"
        "model, processor = mutua.load()\n"
        "assert mutua.ask(model, processor, Image.new('RGB', (64, 64)), 'is there a red circle?') == 'no'\n"
        "try: load_recipe('recipes/quickstart.yaml')\n"
        "except ValueError as error: load_recipe(str(error).rsplit(' ', 1)[1])\n"
    )
    command = [sys.executable, "-c", code, str(installed)]
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_the_packaged_model_is_what_load_gives():
    model, processor = mutua.load()
    assert model.config.attention_policy == "mma"
    assert not model.training
    assert processor.num_image_tokens == model.config.num_image_tokens


def test_the_tree_keeps_its_layers():
    """Imports run downward, as docs/architecture.md has it: roles <- attention <- chat <- models <- ... <- cli."""
    layers = """shortened registration quiet console roles images folders figures page memory world attention chat
        models respond composition convert unlocking data evaluation training api inspection study cli"""
    order = layers.split()
    package = Path(mutua.__file__).parent
    for path in package.rglob("*.py"):
        room = path.relative_to(package).with_suffix("").parts[0]
        if room in ("__init__", "__main__"):
            continue
        assert room in order, f"{path}: where is it among the layers?"
        for node in ast.parse(
            path.read_text(encoding="utf-8")
        ).body:  # imports within functions are told at their place
            for target in imported(node):
                assert order.index(target) <= order.index(room), f"{path}:{node.lineno} imports mutua.{target}"


def imported(node: ast.stmt) -> list[str]:
    """The rooms of ours that a statement imports."""
    names = []
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module == "mutua":
        names = [f"mutua.{alias.name}" for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        names = [node.module or ""]
    return [name.split(".")[1] for name in names if name.startswith("mutua.")]
