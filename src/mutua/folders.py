"""Folders and files that are complete or not there.

Each is written beside its final place under a name with `.mutua-partial` in it, flushed to the disk and renamed. So a
process that is killed at any moment leaves what is whole, and at most one `.mutua-partial` beside it.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from safetensors import SafetensorError

PARTIAL = ".mutua-partial"  # no name that anybody else gives, for what has it is removed
_FLUSHES_NO_FOLDER = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)  # what some network and shared drives answer
_TRIAL = bytes(1 << 20)  # so much must fit on the disk before anything is computed for a file


class FolderError(OSError):
    """A folder, or a file in one, cannot be written."""


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


@contextmanager
def whole_file(target: Path) -> Iterator[Callable[[Callable[[Path], object]], None]]:
    """Tries at once whether a file can be written, before the block computes what is to be in it.

    Yields a function that takes another, which writes to a path that it is given (of the suffix of `target`). What it
    wrote takes the place of `target` when it is flushed to the disk. Until then an older file stays as it is.

    Raises:
        FolderError: there is no such folder, the target is a folder or a device, the disk is full or not writable, at
            the beginning or when it is written; nothing is left behind.
    """
    place = Path(os.path.realpath(target))  # a link stays a link
    partial = place.with_name(f"{place.stem}{PARTIAL}{place.suffix}")
    with _folder_errors(target):
        if place.is_dir():
            raise FolderError(f"{target} is a folder: name a file in it.")
        if place.exists() and not place.is_file():
            raise FolderError(f"{target} is a device or a pipe: name a file.")
        if not place.parent.is_dir():
            raise FolderError(f"{target}: there is no folder {target.parent}; make it first.")

    def write(into: Callable[[Path], object]) -> None:
        with _folder_errors(target):
            into(partial)
            _flush(partial)
            partial.replace(place)
            _flush(place.parent)

    try:
        with _folder_errors(target):
            partial.write_bytes(_TRIAL)
            _flush(partial)
        yield write
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def replace_file(path: Path, text: str) -> None:
    """Puts a text in the place of a file: whatever ends the process or the machine, one of the two is there, whole.

    Raises:
        OSError: as the file system has it.
    """
    partial = path.with_name(path.name + PARTIAL)
    partial.write_text(text, encoding="utf-8")
    _flush(partial)
    partial.replace(path)


@contextmanager
def errors_naming(path: Path) -> Iterator[None]:
    """An error of the file system names the path: one of a write into an open file does not by itself."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextmanager
def _folder_errors(target: Path) -> Iterator[None]:
    """An error of the file system becomes a FolderError."""
    try:
        yield
    except FolderError:
        raise
    except OSError as error:
        why = error.strerror or error
        raise FolderError(
            f"{target} cannot be written ({why}): make room there, or name another place where you may write."
        ) from error


def remove_leftovers(folder: Path) -> None:
    """Removes what a killed write or a killed removal left in `folder`."""
    for partial in folder.glob(f"*{PARTIAL}"):
        shutil.rmtree(partial) if partial.is_dir() else partial.unlink()


def lock_file(file: IO[str]) -> None:
    """Locks a file for this process alone, until it is closed. The system lets go of it even after kill -9.

    Raises:
        FolderError: another process has it, or the file system knows no locks; the message begins with the folder.
    """
    import fcntl  # of POSIX: where it is missing, all that locks nothing still works

    folder = Path(file.name).parent
    try:
        # Not flock: data workers would inherit that, and they outlive a killed trainer by seconds.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # POSIX allows either
        raise FolderError(f"{folder}: another process is at work in it; wait for it, or name another.") from None
    except OSError as error:
        raise FolderError(
            f"{folder} lies on a file system that cannot lock files ({error.strerror}): name a folder on one that can."
        ) from error


def _flush(path: Path) -> None:
    """Waits until a file's content, or a folder's entries where that can be asked for, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _FLUSHES_NO_FOLDER or not path.is_dir():
            raise
    finally:
        os.close(descriptor)
