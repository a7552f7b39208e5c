"""The history of the benchmarks: one line for each row of a run, and a figure of chosen rows over the revisions.

    python -m benchmarks.history [docs/results/bench-step.json ...]

appends the new rows of the given files (by default the benchmarks in docs/results) to docs/results/history.jsonl and
draws docs/results/history.png. A line has date, revision, machine, versions, case, name, milliseconds and the speed
relative to the first row of the case, which is measured in the same rounds: speeds of several machines can be compared,
milliseconds cannot.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from matfn.train import drawing, files

RESULTS = Path(__file__).parents[1] / "docs/results"
KEY = ("date", "part", "case", "name")


def lines(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of a report that have a time, each with the conditions of the run."""
    about = report["conditions"]
    revision = re.search(r"revision (\w+)", about["matfn"])
    shared = {
        "date": about["date"],
        "revision": revision[1] if revision else "unknown",
        "machine": f"{about['processor']}, {about['device']}, {about['threads']} threads",
        "torch": about["torch"],
        "part": report["part"],
    }
    return [
        {**shared, "case": row["case"], "name": row["name"]}
        | {"ms": round(1000 * row["median"], 4), "speed": row["ratio"] and round(row["ratio"], 4)}
        | {"default": row["choice"]}
        for row in report["rows"]
        if row["median"] is not None
    ]


def joined(known: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Both by date, each row of a run once."""
    by_key = {tuple(line[k] for k in KEY): line for line in [*known, *new]}
    return sorted(by_key.values(), key=lambda line: line["date"])


def figure(history: list[dict[str, Any]]) -> Figure:
    """Speed of the library's defaults relative to the baseline of their case, by run."""
    chosen = [line for line in history if line["default"] and line["speed"] is not None]
    dates = sorted({line["date"] for line in chosen})
    curves: dict[str, list[tuple[int, float]]] = {}
    for line in chosen:
        label = f"{line['part']}: {line['case']}"
        curves.setdefault(label, []).append((dates.index(line["date"]), line["speed"]))
    revisions = [next(line["revision"] for line in chosen if line["date"] == date) for date in dates]
    shown = Figure(figsize=(9, 4.5), layout="constrained")
    axes = shown.subplots()
    for label, points in curves.items():
        axes.plot(*zip(*sorted(points), strict=True), marker="o", label=label)
    axes.axhline(1, color="0.6", linewidth=1)
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter(lambda value, place: f"{value:g}")
    marks = [f"{revision[:7]}\n{date[:10]}" for revision, date in zip(revisions, dates, strict=True)]
    axes.set_xticks(range(len(dates)), marks)
    axes.set_ylabel("speed of the default, baseline of the case = 1")
    shown.legend(loc="outside right upper", fontsize=7)
    return shown


def main() -> None:
    """Append and draw."""
    options = argparse.ArgumentParser(description="Append benchmarks to their history and draw it.")
    options.add_argument("files", nargs="*", type=Path, help="bench-*.json; by default those in docs/results")
    options.add_argument("--out", type=Path, default=RESULTS, help="the folder of history.jsonl and history.png")
    asked = options.parse_args()
    kept = asked.out / "history.jsonl"
    known = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    found = asked.files or sorted(RESULTS.glob("bench-*.json"))
    new = [line for path in found for line in lines(json.loads(path.read_text()))]
    history = joined(known, new)
    files.replace_text(kept, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in history))
    drawing.png(figure(history), asked.out / "history.png", dpi=110)
    print(f"{len(history) - len(known)} new lines, {len(history)} in {kept}")


if __name__ == "__main__":
    main()
