"""Part three of the speed benchmark: inverse roots in Shampoo's shapes, products and decompositions and peers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

import matfn
from matfn.lab import peers
from matfn.lab.speed_rows import Contender, Report, Row, Watch, facts, measured
from matfn.lab.speed_timing import Pace
from matfn.optim.roots import inverse_roots, lower_bound, minimax, ridged

__all__ = ["BASELINE", "PRESETS", "RIDGE", "Blocks", "factors", "run"]

BASELINE = "torch.linalg.eigh, one by one"  # what the optimizers of the field do in a loop
RIDGE = 1e-6
_TOLERANCE = 0.05  # Shampoo's: a certified root with a larger residual is computed again by `Exact`


@dataclass(frozen=True)
class Blocks:
    """So many preconditioner blocks of one size, and the root p that is taken of them."""

    count: int
    size: int
    p: int

    def __str__(self) -> str:
        return f"{self.count} of {self.size} x {self.size}, p = {self.p}"


PRESETS: dict[str, tuple[tuple[Blocks, ...], Pace]] = {
    "quick": ((Blocks(8, 64, 4), Blocks(2, 128, 2)), Pace(rounds=3, repeats=1, limit=2.0)),
    "full": (
        (Blocks(64, 256, 4), Blocks(16, 1024, 4), Blocks(64, 256, 2), Blocks(16, 1024, 2), Blocks(100, 64, 4)),
        Pace(rounds=5, limit=60.0),
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
        "minimax": minimax(p, lower),
        "ritz-minimax": matfn.RitzMinimax(),
        "prism, 10 steps": matfn.Prism(degree=5, steps=10),
        "db-newton": matfn.DBNewton(),
        "newton-schulz, 20 steps": matfn.NewtonSchulz(steps=20),
    }
    if p == 2:
        methods |= {"qdwh": matfn.QDWH(), "zolo-pd": matfn.ZoloPD()}
    return {
        **{f"matfn {name}, batched": partial(matfn.inv_rootm, p=p, method=m) for name, m in methods.items()},
        "matfn minimax, one by one": peers.one_by_one(partial(matfn.inv_rootm, p=p, method=methods["minimax"])),
        "matfn minimax, certified": lambda X: inverse_roots(X, p, 0.0, methods["minimax"], _TOLERANCE).values,
    }


def run(cases: Sequence[Blocks], pace: Pace, watch: Watch = lambda text: None) -> Report:
    """Measure the cases.

    Args:
        cases: Blocks.
        pace: How long.
        watch: Told what is being measured.
    """
    found, absent = peers.installed(peers.ROOTS)
    rows: list[Row] = []
    for blocks in cases:
        others = {peer.name: partial(_with_exponent, function, blocks.p) for peer, function in found.items()}
        rows += _measured(blocks, {**others, **_ours(blocks.p, blocks.size)}, pace, watch)
    caption = (
        "Inverse p-th roots of sums of G G^T with eigenvalues of about i^-1.5, divided by their Frobenius norm, plus "
        f"{RIDGE:g} I, in float32. Errors are the worst of the first four blocks: ||R - R*||_F / ||R*||_F against "
        "float64, and the balanced residual of `certify`. certified: with the check that Shampoo makes of every root. "
        "Speeds relative to "
        f"{BASELINE} in pairs of one round. Not yet measured on a GPU."
    )
    figure = ("error", "relative error of the root")
    stand = facts(peers.versions(), pace)
    return Report("roots", "Inverse roots in Shampoo's shapes", figure, BASELINE, caption, tuple(rows), absent, stand)


def _with_exponent(function: Callable[[Tensor, int], Tensor], p: int, X: Tensor) -> Tensor:
    return function(X, p)


def _measured(blocks: Blocks, solvers: dict[str, Callable[[Tensor], Tensor]], pace: Pace, watch: Watch) -> list[Row]:
    X, _ = ridged(factors(blocks), RIDGE)
    few = X[:4]
    exact = matfn.inv_rootm(few.double(), blocks.p)
    contenders, rows = [], []
    for name, solve in solvers.items():
        watch(f"{blocks}: {name}")
        try:
            R = solve(X)[: len(few)]
        except (ValueError, TypeError, RuntimeError) as error:
            rows.append(Row(str(blocks), name, note=f"refused: {' '.join(str(error).split())[:120]}"))
            continue
        contenders.append(
            Contender(name, partial(solve, X), _errors(few, R, exact, blocks.p), choice="certified" in name)
        )
    baseline = BASELINE if any(c.name == BASELINE for c in contenders) else contenders[0].name
    return [*measured(str(blocks), contenders, baseline, pace), *rows]


def _errors(X: Tensor, R: Tensor, exact: Tensor, p: int) -> dict[str, float]:
    norm = torch.linalg.matrix_norm
    if not bool(torch.isfinite(R).all()):
        return {"error": float("nan"), "residual": float("nan")}
    residual = matfn.certify(X, R, of="inv_root", p=p, only="balanced").residual
    return {"error": float((norm(R - exact) / norm(exact)).max()), "residual": float(residual.max())}
