"""The rules, fixed before any run on a card: which run comes next, given the rows of the runs so far.

Everything here is a function of rows alone, so a run that was cut goes on as if it had not been. A row has the entries
of `Run` and either "loss" (None if it diverged) or "error". Both a divergence and an error count as infinite loss.

Successive halving of one arm:

- Rung 1: each of the arm's five rates for a quarter of the steps. While the best rate is at an edge, the grid grows by
  a factor of 2 beyond it, at most `GROWN` times.
- An arm whose best loss of rung 1 is more than `FAR` above the least of all arms goes no further (`KEPT` always do).
- Rung 2: the best rate and its two neighbours for half of the steps; the same growth. The best rate of rung 2 is taken.

Both rungs use seed 1000, which takes no part in the comparison. Then come the paired seeds 0, 1, ... with all steps,
seed by seed: `KEPT`, and of the others the `MOST` of least loss in rung 2. All runs have a whole schedule of their own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from benchmarks.gpu_parts.case import Row
from benchmarks.gpu_train_parts.contenders import ARMS, COMPARED, KEPT, OURS, THEIRS, TIMED
from matfn.train.recipe import ModelTable, TrainTable

__all__ = ["FULL", "PRIMARY", "QUICK", "Run", "Scale", "Settings", "chosen", "queue", "survivors", "to_do"]

PRIMARY = (
    "validation loss of matfn's Muon by default minus the loss of torch.optim.Muon, 6 layers x 512, after equal steps, "
    "each at its best rate: mean over paired seeds with Student's 95 % interval"
)
GRID_SEED = 1000
RUNGS = {"rung 1": 0.25, "rung 2": 0.5}  # shares of the steps
GROWN = 3
FAR = 0.1  # nats a token
MOST = 2
AFFORDED = 3.0  # a step of an arm may take so many times as long as AdamW's
TRIAL = 24  # steps that show the time of a step


@dataclass(frozen=True)
class Scale:
    """One model and the length of its runs.

    Attributes:
        model: The network.
        context: Length of a window.
        batch: Windows of a step.
        steps: Of a whole run.
        windows: Of an evaluation.
    """

    model: ModelTable
    context: int
    batch: int
    steps: int
    windows: int

    def train(self, steps: int) -> TrainTable:
        """The schedule: warm-up for 5 % of the steps, then constant, the last 40 % linear to zero."""
        return TrainTable(steps=steps, batch=self.batch, warmup=max(1, round(0.05 * steps)), cooldown=0.4)


@dataclass(frozen=True)
class Settings:
    """What determines all runs, beside the text. A folder of results holds one setting.

    Attributes:
        small: Compared with a grid and seeds.
        large: One run an arm.
        arms: In the grid.
        seeds: Number of paired seeds.
    """

    small: Scale
    large: Scale
    arms: tuple[str, ...] = COMPARED
    seeds: int = 5

    def longer(self, factor: float) -> Settings:
        """The same with more steps."""
        small, large = (replace(s, steps=max(8, round(factor * s.steps))) for s in (self.small, self.large))
        return replace(self, small=small, large=large)

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "arms": list(self.arms)}


_GPT: dict[str, Any] = {"name": "gpt", "positions": "rotary"}
FULL = Settings(
    Scale(ModelTable(layers=6, width=512, heads=8, **_GPT), context=512, batch=64, steps=200, windows=256),
    Scale(ModelTable(layers=12, width=768, heads=12, **_GPT), context=1024, batch=32, steps=250, windows=128),
)
QUICK = Settings(
    Scale(ModelTable(layers=1, width=16, heads=2, **_GPT), context=16, batch=4, steps=8, windows=8),
    Scale(ModelTable(layers=2, width=16, heads=2, **_GPT), context=16, batch=4, steps=8, windows=8),
    seeds=2,
)


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        stage: "speed", "rung 1", "rung 2", "seeds", "large speed" or "large".
        arm: A name in `ARMS`.
        lr: The learning rate.
        seed: Of the first weights and of the batches.
        steps: All of them under a whole schedule.
    """

    stage: str
    arm: str
    lr: float
    seed: int
    steps: int

    @property
    def key(self) -> str:
        """What tells runs apart."""
        return f"{self.stage}: {self.arm} @ {self.lr:g}, seed {self.seed}"


def key_of(row: Row) -> str:
    """The key of the run of a row."""
    return Run(row["stage"], row["arm"], row["lr"], row["seed"], row["steps"]).key


def loss_of(row: Row) -> float:
    """The last validation loss; infinite if the run diverged or failed."""
    loss = row.get("loss")
    return math.inf if loss is None else float(loss)


def to_do(part: str, settings: Settings, rows: Sequence[Row]) -> Run | None:
    """The next run of a part; None if nothing is left that can be begun."""
    done = {key_of(row) for row in rows}
    return next((run for run in queue(part, settings, rows) if run.key not in done), None)


def queue(part: str, settings: Settings, rows: Sequence[Row]) -> Iterator[Run]:
    """The runs of a part that are known so far, in order, done or not."""
    return {"speed": _speed, "grid": _grid, "seeds": _seeds, "large": _large}[part](settings, rows)


def _speed(settings: Settings, rows: Sequence[Row]) -> Iterator[Run]:
    for name in (*settings.arms, *(TIMED if OURS in settings.arms else ())):
        yield Run("speed", name, ARMS[name].rates[2], 0, min(TRIAL, settings.small.steps))


