"""Part two of the speed benchmark: a step of Muon on the matrices of a model, and the error of its update."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor

from benchmarks import peers
from benchmarks.budget import Budget
from benchmarks.makers import BASELINE, Family, Maker, errors_of, families, give, weights_of
from benchmarks.memory import peak_bytes
from benchmarks.peers import Named
from benchmarks.rows import Contender, Report, Row, Watch, facts, measured
from benchmarks.timing import Pace
from matfn.optim import Muon

__all__ = ["BASELINE", "MEMORY", "MODELS", "PRESETS", "gradient", "run"]

MEMORY = "memory, x bucket"
FIGURE = ("rms", "rms of 1 - sigma of the update")
CAPTION = (
    "One step; gradients with random singular vectors and singular values i^-0.75, the same for all. rms(1 - sigma) "
    "and the least direction <U, G> / ||G||_* are of the first update, of weights at zero; q, k and v apart are judged "
    "apart. Speeds relative to the first row of a case, in pairs of one round. Memory: the most that a step takes "
    "beyond weights, gradients and state, what is held between steps included, by the largest stack of equal matrices "
    "in float32. Not yet measured on a GPU."
)


def _gpt(layers: int, width: int) -> dict[str, tuple[int, int, int]]:
    """Name, rows, columns and number of the matrices of a GPT-2, without embeddings and head."""
    sides = {"qkv": (3 * width, width), "proj": (width, width), "up": (4 * width, width), "down": (width, 4 * width)}
    return {name: (*shape, layers) for name, shape in sides.items()}


MODELS: dict[str, dict[str, tuple[int, int, int]]] = {
    "gpt2-small": _gpt(12, 768),
    "gpt2-medium, 6 of 24 layers": _gpt(6, 1024),  # all of them, times a dozen contenders, would take 20 GB
    "100 of 64 x 64": {"small": (64, 64, 100)},
    "2 layers of width 128": _gpt(2, 128),
}
PRESETS: dict[str, tuple[tuple[str, ...], Pace]] = {
    "quick": (("2 layers of width 128", "100 of 64 x 64"), Pace(rounds=5, repeats=1)),
    "full": (("gpt2-small", "gpt2-medium, 6 of 24 layers", "100 of 64 x 64"), Pace(rounds=7, limit=30.0)),
}
SECONDS = 300.0  # for each model; contenders that do not fit get fewer rounds, or none and a note


def gradient(shape: tuple[int, int], seed: int) -> Tensor:
    """Random orthonormal factors around the singular values i^-0.75."""
    generator, short = torch.Generator().manual_seed(seed), min(shape)
    left, right = (torch.linalg.qr(torch.randn(side, short, generator=generator)).Q for side in shape)
    return (left * torch.arange(1, short + 1) ** -0.75) @ right.mT


def run(
    models: Sequence[str],
    pace: Pace,
    watch: Watch = lambda text: None,
    keep: Callable[[Report], object] = lambda report: None,
    *,
    momenta: Sequence[Tensor] = (),
    compiled: bool = True,
) -> Report:
    """Measure a step on each of the models.

    Args:
        models: Keys of `MODELS`.
        pace: How long.
        watch: Told what is being measured.
        keep: Given everything so far after each case.
        momenta: Matrices of a training run (`python -m studies.momenta`): the error of the first update is measured on
            them too, because real spectra are steeper than synthetic ones.
        compiled: Whether peers that compile at their first step take part.
    """
    each, absent = families(compiled)
    rows: list[Row] = []

    def report() -> Report:
        return Report("step", "One step of Muon", FIGURE, BASELINE, CAPTION, tuple(rows), absent, stand)

    stand = facts(peers.versions(), pace)
    for model in models:
        for family in each:
            share = SECONDS * len(family.makers) / sum(len(other.makers) for other in each)
            rows += Case(model, family, momenta, watch).measured(pace, share)
            keep(report())
    return report()


@dataclass(frozen=True)
class Case:
    """One family on one model.

    Attributes:
        model: A key of `MODELS`.
        family: Who.
        momenta: See `run`.
        watch: See `run`.
    """

    model: str
    family: Family
    momenta: Sequence[Tensor]
    watch: Watch

    @property
    def name(self) -> str:
        """As shown."""
        return f"{self.model}, {self.family.name}"

    def measured(self, pace: Pace, seconds: float) -> list[Row]:
        """Examine every contender's first step; then run as many rounds as fit into the time."""
        budget, begun = Budget(seconds, 1), perf_counter()
        budget.open()
        sides, dtype = MODELS[self.model], self.family.dtype
        given = {name: gradient((m, n), seed).to(dtype) for seed, (name, (m, n, _)) in enumerate(sides.items())}
        weights = {who: weights_of(sides, dtype) for who in self.family.makers}
        contenders, once, rows = [], [], []
        for who, maker in self.family.makers.items():
            self.watch(f"{self.name}: {who}")
            try:
                refusal = late(perf_counter() - begun, once, seconds)
                if maker.compiles and not refusal:
                    refusal = foretold(maker, sides, given, pace.limit)
                contender, taken = (None, 0.0) if refusal else self._first(who, maker, weights[who], given)
            except (ValueError, TypeError, RuntimeError) as error:
                contender, taken, refusal = None, 0.0, f"refused: {' '.join(str(error).split())[:120]}"
            if contender is None:
                rows.append(Row(self.name, who, note=refusal))
                del weights[who]
                continue
            contenders.append(contender)
            once.append(taken)
        if not contenders:
            return rows
        fitting = budget.pace(pace, once)
        self.watch(f"{self.name}: {fitting.rounds} rounds of {sum(once):.3g} s")
        # Some optimizers overwrite or drop gradients: set new ones, outside the timed part.
        fresh = measured(self.name, contenders, contenders[0].name, fitting, lambda who: give(weights[who], given))
        return [*fresh, *rows]

    def _first(self, who: str, maker: Maker, weights: Named, given: dict[str, Tensor]) -> tuple[Contender, float]:
        """A contender that has made its first steps, and the seconds of one."""
        optimizer = maker.build(weights)
        give(weights, given)
        optimizer.step()  # its update is examined; compiles where anything does
        errors = errors_of(weights, given, maker)
        if self.momenta:
            real = _captured(maker, self.momenta, self.family.dtype)
            errors |= {f"{name}, momenta": value for name, value in real.items()}
        give(weights, given)
        start = perf_counter()
        extra = peak_bytes(optimizer.step)
        taken = perf_counter() - start
        held = optimizer.workspace if isinstance(optimizer, Muon) else 0
        errors[MEMORY] = (extra + held) / largest_bucket(weights)
        return Contender(who, optimizer.step, errors, choice=maker.choice), taken


