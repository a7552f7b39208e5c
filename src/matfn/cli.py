"""The command line: `matfn train | compare | report | coeffs | methods | explain | plan`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

try:
    import typer
    from rich.console import Console
except ImportError as missing:
    raise SystemExit(f'the command line needs {missing.name}: pip install "matfn[train]"') from None

from matfn.train import Stopped, TrainError, processes
from matfn.train.settings import brief
from matfn.train.terminal import Out, grid, launch, path_of, safe, screen, shape_of, user_errors

if TYPE_CHECKING:
    from matfn.train.compare import Comparison
    from matfn.train.recipe import Recipe

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")

RecipePath = Annotated[
    Path | None,
    typer.Argument(help="TOML recipe; see the project's recipes/ folder.", show_default=False, parser=path_of),
]
Arm = Annotated[str | None, typer.Option(help="Which of the recipe's \\[\\[arms]] to train.", show_default=False)]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key, e.g. optimizer.lr=0.02.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Resume = Annotated[Path | None, typer.Option("--resume", help="Go on with the run in this folder.", parser=path_of)]


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"matfn {version('matfn')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Matrix functions by matrix products, and the optimizers built on them."""


@app.command()
@user_errors
def train(
    recipe: RecipePath = None,
    arm: Arm = None,
    set_: Set = None,
    out: Out = None,
    resume: Resume = None,
    json_: Json = False,
) -> None:
    """Train with one optimizer (--set optimizer.kind=...); checkpoints (also at Ctrl-C), metrics as JSONL."""
    from matfn.train import files, parallel, single
    from matfn.train import recipe as recipes

    processes.join()
    if resume and (recipe or arm or out):
        raise TrainError("--resume takes all from the run's folder: give no recipe, --arm or --out beside it")
    if not (recipe or resume):
        raise TrainError("give a recipe (with --arm, --set, --out), or --resume with the folder of an interrupted run")
    changes = set_ or []
    checked = processes.from_first(
        lambda: recipes.moved(single.recorded(resume), changes) if resume else recipes.load(recipe, changes)
    )
    recipes.check_used(checked, changes if arm is not None else (), arm)
    parallel.check(checked)
    console = _console(checked, json_)
    place = resume or out
    with processes.first_holds(lambda: files.folder(place or files.dated(recipe.stem if recipe else ""))) as folder:
        summary = single.run(checked, folder, console, arm=arm)
    if json_ and processes.first():
        typer.echo(json.dumps(summary))
    processes.leave()


@app.command()
@user_errors
def compare(
    recipe: RecipePath = None, set_: Set = None, out: Out = None, resume: Resume = None, json_: Json = False
) -> None:
    """Train the recipe's arms on the same text, weights and batches; print a table, write an HTML report."""
    from matfn.train import compare as comparing
    from matfn.train import files, parallel, report
    from matfn.train import recipe as recipes
    from matfn.train.loop import pick_device
    from matfn.train.progress import Progressing, everywhere, interrupt
    from matfn.train.provenance import found

    processes.join()
    if (recipe is None) == (resume is None) or (resume and out):
        raise TrainError("give a recipe (with --set, --out), or --resume with the folder of an interrupted comparison")
    checked = processes.from_first(
        lambda: (
            recipes.moved(recipes.recorded(resume / comparing.RECIPE)[0], set_ or [])
            if resume
            else recipes.load(recipe, set_ or [])
        )
    )
    recipes.check_used(checked, set_ or [])
    parallel.check(checked)
    console = _console(checked, json_)
    place = resume or out
    with processes.first_holds(lambda: files.folder(place or files.dated(recipe.stem if recipe else ""))) as folder:
        runs, steps = processes.from_first(lambda: comparing.remaining(checked, folder))
        console.print(f"machine  {safe(found(pick_device(checked.train.device)))}", highlight=False, soft_wrap=True)
        with Progressing(console, steps, runs=runs) as watcher, interrupt() as signalled:
            try:
                result = comparing.run(checked, folder, watcher, stop=everywhere(signalled))
            except Stopped as stopped:
                stopped.status = 128 + signalled.number
                raise
        path = processes.from_first(lambda: report.write(result, folder))
    if not json_:
        _print_comparison(console, result)
        console.print(f"\nreport  {safe(str(path))}", highlight=False, soft_wrap=True)
    elif processes.first():
        typer.echo(json.dumps({**result.table(), "report": str(path)}))
    processes.leave()


