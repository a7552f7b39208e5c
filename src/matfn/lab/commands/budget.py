"""The commands `matfn bench momenta` and `matfn bench budget`: they only parse, call the lab and print."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from matfn.lab.commands.terminal import grid, safe, screen, user_errors
from matfn.lab.dtypes import full_names

__all__ = ["budget", "momenta"]


@user_errors
def momenta(
    recipe: Annotated[Path, typer.Argument(help="TOML recipe; see the project's recipes/ folder.")],
    arm: Annotated[str | None, typer.Option(help="Which of the recipe's \\[\\[arms]].", show_default=False)] = None,
    at: Annotated[list[int] | None, typer.Option(help="A training step; 20, 100 and 250 by default.")] = None,
    only: Annotated[
        list[str] | None, typer.Option(help='Names of matrices, e.g. "blocks.0.*"; all by default.')
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write to; a dated one under runs/.")] = None,
) -> None:
    """Train by a recipe and keep the momentum matrices of some steps: `--momenta` of tune, bench step and budget."""
    import torch

    from matfn.lab import checkpoint
    from matfn.lab.recipes import recipe as recipes
    from matfn.lab.training import momenta as capturing
    from matfn.lab.training.progress import Progressing

    checked, steps = recipes.load(recipe, set_ or []), sorted(set(at or (20, 100, 250)))
    if checked.train.threads:
        torch.set_num_threads(checked.train.threads)
    with checkpoint.folder(out or dated("momenta")) as folder:
        with Progressing(screen(), max(steps)) as watcher:
            found = capturing.capture(checked, arm, at=steps, only=only or ["*"], directory=folder, watcher=watcher)
        model = checked.model
        source = f"{recipe.stem}, {model.layers} layers of width {model.width}, {checked.arm(arm).label}"
        path = capturing.save(folder, found, source)
    screen().print(f"{len(found)} matrices  {path}", highlight=False, soft_wrap=True)


def dated(name: str) -> Path:
    """A folder for results that nobody named."""
    return Path("runs") / f"bench-{name}" / datetime.now().strftime("%Y-%m-%d_%H%M%S")


@user_errors
def budget(
    quick: Annotated[bool, typer.Option("--quick", help="Matrices of 64, three drawn, two shapes, one round.")] = False,
    momenta: Annotated[
        list[Path] | None, typer.Option(help="A folder of `matfn bench momenta`; any number.", show_default=False)
    ] = None,
    size: Annotated[int | None, typer.Option(min=8, help="Short side of the matrices; 512 by default.")] = None,
    drawn: Annotated[int | None, typer.Option(min=1, help="Spectra drawn at random; 20 by default.")] = None,
    dtypes: Annotated[
        list[str] | None, typer.Option(help="float64, float32, bfloat16, or f64, ...; the last two by default.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write to; a dated one under runs/.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON instead of the targets.")] = False,
) -> None:
    """RitzMinimax beside the other methods: error after 2 to 6 steps, steps to 1e-6, arithmetic and time; a page."""
    from matfn.lab.accuracy.run import DTYPES
    from matfn.lab.budget import report as reporting
    from matfn.lab.checkpoint import folder
    from matfn.lab.papers import reproduce

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
