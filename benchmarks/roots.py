"""Part three of the speed benchmark: inverse roots in Shampoo's shapes, products and decompositions and peers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

import matfn
from benchmarks import peers
from benchmarks.budget import Budget
from benchmarks.rows import Contender, Report, Row, Watch, facts, measured
from benchmarks.timing import Pace
from matfn.iteration.target import INV_ROOT
from matfn.optim import minimax, resolvents
from matfn.optim.rules.roots import inverse_roots, ridged
from matfn.run.plan import Purpose, lower_bound, resolve

__all__ = ["BASELINE", "CHOICE", "PRESETS", "RIDGE", "Blocks", "factors", "run"]

BASELINE = "torch.linalg.eigh, one by one"  # the usual loop of published optimizers
CHOICE = "matfn as Shampoo does it, certified"
RIDGE = 1e-6
_TOLERANCE = 0.2  # Shampoo's: a certified root with a larger residual is computed again by `Exact`
_EXAMINED = 4  # blocks whose errors are measured: an exact root in float64 takes longer than all else
Keep = Callable[[Report], object]


@dataclass(frozen=True)
class Blocks:
    """So many preconditioner blocks of one size, and the root p that is taken of them."""

    count: int
    size: int
    p: int

    @property
    def volume(self) -> float:
        """What the time of products grows with."""
        return self.count * self.size**3

    def __str__(self) -> str:
        return f"{self.count} of {self.size} x {self.size}, p = {self.p}"


# By size: time that the small ones leave over goes to the large ones.
PRESETS: dict[str, tuple[tuple[Blocks, ...], Pace]] = {
    "quick": (
        (Blocks(16, 64, 4), Blocks(4, 256, 2), Blocks(4, 256, 4)),
        Pace(rounds=3, repeats=1, limit=2.0, seconds=40.0),
    ),
    "full": (
        (Blocks(100, 64, 4), Blocks(64, 256, 2), Blocks(64, 256, 4), Blocks(16, 1024, 2), Blocks(16, 1024, 4)),
        Pace(rounds=5, limit=20.0, seconds=300.0),
    ),
}


def factors(blocks: Blocks, seed: int = 3) -> Tensor:
    """Sums of G G^T over many gradients: random directions, eigenvalues of about i^-1.5; (count, n, n)."""
    generator = torch.Generator().manual_seed(seed)
    n = blocks.size
    decay = torch.arange(1, n + 1) ** -0.75
    found = []
    for _ in range(blocks.count):
        Q = torch.linalg.qr(torch.randn(n, n, generator=generator)).Q
        noise = torch.randn(n, 2 * n, generator=generator) / (2 * n) ** 0.5
        B = (Q * decay) @ noise
        found.append(B @ B.mT)
    return torch.stack(found)


def _ours(p: int, n: int) -> dict[str, Callable[[Tensor], Tensor]]:
    """Roots of matrices with a ridge: by the verb with a method, and as Shampoo makes them, certified."""
    lower = lower_bound(p, RIDGE, n)
    methods: dict[str, Any] = {
        "exact": matfn.Exact(),
        "resolvents": resolvents(p, lower),
        "minimax": minimax(p, lower),
        "ritz-minimax": matfn.RitzMinimax(),
        "prism, 10 steps": matfn.Prism(degree=5, steps=10),
        "db-newton": matfn.DBNewton(),
        "newton-schulz, 20 steps": matfn.NewtonSchulz(steps=20),
    }
    if p == 2:
        methods |= {"qdwh": matfn.QDWH(), "zolo-pd": matfn.ZoloPD()}
    step = {"purpose": Purpose.STEP, "ridge": RIDGE}
    chosen = resolve(INV_ROOT.with_exponent(p), None, (n, n), torch.float32, torch.device("cpu"), **step).method
    certified = {CHOICE: chosen, "matfn minimax, certified": methods["minimax"]}
    return {
        **{name: partial(_certified, p, method) for name, method in certified.items()},
        **{f"matfn {name}, batched": partial(matfn.inv_rootm, p=p, method=m) for name, m in methods.items()},
        "matfn minimax, one by one": peers.one_by_one(partial(matfn.inv_rootm, p=p, method=methods["minimax"])),
    }


def _certified(p: int, method: Any, X: Tensor) -> Tensor:
    """As Shampoo has it; X has its ridge."""
    return inverse_roots(X, p, 0.0, method, _TOLERANCE).values


def run(
    cases: Sequence[Blocks], pace: Pace, watch: Watch = lambda text: None, keep: Keep = lambda report: None
) -> Report:
    """Measure the cases.

    Args:
        cases: Blocks, by size.
        pace: How long.
        watch: Told what is being measured.
        keep: Given everything so far after each case.
    """
    found, absent = peers.installed(peers.ROOTS)
    budget, stand = Budget(pace.seconds, len(cases), pace.limit), facts(peers.versions(), pace)
    report = Report("roots", "Inverse roots in Shampoo's shapes", _FIGURE, BASELINE, _CAPTION, (), absent, stand)
    for blocks in cases:
        others = {peer.name: partial(_with_exponent, function, blocks.p) for peer, function in found.items()}
        solvers = {**others, **_ours(blocks.p, blocks.size)}
        first = {name: solvers[name] for name in (BASELINE, CHOICE) if name in solvers}
        report = replace(report, rows=(*report.rows, *_measured(blocks, first | solvers, pace, budget, watch)))
        keep(report)
    return report


_FIGURE = ("error", "relative error of the root")
_CAPTION = (
    "Inverse p-th roots of sums of G G^T with eigenvalues of about i^-1.5, divided by their Frobenius norm, plus "
    f"{RIDGE:g} I, in float32. Errors are the worst of the first {_EXAMINED} blocks: ||R - R*||_F / ||R*||_F against "
    "float64, and the balanced residual of `certify`. certified: with the check that Shampoo makes of every root. "
    f"Speeds relative to {BASELINE} in pairs of one round. Not yet measured on a GPU."
)


def _with_exponent(function: Callable[[Tensor, int], Tensor], p: int, X: Tensor) -> Tensor:
    return function(X, p)


def _measured(
    blocks: Blocks, solvers: dict[str, Callable[[Tensor], Tensor]], pace: Pace, budget: Budget, watch: Watch
) -> list[Row]:
    """The rows of one case: the first two solvers stay, the others as far as the time reaches."""
    X, _ = ridged(factors(blocks), RIDGE)
    few = X[:_EXAMINED]
    exact = matfn.inv_rootm(few.double(), blocks.p)
    contenders, seconds, rows = [], [], []
    kind = f"float32, p = {blocks.p}"
    budget.open()
    for name, solve in solvers.items():
        watch(f"{blocks}: {name}")
        if why := budget.refusal(name, kind, blocks.volume, 0, len(contenders)):
            rows.append(Row(str(blocks), name, note=why))
            continue
        start = time.perf_counter()
        try:
            R = solve(X)[:_EXAMINED]
        except (ValueError, TypeError, RuntimeError) as error:
            rows.append(Row(str(blocks), name, note=f"refused: {' '.join(str(error).split())[:120]}"))
            continue
        seconds.append(time.perf_counter() - start)
        budget.called(name, kind, blocks.volume, str(blocks), seconds[-1])
        errors = _errors(few, R, exact, blocks.p)
        contenders.append(Contender(name, partial(solve, X), errors, choice=name == CHOICE))
    if not contenders:
        return rows
    baseline = BASELINE if any(c.name == BASELINE for c in contenders) else contenders[0].name
    return [*measured(str(blocks), contenders, baseline, budget.pace(pace, seconds)), *rows]


def _errors(X: Tensor, R: Tensor, exact: Tensor, p: int) -> dict[str, float]:
    norm = torch.linalg.matrix_norm
    if not bool(torch.isfinite(R).all()):
        return {"error": float("nan"), "residual": float("nan")}
    residual = matfn.certify(X, R, of="inv_root", p=p, only="balanced").residual
    return {"error": float((norm(R - exact) / norm(exact)).max()), "residual": float(residual.max())}


if __name__ == "__main__":
    from benchmarks.command import command
    from matfn.train.terminal import launch

    launch(command("roots"))
