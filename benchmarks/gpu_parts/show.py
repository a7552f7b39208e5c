"""Show: tables of a result on the terminal, a page in Markdown with the targets, and plots beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu_parts.case import Row
from benchmarks.gpu_parts.plots import plots
from benchmarks.gpu_parts.targets import NOT_YET, Verdict, card_of, judged

__all__ = ["aligned", "markdown", "page", "show", "tables"]

Result = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """A column of a table: its head, and the text of a row."""

    head: str
    text: Callable[[Row], str]


def show(path: Path) -> None:
    """Print the tables of a file, and write FILE.md and the plots.

    Raises:
        SystemExit: If the file cannot be read, or is no result of the script.
    """
    result = _read(path)
    for title, rows in tables(result):
        print(f"\n{title}")
        print(aligned(rows))
    names = plots(result, path)
    page_path = path.with_suffix(".md")
    page_path.write_text(page(result, names))
    print(f"\n{page_path} and {', '.join(names) or 'no plots: there are no times of a GPU'}")


def _read(path: Path) -> Result:
    try:
        result = json.loads(path.read_text())
    except OSError as error:
        raise SystemExit(f"--show: {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise SystemExit(
            f"--show: {path} is no whole file of JSON ({error}). Show a file that python -m benchmarks.gpu --out wrote."
        ) from None
    if not _is_result(result):
        raise SystemExit(
            f'--show: {path} is JSON, but no result of this script: it needs "conditions", and "parts" with "ended" '
            'and "rows". Show a file that python -m benchmarks.gpu --out wrote.'
        )
    return result


def _is_result(result: object) -> bool:
    if not isinstance(result, dict) or not isinstance(result.get("conditions"), dict):
        return False
    parts = result.get("parts")
    return isinstance(parts, dict) and all(
        isinstance(part, dict)
        and isinstance(part.get("ended"), str)
        and isinstance(part.get("rows"), list)
        and all(isinstance(row, dict) for row in part["rows"])
        for part in parts.values()
    )


def _value(key: str, scale: float = 1.0, form: str = ".3g") -> Callable[[Row], str]:
    def text(row: Row) -> str:
        value = row.get(key)
        if value is None:
            return "-"
        return (
            f"{scale * value:{form}}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
        )

    return text


def _spread(key: str) -> Callable[[Row], str]:
    """Milliseconds: the median and the quartiles."""

    def text(row: Row) -> str:
        if row.get(key) is None:
            return "-"
        low, high = row.get(f"{key}_quartiles", (row[key], row[key]))
        return f"{1e3 * row[key]:.3g} ({1e3 * low:.3g}-{1e3 * high:.3g})"

    return text


def _note(row: Row) -> str:
    return str(row.get("skipped") or row.get("graph_note") or "")


def _joined(*keys: str) -> Callable[[Row], str]:
    return lambda row: ", ".join(_value(key)(row) for key in keys if row.get(key) is not None)


_TIMES = (Column("eager ms", _spread("seconds")), Column("graph ms", _spread("graph_seconds")))
_ERRORS = (Column("rms(1-s)", _value("rms", form=".4f")), Column("direction", _value("direction", form=".4f")))
_LAST = (Column("speed", _value("speed", form=".2f")), Column("note", _note))
COLUMNS: Mapping[str, tuple[Column, ...]] = {
    "stacks": (Column("stack", _value("case")), Column("contender", _value("name")), *_TIMES, *_ERRORS,
               Column("precision", _value("precision")), *_LAST),
    "steps": (Column("model", _value("model")), Column("contender", _value("name")), *_TIMES,
              Column("launches", _value("launches")), Column("extra GB", _value("extra_bytes", 1e-9)), *_LAST),
    "rates": (Column("size", _value("size")), Column("dtype", _value("dtype")), Column("product", _value("product")),
              Column("kernel", _value("kernel")), Column("ms", _spread("seconds")),
              Column("% of the rate", _value("share_of_matmul_rate", 100, ".0f")),
              Column("trial", _joined("kind", "outcome")), Column("note", _note)),
    "looks": (Column("case", _value("case")), Column("contender", _value("name")), *_TIMES,
              Column("ten steps ms", _spread("ten_steps")), Column("of fixed", _value("of_fixed", form=".2f")),
              *_ERRORS[:1], Column("note", _note)),
    "roots": (Column("case", _value("case")), Column("roots", _value("name")), Column("ms", _spread("seconds")),
              Column("error", _value("error", form=".1e")), Column("note", _note)),
    "trajectories": (Column("optimizer", _value("optimizer")), Column("shape", _value("shape")),
                     Column("GPU - CPU", _value("error", form=".1e")), Column("allowed", _value("allowed", form=".1e")),
                     Column("CPU's own plan", _value("own_plan", form=".1e")), Column("passed", _value("passed"))),
    "compiling": (Column("stack", _value("case")), Column("contender", _value("name")),
                  Column("first call s", _value("first_seconds"))),
    "safety": (Column("shape", _value("shape")), Column("spectrum", _value("spectrum")),
               Column("method", _value("method")), Column("largest", _value("largest", form=".3f")),
               *_ERRORS[:1], Column("passed", _value("passed")), Column("note", _note)),
}  # fmt: skip


CHECKS = ("kernels", "triton", "quack", "contract")


def tables(result: Result) -> list[tuple[str, list[list[str]]]]:
    """Title and cells, heads first: conditions, targets, then the parts; of checks the failed ones alone."""
    found = [("Conditions", [[str(key), str(value)] for key, value in result["conditions"].items()])]
    found.append(("Targets", _target_cells(judged(result), result["conditions"])))
    heads = ["part", "ended", "s", "rows", "processes", "lost attempts"]
    parts = [
        [name, part["ended"], f"{part.get('seconds', 0):.0f}", str(len(part["rows"])), str(part.get("processes", 0)),
         "; ".join(f"{what} ({why})" for what, why in part.get("lost", {}).items())]
        for name, part in result["parts"].items()
    ]  # fmt: skip
    found.append(("Parts", [heads, *parts]))
    for name, part in result["parts"].items():
        if name in COLUMNS and part["rows"]:
            found.append((part.get("about", name), _cells(COLUMNS[name], part["rows"])))
        elif part["rows"]:
            found += _checks(name, part["rows"]) if name in CHECKS else _training(part["rows"])
    return found


def _cells(columns: Sequence[Column], rows: Sequence[Row]) -> list[list[str]]:
    """Without columns that are empty in all rows."""
    cells = [[column.text(row) for column in columns] for row in rows]
    used = [i for i in range(len(columns)) if any(row[i] not in ("-", "") for row in cells)]
    return [[columns[i].head for i in used], *([row[i] for i in used] for row in cells)]


def _checks(name: str, rows: Sequence[Row]) -> list[tuple[str, list[list[str]]]]:
    """How many checks passed; the failed ones and what was left out in full."""
    passed = sum(row.get("passed") is True for row in rows)
    failed = [row for row in rows if row.get("passed") is False]
    left = sorted({str(row["skipped"]) for row in rows if "skipped" in row})
    lines = [["passed", "failed", "left out"], [str(passed), str(len(failed)), str(len(rows) - passed - len(failed))]]
    found = [(f"Checks of {name}", lines)]
    if failed:
        found.append(
            (f"Failed: {name}", [["check"], *([", ".join(f"{k} {v}" for k, v in row.items())] for row in failed)])
        )
    return found + ([(f"Left out: {name}", [["why"], *([why] for why in left)])] if left else [])


def _training(rows: Sequence[Row]) -> list[tuple[str, list[list[str]]]]:
    lines = [["after", "arm", "seed", "loss", "tokens a second"]]
    for row in rows:
        for arm in row.get("loss", []) if isinstance(row.get("loss"), list) else []:
            speed = f"{arm['tokens_per_second']:.3g}" if arm["tokens_per_second"] else "-"
            lines.append([str(row["after"]), arm["arm"], str(arm["seed"]), f"{arm['loss']:.4f}", speed])
    primary = [
        [row["primary"], f"{row['mean']:.4f}", "-" if row["standard_error"] is None else f"{row['standard_error']:.4f}"]
        for row in rows if "primary" in row
    ]  # fmt: skip
    return [
        ("Training", lines),
        *([("Primary number", [["what", "mean", "standard error"], *primary])] if primary else []),
    ]


def _target_cells(verdicts: Sequence[Verdict], conditions: Row) -> list[list[str]]:
    cells = [["target", "bound", f"predicted ({card_of(conditions).name})", "measured", "verdict"]]
    for verdict in verdicts:
        target = verdict.target
        sign = ">=" if target.least else "<="
        bound = f"{sign} {target.limit:g} {target.unit}"
        guess = "-" if target.predicted != target.predicted else f"{target.predicted:.3g}"
        measured = NOT_YET if verdict.measured is None else f"{verdict.measured:.3g}"
        cells.append([target.name, bound, guess, measured, verdict.text if verdict.measured is not None else "-"])
    return cells


def aligned(cells: Sequence[Sequence[str]]) -> str:
    """Columns side by side, numbers to the right."""
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    right = [all(_number(row[i]) for row in cells[1:]) for i in range(len(widths))]
    lines = []
    for row in cells:
        pieces = [text.rjust(w) if r else text.ljust(w) for text, w, r in zip(row, widths, right, strict=True)]
        lines.append("  ".join(pieces).rstrip())
    return "\n".join(lines)


def _number(text: str) -> bool:
    return text == "-" or text[:1].isdigit() or (text[:1] == "-" and text[1:2].isdigit())


def page(result: Result, figures: Sequence[str]) -> str:
    """The tables as Markdown, the targets first, with what each prediction rests on, and the plots."""
    found = tables(result)
    order = [found[1], found[0], *found[2:]]
    lines = ["# One run of benchmarks/gpu.py", "", f"Measured: {result['conditions']['measured']}.", ""]
    for title, cells in order:
        lines += [f"## {title}", "", *markdown(cells if title != "Conditions" else [["", ""], *cells]), ""]
        if title == "Targets":
            lines += [f"- {v.target.name}: {v.target.why}." for v in judged(result)] + [""]
            lines += [f"![{name}]({name})\n" for name in figures]
    return "\n".join(lines)


def markdown(cells: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table in Markdown, heads first; a bar in a cell would end the cell."""
    rows = ["| " + " | ".join(text.replace("|", r"\|") for text in row) + " |" for row in cells]
    return [rows[0], "|" + "---|" * len(cells[0]), *rows[1:]]
