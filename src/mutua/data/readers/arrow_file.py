"""Tables in Arrow files of a cache folder: written once by whoever comes first, mapped into memory by all.

The folder is `MUTUA_CACHE`, else `~/.cache/mutua`. What is in it may be deleted at any time that nobody uses it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from mutua.data.sample import SampleError
from mutua.folders import FolderError, whole_file

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 4096
"""Of every batch but the last, so that a row is found by a division."""

Batches: TypeAlias = Iterable[tuple["pa.RecordBatch", Mapping[str, int]]]
"""Batches of `ROWS` rows, each with what is known of all rows so far."""


class ArrowFile:
    """A table on the disk, of which a row is read when it is asked for. Picklable: other processes map it anew.

    Attributes:
        facts: what was known of all rows when the last of them was written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened: Any = None
        batches = self._file().num_record_batches
        last = self._file().get_batch_with_custom_metadata(batches - 1)
        self._rows = (batches - 1) * ROWS + last.batch.num_rows
        self.facts = {name.decode(): int(value) for name, value in (last.custom_metadata or {}).items()}

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, index: int) -> dict[str, Any]:
        batch, row = divmod(index, ROWS)
        return self._file().get_batch(batch).slice(row, 1).to_pylist()[0]

    def columns(self, *names: str) -> pa.Table:
        """These columns, whole; they stay on the disk."""
        return self._file().read_all().select(names)

    def _file(self) -> Any:
        if self._opened is None:
            arrow = import_pyarrow()
            try:
                self._opened = arrow.ipc.open_file(arrow.memory_map(str(self.path)))
            except arrow.ArrowInvalid as error:
                raise SampleError(f"{self.path}: is damaged: remove it, and it is made anew: {error}") from None
        return self._opened

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}


def cached(kind: str, key: Any, schema: Callable[[], pa.Schema], batches: Callable[[], Batches]) -> ArrowFile:
    """The table that the cache has under this kind and key; where it has none, `batches` gives what is written.

    Processes that ask for one table at once wait for the first of them, which writes it.

    Args:
        kind: what the name of the file begins with.
        key: all that decides the content, as JSON takes it.

    Raises:
        SampleError: the cache folder cannot be written; what `batches` raises.
    """
    digest = blake2b(json.dumps([ROWS, key]).encode(), digest_size=12).hexdigest()
    path = cache_folder() / "index" / f"{kind}-{digest}.arrow"
    if not path.is_file():
        import fcntl  # of POSIX: whatever needs no index works without it

        with _errors_with_a_remedy(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.with_suffix(".lock").open("w") as lock:
                fcntl.lockf(lock, fcntl.LOCK_EX)
                if not path.is_file():
                    _write(path, schema(), batches())
    return ArrowFile(path)


def cache_folder() -> Path:
    return Path(os.environ.get("MUTUA_CACHE") or "~/.cache/mutua").expanduser()


def import_pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise ImportError('the pyarrow package is not installed: pip install "mutua[train]"') from error
    return pyarrow


def _write(path: Path, schema: pa.Schema, batches: Batches) -> None:
    def into(partial: Path) -> None:
        with import_pyarrow().ipc.new_file(str(partial), schema) as file:
            for batch, facts in batches:
                file.write_batch(batch, custom_metadata={name: str(value) for name, value in facts.items()})

    with whole_file(path) as write:
        write(into)


@contextmanager
def _errors_with_a_remedy(path: Path) -> Iterator[None]:
    try:
        yield
    except SampleError:
        raise
    except FolderError as error:
        raise SampleError(f"{error} MUTUA_CACHE sets the folder of such files") from error
    except OSError as error:
        raise SampleError(
            f"{path.parent}: cannot be made or written ({error.strerror}): MUTUA_CACHE sets the folder of such files"
        ) from error