def late(spent: float, once: Sequence[float], seconds: float) -> str:
    """Why there is no time for one more contender; empty for the first two, and as long as there is.

    Args:
        spent: Seconds since the case began.
        once: Those of a step of each contender so far; it will be called four times, they twice more at least.
        seconds: That the case has.
    """
    if len(once) < 2 or spent + 2 * sum(once) + 4 * max(once) <= seconds:
        return ""
    return f"left out: the {seconds:.0f} s of this case are used up"


def foretold(maker: Maker, sides: dict[str, tuple[int, int, int]], given: dict[str, Tensor], limit: float) -> str:
    """Why a step of the model would take too long, from one of its smallest matrix; empty if it would not.

    A first step cannot be broken off. What it compiles is left out of the reckoning.
    """
    work = {name: min(m, n) * m * n for name, (m, n, _) in sides.items()}
    least = min(work, key=lambda name: work[name])
    weights = weights_of({least: (*sides[least][:2], 1)}, given[least].dtype)
    optimizer, taken = maker.build(weights), 0.0
    for _ in range(2):
        give(weights, given)
        start = perf_counter()
        optimizer.step()
        taken = perf_counter() - start
    whole = taken * sum(work[name] * count for name, (_, _, count) in sides.items()) / work[least]
    m, n, _ = sides[least]
    return f"left out: about {whole:.3g} s a step, foretold from one {m} x {n} matrix" if whole > limit else ""


def largest_bucket(weights: Named) -> int:
    """Bytes of the largest stack of equal matrices that a step of Muon makes of them, in float32."""
    stacks = Counter(tuple(weight.shape) for _, weight in weights)
    return max(4 * count * math.prod(shape) for shape, count in stacks.items())


def _captured(maker: Maker, momenta: Sequence[Tensor], dtype: torch.dtype) -> dict[str, float]:
    sides = {f"m{i}": (matrix.shape[0], matrix.shape[1], 1) for i, matrix in enumerate(momenta)}
    given = {name: matrix.to(dtype) for name, matrix in zip(sides, momenta, strict=True)}
    named = weights_of(sides, dtype)
    give(named, given)
    maker.build(named).step()
    return errors_of(named, given, maker)


if __name__ == "__main__":
    from benchmarks.command import command
    from matfn.train.terminal import launch

    launch(command("step"))
