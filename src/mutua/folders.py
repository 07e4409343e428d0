"""Folders that are complete or not there.

A folder is written beside its final place under a name that ends in `.partial`, flushed to the disk and renamed. So a
process that is killed at any moment leaves whole folders, and at most one `.partial` folder.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

PARTIAL = ".partial"


class FolderError(OSError):
    """A folder cannot be written."""


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A folder to write into; it appears as `target`, flushed to the disk, only if the block succeeds.

    Raises:
        FolderError: the disk is full or not writable; nothing is left behind.
    """
    partial = target.with_name(target.name + PARTIAL)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        for path in sorted(partial.rglob("*")):
            _flush(path)
        _flush(partial)
        partial.rename(target)
        _flush(target.parent)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise FolderError(
            f"{target}: cannot be written: {error}. Make room there (or choose another folder) and run the same "
            "command again."
        ) from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def remove_leftovers(folder: Path) -> None:
    """Removes what a killed write or a killed removal left in `folder`."""
    for partial in folder.glob(f"*{PARTIAL}"):
        shutil.rmtree(partial)


def _flush(path: Path) -> None:
    """Waits until a file's content, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
