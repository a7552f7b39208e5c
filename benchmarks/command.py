"""`python -m benchmarks.polar | step | roots | scaling`: parse the options, measure, print and write a report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from benchmarks.dtypes import SHORT
from matfn.train import TrainError
from matfn.train.terminal import Out, grid, safe, screen, user_errors

if TYPE_CHECKING:
    from benchmarks.rows import Report
    from benchmarks.timing import Pace

__all__ = ["command"]

Preset = Annotated[str, typer.Option("--preset", help="quick (up to a minute) or full (for a quiet machine).")]
Threads = Annotated[int | None, typer.Option(min=1, max=1024, help="Threads of torch; by default what it takes.")]
Rounds = Annotated[int | None, typer.Option(min=1, help="Interleaved rounds; the preset's by default.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Only = Annotated[list[str] | None, typer.Option(help='A part of a case, e.g. "batch 1, bf16"; all by default.')]


_ABOUT = {
    "polar": "Orthogonalization: time against error of every method, engine and kernel, beside other packages.",
    "step": "A step of Muon on the matrices of GPT-2 small and medium, and on a hundred small ones, "
    "beside other packages.",
    "roots": "Inverse roots in Shampoo's shapes: products, decompositions and other packages.",
    "scaling": "Growth with size and batch, as a fraction of this machine's own matmul rate.",
}


def command(name: str) -> typer.Typer:
    """The command line of one benchmark: "polar", "step", "roots" or "scaling"."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(help=_ABOUT[name])(_step if name == "step" else _measuring(name))
    return app


def _measuring(name: str) -> Callable[..., None]:
    """The command of a benchmark that has no option of its own."""

    @user_errors
    def measure(
        preset: Preset = "quick",
        only: Only = None,
        threads: Threads = None,
        rounds: Rounds = None,
        out: Out = None,
        json_: Json = False,
    ) -> None:
        benchmark = import_module(f"benchmarks.{name}")
        cases, pace = _chosen(benchmark.PRESETS, preset, only, rounds)
        _run(name, lambda watch, keep: benchmark.run(cases, pace, watch, keep), threads, out, json_)

    return measure


@user_errors
def _step(
    preset: Preset = "quick",
    only: Only = None,
    momenta: Annotated[
        Path | None, typer.Option(help="Folder that `python -m studies.momenta` wrote: errors on its matrices too.")
    ] = None,
    threads: Threads = None,
    rounds: Rounds = None,
    out: Out = None,
    json_: Json = False,
) -> None:
    """The same, with the matrices of a training run."""
    from benchmarks import step as speed_step
    from studies import momenta as captured

    cases, pace = _chosen(speed_step.PRESETS, preset, only, rounds)
    real = [momentum.matrix for momentum in captured.load(momenta)[1]] if momenta else []

    def work(watch: Callable[[str], None], keep: Callable[[Report], None]) -> Report:
        return speed_step.run(cases, pace, watch, keep, momenta=real, compiled=preset == "full")

    _run("step", work, threads, out, json_)


def _chosen(
    presets: dict[str, tuple[Any, Pace]], preset: str, only: list[str] | None, rounds: int | None
) -> tuple[tuple[Any, ...], Pace]:
    """The cases of a preset that are asked for, and its pace."""
    if preset not in presets:
        raise TrainError(f"--preset is one of {', '.join(presets)}, got {preset!r}")
    cases, pace = presets[preset]
    texts = [", ".join(SHORT.get(part, part) for part in text.split(", ")) for text in only or ()]
    chosen = tuple(case for case in cases if not texts or any(text in str(case) for text in texts))
    if not chosen:
        raise TrainError(f"--only {' '.join(only or [])}: no case of this preset; it has {'; '.join(map(str, cases))}")
    return chosen, pace if rounds is None else replace(pace, rounds=rounds)


def _run(
    part: str,
    work: Callable[[Callable[[str], None], Callable[[Report], None]], Report],
    threads: int | None,
    out: Path | None,
    json_: bool,
) -> None:
    """Do the work and write its report. A part that hands over each finished case loses nothing if interrupted."""
    import torch

    from benchmarks import report as speed_report
    from matfn.train import files

    before, printed = torch.get_num_threads(), list[str]()
    torch.set_num_threads(threads or before)
    try:
        with files.folder(out or files.dated(f"bench-{part}")) as folder, screen(stderr=True).status("") as status:

            def keep(report: Report) -> None:
                speed_report.write_json(report, folder)
                if not json_:
                    _print_new(report, printed)

            report = work(lambda text: status.update(safe(text)), keep)
            keep(report)
            paths = speed_report.write(report, folder)
    finally:
        torch.set_num_threads(before)
    if json_:
        typer.echo(speed_report.as_json(report))
        return
    _print_end(report)
    screen().print(f"\nwrote  {', '.join(map(str, paths))}", highlight=False, soft_wrap=True)


def _console() -> Console:
    console = screen()
    return console if console.is_terminal else Console(width=150)  # room for names of schedules and nine columns


def _print_new(report: Report, printed: list[str]) -> None:
    """Tables of the cases not yet in `printed`; adds these cases to it."""
    from benchmarks import report as speed_report

    console = _console()
    for case in report.cases():
        if case in printed:
            continue
        printed.append(case)
        rows = [row for row in report.rows if row.case == case]
        head = speed_report.heads(rows)
        shown = grid(*head, right=tuple(range(1, len(head))))
        shown.padding = (0, 2, 0, 0)
        for row in rows:
            shown.add_row(*map(safe, speed_report.cells(row, rows)), style="bold" if row.choice else "")
        console.print(f"\n[bold]{safe(case)}[/]", highlight=False)
        console.print(shown)
        for note in speed_report.notes(rows):
            console.print(f"[dim]{safe(note)}[/]", highlight=False)


def _print_end(report: Report) -> None:
    from benchmarks import report as speed_report

    console = _console()
    console.print(
        f"\n[dim]{safe(report.caption)} * what the library does when it is asked for nothing.[/]", highlight=False
    )
    if report.absent:
        console.print(f"not measured: {safe(speed_report.absence(report))}", highlight=False)
