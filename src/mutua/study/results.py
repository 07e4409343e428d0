"""What a study measured, as rows of CSV files: everything in its report is drawn from these, and can be drawn again.

Each kind of row knows its file. A row is named by its key, all columns but the measured ones (`MEASURED`), and a file
holds each key once: what was written twice by a resumed run would count twice.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args, get_type_hints

from mutua.folders import whole_file

MAIN = "main"  # the block of the arms that the headline rests on; other blocks are sweeps, or
NULL = "null: "  # begin like this where no policy can gain
WITH_CURVES = (MAIN, "policies", "length", "scenes")  # blocks whose learning curves are kept and shown
BASELINE = "causal"
BLIND = "blind guess"  # in the place of a policy: what the best guesser scores that never sees the picture
TRUTH = "right answers"  # in the place of a policy in yes.csv: how often "yes" is right


@dataclass(frozen=True)
class Row:
    """What all rows of results share: how they are checked."""

    FILE: ClassVar[str]
    MEASURED: ClassVar[tuple[str, ...]]

    def __post_init__(self) -> None:
        for field, value in zip(fields(self), astuple(self), strict=True):
            if isinstance(value, str) and not value.strip():
                raise CellError(field.name, "is empty")
            if isinstance(value, float) and not math.isfinite(value):
                raise CellError(field.name, f"is {value}, no finite number")
            if isinstance(value, int | float) and value < 0 and field.name != "value":
                raise CellError(field.name, f"is {value}, below 0")

    @property
    def key(self) -> tuple[Any, ...]:
        return tuple(getattr(self, field.name) for field in fields(self) if field.name not in self.MEASURED)


class CellError(ValueError):
    """A value that its column cannot hold."""

    def __init__(self, column: str, fault: str) -> None:
        super().__init__(f"{column} {fault}")
        self.column, self.fault = column, fault


@dataclass(frozen=True)
class ArmRow(Row):
    """What names an arm.

    Attributes:
        block: "main", or another block of the plan (`mutua.study.plan`): "policies", "depth", "null: ..." and so on.
        order: what comes first in its training prompts, as in `mutua.study.plan.ORDERS`.
        layers: of the language model.
        side: cells a side of the pictures.
        length: samples that it is trained on in all.
        samples: that it had been trained on when this was measured.
    """

    block: str
    backbone: str
    connector: str
    policy: str
    order: str
    layers: int
    side: int
    length: int
    seed: int
    samples: int


@dataclass(frozen=True)
class ScoreRow(ArmRow):
    """How many questions of a family an arm answered right; `seconds` of training until then, by the median step."""

    seconds: float
    split: str
    task: str
    family: str
    correct: int
    total: int

    FILE: ClassVar[str] = "scores.csv"
    MEASURED: ClassVar[tuple[str, ...]] = ("seconds", "correct", "total")

    def __post_init__(self) -> None:
        super().__post_init__()
        _refuse_more_than_all("correct", self.correct, self.total)


@dataclass(frozen=True)
class YesRow(ArmRow):
    """How often an arm said yes to the yes/no questions of a family."""

    split: str
    task: str
    family: str
    said_yes: int
    total: int

    FILE: ClassVar[str] = "yes.csv"
    MEASURED: ClassVar[tuple[str, ...]] = ("said_yes", "total")

    def __post_init__(self) -> None:
        super().__post_init__()
        _refuse_more_than_all("said_yes", self.said_yes, self.total)


@dataclass(frozen=True)
class PairRow(Row):
    """What two arms of one seed, equal but for the policy, made of the same test questions."""

    block: str
    backbone: str
    connector: str
    order: str
    layers: int
    side: int
    length: int
    seed: int
    task: str
    family: str
    policy: str
    baseline: str
    both_right: int
    only_policy: int
    only_baseline: int
    both_wrong: int

    FILE: ClassVar[str] = "pairs.csv"
    MEASURED: ClassVar[tuple[str, ...]] = ("both_right", "only_policy", "only_baseline", "both_wrong")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not any(self.counts):
            raise CellError("both_wrong", "is 0 as the other three are: nothing was asked")

    @property
    def counts(self) -> tuple[int, int, int, int]:
        return self.both_right, self.only_policy, self.only_baseline, self.both_wrong


@dataclass(frozen=True)
class CostRow(Row):
    """What a policy costs: medians over the seeds, of one training step and one sample.

    Attributes:
        seeds: how many.
        fastest_ms, slowest_ms: the step of the fastest and of the slowest of them.
        peak_mib: none where it is not known: all processes found their arm trained, and only measured it.
    """

    backbone: str
    connector: str
    policy: str
    order: str
    layers: int
    side: int
    seeds: int
    step_ms: float
    fastest_ms: float
    slowest_ms: float
    peak_mib: float | None
    gflops_per_sample: float

    FILE: ClassVar[str] = "cost.csv"
    MEASURED: ClassVar[tuple[str, ...]] = (
        *("seeds", "step_ms", "fastest_ms", "slowest_ms"),
        *("peak_mib", "gflops_per_sample"),
    )


@dataclass(frozen=True)
class LookRow(Row):
    """One number of what a trained model does. No `layer`, no `head`: of all of them."""

    backbone: str
    connector: str
    policy: str
    seed: int
    layer: int | None
    head: int | None
    measure: str
    value: float

    FILE: ClassVar[str] = "looks.csv"
    MEASURED: ClassVar[tuple[str, ...]] = ("value",)


Kind = TypeVar("Kind", bound=Row)


def _refuse_more_than_all(column: str, part: int, total: int) -> None:
    if not total:
        raise CellError("total", "is 0: nothing was asked")
    if part > total:
        raise CellError(column, f"is {part}, more than the total of {total}")


def read_rows(folder: Path, kind: type[Kind]) -> tuple[Kind, ...]:
    """The rows of `kind` in the folder, in order; none where its file is not there.

    Raises:
        ValueError: the file is damaged; names the file, the line and the column.
    """
    path = folder / kind.FILE
    if not path.exists():
        return ()
    remedy = "Mend it, or remove the file and run the same study again, which writes it anew."
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {line}: is not UTF-8 text. {remedy}") from None
    if text and not text.endswith("\n"):
        raise ValueError(f"{path}, line {text.count(chr(10)) + 1}: breaks off before its end. {remedy}")
    columns = [field.name for field in fields(kind)]
    reader = csv.reader(StringIO(text, newline=""), strict=True)
    rows: dict[tuple[Any, ...], Kind] = {}
    try:
        if (header := next(reader, [])) != columns:
            raise CellError(*_difference(header, columns))
        for cells in reader:
            row = _row(kind, cells)
            if row.key in rows:
                raise ValueError(f"repeats an earlier line: {', '.join(map(str, row.key))}")
            rows[row.key] = row
    except CellError as error:
        raise ValueError(
            f"{path}, line {max(reader.line_num, 1)}, column {error.column}: {error.fault}. {remedy}"
        ) from None
    except (csv.Error, ValueError) as error:
        raise ValueError(f"{path}, line {max(reader.line_num, 1)}: {error}. {remedy}") from None
    return tuple(rows.values())


def _difference(header: list[str], columns: list[str]) -> tuple[str, str]:
    """The first column that differs, and how."""
    for found, wanted in zip(header, columns, strict=False):
        if found != wanted:
            return wanted, f"is named {found!r}; the columns are {','.join(columns)}"
    if len(header) < len(columns):
        return columns[len(header)], f"is missing; the columns are {','.join(columns)}"
    return header[len(columns)], f"is one too many; the columns are {','.join(columns)}"


def _row(kind: type[Kind], cells: list[str]) -> Kind:
    hints = get_type_hints(kind)
    columns = [field.name for field in fields(kind)]
    if len(cells) < len(columns):
        raise CellError(columns[len(cells)], f"is missing: {len(cells)} values for {len(columns)} columns")
    if len(cells) > len(columns):
        raise ValueError(f"{len(cells)} values for {len(columns)} columns")
    return kind(**{name: _value(name, cell, hints[name]) for name, cell in zip(columns, cells, strict=True)})


def _value(column: str, cell: str, hint: Any) -> str | int | float | None:
    if hint is str:
        return cell
    if not cell and type(None) in get_args(hint):
        return None
    if float in (hint, *get_args(hint)):
        try:
            return float(cell)
        except ValueError:
            raise CellError(column, f"is {cell!r}, no number") from None
    if not (cell.isascii() and cell.isdigit()):
        raise CellError(column, f"is {cell!r}, no whole number from 0 on")
    return int(cell)


def write_rows(folder: Path, kind: type[Kind], rows: Iterable[Kind]) -> None:
    """Writes the file of `kind` whole, in the place of an older one: killed at any moment, it leaves one of the two.

    Raises:
        ValueError: two rows have the same key.
        FolderError: it cannot be written.
    """
    rows = tuple(rows)
    seen: set[tuple[Any, ...]] = set()
    for row in rows:
        if row.key in seen:
            raise ValueError(f"{kind.FILE}: two rows for {', '.join(map(str, row.key))}; each is measured once.")
        seen.add(row.key)
    out = StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([field.name for field in fields(kind)])
    writer.writerows(astuple(row) for row in rows)
    with whole_file(folder / kind.FILE) as write:
        write(lambda path: path.write_text(out.getvalue(), encoding="utf-8", newline=""))
