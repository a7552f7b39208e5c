"""`python -m studies.accuracy`: parses the options, measures, prints, writes a page and heat maps."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from benchmarks.dtypes import full_names
from matfn.train.terminal import Out, grid, launch, safe, screen, user_errors

if TYPE_CHECKING:
    from studies.accuracy.run import Options, Result

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
@user_errors
def accuracy(
    quick: Annotated[
        bool, typer.Option("--quick", help="Four spectra, 24 columns, float64 and float32, one round.")
    ] = False,
    function: Annotated[list[str] | None, typer.Option(help="polar, sqrt, inv_sqrt, inv_root4, sign, inv.")] = None,
    methods: Annotated[
        list[str] | None, typer.Option(help='A method, e.g. "prism:steps=12"; all by default, and converged.')
    ] = None,
    spectra: Annotated[list[str] | None, typer.Option(help='A spectrum, e.g. "htmp 5"; all by default.')] = None,
    dtypes: Annotated[
        list[str] | None, typer.Option(help="float64, float32, bfloat16 (polar alone), or f64, ...")
    ] = None,
    size: Annotated[int | None, typer.Option(max=8192, help="Short side of the matrices; 64 by default.")] = None,
    out: Out = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Errors of every method, scipy and torch against exact answers, by spectrum and dtype; a page and heat maps."""
    from matfn.train import files
    from studies.accuracy import report as bench_report
    from studies.accuracy import run as bench_accuracy

    chosen = _options(quick)
    named = full_names(dtypes or (), "--dtypes", bench_accuracy.DTYPES)
    given = {"functions": function, "methods": methods, "spectra": spectra, "dtypes": named}
    chosen = replace(chosen, **{name: tuple(values) for name, values in given.items() if values})
    chosen = replace(chosen, size=size) if size is not None else chosen
    with files.folder(out or files.dated("accuracy")) as folder:
        with Progress(console=Console(stderr=True), transient=True) as progress:
            bar = progress.add_task("measuring", total=None)
            result = bench_accuracy.run(chosen, watch=lambda done, of: progress.update(bar, completed=done, total=of))
        path = bench_report.write(result, folder)
    if json_:
        typer.echo(json.dumps({**result.plain(), "report": str(path)}))
        return
    _print(result)
    screen().print(f"\nreport  {path}", highlight=False, soft_wrap=True)


def _options(quick: bool) -> Options:
    from studies.accuracy.run import QUICK_SPECTRA, Options

    return Options(spectra=QUICK_SPECTRA, dtypes=("float64", "float32"), size=24, rounds=1) if quick else Options()


def _print(result: Result) -> None:
    from studies.accuracy import tables

    console = screen()
    console = console if console.is_terminal else Console(width=140)  # thirteen spectra beside a name
    for block in tables.blocks(result):
        console.print(f"\n[bold]{block.function}, {block.dtype}[/]   {tables.FIGURES['forward']}", highlight=False)
        for head, rows in (tables.errors(block), tables.work(block)):
            shown = grid(*head, right=tuple(range(1, len(head))))
            shown.padding = (0, 2, 0, 0)
            for row in rows:
                shown.add_row(*map(safe, row))
            console.print(shown)
    console.print(f"\n[dim]{safe(tables.caption(result))}[/]", highlight=False)


if __name__ == "__main__":
    launch(app)
