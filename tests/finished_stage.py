"""The stage `small` of the tournament with made-up losses: all runs that the rules plan, as files."""

import json

from studies.tournament.arms import ARMS
from studies.tournament.run import ALWAYS, FAR, STAGES
from studies.tournament.runs import GRID_SEED

BASE = {"prism-3": 4.0, "polar-express-3": 4.1, "prism": 3.9, "polar-express": 3.9, "adamw": 4.3, "adamw-cold": 4.5}
JITTER = (0.0, 0.004, -0.003, 0.002, -0.002, 0.003, -0.004, 0.001)


def row(arm, lr, seed, loss):
    times = {"step_seconds": 0.1, "optimizer_seconds": 0.01}
    return {"arm": arm, "lr": lr, "seed": seed, "val": [[400, loss]], "train": [loss], **times}


def write(folder, *, losses=BASE, leave_out=()):
    """All runs that the rules plan for `small`; arms that end far behind have three seeds."""
    place, stage = folder / "tournament" / "small", STAGES["small"]
    place.mkdir(parents=True)
    least = min(losses.values())
    for number, name in enumerate(stage.arms):
        rates, base = ARMS[name].rates, losses.get(name, 3.95)
        seeds = stage.seeds if base <= least + FAR else stage.seeds[:ALWAYS]
        rows = [row(name, rate, GRID_SEED, base + 0.1 * abs(k - 2)) for k, rate in enumerate(rates)]
        rows += [row(name, rates[2], seed, base + JITTER[(seed + 3 * number) % 8]) for seed in seeds]
        for one in rows:
            if (name, one["seed"]) not in leave_out:
                (place / f"{name}@{one['lr']:g}-seed{one['seed']}.json").write_text(json.dumps(one))
    return folder
