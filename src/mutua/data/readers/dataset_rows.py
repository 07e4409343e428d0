"""Tables of the `datasets` package as a source: a folder of `save_to_disk`, Parquet and Arrow files. No network."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from mutua.data.readers.llava import pictures_folder
from mutua.data.readers.reader import Reader
from mutua.data.rows import CHATS, sample_from_row
from mutua.data.sample import Sample, SampleError

if TYPE_CHECKING:
    from datasets import Dataset

_SAVED, _SAVED_SPLITS = "state.json", "dataset_dict.json"
# As the hub names the files of a split: train-00000-of-00002.parquet, in its early years with a digest behind.
_SHARD = re.compile(r"^(?P<split>.+?)-(?P<number>\d+)-of-(?P<total>\d+)(?:-[0-9a-f]{16})?$")


class DatasetRows(Reader):
    """The rows of a table, in any of the forms of `mutua.data.rows`.

    Args:
        path: a folder that `save_to_disk` wrote, a `.parquet` or `.arrow` file, or a folder of Parquet files.
        split: which split, where there are several.
        columns: the table's column by the name that it has in `mutua.data.rows`, e.g. {"messages": "chat"}; no other
            column is read then. Left out, the columns have those names.
        images: the folder where the paths of pictures start; left out, that of the files. Pictures that the table
            holds itself need none.

    Raises:
        ImportError: the `datasets` package is missing.
        SampleError: nothing of that kind is there, no such split or column, one of its files is missing or there twice,
            or no column holds a conversation.
    """

    def __init__(
        self,
        path: str | Path,
        split: str | None = None,
        columns: Mapping[str, str] | None = None,
        images: str | Path | None = None,
    ) -> None:
        self.path = Path(path)
        self.pictures = pictures_folder(images, self.path if self.path.is_dir() else self.path.parent)
        table = _open(self.path, split)
        self.columns = dict(columns or {name: name for name in table.column_names})
        for name in self.columns.values():
            if name not in table.column_names:
                raise SampleError(f"{self.path}: columns: no column {name!r}; it has {', '.join(table.column_names)}")
        if not self.columns.keys() & set(CHATS):
            raise SampleError(
                f"{self.path}: no conversation in its columns {', '.join(table.column_names)}: name the column that "
                "holds it, e.g. columns: {messages: chat, images: pictures} or {query: question, response: answer}"
            )
        # As Arrow holds them, so that pictures are opened in our one way.
        self._table = table.select_columns(list(self.columns.values())).with_format("arrow")

    def __len__(self) -> int:
        return len(self._table)

    def place(self, index: int) -> str:
        return f"{self.path}[{index}]"

    def without_images(self, index: int) -> Sample:
        """A sample whose pictures are paths still, where the table holds paths."""
        index = range(len(self))[index]
        (row,) = self._table[index].to_pylist()
        renamed = {ours: row[theirs] for ours, theirs in self.columns.items()}
        name = self.path.name
        return sample_from_row(renamed, self.place(index), name, f"{name}[{index}]")


def is_dataset(path: Path) -> bool:
    """Whether `DatasetRows` can read what lies there."""
    if path.is_dir():
        return bool(_kind_of_folder(path))
    return path.suffix in (".parquet", ".arrow")


def _kind_of_folder(folder: Path) -> str | None:
    for name in (_SAVED, _SAVED_SPLITS):
        if (folder / name).is_file():
            return name
    return "parquet" if any(files_under(folder, ".parquet")) else None


def _open(path: Path, split: str | None) -> Dataset:
    if not path.exists():
        raise SampleError(f"{path}: no such file or folder")
    kind = _kind_of_folder(path) if path.is_dir() else path.suffix if path.is_file() else None
    if kind not in (_SAVED, _SAVED_SPLITS, "parquet", ".parquet", ".arrow"):
        raise SampleError(
            f"{path}: is no folder of save_to_disk, holds no .parquet file, and is neither .parquet nor .arrow itself; "
            "JSON is read by the type llava"
        )
    datasets = _import_datasets()
    if kind == _SAVED_SPLITS:
        names = sorted(folder.parent.name for folder in path.glob(f"*/{_SAVED}"))
        path = path / _one_split(path, names, split)
        split = None
    if kind in ("parquet", ".parquet"):
        table = parquet_table(path, _shards(path, split) if kind == "parquet" else [path])
    else:
        with _errors_as_no_table(path):
            table = datasets.load_from_disk(str(path)) if path.is_dir() else datasets.Dataset.from_file(str(path))
    saved_as = None if table.split is None or kind in ("parquet", ".parquet") else str(table.split)
    if split is not None and kind != "parquet" and saved_as != split:
        raise SampleError(f"{path}: no split {split!r}: it is one table{f', of {saved_as}' if saved_as else ''}")
    return table


def parquet_table(path: Path, files: Sequence[Path]) -> Dataset:
    """The rows of Parquet files. SampleError, which names `path`, where they cannot be read as one table."""
    with _errors_as_no_table(path):
        return _import_datasets().Dataset.from_parquet([str(file) for file in files])


def _import_datasets() -> ModuleType:
    try:
        import datasets
    except ImportError as error:
        raise ImportError('the datasets package is not installed: pip install "mutua[train]"') from error
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    return datasets


@contextmanager
def _errors_as_no_table(path: Path) -> Iterator[None]:
    try:
        yield
    except ImportError:
        raise
    except Exception as error:  # of the file system, of Arrow, of a table's own description: they have no common class
        reason = " ".join(str(error.__cause__ or error).split())[:300]
        raise SampleError(f"{path}: cannot be read as a table: {reason}") from error


def _shards(folder: Path, split: str | None) -> list[Path]:
    """The files of a split, in order."""
    files: dict[str, list[Path]] = {}
    for file in sorted(files_under(folder, ".parquet")):
        shard = _SHARD.match(file.stem)
        files.setdefault(shard["split"] if shard else file.stem, []).append(file)
    found = files[_one_split(folder, sorted(files), split)]
    expect_whole(folder, found)
    return found


def files_under(folder: Path, ending: str) -> Iterator[Path]:
    """The files with this ending in a folder and in those below it, linked ones too; each folder once.

    Raises:
        SampleError: a folder cannot be read: what is in it is not missing.
    """
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, onerror=refuse_unreadable, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a link to a folder that it is in, or that is there anyway
            folders.clear()
            continue
        seen.add(real)
        folders.sort()  # so that the same path leads to it every time
        yield from (Path(place, name) for name in names if name.endswith(ending))


def refuse_unreadable(error: OSError) -> None:
    """For `os.walk`, which passes over what it may not read; what is not there, it may pass over."""
    if not isinstance(error, FileNotFoundError):
        raise SampleError(f"{error.filename}: cannot be read ({error.strerror}): see to it that you may.") from error


def expect_whole(folder: Path, files: Sequence[Path]) -> None:
    """Raises SampleError where of files that say in their names how many they are one is missing, or there twice."""
    splits: dict[str, list[tuple[re.Match[str], Path]]] = {}
    for file in files:
        if shard := _SHARD.match(file.stem):
            splits.setdefault(shard["split"], []).append((shard, file.relative_to(folder)))
    for split, shards in splits.items():
        _expect_each_once(f"{folder}: split {split}", shards)


def _expect_each_once(where: str, shards: Sequence[tuple[re.Match[str], Path]]) -> None:
    first, first_file = shards[0]
    total = int(first["total"])
    held: dict[int, Path] = {}
    for shard, file in shards:
        if int(shard["total"]) != total:
            raise SampleError(
                f"{where}: {first_file} is one of {total}, and {file} of {int(shard['total'])}: remove those of one "
                "kind, or name the files' own folder"
            )
        if (other := held.setdefault(int(shard["number"]), file)) is not file:
            raise SampleError(
                f"{where}: one file is there twice, {other} and {file}: remove one, or name the files' own folder"
            )
    numbers = range(1, total + 1) if total in held and 0 not in held else range(total)
    if (missing := next((number for number in numbers if number not in held), None)) is not None:
        name = f"{first['split']}-{missing:0{len(first['number'])}}-of-{first['total']}"
        raise SampleError(
            f"{where}: has {len(held)} of {total} files: {name} is missing: fetch it, or name the files' own folder"
        )
    if (more := next((number for number in held if number not in numbers), None)) is not None:
        raise SampleError(
            f"{where}: {held[more]} is none of its {total} files: remove it, or name the files' own folder"
        )


def _one_split(path: Path, names: list[str], split: str | None) -> str:
    if split is None and len(names) == 1:
        return names[0]
    if split in names:
        return split
    asked = "has several splits" if split is None else f"no split {split!r}"
    raise SampleError(f"{path}: {asked}; it has {', '.join(names)}: set split to one, or give the path of its files")
