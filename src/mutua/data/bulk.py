"""Many samples of a source, read at once where the source can: by `__getitems__`, as PyTorch's loaders ask for them."""

from __future__ import annotations

from collections.abc import Sequence

from mutua.data.sample import Sample


def read_samples(source: Sequence[Sample], indices: Sequence[int]) -> list[Sample]:
    """The samples of these indices, in their order. Raises what the source does."""
    in_bulk = getattr(source, "__getitems__", None)
    return [source[index] for index in indices] if in_bulk is None else in_bulk(indices)


def read_samples_or_errors(
    source: Sequence[Sample], indices: Sequence[int], tolerated: tuple[type[Exception], ...]
) -> list[Sample | Exception]:
    """As `read_samples`, but in place of a sample the error that reading it raised, if it is one of the tolerated."""
    if hasattr(source, "__getitems__"):
        try:
            return [*read_samples(source, indices)]
        except tolerated:
            pass  # whose fault it is shows where each is read alone
    read: list[Sample | Exception] = []
    for index in indices:
        try:
            read.append(source[index])
        except tolerated as error:
            read.append(error)
    return read