@app.command("report")
@user_errors
def report_(
    run: Annotated[Path, typer.Argument(help="The folder of a run of train or compare.", parser=path_of)],
    out: Annotated[
        Path | None, typer.Option("--out", help="The file; training.html in the folder by default.", parser=path_of)
    ] = None,
) -> None:
    """Write an HTML page of a run, also while it runs: losses, rates, what the updates did, what the plan decided."""
    from matfn.train import run_page

    if not run.is_dir():
        raise TrainError(f"there is no folder {str(run)!r}: give the folder of a run of matfn train or matfn compare")
    path = run_page.write(run, out)
    screen().print(f"report  {safe(str(path))}", highlight=False, soft_wrap=True)


@app.command()
@user_errors
def coeffs(
    spec: Annotated[str, typer.Argument(help='A method, e.g. "polar-express:steps=6,lower=1e-4".')] = "polar-express",
    p: Annotated[int, typer.Option("--p", min=1, max=64, help="p of the p-th root; 2 for the polar factor.")] = 2,
    plot: Annotated[Path | None, typer.Option(help="Write the map and the error as a PNG.", parser=path_of)] = None,
    json_: Json = False,
) -> None:
    """Print a method's schedule: interval, coefficients and worst error of every step."""
    from matfn.train.schedules import schedule_table

    _check_png(plot, "--plot")
    table = schedule_table(spec, p)
    if plot:
        from matfn.train import drawing

        drawing.png(drawing.schedule_map(table), plot)
    if json_:
        typer.echo(json.dumps(asdict(table)))
        return
    shown = grid("step", "interval of s", "coefficients of q(m), ascending", "worst |1 − s| after")
    for step in table.steps:
        low, high = step.interval
        shown.add_row(str(step.number), rf"\[{low:.6g}, {high:.6g}]", step.text, f"{step.error:.3e}")
    console = screen()
    console.print(f"[bold]{safe(table.spec)}[/]   p = {table.p}, lower = {table.lower:g}", highlight=False)
    console.print(f"[dim]{safe(table.source)}[/]", highlight=False)
    console.print(shown)
    if plot:
        console.print(f"plot  {safe(str(plot))}", highlight=False, soft_wrap=True)


@app.command()
@user_errors
def methods(json_: Json = False) -> None:
    """List the methods, their arguments, and what each one is. In recipes: "newton-schulz:degree=3,steps=8"."""
    from matfn.train.schedules import method_lines

    lines = method_lines()
    if json_:
        typer.echo(json.dumps([dict(zip(("name", "defaults", "summary"), line, strict=True)) for line in lines]))
        return
    shown = grid("method", "arguments and defaults", "what it is", right=())
    for name, defaults, summary in lines:
        shown.add_row(f"[bold]{name}[/]", safe(defaults.replace(",", " ")), safe(summary))
    screen().print(shown)


@app.command()
@user_errors
def explain(
    shape: Annotated[str, typer.Argument(help="Rows and columns of the matrices, e.g. 768x3072.")] = "768x3072",
    verb: Annotated[str, typer.Option(help="orthogonalize, polar, sqrtm, ..., muon, polargrad, shampoo.")] = "muon",
    method: Annotated[str | None, typer.Option(help='E.g. "polar-express:steps=6".', show_default=False)] = None,
    dtype: Annotated[str, typer.Option(help="float16, bfloat16, float32 or float64.")] = "float32",
    p: Annotated[int | None, typer.Option("--p", help="Of rootm and inv_rootm.", show_default=False)] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...; it need not be there.")] = "cpu",
    map_: Annotated[
        Path | None, typer.Option("--map", help="Draw the choices for every shape as a PNG.", parser=path_of)
    ] = None,
) -> None:
    """Show how a function or an optimizer's step would be computed on this machine, and why; nothing is computed."""
    import torch

    import matfn

    _check_png(map_, "--map")
    if dtype not in ("float16", "bfloat16", "float32", "float64"):
        raise TrainError(f"--dtype must be float16, bfloat16, float32 or float64, got {brief(dtype)}")
    try:
        options: dict[str, Any] = {} if method is None else {"method": matfn.method(method)}
        sides, kind = shape_of(shape, "the shape"), getattr(torch, dtype)
        plan = matfn.explain(sides, verb, p=p, dtype=kind, device=device, **options)
        if map_:
            from matfn.train import choice_map, drawing

            found = choice_map.choice_map(verb, p=p, dtype=kind, device=device, **options)
            drawing.png(choice_map.draw(found, sides), map_)
    except (ValueError, TypeError, ArithmeticError, ImportError) as error:
        raise TrainError(str(error)) from None
    typer.echo(str(plan))
    if map_:
        screen().print(f"map  {safe(str(map_))}", highlight=False, soft_wrap=True)


