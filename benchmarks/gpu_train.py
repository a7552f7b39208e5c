"""A training comparison of ten minutes on one GPU: which optimizer gives the lower loss, and what its step costs.

    python -m studies.tournament.mixture --out mixture                               # the text, once, with a network
    python -m benchmarks.gpu_train --text mixture --pack mixture16k.xz               # one file of 35 MiB to carry
    PYTHONPATH=src python -m benchmarks.gpu_train --text mixture16k.xz --out runs/gpu_train
    python -m benchmarks.gpu_train --show runs/gpu_train                             # tables, a page and plots

The rules are those of benchmarks/gpu_train_parts/rules.py, fixed before any run; `--plan` prints them as runs with
predicted times. Each part is a process of its own. Each run is one line of OUT/runs.jsonl, on the disk before the next
run begins; the same command goes on where it was cut. A run that fails is a row with the error, and the others go on.

`--device cpu --quick` runs the same code small, to test the script: its numbers mean nothing.
"""

import argparse
import math
import os
import signal
import sys
import time
from pathlib import Path

if __name__ == "__main__" and not __package__:  # run as a file: the package `benchmarks` lies in the folder above
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from filelock import FileLock, Timeout

from benchmarks.gpu_parts.case import Part, Row
from benchmarks.gpu_parts.conditions import clocks, conditions
from benchmarks.gpu_parts.events import Place, wrong_device
from benchmarks.gpu_parts.processes import Running, together
from benchmarks.gpu_train_parts import record, rules, text
from benchmarks.gpu_train_parts.contenders import COMPARED
from benchmarks.gpu_train_parts.runs import Task

_IN = "benchmarks.gpu_train_parts.runs:"
# Name -> share of the seconds, and what is measured. Later parts get the seconds that a part did not use.
PARTS = {
    "speed": (0.20, "A few steps of every arm: what compiles, what fails, milliseconds of a step."),
    "grid": (0.38, "Learning rates of every arm by successive halving, at a seed of their own."),
    "seeds": (0.24, "Paired seeds of the arms that are left, at their best rates: the primary number."),
    "large": (0.18, "One run an arm of 12 layers x 768, at the rates of the small model."),
}
PATIENCE = 180.0  # seconds for one run or one compilation


def measure(task: Task, seconds: float, names: list[str], longer: float) -> list[str]:
    """Run the named parts, each until its share of the seconds is gone; return what each of them left undone."""
    shares = {name: PARTS[name][0] for name in PARTS if name in names}
    until, left = time.monotonic(), []
    folder = task.folder / f"call{task.call}"
    folder.mkdir(exist_ok=True)
    for name, share in shares.items():
        until += seconds * share / sum(shares.values())
        waiting = rules.to_do(name, task.settings, record.read(task.folder)) is not None
        if waiting and time.monotonic() < until:
            print(f"{name}: {until - time.monotonic():.0f} s", flush=True)
            part = Part(name, f"{_IN}{name}", PARTS[name][1], PATIENCE * max(1.0, longer))
            running = Running(part, task, until, folder, threads=0 if task.cuda else 1)
            together([running], _show, lambda _: None)
            row: Row = {"call": task.call, "part": name, "ended": running.ended, "lost": running.lost}
            row |= {"failures": running.failures, "clocks": clocks(task)}
            record.append(task.folder, row, record.PARTS)
            for failure in running.failures:
                print(f"  {name} FAILED {failure.get('failed')}", flush=True)
        if (run := rules.to_do(name, task.settings, record.read(task.folder))) is not None:
            left.append(f"{name} (next: {run.key})")
        elif not any(rules.queue(name, task.settings, record.read(task.folder))):
            left.append(f"{name} (no arm has a best rate inside its grid so far)")
    return left


def _show(part: str, row: Row) -> None:
    if "note" in row or "failed" in row:
        print(f"  {part}  {row.get('note') or row['failed']}", flush=True)
    elif "error" in row:
        print(f"  {row['stage']}  {row['arm']}: {row['error']}", flush=True)
    else:
        loss = "diverged" if row["loss"] is None else f"{row['loss']:.4f}"
        times = f"{1e3 * row['step_seconds']:.1f} ms a step, {1e3 * row['optimizer_seconds']:.1f} of the optimizer"
        print(f"  {row['stage']}  {row['arm']} @ {row['lr']:g}, seed {row['seed']}: {loss}, {times}", flush=True)


