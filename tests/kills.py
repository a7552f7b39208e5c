"""Kill runs at random moments and go on until they end: every one must end like the run that nobody killed.

    python tests/kills.py --kills 200

Runs of `matfn train` and `matfn compare` on a tiny recipe are killed by SIGKILL, half of them after a random time, half
at a random file operation: before or after a file is put on disk or moved, some with the unfinished file cut off.
Then the same command, or `--resume`, goes on, and is killed again. Compared are the metrics, the tensors of the
last checkpoint, and the losses of a comparison. Each run is a fork of one process, which has imported torch.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch

from matfn import cli
from matfn.train import checkpoint, compare, files, report, single  # noqa: F401 before the forks
from matfn.train.metrics import read_metrics
from matfn.train.settings import to_toml

KEPT = ("step", "loss", "lr", "val_loss")
OPERATIONS = ("open", "fsync", "replace")


def table(text: Path) -> dict:
    """A recipe of a tenth of a second, with checkpoints at every second step, two arms of like names, and a grid."""
    return {
        "model": {"layers": 1, "width": 16, "heads": 2},
        "data": {"source": "text", "path": str(text), "context": 16, "val_fraction": 0.2},
        "train": {
            **{"steps": 12, "batch": 2, "warmup": 2, "eval_every": 4, "eval_windows": 4},
            **{"device": "cpu", "checkpoint_every": 2},
        },
        "compare": {"grid": {"steps": 6}},
        "arms": [
            {"name": "A", "kind": "adamw", "lr": 0.01, "rates": [0.01, 0.02]},
            {"name": "a", "kind": "muon", "lr": 0.02, "method": "polar-express:steps=3"},
            {"name": "soap", "kind": "soap", "lr": 0.01, "basis_every": 3},
        ],
    }


def child(arguments: list[str], fatal: int | None, torn: bool, log: Path) -> None:
    """Run the command line, and die at the file operation of number `fatal`."""
    null = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(null, 1), os.dup2(null, 2)
    count = 0

    def counted(name):
        operation = getattr(os, name)

        def deadly(*given, **more):
            nonlocal count
            count += 1
            if count == fatal:
                if name == "fsync" and torn and os.readlink(f"/proc/self/fd/{given[0]}").endswith(".partial"):
                    os.ftruncate(given[0], random.randrange(1 + os.fstat(given[0]).st_size))
                elif random.random() < 0.5:
                    operation(*given, **more)
                os.kill(os.getpid(), signal.SIGKILL)
            return operation(*given, **more)

        return deadly

    for name in OPERATIONS:
        setattr(files.os, name, counted(name))
    status = 1
    try:
        cli.app(arguments)
    except SystemExit as ended:
        status = ended.code or 0
    finally:
        sys.stdout.flush()
        os.write(1, f"\n{count} operations\n".encode())
        os._exit(status)


def run(arguments: list[str], log: Path, *, fatal: int | None = None, after: float | None = None) -> int:
    """The status of a run; -9 if it was killed."""
    torn = random.random() < 0.5
    if (process := os.fork()) == 0:
        child(arguments, fatal, torn, log)
    if after is not None:
        time.sleep(after)
        os.kill(process, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def equal(one, other) -> bool:
    """Whether two states are the same, bit for bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


def ended(command: str, folder: Path) -> dict:
    """What the numbers of a finished run are."""
    if command == "train":
        lines = [{key: line[key] for key in KEPT if key in line} for line in read_metrics(folder / "metrics.jsonl")]
        state = checkpoint.load(folder / "checkpoint.pt")
        return {"lines": lines, "state": {key: value for key, value in state.items() if key != "metrics"}}
    result = json.loads((folder / "result.json").read_text())
    runs = [{"arm": r["arm"], "train": r["train"], "val": [v[:2] for v in r["val"]]} for r in result["runs"]]
    return {"runs": runs, "searches": [s["losses"] for s in result["searches"]]}


def trial(command: str, start: list[str], folder: Path, whole: dict, operations: int, seconds: float, log: Path) -> int:
    """Run to the end with as many kills as it takes to be lucky; returns their number."""
    kills = 0
    while True:
        resumable = kills and (folder / "recipe.toml").exists() and random.random() < 0.5
        arguments = [command, "--resume", str(folder)] if resumable else [*start, "--out", str(folder)]
        if random.random() < 0.5:
            status = run(arguments, log, fatal=random.randint(1, round(1.3 * operations)))
        else:
            status = run(arguments, log, after=random.uniform(0, 1.3 * seconds))
        if status == 0:
            break
        if status != -signal.SIGKILL:
            raise SystemExit(f"status {status} of {' '.join(arguments)}:\n{log.read_text()}")
        kills += 1
    if not equal(ended(command, folder), whole):
        raise SystemExit(f"{folder} ended with other numbers after {kills} kills")
    left = [p.name for p in folder.rglob("*") if p.name.endswith(".partial")]
    if left:
        raise SystemExit(f"{folder} holds {left}")
    return kills


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    random.seed(asked.seed)
    torch.set_num_threads(1)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "text").mkdir()
        for number in range(20):
            words = (random.choice(("alpha", "beta", "gamma", "delta")) for _ in range(60))
            (root / "text" / f"{number}.txt").write_text(" ".join(words))
        (root / "recipe.toml").write_text(to_toml(table(root / "text")))
        recipe, log = str(root / "recipe.toml"), root / "log"
        commands = [("train", ["train", recipe, "--arm", arm]) for arm in ("A", "a", "soap")]
        commands.append(("compare", ["compare", recipe]))
        cli.app(["compare", recipe, "--out", str(root / "first")], standalone_mode=False)  # imports, before the forks
        wholes = []
        for number, (command, start) in enumerate(commands):
            folder, at = root / f"whole{number}", time.monotonic()
            if run([*start, "--out", str(folder)], log):
                raise SystemExit(log.read_text())
            operations = int(log.read_text().split()[-2])
            wholes.append((ended(command, folder), operations, time.monotonic() - at))
            print(f"{' '.join(start)}: {operations} file operations, {wholes[-1][2]:.1f} s", flush=True)
        kills = {"train": 0, "compare": 0}
        runs = {"train": 0, "compare": 0}
        while sum(kills.values()) < asked.kills:
            which = random.randrange(3) if kills["train"] <= kills["compare"] else 3
            command, start = commands[which]
            kills[command] += trial(command, start, root / f"run{sum(runs.values())}", *wholes[which], log)
            runs[command] += 1
    print(f"{kills} kills of {runs} runs: all ended with the same numbers, in {time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
