"""`mutua quickstart`: the paper's comparison at toy size, from nothing to a table, a figure and an answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from mutua.cli.common import INTERRUPTED, err, out, report_errors, result_file

EXAMPLES = """Examples:

  mutua quickstart

  mutua quickstart --set train.steps=200 --limit 500     (a quick look)
"""

ARMS = ("mma", "causal")
OURS = ("name", "output", "model.path", "model.attention_policy")  # what differs between the runs


def quickstart(
    output: Annotated[Path, typer.Option(help="Folder for models, table and figure.")] = Path("runs/quickstart"),
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Replace one value in both arms' recipe.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Test questions per source. Default: all of them.")] = None,
) -> None:
    """Train an MMA model and its causal twin (same start, data, seed, steps), compare them, ask one a question.

    Both begin with the same short captioning run. Stopped? The same command goes on.
    """
    with report_errors():
        from mutua.cli.common import load_model
        from mutua.cli.evaluate import progress, report
        from mutua.data.readers import Scenes
        from mutua.evaluation import HELD_OUT, blind_guess, figure, measure, open_source, to_json
        from mutua.figures import blank_figure
        from mutua.training import load_recipe
        from mutua.training import train as run

        for override in overrides or []:
            if (key := override.partition("=")[0].strip()) in OURS:
                raise ValueError(
                    f"--set {override}: quickstart sets {key} itself; --output says where everything goes."
                )
        captions = load_recipe(find_recipe("quickstart-captions"), [f"output={output / 'captions'}"])
        recipes = [captions] + [
            load_recipe(
                find_recipe("quickstart"),
                [
                    f"name=quickstart-{arm}",
                    f"output={output / arm}",
                    f"model.path={output / 'captions' / 'model'}",
                    f"model.attention_policy={arm}",
                    *(overrides or []),
                ],
            )
            for arm in ARMS
        ]
        blank_figure(1, 1)
        sources = {name: open_source(name) for name in HELD_OUT}
        make_folder(output)
        results_json, accuracy_png, picture = output / "results.json", output / "accuracy.png", output / "scene.png"
        with result_file("--output", results_json) as save_json, result_file("--output", accuracy_png) as save_figure:
            for number, recipe in enumerate(recipes, 1):
                err.print(f"{number}/{len(recipes)}  {recipe.name}", style="bold")
                if run(recipe, err).interrupted:
                    raise typer.Exit(INTERRUPTED)

            err.print("held-out questions", style="bold")
            networks = {arm: load_model(str(output / arm / "model"), None) for arm in ARMS}
            with progress() as show:
                results = measure(networks, sources, limit=limit, batch_size=128, progress=show)
            blind = {name: blind_guess(name) for name in HELD_OUT}
            report(results, blind)
            text = json.dumps(to_json(results, blind), indent=1) + "\n"
            save_json(lambda path: path.write_text(text, encoding="utf-8"))
            save_figure(lambda path: figure(path, results, blind=blind))

        from mutua.api import ask

        sample = Scenes("test", 100, seed=2, families=("relation",))[0]
        sample.prompt()[-1]["content"][0]["image"].save(picture)
        question, model = sample.question, output / "mma" / "model"
        out.print(f'\nmutua ask {picture} "{question}" --model {model}', style="bold")
        out.print(f"{ask(*networks['mma'], picture, question)}   (right: {sample.answer})")
        out.print(
            f"\nmodels: {model}, {output / 'causal' / 'model'}   figure: {accuracy_png}   every answer: {results_json}"
        )


def make_folder(folder: Path) -> None:
    """The folder that everything goes into; ValueError where there can be none."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--output {folder}: no folder can be made there ({error.strerror}); name another.") from error


def find_recipe(name: str) -> Path:
    """A recipe of ours by name: in the installed package, or in the checkout it runs from."""
    import mutua

    package = Path(mutua.__file__).parent
    for folder in (package / "recipes", package.parent.parent / "recipes"):
        if (path := folder / f"{name}.yaml").is_file():
            return path
    raise FileNotFoundError(f"the recipe {name}.yaml is not in this installation of mutua: reinstall it.")