def _mistake(arguments: argparse.Namespace) -> str | None:
    """What is wrong with the arguments, and what is wanted; None if they can be used."""
    for name in ("seconds", "longer"):
        value = getattr(arguments, name)
        if not 0 < value < math.inf:
            return f"--{name} must be a positive number, got {value:g}"
    if arguments.seeds is not None and not 1 <= arguments.seeds <= 1000:
        return f"--seeds must be between 1 and 1000, the grid has seed 1000; got {arguments.seeds}"
    if mistake := wrong_device(arguments.device):
        return mistake
    if arguments.out.is_file():
        return f"--out must be a folder, got the file {arguments.out}"
    if arguments.text is None and not arguments.quick:
        return f"--text is missing: a packed file, a folder of the mixture, or {text.BYTES} for Python's own library"
    return None


def _parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="python -m benchmarks.gpu_train", description=(__doc__ or "").splitlines()[0])
    found.add_argument("--device", default="cuda")
    found.add_argument("--quick", action="store_true", help="tiny models and few steps, to test the script")
    found.add_argument("--eager", action="store_true", help="without torch.compile of the model")
    found.add_argument("--seconds", type=float, default=600.0, help="for everything")
    found.add_argument("--longer", type=float, default=1.0, metavar="FACTOR", help="on the steps of all runs")
    found.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="these parts")
    found.add_argument("--arms", nargs="+", choices=COMPARED, help="these arms")
    found.add_argument("--seeds", type=int, help="number of paired seeds")
    found.add_argument("--text", help=f"a packed file, a folder of the mixture, or {text.BYTES}")
    found.add_argument("--out", type=Path, default=Path("runs/gpu_train"), help="folder of results")
    found.add_argument("--pack", type=Path, metavar="FILE", help="write the text as one compressed file, and stop")
    found.add_argument("--million", type=float, default=text.TRAIN / 1e6, help="tokens that --pack keeps for training")
    found.add_argument("--plan", action="store_true", help="print all runs with predicted times, and stop")
    found.add_argument("--show", type=Path, metavar="FOLDER", help="print tables, write a page and plots, and stop")
    return found


def settings_of(arguments: argparse.Namespace) -> rules.Settings:
    """The settings that the arguments name."""
    found = (rules.QUICK if arguments.quick else rules.FULL).longer(arguments.longer)
    arms = tuple(name for name in COMPARED if name in (arguments.arms or COMPARED))
    return rules.Settings(found.small, found.large, arms, arguments.seeds or found.seeds)


def main() -> None:
    """Measure, or do what --pack, --plan or --show say."""
    parser = _parser()
    arguments = parser.parse_args()
    if arguments.show:
        from benchmarks.gpu_train_parts.show import show  # late: it needs matplotlib, which measuring does not

        show(arguments.show)
        return
    if arguments.plan:
        from benchmarks.gpu_train_parts.forecast import printed

        print(printed(settings_of(arguments)))
        return
    if arguments.pack:
        if arguments.text is None:
            parser.error("--pack needs --text FOLDER, a folder of the mixture")
        print(text.pack(arguments.text, arguments.pack, int(1e6 * arguments.million)))
        return
    if mistake := _mistake(arguments):
        parser.error(mistake)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped from outside; the folder has the runs so far"))
    try:
        _run(arguments)
    except KeyboardInterrupt:
        raise SystemExit("stopped by Ctrl-C; the folder has the runs so far") from None


def _run(arguments: argparse.Namespace) -> None:
    """Train what is missing.

    Raises:
        SystemExit: With status 1 if something is left to do, or another call works on the folder.
    """
    begin = time.monotonic()
    facts = conditions(Place(arguments.device, arguments.quick), arguments.seconds)
    settings = settings_of(arguments)
    corpus = text.corpus(arguments.text or text.BYTES, max(settings.small.context, settings.large.context))
    record.begin(arguments.out, settings, corpus.facts)
    try:
        with FileLock(arguments.out / "lock", timeout=0):
            call = len(record.calls(arguments.out))
            record.append(arguments.out, {"call": call, **facts}, record.CALLS)
            place = (
                arguments.device,
                arguments.quick,
                settings,
                corpus,
                arguments.out,
                call,
                os.getpid(),
                not arguments.eager,
            )
            remaining = arguments.seconds - (time.monotonic() - begin)
            left = measure(Task(*place), remaining, arguments.only, arguments.longer)
    except Timeout:
        raise SystemExit(f"--out {arguments.out}: another call works on this folder; wait for its end") from None
    print(f"{time.monotonic() - begin:.0f} s in all; left to do: {'; '.join(left) or 'nothing'}")
    print(f"python -m benchmarks.gpu_train --show {arguments.out} prints tables and draws plots")
    if left:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