@app.command("plan")
@user_errors
def plan_(
    mesh: Annotated[str, typer.Option(help="Processes: 8, 8x8 (fsdp x tp), or replicate=2,fsdp=32,tp=8,ep=64.")],
    recipe: Annotated[Path | None, typer.Option(help="A recipe, for its model and optimizer.", parser=path_of)] = None,
    arm: Arm = None,
    set_: Set = None,
    model: Annotated[str | None, typer.Option(help="A public model, such as llama3-8b.", show_default=False)] = None,
    optimizer: Annotated[str | None, typer.Option(help="With --model; muon by default.", show_default=False)] = None,
    gbps: Annotated[float | None, typer.Option(help="Gigabits a second that a process sends.")] = None,
    tflops: Annotated[float | None, typer.Option(help="10^12 operations a second of its matrix products.")] = None,
    tokens: Annotated[float | None, typer.Option(help="Tokens of all processes in a step.")] = None,
    machine: Annotated[str | None, typer.Option(help="Decide as on such machines, e.g. cuda-sm90.")] = None,
    json_: Json = False,
) -> None:
    """Show what a step costs each process of a mesh that need not exist: work, bytes, memory, share of a step."""
    from matfn.train import outlook
    from matfn.train import recipe as recipes

    if (recipe is None) == (model is None):
        raise TrainError("give either --recipe with a file, or --model with the name of a public model")
    if (model is not None and (arm or set_)) or (recipe is not None and optimizer is not None):
        raise TrainError("--arm and --set go with --recipe, --optimizer with --model")
    profile = outlook.use_profile(machine)
    if tflops is None and recipe is not None and machine is None:
        tflops = outlook.probed()
    pace = {"gbps": gbps, "tflops": tflops, "tokens": tokens}
    if model is not None:
        title, found = outlook.of_model(model, optimizer or "muon", mesh, pace)
    else:
        title, found = outlook.of_recipe(recipes.load(recipe, set_ or []), arm, mesh, pace)
    if json_:
        typer.echo(json.dumps(outlook.as_data(title, profile, found)))
        return
    typer.echo(f"{title}, decided as on {profile}\n\n{found}")


def _check_png(path: Path | None, option: str) -> None:
    """Refuse a path to which no PNG can be written, before the work."""
    if path and (path.is_dir() or path.suffix.lower() != ".png"):
        raise TrainError(f"{option} writes a PNG: give a file that ends in .png, not {str(path)!r}")
    if path and not path.parent.is_dir():
        raise TrainError(f"{option}: there is no folder {str(path.parent)!r}")


def _print_comparison(console: Console, result: Comparison) -> None:
    from matfn.train import report
    from matfn.train.outcome import leaders

    shown = grid(*report.headings(result.unit), right=(1, 2, 3, 4, 5))
    best = leaders(result.rows, result.differences)
    for row in result.rows:
        style = "bold" if row.arm in best else ""
        shown.add_row(*map(safe, report.cells(row, result)), style=style)
    console.print(f"\n{safe(report.lead(result))}\n", highlight=False)
    console.print(shown)
    console.print()
    for line in report.summary(result):
        console.print(f"  {safe(line)}", highlight=False)
    console.print(f"[dim]{safe(result.note)}[/]", highlight=False)


def _console(recipe: Recipe, quiet: bool) -> Console:
    """The console for progress (stderr if stdout is for JSON). Also sets the threads that the recipe asks for."""
    if recipe.train.threads:
        import torch

        torch.set_num_threads(recipe.train.threads)
    return screen(stderr=quiet) if processes.first() else Console(quiet=True)


def main() -> None:
    """The command line; `matfn_main` is the entry point of the `matfn` script."""
    launch(app)


if __name__ == "__main__":
    main()
