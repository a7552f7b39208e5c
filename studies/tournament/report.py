"""The page of the tournament, from the runs that have ended: tables, figures and, for complete stages, answers.

`python -m studies.tournament.report --out docs/results` makes the page from the kept runs. `--collect runs/tournament`
first keeps the runs of that folder; `--progress runs/tournament` only says how far its stages are.
"""

import argparse
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from studies.page import Report, Shown
from studies.reproduce import write
from studies.tournament import plots
from studies.tournament.choice import METHODS, Size, choose
from studies.tournament.equal_time import equal_time
from studies.tournament.progress import Progress, left, progress
from studies.tournament.rules import OLDER, Family, Row, families, rows
from studies.tournament.run import STAGES
from studies.tournament.runs import Run, collect, read
from studies.tournament.sizes import read_sizes
from studies.tournament.statistics import best, detectable, diverged, grid, losses
from studies.tournament.timing import read_times, steps
from studies.tournament.verdicts import answers, signed, span

__all__ = ["made", "main"]

NOTES = (
    "The rules stand in [tournament.md](../tournament.md); they were fixed before the first run. The primary number is "
    "the validation loss at the last step, in nats. Each arm runs at the best rate of its own grid, searched with a "
    "seed that takes no part in the comparison (in the stage demo: all arms at .03). A "
    "difference is paired by seed: arms of one seed begin with the same weights and see the same batches. Intervals "
    "are Student's at 95 %; corrected intervals are wider by Bonferroni, for the number of comparisons of the "
    "table. `resolves` is the true difference that as many seeds with this spread would tell from 0 four "
    "times in five. An arm with fewer seeds is compared on the common seeds.",
    "A run that diverged counts as infinite. \"Not told apart\" means that the interval contains 0; it does not mean "
    "that the arms are equal. A stage whose runs have not all ended gets no verdict.",
    "**Time.** Other work shared the machine of the runs. The time of a step is the median time of forward and "
    "backward over all runs of the stage, plus the optimizer's time: from one paired timing in which the arms take "
    "turns, or, where the table says so, from the runs. All are processor times of one thread. Loss at equal time is "
    "read from the validation curves, on straight lines between two validations, at the time at which the fastest arm "
    "ends. A run planned for that time would have had its schedule end there, so the number is too high for slow arms.",
)  # fmt: skip


@dataclass(frozen=True)
class Found:
    """A stage, its runs and what was made of them."""

    name: str
    runs: list[Run]
    progress: Progress
    tables: list[tuple[Family, list[Row]]]
    times: Mapping[str, float]
    paired_times: bool
    sizes: Mapping[str, Mapping[str, float]]

    @property
    def unit(self) -> str:
        """What the loss is per."""
        return "token" if STAGES[self.name].vocabulary else "byte"


def found(folder: Path, name: str) -> Found:
    """The stage `name` from the runs in `folder`."""
    runs, stage = read(folder, name), STAGES[name]
    tables = [(family, rows(family, runs)) for family in families(name, stage.arms)] if stage.seeds else []
    paired = read_times(folder, name)
    times = steps(runs, paired) if runs else {}
    return Found(name, runs, progress(stage, runs), tables, times, bool(paired), read_sizes(folder, name))


def made(folder: Path) -> Report:
    """The report of the runs in `folder`."""
    stages = [found(folder, name) for name in STAGES]
    begun = [of for of in stages if of.runs]
    tables = [_state(stages), _answers(begun)]
    drawn: dict[str, Any] = {}
    for of in begun:
        tables += _of_stage(of)
        drawn |= _figures(of)
    return Report(
        paper="tournament",
        title="The tournament: results",
        notes=NOTES,
        tables=tables,
        figures=drawn,
        plain={of.name: _plain(of) for of in begun},
        command="python -m studies.tournament.report --out docs/results",
    )


def _state(stages: Sequence[Found]) -> Shown:
    lines = []
    for of in stages:
        lost = [*diverged(of.runs), *diverged(of.runs, searched=True)]
        names = ", ".join(f"{run.arm} at {run.lr:g}, seed {run.seed}" for run in lost) or "none"
        word = "complete" if of.progress.complete else "stage not complete" if of.runs else "not begun"
        lines.append((of.name, [f"{of.progress.done} of {of.progress.planned}", word, names if of.runs else ""]))
    remark = "Seed 1000 is the seed of the grids. While grids are searched, more runs may be planned or fewer."
    return Shown("State", ("runs", "state", "runs that diverged"), lines, remark)


