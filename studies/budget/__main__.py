"""`python -m studies.budget`: parses the options, measures, prints the targets, writes a page."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.dtypes import full_names
from matfn.train.terminal import Out, grid, launch, safe, screen, user_errors

__all__ = ["app", "budget"]


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
@user_errors
def budget(
    quick: Annotated[bool, typer.Option("--quick", help="Matrices of 64, three drawn, two shapes, one round.")] = False,
    momenta: Annotated[
        list[Path] | None, typer.Option(help="A folder of `python -m studies.momenta`; any number.", show_default=False)
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=8, max=8192, help="Short side of the matrices; 512 by default.")
    ] = None,
    drawn: Annotated[int | None, typer.Option(min=1, help="Spectra drawn at random; 20 by default.")] = None,
    dtypes: Annotated[
        list[str] | None, typer.Option(help="float64, float32, bfloat16, or f64, ...; the last two by default.")
    ] = None,
    out: Out = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON instead of the targets.")] = False,
) -> None:
    """RitzMinimax beside the other methods: error after 2 to 6 steps, steps to 1e-6, arithmetic and time; a page."""
    from matfn.train.files import dated, folder
    from studies import reproduce
    from studies.accuracy.run import DTYPES
    from studies.budget import report as reporting

    chosen = full_names(dtypes or ("float32", "bfloat16"), "--dtypes", DTYPES)
    options = reporting.Options(momenta=tuple(momenta or ()), dtypes=chosen)
    if quick:
        options = replace(options, size=64, drawn=3, rounds=1, shapes=((2, 32, 32), (1, 32, 64)))
        options = replace(options, polar=("gaussian 1024x256", "i^-1"), roots=("wishart 1/2", "log-uniform 1e-3"))
    given = {name: value for name, value in (("size", size), ("drawn", drawn)) if value is not None}
    with folder(out or dated("budget")) as place, screen(stderr=True).status("") as status:
        report = reporting.report(reporting.run(replace(options, **given), status.update))
        path = reproduce.write(report, place)
    if json_:
        typer.echo(json.dumps(reproduce.finite(report.plain)))
        return
    console, first = screen(), report.tables[0]
    shown = grid("", *first.heads, right=())
    for row, cells in first.rows:
        shown.add_row(safe(row), *map(safe, cells))
    console.print(shown)
    console.print(f"\npage  {path}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    launch(app)
