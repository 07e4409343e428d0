"""The sections of a study's report on the models: what they cost, how often they say yes, what they do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial

from mutua.evaluation import words
from mutua.evaluation.intervals import Estimate
from mutua.page import Picture, Section, Table
from mutua.study.figures import cost_figure, heads_figure, layers_figure, yes_figure
from mutua.study.plan import IMAGE_FIRST
from mutua.study.results import BASELINE, MAIN, CostRow, LookRow, YesRow
from mutua.study.statistics import mean_of_few, paired_by_seed
from mutua.study.summary import Arm, Place, arms_in_order, grouped, place_labels, right_yes_rates, yes_rates
from mutua.study.tables import accuracy_table, marked, stem

_MEASURED = (
    "image to question: the share of an image token's attention that goes to the question (mean over image tokens).",
    "image movement: how far the state of an image token moves when another question is asked of the same picture.",
    "pointing: how often the patch that the answer looks at most lies on the object that it rests on; rollout follows "
    "the attention through all layers, chance is the share of such patches.",
)


def cost_section(rows: Sequence[CostRow]) -> Section:
    causal = {_where(row): row for row in rows if row.policy == BASELINE}
    names = place_labels(_where(row)[0] for row in rows)
    lines = []
    for row in sorted(rows, key=lambda row: _where(row)[0]):
        base = causal.get(_where(row))
        values = []
        for measure, digits in (("step_ms", ".1f"), ("peak_mib", ",.0f"), ("gflops_per_sample", ".4g")):
            value, other = getattr(row, measure), getattr(base, measure, None)
            against = f" ({value / other:.2f}x)" if value and other else ""
            values.append("-" if value is None else f"{value:{digits}}{against}")
        values.insert(1, f"{row.fastest_ms:.1f} to {row.slowest_ms:.1f}")
        arm = Arm(row.policy, row.order).label
        lines.append((names[_where(row)[0]], arm, *values, words.counted(row.seeds, "seeds")))
    header = ("where", "policy", "step, ms", "its seeds", "peak memory of the process, MiB", "GFLOPs a sample", "over")
    table = Table("Medians over the seeds, with no interval; in brackets, against causal", header, lines, 2)
    sentences = [
        "Arms were trained at other times, beside others on the same machine: where seeds of one arm differ as much as "
        "arms do, nothing is seen. benchmarks/attention.py and benchmarks/training.py time policies side by side.",
        "FLOPs are those of a step whose attention gets a mask, which hides cells and saves none: they must be alike.",
    ]
    shown, usual = [], _usual(rows)
    if any(row.policy == BASELINE for row in usual):
        caption = (
            "Time of a training step (dot: median; line: from the fastest seed to the slowest) and most memory of the "
            "process that trained and evaluated, as multiples of causal's medians."
        )
        shown.append(Picture("cost", caption, partial(cost_figure, usual)))
    return Section("Cost", CostRow.FILE, sentences, shown, [table])


def yes_section(rows: Sequence[YesRow]) -> Section:
    tested = [row for row in rows if row.split == "test" and row.block == MAIN]
    measured, right = yes_rates(tested), right_yes_rates(tested)
    sentences = []
    known = [(one, right[asked]) for one in measured if (asked := (one.place.side, one.questions)) in right]
    for arm, mine in grouped(known, lambda one: one[0].arm).items():
        over = sum(one.estimate.low > share for one, share in mine)
        under = sum(one.estimate.high < share for one, share in mine)
        sentences.append(
            f"{arm.label}: of {len(mine)} intervals, {over} lie above the share where yes is right (it sees what is "
            f"not there), {under} below, {len(mine) - over - under} hold it."
        )
    caption = "How often the answer is yes, with 95 % intervals; dashed: how often yes is right."
    shown = [Picture("yes-rate", caption, partial(yes_figure, measured, right))] if measured else []
    table = accuracy_table("Answers that are yes, with 95 % intervals", measured)
    return Section("How often it says yes", YesRow.FILE, sentences, shown, [table])


def look_section(rows: Sequence[LookRow]) -> Section:
    sentences = [*_MEASURED]
    shown: list[Picture] = []
    tables: list[Table] = []
    for measure, own in grouped(rows, lambda row: row.measure).items():
        by_head = [row for row in own if row.head is not None]
        by_layer = [row for row in own if row.head is None and row.layer is not None]
        if by_head:
            caption = f"{measure}, by layer and head; mean over seeds."
            shown.append(Picture(f"{stem(measure)}-heads", caption, partial(heads_figure, by_head)))
        if by_layer:
            caption = f"{measure}, by layer. Lines: means over seeds; bands: from the lowest seed to the highest."
            shown.append(Picture(f"{stem(measure)}-layers", caption, partial(layers_figure, by_layer)))
        if whole := [row for row in own if row.head is None and row.layer is None]:
            if len(whole) > 1 and len({row.value for row in whole}) == 1:
                sentences.append(f"{measure}: {whole[0].value:.3g} in every model.")
            else:
                tables.append(_whole_table(measure, whole))
    return Section("What the model does", LookRow.FILE, sentences, shown, tables)


def _whole_table(measure: str, rows: Sequence[LookRow]) -> Table:
    arms = arms_in_order(Arm(row.policy) for row in rows)
    lines = []
    for (backbone, connector), own in grouped(rows, lambda row: (row.backbone, row.connector)).items():
        values = {
            policy: {row.seed: row.value for row in mine}
            for policy, mine in grouped(own, lambda row: row.policy).items()
        }
        base = values.get(BASELINE, {})
        for arm in (arm for arm in arms if arm.policy in values):
            mine, apart = values[arm.policy], "-"
            if arm.policy != BASELINE and mine.keys() & base.keys():
                found = mean_of_few(paired_by_seed(mine, base))
                apart = marked(_plain_number(found), found)
            mean = mean_of_few(list(mine.values()))
            lines.append((f"{backbone}, {connector}", arm.label, _plain_number(mean), apart, str(mean.count)))
    return Table(
        f"{measure}: mean over seeds, with 95 % intervals",
        ("where", "policy", "value", "minus causal's", "seeds"),
        lines,
        2,
    )


def _plain_number(estimate: Estimate) -> str:
    between = f" ({estimate.low:.3g} to {estimate.high:.3g})" if estimate.is_bounded else ""
    return f"{estimate.value:.3g}{between}"


def _usual(rows: Sequence[CostRow]) -> list[CostRow]:
    """Those with the picture first and of the most frequent sizes; sweeps are in the table only."""
    first = [row for row in rows if row.order == IMAGE_FIRST]
    sizes = Counter((row.layers, row.side) for row in first).most_common(1)
    return [row for row in first if (row.layers, row.side) == sizes[0][0]]


def _where(row: CostRow) -> tuple[Place, str]:
    return Place(row.backbone, row.connector, row.layers, row.side, 0), row.order
