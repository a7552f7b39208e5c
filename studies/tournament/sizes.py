"""The size of each oracle's update: the mean singular value of its results for the momenta of a run.

    python -m studies.tournament.sizes --stage demo --out docs/results/tournament

trains the stage with the default, keeps the input of `Polar` at some steps, and writes `demo-sizes.json`: for each arm
the mean over all matrices of all those steps, and the least mean of a matrix.
"""

import argparse
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from matfn import Exact, PolarExpress, Prism, RitzMinimax, Tuned
from matfn.optim import plan
from matfn.optim.matrices.buckets import Run as Stacked
from matfn.optim.rules import Ema, Polar
from matfn.train.data import Batches, Corpus, load_corpus
from matfn.train.model import loss, make_model
from matfn.train.recipe import DataTable
from studies.tournament.arms import FOUR_STEPS, THREE_WARM, Arm, Chain, make
from studies.tournament.run import STAGES, Stage, autocast

__all__ = ["measured", "momenta", "read_sizes"]

ORACLES: dict[str, Any] = {
    "jordan": Tuned("jordan"),
    "you": Tuned("you"),
    "exact": Exact(),
    "polar-express": PolarExpress(),
    "polar-express-3": PolarExpress(steps=3),
    "prism-3": THREE_WARM,
    "default": None,
    "four-steps": FOUR_STEPS,
    "ritz": RitzMinimax(steps=4),
    "prism": Prism(),
}


class Kept(Polar):
    """The default `Polar`, which keeps its input at some steps.

    Matrices come without padding: its zeros would count as singular values.
    """

    def __init__(self, at: Sequence[int]) -> None:
        super().__init__()
        self.at, self.step, self.found = at, 0, list[Tensor]()

    @property
    def padded_below(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """See `Rule`."""
        return 0

    def update(self, stack: Tensor, runs: Sequence[Stacked]) -> Tensor:
        """See `Rule`."""
        if self.step in self.at:
            self.found.append(stack.detach().clone())
        return super().update(stack, runs)


def momenta(stage: Stage, corpus: Corpus, lr: float, at: Sequence[int]) -> list[Tensor]:
    """The stacks of momenta that the default orthogonalizes at some steps, from 1, of a run with seed 0."""
    kept = Kept(at)
    model = make_model(stage.model, corpus.vocabulary, context=stage.context, seed=0)
    optimizers = make(Arm("kept", partial(_chain, kept=kept, lr=lr)), model, lr, stage.train)
    batches = Batches(corpus.train, stage.context, batch=stage.train.batch, seed=0)
    for kept.step in range(1, max(at) + 1):
        with autocast(stage):
            value = loss(model, *batches.draw())
        value.backward()
        optimizers.step()
        optimizers.finish()
    return kept.found


def _chain(model: nn.Module, _: float, *, kept: Kept, lr: float) -> list[torch.optim.Optimizer]:
    return [Chain(plan(model), lr, (Ema(), kept))]


def measured(stacks: Sequence[Tensor]) -> dict[str, dict[str, float]]:
    """For each oracle: mean, least and greatest over all matrices of the mean singular value that it leaves."""
    found = {}
    for arm, method in ORACLES.items():
        polar = Polar(method)
        of = torch.cat([torch.linalg.svdvals(polar.factor(stack.clone()).double()).mean(-1) for stack in stacks])
        found[arm] = {"mean": float(of.mean()), "least": float(of.min()), "greatest": float(of.max())}
    found["exact-times-.87"] = {key: 0.87 * value for key, value in found["exact"].items()}
    return found


def read_sizes(runs: Path, stage: str) -> dict[str, dict[str, float]]:
    """The sizes that were measured; empty if there are none."""
    path = runs / f"{stage}-sizes.json"
    return json.loads(path.read_text())["sizes"] if path.exists() else {}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--stage", choices=["demo"], default="demo")
    parser.add_argument("--out", type=Path, default=Path("docs/results/tournament"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    stage = STAGES[given.stage]
    corpus = load_corpus(DataTable(context=stage.context, source="stdlib"))
    at = [10, 60, 150, 270]
    sizes = measured(momenta(stage, corpus, stage.fixed or 0.03, at))
    rounded = {arm: {key: round(value, 4) for key, value in of.items()} for arm, of in sizes.items()}
    given.out.mkdir(parents=True, exist_ok=True)
    row = {"stage": given.stage, "steps": at, "sizes": rounded}
    (given.out / f"{given.stage}-sizes.json").write_text(json.dumps(row, indent=1) + "\n")
    print(json.dumps(sizes, indent=1))


if __name__ == "__main__":
    main()
