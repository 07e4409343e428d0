"""The examples of README and docs run as they are printed: the Python blocks of a page, one after the other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", "docs/attention.md", "docs/chat-templates.md", "docs/compose.md"]


@pytest.mark.parametrize("page", PAGES)
def test_python_examples_run(page, capsys):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, page, "exec"), names)
    assert capsys.readouterr().out


@pytest.mark.parametrize(
    "page", [*PAGES, "docs/architecture.md", "docs/training.md", "docs/data.md", "docs/performance.md", "docs/aki.md"]
)
def test_links_lead_somewhere(page):
    path = ROOT / page
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), f"{page} links to {target}"


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
