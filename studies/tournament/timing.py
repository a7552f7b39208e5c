"""One paired timing of the arms' optimizer steps on one thread, since the runs share their machine.

    python -m studies.tournament.timing --stage small --out docs/results/tournament

writes `small-times.json`: the median processor time of a step of each arm's optimizers. The arms take turns, so that a
busy moment of the machine meets all of them alike.
"""

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from matfn.train.model import loss, make_model
from matfn.train.provenance import conditions
from studies.tournament.arms import ARMS, make
from studies.tournament.mixture import VOCABULARIES
from studies.tournament.run import STAGES, Stage, autocast
from studies.tournament.runs import Run

__all__ = ["forward", "read_times", "steps", "timed"]

BYTES = 256  # the vocabulary of a stage without token shards


def timed(stage: Stage, rounds: int) -> dict[str, float]:
    """The median seconds of an optimizer step of each arm, over `rounds` steps of which the first three do not count.

    The gradients are those of one batch of random tokens; every arm gets the same.
    """
    vocabulary = VOCABULARIES.get(stage.vocabulary, BYTES)
    spent: dict[str, list[float]] = {arm: [] for arm in stage.arms}
    models = {arm: make_model(stage.model, vocabulary, context=stage.context, seed=0) for arm in stage.arms}
    optimizers = {arm: make(ARMS[arm], models[arm], ARMS[arm].rates[0], stage.train) for arm in stage.arms}
    draw = torch.Generator().manual_seed(0)
    for turn in range(rounds + 3):
        gradients = _gradients(stage, next(iter(models.values())), vocabulary, draw)
        for arm, model in models.items():
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter.grad = gradient.clone()
            begun = time.process_time()
            optimizers[arm].step()
            optimizers[arm].finish()
            if turn >= 3:
                spent[arm].append(time.process_time() - begun)
    return {arm: statistics.median(of) for arm, of in spent.items()}


def _gradients(stage: Stage, model: nn.Module, vocabulary: int, draw: torch.Generator) -> list[torch.Tensor]:
    """The gradients of a model at a batch of random tokens."""
    tokens = torch.randint(vocabulary, (stage.train.batch, stage.context + 1), generator=draw)
    with autocast(stage):
        value = loss(model, tokens[:, :-1], tokens[:, 1:])
    return [g.detach() for g in torch.autograd.grad(value, list(model.parameters()))]


def read_times(runs: Path, stage: str) -> dict[str, float]:
    """The optimizer seconds of a paired timing; empty if there was none."""
    path = runs / f"{stage}-times.json"
    return json.loads(path.read_text())["optimizer_seconds"] if path.exists() else {}


def forward(runs: Sequence[Run]) -> float:
    """The median seconds of a step without the optimizer, over all runs: the same work in every arm."""
    return statistics.median(run.step_seconds - run.optimizer_seconds for run in runs)


def steps(runs: Sequence[Run], paired: Mapping[str, float]) -> dict[str, float]:
    """The seconds of a whole step of each arm: `forward`, and the optimizer by the paired timing or else its runs."""
    base, found = forward(runs), {}
    for arm in sorted({run.arm for run in runs}):
        own = statistics.median(run.optimizer_seconds for run in runs if run.arm == arm)
        found[arm] = base + paired.get(arm, own)
    return found


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--stage", choices=STAGES, required=True)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("docs/results/tournament"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    seconds = {arm: round(of, 5) for arm, of in timed(STAGES[given.stage], given.rounds).items()}
    row: dict[str, Any] = {"stage": given.stage, "rounds": given.rounds, "optimizer_seconds": seconds}
    given.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**row, "conditions": conditions(torch.device("cpu"))}, indent=1)
    (given.out / f"{given.stage}-times.json").write_text(text + "\n")
    print(json.dumps(seconds, indent=1))


if __name__ == "__main__":
    main()
