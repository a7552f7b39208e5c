"""Run the tournament: one process trains the runs of a queue, one after another, each on one thread.

    python -m studies.tournament.run --stage demo --out runs/tournament
    python -m studies.tournament.run --stage small --text mixture --out runs/tournament

Several processes may share a folder: each takes the next run that nobody has begun. A run is one file of JSON, written
whole when the run ends; an interrupted run leaves nothing and is trained again.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from matfn.train.data import Batches, Corpus, load_corpus, validation_windows
from matfn.train.model import loss, make_model
from matfn.train.recipe import DataTable, ModelTable, TrainTable
from studies.tournament.arms import ARMS, Arm, make

GRID_SEED = 1000
FAR, ALWAYS = 0.05, 3  # an arm that is further from the best in the grid runs the first three seeds only


@dataclass(frozen=True)
class Stage:
    """One model, text and length, and its arms.

    Attributes:
        model: The network.
        train: Steps, batch and schedule.
        vocabulary: A folder of the mixture, or "" for the bytes of the standard library.
        context: Length of a window.
        arms: Names in `ARMS`.
        seeds: Seeds of the paired runs.
        fixed: One learning rate for all arms, without a grid; None searches the grid of each arm.
        autocast: Whether products of the model round to bfloat16.
    """

    model: ModelTable
    train: TrainTable
    vocabulary: str
    context: int
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    fixed: float | None = None
    autocast: bool = False


GPT: dict[str, Any] = {"name": "gpt", "positions": "learned"}
DEMO = (
    "torch",
    "jordan",
    "polar-express",
    "default",
    "exact",
    "exact-times-.87",
    "jordan-mean-one",
    "default-mean-one",
)
SMALL = tuple(name for name in ARMS if "mean-one" not in name and name not in ("jordan", "exact-times-.87"))
LARGE = ("torch", "exact", "polar-express", "default", "normuon")
STAGES = {
    "demo": Stage(
        ModelTable(layers=4, width=128, heads=4, **GPT),
        TrainTable(steps=300, batch=16, warmup=30, cooldown=0.4, eval_every=30, eval_windows=256),
        "", 128, DEMO, tuple(range(12)), fixed=0.03,
    ),
    "demo-rates": Stage(
        ModelTable(layers=4, width=128, heads=4, **GPT),
        TrainTable(steps=300, batch=16, warmup=30, cooldown=0.4, eval_every=30, eval_windows=256),
        "", 128, ("adamw", "torch", "default"), (),
    ),
    "small": Stage(
        ModelTable(layers=4, width=128, heads=4, **GPT),
        TrainTable(steps=400, batch=16, warmup=30, cooldown=0.4, eval_every=40, eval_windows=256),
        "bpe4k", 128, SMALL, tuple(range(8)),
    ),
    "middle": Stage(
        ModelTable(layers=6, width=256, heads=4, **GPT),
        TrainTable(steps=300, batch=8, warmup=30, cooldown=0.4, eval_every=30, eval_windows=256),
        "bpe4k", 256, LARGE, tuple(range(4)), autocast=True,
    ),
}  # fmt: skip


def queue(stage: Stage, folder: Path) -> Iterator[tuple[Arm, float, int]]:
    """The runs of a stage in order: the grids rate by rate, then the seeds, each with the best rate of every arm.

    The best rate is known only when the grid of an arm has ended. Arms whose grid has not ended are left out.
    """
    arms = [ARMS[name] for name in stage.arms]
    if stage.fixed is None:
        middle_first = (2, 1, 3, 0, 4)
        for place in middle_first:
            yield from ((arm, arm.rates[place], GRID_SEED) for arm in arms)
    for seed in stage.seeds:
        for arm in arms:
            rate = stage.fixed if stage.fixed is not None else best_rate(arm, folder)
            if rate is not None and (seed < ALWAYS or stage.fixed is not None or near(arm, stage, folder)):
                yield arm, rate, seed


def near(arm: Arm, stage: Stage, folder: Path) -> bool:
    """Whether the best loss in the grid of an arm is at most `FAR` above the least of all grids."""
    best = {name: min(rates_of(ARMS[name], folder).values(), default=float("inf")) for name in stage.arms}
    return best[arm.name] <= min(best.values()) + FAR


def rates_of(arm: Arm, folder: Path) -> dict[float, float]:
    """The final losses of the grid so far, by rate; infinity for a run that diverged."""
    found = {}
    for path in sorted(folder.glob(f"{arm.name}@*-seed{GRID_SEED}.json")):
        run = json.loads(path.read_text())
        found[run["lr"]] = float("inf") if run["val"][-1][1] is None else run["val"][-1][1]
    return found


def best_rate(arm: Arm, folder: Path) -> float | None:
    """The rate of the least loss; None while runs are missing, or while the best rate is at an edge (`wider`)."""
    losses = rates_of(arm, folder)
    if not set(arm.rates) <= set(losses) or wider(arm, folder) is not None:
        return None
    return min(losses, key=lambda rate: losses[rate])


def wider(arm: Arm, folder: Path) -> float | None:
    """The next rate beyond an edge of the grid at which the loss is least; None if the best lies inside."""
    losses = rates_of(arm, folder)
    if not set(arm.rates) <= set(losses):
        return None
    best = min(losses, key=lambda rate: losses[rate])
    if best == min(losses):
        return best / 2
    return best * 2 if best == max(losses) else None


def autocast(stage: Stage) -> torch.autocast:
    """The precision of the model's products."""
    return torch.autocast("cpu", torch.bfloat16, enabled=stage.autocast)


