"""`python -m studies.tune`: parses the options, measures, prints and writes the tables."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from benchmarks.dtypes import full_name
from matfn.train import TrainError
from matfn.train.terminal import Out, grid, launch, safe, screen, shape_of, user_errors

if TYPE_CHECKING:
    from studies.tune.rates import Request
    from studies.tune.tune import Tuning

__all__ = ["app", "tune"]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_DTYPES = ("bfloat16", "float16", "float32", "float64")


@app.command()
@user_errors
def tune(
    shape: Annotated[str, typer.Option(help="Rows x columns of each matrix, e.g. 768x3072.")] = "768x3072",
    dtype: Annotated[str, typer.Option(help="bf16, f16, f32 or f64, or torch's names.")] = "bf16",
    batch: Annotated[int, typer.Option(min=1, help="Matrices in a stack.")] = 1,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    lower: Annotated[
        float | None,
        typer.Option(help="Least singular value the schedules are for, of the norm, deflated or not; several."),
    ] = None,
    momenta: Annotated[
        Path | None, typer.Option(help="Folder that studies.momenta wrote: its matrices weigh the plans.")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="How many plans of the foretold front to measure.")] = 12,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds.")] = 7,
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Threads of torch; by default what it takes.")
    ] = None,
    out: Out = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    report: Annotated[
        bool, typer.Option("--report", help="The cost model against measurements, in a fixed list of shapes.")
    ] = False,
) -> None:
    """Kernels, engines, schedules and deflation for a shape: time foretold and measured, error, front, and choice.

    Deflation shrinks the largest singular values before the first step, so that fewer steps do; shares of 1/32, 1/16
    and 1/8 are weighed beside none, their time and what they leave of the spectra measured.
    """
    from studies import momenta as captured
    from studies.tune import report as tune_report
    from studies.tune import tune as tuning

    if report:
        _run(out, threads, _agreement, json_)
        return
    request = _request(shape, dtype, batch, device, lower)
    request = replace(request, rows=rows, pace=replace(request.pace, rounds=rounds))
    real = [momentum.matrix for momentum in captured.load(momenta)[1]] if momenta else []

    def work(watch: Callable[[str], None], folder: Path) -> tuple[list[Path], Callable[[], object], object]:
        result = tuning.tune(request, watch, real)
        return tune_report.write(result, folder), lambda: _print(result), tune_report.plain(result)

    _run(out, threads, work, json_)


Work = Callable[[Callable[[str], None], Path], tuple[list[Path], Callable[[], object], object]]


def _run(out: Path | None, threads: int | None, work: Work, json_: bool) -> None:
    """Do the work in a folder, which gives the files, what prints the result, and the result as plain values."""
    import torch

    from matfn.train import files

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        with files.folder(out or files.dated("tune")) as folder, screen(stderr=True).status("") as status:
            paths, show, plain = work(lambda text: status.update(safe(text)), folder)
    finally:
        torch.set_num_threads(before)
    if json_:
        typer.echo(json.dumps(plain))
        return
    show()
    screen().print(f"\nwrote  {', '.join(map(str, paths))}", highlight=False, soft_wrap=True)


def _agreement(watch: Callable[[str], None], folder: Path) -> tuple[list[Path], Callable[[], object], object]:
    from studies.tune import model as tune_model

    found = tune_model.run(tune_model.CASES, watch=watch, keep=lambda found: tune_model.write(found, folder))
    paths = tune_model.write(found, folder)
    return paths, lambda: screen().print(safe(found.caption()), highlight=False), json.loads(paths[0].read_text())


def _request(shape: str, dtype: str, batch: int, device: str, lower: float | None) -> Request:
    """The request that the options mean.

    Raises:
        TrainError: An option has no meaning.
    """
    import torch

    from matfn.train.sizes import fits
    from studies.tune.rates import Request

    sides = shape_of(shape, "--shape")
    if min(sides) < 2:
        raise TrainError(f"--shape needs at least two rows and two columns, got {shape!r}")
    name = full_name(dtype, "--dtype", _DTYPES)
    if device not in ("cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise TrainError(f"--device is cpu, or cuda where torch sees a CUDA device, got {device!r}")
    if lower is not None and not 0 < lower < 1:
        raise TrainError(f"--lower is between 0 and 1, got {lower}")
    need = batch * sides[0] * sides[1] * getattr(torch, name).itemsize * 3  # the stack, its copy and a result
    fits(need, torch.device(device), "three stacks of this size", "--shape or --batch")
    asked = Request(sides, getattr(torch, name), batch, device)
    return asked if lower is None else replace(asked, lowers=((lower,), (lower,)))


def _print(result: Tuning) -> None:
    from studies.tune import report as tune_report
    from studies.tune.report import title

    console = screen()
    console = console if console.is_terminal else Console(width=170)  # twelve columns beside the name of a plan
    console.print(f"[bold]{safe(title(result))}[/]", highlight=False)
    tables = (tune_report.kernel_table, tune_report.aside_table, tune_report.candidate_table)
    for head, rows in (table(result) for table in tables):
        shown = grid(*head, right=tuple(range(1, len(head))))
        shown.padding = (0, 2, 0, 0)
        for row in rows:
            shown.add_row(*map(safe, row), style="bold" if {"*", "M"} & set(row[0][-1:] + row[1]) else "")
        console.print(shown)
        console.print()
    for line in tune_report.lines(result):
        console.print(safe(line), highlight=False)
    console.print(f"[dim]{safe(tune_report.CAPTION)}[/]", highlight=False)


if __name__ == "__main__":
    launch(app)