def usable(settings: Settings, rows: Sequence[Row]) -> list[str]:
    """Arms whose trial of speed did not fail and did not take more than `AFFORDED` times as long as AdamW's."""
    trials = {row["arm"]: row for row in rows if row["stage"] == "speed"}
    base = trials.get("adamw", {}).get("step_seconds") or math.inf
    found = []
    for name in settings.arms:
        trial = trials.get(name, {})
        slow = trial.get("step_seconds", 0.0) > AFFORDED * base
        if "error" not in trial and (name in KEPT or not slow):
            found.append(name)
    return found


def _grid(settings: Settings, rows: Sequence[Row]) -> Iterator[Run]:
    arms = usable(settings, rows)
    middle_first = (2, 1, 3, 0, 4)
    for place in middle_first:
        yield from (_trial(settings, "rung 1", name, ARMS[name].rates[place]) for name in arms)
    yield from _growth(settings, "rung 1", arms, rows)
    arms = [name for name in arms if _near(name, arms, rows)]
    for factor in (1.0, 0.5, 2.0):
        yield from (_trial(settings, "rung 2", name, factor * _best(name, rows)) for name in arms)
    yield from _growth(settings, "rung 2", arms, rows)


def _trial(settings: Settings, stage: str, arm: str, lr: float) -> Run:
    return Run(stage, arm, lr, GRID_SEED, max(2, round(RUNGS[stage] * settings.small.steps)))


def _growth(settings: Settings, stage: str, arms: Sequence[str], rows: Sequence[Row]) -> Iterator[Run]:
    for name in arms:
        rate = wider(stage, name, rows)
        if rate is not None:
            yield _trial(settings, stage, name, rate)


def _best(arm: str, rows: Sequence[Row]) -> float:
    best = best_of("rung 1", arm, rows)
    assert best is not None, "only arms with a best rate of rung 1 reach rung 2"
    return best


def _near(arm: str, arms: Sequence[str], rows: Sequence[Row]) -> bool:
    """Whether an arm goes from rung 1 to rung 2."""
    least = {name: min(losses("rung 1", name, rows).values(), default=math.inf) for name in arms}
    return best_of("rung 1", arm, rows) is not None and (arm in KEPT or least[arm] <= min(least.values()) + FAR)


def losses(stage: str, arm: str, rows: Sequence[Row]) -> dict[float, float]:
    """Rate -> loss of a rung so far."""
    return {row["lr"]: loss_of(row) for row in rows if row["stage"] == stage and row["arm"] == arm}


def _whole(stage: str, arm: str, rows: Sequence[Row]) -> bool:
    """Whether the planned rates of a rung are there; in rung 2 the best of rung 1 and its neighbours."""
    found = losses(stage, arm, rows)
    if stage == "rung 1":
        return set(ARMS[arm].rates) <= set(found)
    best = best_of("rung 1", arm, rows)
    return best is not None and {best, best / 2, 2 * best} <= set(found)


def wider(stage: str, arm: str, rows: Sequence[Row]) -> float | None:
    """The next rate beyond an edge where the loss is least; None if the best lies inside or the grid may not grow."""
    found = losses(stage, arm, rows)
    planned = len(ARMS[arm].rates) if stage == "rung 1" else 3
    if not _whole(stage, arm, rows) or len(found) >= planned + GROWN or min(found.values()) == math.inf:
        return None
    best = min(found, key=lambda rate: found[rate])
    if best == min(found):
        return best / 2
    return best * 2 if best == max(found) else None


def best_of(stage: str, arm: str, rows: Sequence[Row]) -> float | None:
    """The rate of least loss inside a rung that is complete; None if there is none."""
    found = losses(stage, arm, rows)
    if not _whole(stage, arm, rows) or min(found.values()) == math.inf:
        return None
    best = min(found, key=lambda rate: found[rate])
    return best if min(found) < best < max(found) else None


def chosen(arm: str, rows: Sequence[Row]) -> float | None:
    """The rate of an arm for the seeds and the large model: the best of rung 2."""
    return best_of("rung 2", arm, rows)


def survivors(settings: Settings, rows: Sequence[Row]) -> list[str]:
    """The arms of the paired seeds. Others than `KEPT` join only when the whole grid has ended."""
    ready = [name for name in settings.arms if chosen(name, rows) is not None]
    others = [name for name in ready if name not in KEPT]
    if to_do("grid", settings, rows) is not None:
        others = []
    others.sort(key=lambda name: min(losses("rung 2", name, rows).values()))
    return [name for name in settings.arms if name in ready and (name in KEPT or name in others[:MOST])]


def _seeds(settings: Settings, rows: Sequence[Row]) -> Iterator[Run]:
    arms = survivors(settings, rows)
    for seed in range(settings.seeds):
        for name in arms:
            yield Run("seeds", name, chosen(name, rows) or 0.0, seed, settings.small.steps)


def _large(settings: Settings, rows: Sequence[Row]) -> Iterator[Run]:
    """`KEPT` and the best other arm of rung 2 at the rates of the small model, AdamW at half of its rate, too."""
    arms = survivors(settings, rows)
    others = sorted((n for n in arms if n not in KEPT), key=lambda n: min(losses("rung 2", n, rows).values()))
    steps = settings.large.steps
    for name in (*(n for n in (THEIRS, OURS, "adamw") if n in arms), *others[:1]):
        rate = chosen(name, rows) or 0.0
        yield Run("large", name, rate, 0, steps)
        if name == "adamw":
            yield Run("large", name, rate / 2, 0, steps)
    if OURS in arms:
        for name in TIMED:
            yield Run("large speed", name, chosen(OURS, rows) or 0.0, 0, min(TRIAL, steps))