def train(stage: Stage, arm: Arm, lr: float, seed: int, corpus: Corpus) -> dict[str, Any]:
    """Train one run; return its losses and its times (processor time: other processes share the machine)."""
    table = stage.train
    model = make_model(stage.model, corpus.vocabulary, context=stage.context, seed=seed)
    optimizers = make(arm, model, lr, table)
    batches = Batches(corpus.train, stage.context, batch=table.batch, seed=seed)
    inputs, targets = validation_windows(corpus, stage.context, table.eval_windows)
    val, losses, seconds, spent = [], [], [], []
    for step in range(1, table.steps + 1):
        begun = time.process_time()
        with autocast(stage):
            value = loss(model, *batches.draw())
        value.backward()
        moved = time.process_time()
        losses.append(float(value.detach()))
        optimizers.step()
        optimizers.finish()
        spent.append(time.process_time() - moved)
        seconds.append(time.process_time() - begun)
        if not losses[-1] < 1e3:
            val.append((step, None))
            break
        if step % table.eval_every == 0 or step == table.steps:
            with torch.no_grad(), autocast(stage):
                parts = zip(inputs.split(table.batch), targets.split(table.batch), strict=True)
                val.append((step, sum(float(loss(model, x, y)) * len(x) for x, y in parts) / len(inputs)))
    median = sorted(seconds)[len(seconds) // 2]
    return {
        "arm": arm.name, "lr": lr, "seed": seed, "val": val, "train": losses[9::10],
        "step_seconds": median, "optimizer_seconds": sorted(spent)[len(spent) // 2],
    }  # fmt: skip


def work(name: str, text: Path, out: Path) -> None:
    """Train what is missing of a stage, until nothing is left that nobody has begun."""
    stage, folder = STAGES[name], out / name
    folder.mkdir(parents=True, exist_ok=True)
    source: dict[str, Any] = {"source": "stdlib"}
    if stage.vocabulary:
        facts = json.loads((text / "facts.json").read_text())["tokens"][stage.vocabulary]
        source = {"source": "shards", "path": str(text / stage.vocabulary), "end_of_text": facts["end_of_text"]}
        source["vocabulary"] = facts["vocabulary"]
    corpus = load_corpus(DataTable(context=stage.context, **source))
    (folder / "corpus.json").write_text(json.dumps(corpus.facts, indent=1) + "\n")
    again = True
    while again:
        again = False
        wide = [(ARMS[arm], wider(ARMS[arm], folder), GRID_SEED) for arm in stage.arms] if stage.fixed is None else []
        for arm, lr, seed in [*((a, r, s) for a, r, s in wide if r is not None), *queue(stage, folder)]:
            path = folder / f"{arm.name}@{lr:g}-seed{seed}.json"
            lock = FileLock(path.with_suffix(".lock"))
            try:
                with lock.acquire(timeout=0):
                    if path.exists():
                        continue
                    row = train(stage, arm, lr, seed, corpus)
                    path.with_suffix(".tmp").write_text(json.dumps(row) + "\n")
                    os.replace(path.with_suffix(".tmp"), path)
                    print(f"{name} {path.stem}: {row['val'][-1][1]}, {row['step_seconds']:.3f} s a step", flush=True)
                    again = True
                    break  # a new result may change what comes next
            except Timeout:
                continue


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--stage", choices=STAGES, nargs="+", required=True)
    parser.add_argument("--text", type=Path, default=Path("mixture"))
    parser.add_argument("--out", type=Path, default=Path("runs/tournament"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    for stage in given.stage:
        work(stage, given.text, given.out)


if __name__ == "__main__":
    main()
