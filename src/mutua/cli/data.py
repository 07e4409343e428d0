"""`mutua data`: what a source holds, before a run meets it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mutua.cli.common import FAILED, INTERRUPTED, err, out, report_errors, result_file
from mutua.cli.progress import progress
from mutua.shortened import shortened

if TYPE_CHECKING:
    from mutua.data.check import Report
    from mutua.data.sample import Sample
    from mutua.training.recipe import DataSettings

_MEASURED = "evaluate.sources."

EXAMPLES = """Examples:

  mutua data check pets.jsonl                        (a file of ours, or of LLaVA, ShareGPT or ms-swift)

  mutua data check llava:data.json -m models/mine    (counts tokens too, as that model has them)

  mutua data check rows/train -o page.html           (a folder of save_to_disk; samples to look at)

  mutua data check recipes/mine.yaml                 (every source of a recipe)
"""

data_app = typer.Typer(help="What training data hold, and what is wrong with them.", no_args_is_help=True)


@data_app.command(name="check", epilog=EXAMPLES)
def check(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="easy-vqa, scenes, grid, a file or folder (jsonl:, llava: or datasets: before it), a recipe.",
        ),
    ],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Model whose tokens are counted and must not be in a text.")
    ] = None,
    show: Annotated[int | None, typer.Option(min=0, help="Samples to show of each source; 3.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Draw the shown samples to this .html page, with pictures.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option("--images", help="Folder where the paths of the pictures of a llava file start.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Read every sample once: count, show a few, and find what a run would skip or stop at (then exit code 1)."""
    with report_errors():
        if show is not None and as_json and output is None:
            raise ValueError(f"--show {show} shows samples in a text or on a page, and --json holds none: add -o.")
        from mutua.data.check import SHOWN, check_source
        from mutua.data.limits import SampleLimits
        from mutua.data.sheet import sheet
        from mutua.training.samples import sample_limits

        opened, data = _open(source, images)
        processor, longest = None, None
        if model is not None:
            from mutua.models.loading import load_processor
            from mutua.models.longest_text import longest_text

            config, processor = load_processor(model)
            longest = longest_text(config.text_config)
        reports = []
        with result_file("--output", output, (".html",)) as save:
            with progress() as bar:
                for name, samples in opened.items():
                    limits = SampleLimits(longest)
                    if data is not None and not name.startswith(_MEASURED):
                        limits = sample_limits(data, longest)
                    report = check_source(
                        samples,
                        name,
                        processor=processor,
                        limits=limits,
                        show=SHOWN if show is None else show,
                        progress=partial(bar, "", name),
                    )
                    reports.append(report)
                    if report.read < report.samples:
                        break
            page = sheet({report.name: report.shown for report in reports})
            save(lambda path: path.write_text(page, encoding="utf-8"))
        if as_json:
            typer.echo(json.dumps({"sources": [report.summary() for report in reports]}, ensure_ascii=False))
        else:
            for report in reports:
                _print(report)
        if reports[-1].read < reports[-1].samples:
            err.print("interrupted", style="yellow")
            raise typer.Exit(INTERRUPTED)
        if not all(report.is_usable for report in reports):
            raise typer.Exit(FAILED)


def _open(name: str, images: Path | None) -> tuple[Mapping[str, Sequence[Sample]], DataSettings | None]:
    """The sources that are meant, by name, and of a recipe what it says of its data."""
    from mutua.data.readers import LlavaSource
    from mutua.data.readers.source_at import source_at
    from mutua.evaluation import open_source as open_named

    is_recipe = name.endswith((".yaml", ".yml"))
    if images is not None:
        if is_recipe:
            raise ValueError(f"--images {images}: {name} is a recipe, whose sources say where their pictures are.")
        found = source_at(name)
        if not isinstance(found, LlavaSource):
            raise ValueError(f"--images is for files of LLaVA and its like, and {name} is read as {found.type}.")
        return {name: found.model_copy(update={"images": images}).open()}, None
    if not is_recipe:
        return {name: open_named(name)}, None
    from mutua.training import load_recipe
    from mutua.training.batches import open_sources
    from mutua.training.samples import source_names

    recipe = load_recipe(name)
    trained = zip(source_names(recipe), (weighted.source for weighted in recipe.data.train), strict=True)
    measured = ((f"{_MEASURED}{key}", source) for key, source in recipe.evaluate.sources.items())
    try:
        opened = open_sources(dict([*trained, *measured]))
    except ValueError as error:
        raise ValueError("\n".join(f"{name}: {line}" for line in str(error).splitlines())) from None
    return opened, recipe.data


def _print(report: Report) -> None:
    from mutua.data.check import NOTED, SKIPPED

    whole = "" if report.read == report.samples else f", {report.read:,} of them read"
    out.print(f"{report.name}: {report.samples:,} samples{whole}")
    pictures = ", ".join(f"{samples:,} with {count}" for count, samples in sorted(report.pictures.items()))
    out.print(f"  replies {report.replies:,}; pictures: samples {pictures or 'none'}")
    if lengths := report.lengths:
        allowed = "" if report.max_tokens is None else f" (allowed {report.max_tokens:,})"
        out.print(f"  tokens: {', '.join(f'{name} {tokens:,}' for name, tokens in lengths.items())}{allowed}")
    for title, kinds in (("a run skips, or stops at:", SKIPPED), ("worth a look:", NOTED)):
        found = {kind: text for kind, text in kinds.items() if kind in report.counts}
        if found:
            out.print(f"  {title}")
        for kind, text in found.items():
            out.print(f"    {report.counts[kind]:,} {text}")
            for finding in report.findings[kind]:
                out.print(f"      {finding.place}: {finding.text}")
            if (more := report.counts[kind] - len(report.findings[kind])) > 0:
                out.print(f"      and {more:,} more")
    for sample in report.shown:
        out.print(f"  {sample.id}")
        for message in sample.messages:
            out.print(f"    {message.role}: {_said(message.chat()['content'])}")
    if report.read == report.samples and not report.counts:
        out.print("  nothing to complain of")


def _said(parts: Sequence[Mapping[str, object]]) -> str:
    """A message in a line, its pictures by their sizes."""
    said = []
    for part in parts:
        width, height = getattr(part.get("image"), "size", (0, 0))
        said.append(str(part["text"]) if part["type"] == "text" else f"[picture {width} x {height}]")
    return shortened(" ".join(" ".join(said).split()), 200)
