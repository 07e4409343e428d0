"""Which source a path on the command line is: said before it (`llava:data.json`), or seen by looking."""

from __future__ import annotations

from pathlib import Path

from mutua.data.readers import DatasetsSource, JsonLinesSource, LlavaSource
from mutua.data.readers.dataset_rows import is_dataset
from mutua.data.readers.json_records import form_of, parse
from mutua.data.rows import has_foreign_layout
from mutua.data.sample import SampleError

FileSource = JsonLinesSource | LlavaSource | DatasetsSource

_KINDS: dict[str, type[JsonLinesSource] | type[LlavaSource] | type[DatasetsSource]] = {
    kind.model_fields["type"].default: kind for kind in (JsonLinesSource, LlavaSource, DatasetsSource)
}


def source_at(name: str) -> FileSource:
    """The source of a path, or of `type:path`.

    Raises:
        SampleError: nothing is there, or nothing that is known for data; the message says what it looks like.
    """
    kind, colon, rest = name.partition(":")
    if not name or (kind in _KINDS and colon and not rest):
        raise SampleError(f"{name!r} names no data: give a file or folder")
    if colon and kind in _KINDS and not Path(name).exists():
        return _KINDS[kind](path=Path(rest))
    path = Path(name)
    if not path.exists():
        raise SampleError(f"{name}: no such file or folder")
    if not path.is_file() and not path.is_dir():
        raise SampleError(f"{name}: is neither a file nor a folder: save the data in a file first")
    if is_dataset(path):
        return DatasetsSource(path=path)
    if path.is_dir():
        raise SampleError(
            f"{name}: a folder without data that is known: neither one of save_to_disk, nor one with .parquet files. "
            "Name a file in it"
        )
    if path.suffix not in (".json", ".jsonl"):
        raise SampleError(
            f"{name}: is neither .jsonl, .json, .parquet nor .arrow: if it is one of them, say which reader is meant, "
            f"{' or '.join(f'{kind}:{name}' for kind in _KINDS)}"
        )
    return LlavaSource(path=path) if _is_of_others(path) else JsonLinesSource(path=path)


def _is_of_others(path: Path) -> bool:
    """Whether a JSON file holds rows of other trainers, by its first one."""
    if form_of(path) == "list":
        return True
    with path.open("rb") as file:
        first = next((line for line in file if line.strip()), b"{}")
    try:
        row = parse(first)
    except (ValueError, RecursionError) as error:
        if path.suffix == ".jsonl":  # a line that is wrong is told where it is read
            return False
        raise SampleError(f"{path}: neither a JSON list of samples nor JSON Lines: its first line: {error}") from None
    return has_foreign_layout(row)
