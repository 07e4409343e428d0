"""`mutua quickstart`: the paper's comparison at toy size, from nothing to a table, a figure and an answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from mutua.cli.common import INTERRUPTED, err, out, report_errors

EXAMPLES = """Examples:

  mutua quickstart

  mutua quickstart --set train.steps=200 --limit 500      (a quick look)
"""

ARMS = ("mma", "causal")


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
        from mutua.evaluation import HELD_OUT, blind_guess, measure, open_source, to_json
        from mutua.training import load_recipe
        from mutua.training import train as run

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
        for number, recipe in enumerate(recipes, 1):
            err.rule(f"{number}/{len(recipes)}  {recipe.name}", align="left")
            if run(recipe, err).interrupted:
                raise typer.Exit(INTERRUPTED)

        err.rule("held-out questions", align="left")
        networks = {arm: load_model(str(output / arm / "model"), None) for arm in ARMS}
        sources = {name: open_source(name) for name in HELD_OUT}
        with progress() as show:
            results = measure(networks, sources, limit=limit, batch_size=128, progress=show)
        (output / "results.json").write_text(json.dumps(to_json(results), indent=1) + "\n")
        report(results, {name: blind_guess(name) for name in HELD_OUT}, figure=output / "accuracy.png")

        from mutua.api import ask

        sample = Scenes("test", 100, seed=2, families=("relation",))[0]
        picture = output / "scene.png"
        sample.prompt()[-1]["content"][0]["image"].save(picture)
        question = sample.question
        out.print(
            f'\nmutua ask {picture} "{question}" --model {output / "mma" / "model"}', style="bold", soft_wrap=True
        )
        out.print(f"{ask(*networks['mma'], picture, question)}   (right: {sample.answer})")
        out.print(
            f"\nmodels: {output}/mma/model, {output}/causal/model   figure: {output}/accuracy.png   "
            f"every answer: {output}/results.json",
            soft_wrap=True,
        )


def find_recipe(name: str) -> Path:
    """A recipe of ours by name: in the installed package, or in the checkout it runs from."""
    import mutua

    package = Path(mutua.__file__).parent
    for folder in (package / "recipes", package.parent.parent / "recipes"):
        if (path := folder / f"{name}.yaml").is_file():
            return path
    raise FileNotFoundError(f"the recipe {name}.yaml is not in this installation of mutua: reinstall it.")
