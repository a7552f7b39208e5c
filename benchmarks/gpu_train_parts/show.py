"""Show: tables on the terminal, a page in Markdown and plots in the folder of results."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu_parts.case import Row
from benchmarks.gpu_parts.show import aligned, markdown
from benchmarks.gpu_train_parts import findings, record, rules
from benchmarks.gpu_train_parts.contenders import ARMS, THEIRS
from benchmarks.gpu_train_parts.plots import plots
from studies.tournament.statistics import Interval

__all__ = ["show", "tables"]

NOT_YET = "not yet measured on a GPU"
Table = tuple[str, list[list[str]]]


def show(folder: Path) -> None:
    """Print the tables of a folder, and write results.md and the plots into it.

    Raises:
        SystemExit: The folder has no runs of the script.
    """
    try:
        rows, calls, sizes = record.read(folder), record.calls(folder), record.sizes(folder)
    except (OSError, ValueError) as error:
        raise SystemExit(f"--show {folder}: its rows cannot be read ({error})") from None
    if not rows or not calls:
        raise SystemExit(
            f"--show {folder}: no runs are there; give a folder that `python -m benchmarks.gpu_train` filled"
        )
    found = tables(rows, calls, sizes)
    for title, cells in found:
        print(f"\n{title}")
        print(aligned(cells))
    names = plots(rows, calls, folder, sizes)
    (folder / "results.md").write_text(_page(found, names))
    print(f"\n{folder / 'results.md'} and {', '.join(names)}")


def tables(rows: Sequence[Row], calls: Sequence[Row], sizes: tuple[str, str]) -> list[Table]:
    """Title and cells, heads first; a table without rows is left out."""
    found = [
        ("Primary number", _primary(rows, calls)),
        ("Conditions", _conditions(calls)),
        (f"A step, {sizes[0]}: median milliseconds", _speed([r for r in rows if r["stage"] == "speed"])),
        ("Learning rates: losses at a seed of their own", _grid(rows)),
        (
            f"{sizes[0]}: differences from torch.optim.Muon, paired by seed, 95 % intervals corrected for their number",
            _seeds(rows),
        ),
        (f"One run an arm, {sizes[1]}", _large(rows)),
        (f"A step, {sizes[1]}: median milliseconds", _speed([r for r in rows if r["stage"].startswith("large")])),
        ("Runs that failed", _failed(rows)),
    ]
    return [(title, cells) for title, cells in found if len(cells) > 1]


def _primary(rows: Sequence[Row], calls: Sequence[Row]) -> list[list[str]]:
    found = findings.primary(rows)
    heads = ["what", "measured", "pairs", "verdict"]
    if any(call["measured"] != "on a GPU" or call["quick"] for call in calls):
        return [heads, [rules.PRIMARY, NOT_YET, "-", f"these runs: {calls[-1]['measured']}"]]
    if found is None:
        return [heads, [rules.PRIMARY, NOT_YET, "-", "no paired seeds so far"]]
    return [heads, [rules.PRIMARY, _interval(found), str(found.pairs), found.word]]


def _conditions(calls: Sequence[Row]) -> list[list[str]]:
    keys = ("measured", "gpu", "torch", "triton", "quack-kernels", "date", "commit", "sources")
    cells = [["call", *keys]]
    return cells + [[str(call["call"]), *(str(call.get(key, "-"))[:12] for key in keys)] for call in calls]


def _speed(rows: Sequence[Row]) -> list[list[str]]:
    cells = [["arm", "model", "optimizer", "step", "tokens a second", "peak GB", "model is", "note"]]
    for name in dict.fromkeys(row["arm"] for row in rows):
        own = [row for row in rows if row["arm"] == name]
        times = [findings.median(own, f"{key}_seconds") for key in ("model", "optimizer", "step")]
        peak = findings.median(own, "peak_bytes")
        notes = {str(note) for row in own for note in (row.get("error"), *row.get("warnings", ())) if note}
        cells.append([name, *(_number(1e3 * t, ".2f") for t in times),
                      _number(findings.median(own, "tokens_per_second"), ".3g"), _number(peak / 1e9, ".1f"),
                      str(own[0].get("compiled", "-"))[:60], "; ".join(sorted(notes))[:90]])  # fmt: skip
    return cells


def _grid(rows: Sequence[Row]) -> list[list[str]]:
    cells = [["arm", "rung", "steps", "rate: loss", "best"]]
    for stage in rules.RUNGS:
        for name in ARMS:
            losses = sorted(rules.losses(stage, name, rows).items())
            if losses:
                steps = next(row["steps"] for row in rows if row["stage"] == stage and row["arm"] == name)
                best = rules.best_of(stage, name, rows)
                listed = ", ".join(f"{rate:g}: {_number(loss, '.4f')}" for rate, loss in losses)
                cells.append([name, stage, str(steps), listed, "none inside" if best is None else f"{best:g}"])
    return cells


def _seeds(rows: Sequence[Row]) -> list[list[str]]:
    cells = [["arm", "rate", "seeds", "mean loss", "difference", "verdict", "s a run", "optimizer ms",
              "loss when the fastest ends"]]  # fmt: skip
    arms = findings.compared(rows)
    for arm in arms:
        difference, word = ("-", "-") if arm.difference is None else (_interval(arm.difference), arm.difference.word)
        cells.append([arm.name, f"{arm.lr:g}", str(len(arm.losses)), _number(arm.mean, ".4f"), difference, word,
                      _number(arm.seconds, ".2f"), _number(1e3 * findings.median(arm.rows, "optimizer_seconds"), ".2f"),
                      _number(findings.at_equal_time(arm, arms), ".4f")])  # fmt: skip
    return cells


def _large(rows: Sequence[Row]) -> list[list[str]]:
    cells = [["arm", "rate", "steps", "loss", "difference", "a pair differs by chance by up to", "tokens a second"]]
    runs, bar = findings.large(rows), findings.error_bar(rows)
    base = next((rules.loss_of(row) for row in runs if row["arm"] == THEIRS), math.nan)
    for row in runs:
        loss = rules.loss_of(row)
        cells.append([row["arm"], f"{row['lr']:g}", str(row["steps"]), _number(loss, ".4f"),
                      _number(loss - base, "+.4f"), _number(bar, ".4f"),
                      _number(row.get("tokens_per_second", math.nan), ".3g")])  # fmt: skip
    return cells


def _failed(rows: Sequence[Row]) -> list[list[str]]:
    return [["run", "why"], *([rules.key_of(row), str(row["error"])[:150]] for row in rows if "error" in row)]


def _number(value: float, form: str) -> str:
    return f"{value:{form}}" if math.isfinite(value) else ("-" if math.isnan(value) else "diverged")


def _interval(found: Interval) -> str:
    return f"{found.mean:+.4f} ({_number(found.low, '+.4f')} to {_number(found.high, '+.4f')})"


def _page(found: Sequence[Table], names: Sequence[str]) -> str:
    lines = ["# One run of benchmarks/gpu_train.py", ""]
    for title, cells in found:
        lines += [f"## {title}", "", *markdown(cells), ""]
        if title == "Primary number":
            lines += [f"![{name}]({name})\n" for name in names]
    return "\n".join(lines)