def _answers(begun: Sequence[Found]) -> Shown:
    lines = []
    for of in begun:
        if of.tables and not of.progress.complete:
            lines.append((of.name, ("all", "", "stage not complete: no verdict")))
        elif of.tables:
            lines += [(of.name, row) for row in answers(of.name, [table for _, table in of.tables])]
    return Shown("Answers", ("question", "measured", "answer"), [*lines, _default(begun)], _POWER, wide=True)


_POWER = "`a - b` is the loss of a minus the loss of b in nats, with the interval by which the rules judge."


def _default(begun: Sequence[Found]) -> tuple[str, tuple[str, str, str]]:
    """The rule for the default, on the stages that compare methods at rates of their own."""
    tried = [of for of in begun if of.tables and STAGES[of.name].fixed is None]
    question = "Which default of Muon do the rules ask for?"
    wanted = [name for name, stage in STAGES.items() if stage.fixed is None and stage.seeds]
    if {of.name for of in tried if of.progress.complete} != set(wanted):
        return ("default", (question, "", f"not yet decided: needs {', '.join(wanted)} complete"))
    choice = choose([Size(of.name, of.runs, of.times) for of in tried], "default", METHODS)
    lowest = "; ".join(
        f"{size}: lowest {arm}, fulfil the rule: {', '.join(choice.running[size])}"
        for size, arm in choice.lowest.items()
    )
    return ("default", (question, lowest, choice.why))


def _of_stage(of: Found) -> list[Shown]:
    shown = [_rates(of)] if any(grid(of.runs, arm) for arm in STAGES[of.name].arms) else []
    shown += [_differences(of, family, table) for family, table in of.tables if table]
    if of.tables and (timed := _timed(of)):
        shown.append(timed)
    return [*shown, _sizes(of)] if of.sizes else shown


def _sizes(of: Found) -> Shown:
    lines = [
        (arm, [f"{size['mean']:.3f}", f"{size['least']:.3f}", f"{size['greatest']:.3f}", f"{1 / size['least']:.2f}"])
        for arm, size in sorted(of.sizes.items(), key=lambda item: item[1]["mean"])
    ]
    heads = ("mean", "least matrix", "greatest matrix", "most that a mean of 1 multiplies a matrix by")
    remark = (
        "Momenta of one run of the default at steps 10, 60, 150 and 270. Many have singular values that are nearly 0, "
        "which a polynomial does not lift to 1. Division by the mean then lifts all others above 1."
    )
    return Shown(f"Stage {of.name}: mean singular value that an oracle leaves of a momentum", heads, lines, remark)


def _rates(of: Found) -> Shown:
    lines, width = [], max(len(grid(of.runs, arm)) for arm in STAGES[of.name].arms)
    for arm in STAGES[of.name].arms:
        if (taken := best(of.runs, arm)) is None:
            continue
        losses_ = [f"{lr:g}: {'diverged' if math.isinf(y) else f'{y:.4f}'}" for lr, y in grid(of.runs, arm).items()]
        place = "open" if arm in of.progress.open_grids else "inside"
        lines.append((arm, [f"{taken.lr:g}", place, *losses_, *[""] * (width - len(losses_))]))
    heads = ("best rate", "its place in the grid", *("rate: loss",) * width)
    return Shown(f"Stage {of.name}: learning rates, seed 1000", heads, lines, "`open`: the grid has not ended.")


def _differences(of: Found, family: Family, table: Sequence[Row]) -> Shown:
    lines = []
    for row in table:
        mean = losses(of.runs, row.arm).values()
        level = "" if not mean else f"{sum(mean) / len(mean):.4f}"
        says = row.judged.word if of.progress.complete else "stage not complete"
        ends = (signed(row.plain.mean), span(row.plain), span(row.corrected), str(row.plain.pairs))
        power = detectable(row.judged)
        lines.append((f"{row.arm} - {row.other}", [level, *ends, "" if math.isnan(power) else f"{power:.4f}", says]))
    judged = f"corrected for {family.comparisons} comparisons" if family.corrected else "95 %, not corrected"
    remark = f"Nats a {of.unit}. The verdict uses the intervals that are {judged}."
    powers = [power for row in table if not math.isnan(power := detectable(row.judged))]
    remark += f" The median of `resolves` is {statistics.median(powers):.4f}." if powers else ""
    remark += "" if family.planned else " The rules do not name this table: its pairs show what one change does."
    corrected = f"corrected for {family.comparisons}"
    heads = ("loss", "difference", "95 %", corrected, "seeds", "resolves", "verdict")
    return Shown(f"Stage {of.name}: {family.title.lower()}", heads, lines, remark)


