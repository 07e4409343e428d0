from io import StringIO
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from mutua.evaluation.accuracy import Accuracy, Record
from mutua.evaluation.report import figure, table


def accuracy(**scores: tuple[int, int]) -> Accuracy:
    """`accuracy(count=(3, 4))`: three of four counts right."""
    return Accuracy(
        tuple(
            Record(f"{family}{i}", family, "?", "yes", "yes" if i < correct else "no")
            for family, (correct, total) in scores.items()
            for i in range(total)
        )
    )


RESULTS = {"causal": accuracy(count=(2, 4), relation=(1, 4)), "mma": accuracy(count=(4, 4), exists=(3, 4))}
BLIND = {"count": 0.25, "relation": 0.5, "exists": 0.75}


def test_families_down_and_models_across() -> None:
    out = StringIO()
    Console(file=out, width=120).print(table(RESULTS, blind=BLIND, title="two models"))
    rows = {line.split("│")[1].strip(): line for line in out.getvalue().splitlines() if line.startswith("│")}
    assert list(rows) == ["count", "relation", "exists", "overall"]
    assert "50.0% (15.0-85.0)" in rows["count"]
    assert "100.0% (51.0-100.0)" in rows["count"]
    assert "25.0%" in rows["count"]
    assert rows["relation"].split("│")[4].strip() == "-"
    assert "37.5%" in rows["overall"]
    assert "two models" in out.getvalue()
    assert rows["overall"].split("│")[5].strip() == "50.0%", "four questions of each family"


@pytest.mark.parametrize("blind", [None, {"scenes": BLIND, "mine": None}])
def test_the_figure_is_a_picture(tmp_path: Path, blind: dict | None) -> None:
    figure(tmp_path / "bars.png", {"scenes": RESULTS, "mine": {"mma": RESULTS["mma"]}}, blind=blind)
    with Image.open(tmp_path / "bars.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > picture.height > 400
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 3


def test_a_blind_guess_of_some_families_has_no_overall() -> None:
    out = StringIO()
    Console(file=out, width=120).print(table({"mma": accuracy(count=(1, 4), exists=(3, 4))}, blind={"count": 0.25}))
    overall = next(line for line in out.getvalue().splitlines() if "overall" in line)
    assert overall.split("│")[4].strip() == ""


def test_names_are_no_markup(tmp_path: Path) -> None:
    results = {"[red]m": accuracy(**{"[/red]y": (50, 50), "$x^{$": (0, 50)})}
    out = StringIO()
    Console(file=out, width=120).print(table(results, title="[/x]"))
    assert all(name in out.getvalue() for name in ("[red]m", "[/red]y", "$x^{$", "[/x]"))
    figure(tmp_path / "bars.png", {"$a_{": results})


def test_no_results() -> None:
    with pytest.raises(ValueError, match="at least one model"):
        table({})