def _timed(of: Found) -> Shown | None:
    arms = [arm for arm in STAGES[of.name].arms if arm != OLDER]
    timed = equal_time(of.runs, of.times, OLDER, comparisons=len(arms))
    lines = []
    for arm in timed:
        against = "" if arm.arm == OLDER else f"{signed(arm.against.mean)} {span(arm.against)}"
        cells = [f"{1e3 * arm.seconds:.1f}", f"{arm.end:.4f}", f"{arm.step:.0f}", f"{arm.loss:.4f}", against]
        lines.append((arm.arm, cells))
    source = "one paired timing" if of.paired_times else "the runs, which shared the machine"
    heads = ("ms a step", "loss at equal steps", "step at equal time", "loss at equal time", f"minus {OLDER} then")
    remark = f"Optimizer times from {source}. The last column's intervals are corrected for {len(arms)} comparisons."
    return Shown(f"Stage {of.name}: equal steps and equal time", heads, lines, remark) if lines else None


def _figures(of: Found) -> dict[str, Any]:
    drawn: dict[str, Any] = {}
    if any(grid(of.runs, arm) for arm in STAGES[of.name].arms):
        caption = f"Stage {of.name}: loss at the last step by learning rate, seed 1000; ring: best rate, grey: {OLDER}"
        drawn[f"-{of.name}-rates"] = caption, lambda: plots.rates(of.runs, of.unit)
    for number, (family, table) in enumerate(of.tables):
        if table:
            other = table[0].other if len({row.other for row in table}) == 1 else ""
            caption = f"Stage {of.name}: {family.title.lower()}, differences paired by seed"
            drawn[f"-{of.name}-{number}"] = caption, _forest(table, other, of.unit)
    if of.tables and losses(of.runs, OLDER):
        caption = f"Stage {of.name}: validation loss, and the mean difference from {OLDER}, during training"
        drawn[f"-{of.name}-curves"] = caption, lambda: plots.curves(of.runs, of.unit)
    if of.sizes and of.tables and of.tables[0][1]:
        caption = f"Stage {of.name}: loss and mean singular value that each oracle leaves of a momentum; bars: 95 %"
        drawn[f"-{of.name}-sizes"] = caption, lambda: plots.sizes(of.tables[0][1], of.sizes, of.unit)
    return drawn


def _forest(table: Sequence[Row], other: str, unit: str) -> Any:
    return lambda: plots.forest(table, other, unit)


def _plain(of: Found) -> dict[str, Any]:
    tables = {family.title: [asdict(row) for row in table] for family, table in of.tables}
    state = {"done": of.progress.done, "planned": of.progress.planned, "complete": of.progress.complete}
    rates = {arm: asdict(taken) for arm in STAGES[of.name].arms if (taken := best(of.runs, arm))}
    return {**state, "best": rates, "differences": tables, "step_seconds": dict(of.times), "sizes": dict(of.sizes)}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("docs/results/tournament"), help="where runs are kept")
    parser.add_argument("--out", type=Path, help="write the page into this folder")
    parser.add_argument("--collect", type=Path, help="first keep the runs of this folder of studies.tournament.run")
    parser.add_argument("--progress", type=Path, help="only say how far the stages in this folder are")
    given = parser.parse_args()
    if given.progress:
        _print_progress(given.progress)
        return
    if given.collect:
        for name in STAGES:
            if any((given.collect / name).glob("*-seed*.json")):
                print(collect(given.collect, name, given.runs))
    if given.out:
        print(write(made(given.runs), given.out))


def _print_progress(folder: Path) -> None:
    for name, stage in STAGES.items():
        state = progress(stage, read(folder, name))
        hours = left(folder / name, state.planned - state.done)
        pace = "" if math.isnan(hours) else f", {hours:.1f} h at the present pace"
        print(f"{name}: {state.done} of {state.planned} runs, grids open: {len(state.open_grids)}{pace}")


if __name__ == "__main__":
    main()
