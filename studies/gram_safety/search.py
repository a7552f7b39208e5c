"""Matrices that are hard for the Gram engine, the plans that choose it, and the error of a plan on matrices."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Generator, Tensor

from matfn import Direct, Gram, NewtonSchulz, PolarExpress, Tuned
from matfn.engines import gram_error
from matfn.iteration.protocols import Method
from matfn.iteration.schedule import Schedule
from matfn.iteration.target import ORTHOGONALIZE
from matfn.kernels import EAGER, Blocked
from matfn.run.plan import DEFLATED, LIFTED, THINLY, Purpose, RunPlan, resolve
from matfn.run.preparation import prepared

__all__ = ["SPECTRA", "VECTORS", "Case", "Errors", "Matrices", "bred", "cases", "drawn", "errors"]

CPU = torch.device("cpu")
Draw = Callable[[Tensor, Tensor], Tensor]  # (uniform numbers u (b, n) and a (b, 1) in [0, 1)) -> singular values (b, n)

SPECTRA: dict[str, Draw] = {
    "low rank": lambda u, a: (torch.arange(u.shape[-1]) < 1 + a**2 * u.shape[-1]).double().expand_as(u),
    "low rank, uneven": lambda u, a: torch.where(torch.arange(u.shape[-1]) < 1 + a * 4, 10 ** (-3 * u), 0.0),
    "rank one and noise": lambda u, a: torch.cat([torch.ones_like(a), 10 ** (-3 - 5 * a) * u[:, 1:]], -1),
    "one large, one small": lambda u, a: (torch.arange(u.shape[-1]) < 2) * 10 ** (-4 * a * (torch.arange(u.shape[-1]))),
    "a few and a tail": lambda u, a: torch.where(torch.arange(u.shape[-1]) < 3, 1.0, 10 ** (-4 * a)),
    "clusters": lambda u, a: 10 ** (-6 * a * (3 * u).round() / 3),
    "two levels and zeros": lambda u, a: torch.where(u < 0.4, 1.0, 10 ** (-4 * a)) * (u < 0.8),
    "log-uniform": lambda u, a: 10 ** (-7 * a * u),
    "full rank": lambda u, a: 0.2 + u * a,
    "zero": lambda u, _: torch.zeros_like(u),
}


def _turned(b: int, n: int, size: int, draw: Generator) -> Tensor:
    """Orthogonal matrices (b, n, n) that mix `size` coordinates at a time."""
    Q = torch.eye(n, dtype=torch.float64).repeat(b, 1, 1)
    for i in range(0, n - size + 1, size):
        block = torch.randn(b, size, size, generator=draw, dtype=torch.float64)
        Q[:, i : i + size, i : i + size] = torch.linalg.qr(block).Q
    return Q


def _hartley(b: int, n: int, _: Generator) -> Tensor:
    """Hartley matrices (b, n, n): no entry exceeds sqrt(2 / n). The first column is constant: sums round one way."""
    angle = torch.arange(n, dtype=torch.float64)
    turned = 2 * torch.pi * angle[:, None] * angle / n
    return ((turned.cos() + turned.sin()) / n**0.5).expand(b, -1, -1)


VECTORS: dict[str, Callable[[int, int, Generator], Tensor]] = {
    "random": lambda b, n, draw: _turned(b, n, n, draw),
    "in pairs": lambda b, n, draw: _turned(b, n, 2, draw),
    "in fours": lambda b, n, draw: _turned(b, n, 4, draw),
    "even": _hartley,
    "axes": lambda b, n, _: torch.eye(n, dtype=torch.float64).expand(b, -1, -1),
}


@dataclass(frozen=True)
class Matrices:
    """A batch of matrices, given by singular vectors and values in float64.

    Attributes:
        left: (b, n, n), orthogonal.
        values: (b, n), not negative.
        right: (b, m, n), orthonormal columns.
        scale: (b, 1, 1), a factor of each matrix.
        live: (b, n, m), 0 for rows and columns to be set to zero.
    """

    left: Tensor
    values: Tensor
    right: Tensor
    scale: Tensor
    live: Tensor

    def __getitem__(self, which: Tensor) -> Matrices:
        return Matrices(*(x[which] for x in (self.left, self.values, self.right, self.scale, self.live)))

    def dense(self) -> Tensor:
        """The matrices (b, n, m) in float32."""
        return ((self.left * self.values[:, None]) @ self.right.mT * self.live * self.scale).float()


def drawn(
    family: str,
    vectors: tuple[str, str],
    shape: tuple[int, int],
    b: int,
    draw: Generator,
    spectra: Mapping[str, Draw] = SPECTRA,
) -> Matrices:
    """Draw a batch; a quarter has scales from 1e-30 to 1e30, a quarter some zero rows and columns."""
    n, m = shape
    uniform = torch.rand(b, n, generator=draw, dtype=torch.float64)
    values = spectra[family](uniform, torch.rand(b, 1, generator=draw, dtype=torch.float64)).double()
    left, right = VECTORS[vectors[0]](b, n, draw), VECTORS[vectors[1]](b, m, draw)[:, :, :n]
    power = 60 * torch.rand(b, 1, 1, generator=draw, dtype=torch.float64) - 30
    chosen = torch.rand(b, 2, 1, 1, generator=draw, dtype=torch.float64) < 0.25
    gaps = [torch.rand(b, *side, generator=draw, dtype=torch.float64) < 0.2 for side in ((n, 1), (1, m))]
    live = 1.0 - (chosen[:, 1] & (gaps[0] | gaps[1])).double()
    return Matrices(left, values, right, torch.where(chosen[:, 0], 10**power, 1.0), live)


def bred(score: Callable[[Matrices], Tensor], start: Matrices, rounds: int, draw: Generator) -> Matrices:
    """Climb: keep the half with larger scores, and add a copy of each with changed values and turned left vectors."""
    for _ in range(rounds):
        best = start[score(start).argsort(descending=True)[: len(start.values) // 2]]
        where, size = torch.rand(best.values.shape, generator=draw), torch.rand(len(best.values), 1, generator=draw)
        moved = torch.randn(best.values.shape, generator=draw, dtype=torch.float64) * 10 ** (-3 * size)
        values = best.values * torch.where(where < 0.3, moved, 0.0).exp()
        n = values.shape[-1]
        i, j = torch.randperm(n, generator=draw)[:2] if n > 1 else (0, 0)
        angle = torch.rand(len(values), 1, generator=draw, dtype=torch.float64) * 2
        left = best.left.clone()
        left[:, i], left[:, j] = (
            angle.cos() * best.left[:, i] + angle.sin() * best.left[:, j],
            angle.cos() * best.left[:, j] - angle.sin() * best.left[:, i],
        )
        changed = replace(best, values=values, left=left)
        start = Matrices(*(torch.cat([getattr(best, k), getattr(changed, k)]) for k in best.__dataclass_fields__))
    return start


@dataclass(frozen=True)
class Case:
    """A plan as some machine makes it.

    Attributes:
        name: The method, or the default that it stands for.
        machine: The profile that made the plan.
        plan: It has a schedule and the engine Gram.
    """

    name: str
    machine: str
    plan: RunPlan

    @property
    def schedule(self) -> Schedule:
        """The steps."""
        assert isinstance(self.plan.iteration, Schedule)
        return self.plan.iteration

    @property
    def restarts(self) -> tuple[int, ...]:
        """The restarts of the engine."""
        return getattr(self.plan.engine, "restarts", None) or ()

    @property
    def bound(self) -> float:
        """The most that Gram may add to the error of `Direct`: 1 %, or in half precision the bound of `gram_error`."""
        if self.plan.precision == torch.float32:
            return 0.01
        return gram_error(self.schedule, self.restarts, self.plan.precision)


_GIVEN: dict[str, Method] = {
    "degree 9, Schatten-4": PolarExpress((9,) * 4, norm="schatten4"),
    "degree 9, deflated": PolarExpress((9, 9, 9), norm="schatten4", deflation=1 / 16),
    "degree 7": PolarExpress((7,) * 4),
    "six steps": PolarExpress(steps=6, norm="schatten4"),
    "eight steps, lower 1e-4": PolarExpress(steps=8, lower=1e-4, cushion=0.05),
    "mixed degrees": PolarExpress((9, 5, 5, 3), lower=3e-3),
    "cubic": PolarExpress((3,) * 7, lower=1e-2),
    "Newton-Schulz": NewtonSchulz(steps=8),
    "Jordan": Tuned("jordan"),
}
_DEFAULTS = {"five steps": (LIFTED, Gram((2, 4))), "deflated": (DEFLATED, Gram(())), "thinly": (THINLY, Gram(()))}
_SHAPES = ((16, 64), (32, 48), (24, 768), (64, 16))  # 768 columns: long sums
_MACHINES = ("x86-avx2", "amd-avx512-bf16", "cuda-sm90")


@contextmanager
def _on(machine: str) -> Iterator[None]:
    before = os.environ.get("MATFN_MACHINE")
    os.environ["MATFN_MACHINE"] = machine
    try:
        yield
    finally:
        os.environ.pop("MATFN_MACHINE") if before is None else os.environ.update(MATFN_MACHINE=before)


def cases(shapes: tuple[tuple[int, int], ...] = _SHAPES) -> Iterator[Case]:
    """Every plan with the engine Gram that a machine makes by itself, for small matrices.

    The small matrices stand for large ones: where a machine mirrors products of large matrices, products here are
    mirrored in four block rows, and the optimizers' default methods for large matrices are used. A plan that several
    machines make is yielded once.
    """
    known = set()
    for machine, shape in product(_MACHINES, shapes):
        with _on(machine):
            for name, plan in _plans(shape):
                key = name, shape, plan.precision, plan.engine, plan.products
                if isinstance(plan.engine, Gram) and isinstance(plan.iteration, Schedule) and key not in known:
                    known.add(key)
                    yield Case(name, machine, plan)


def _plans(shape: tuple[int, int]) -> Iterator[tuple[str, RunPlan]]:
    large = resolve(ORTHOGONALIZE, None, (1024, 2048), torch.float32, CPU)
    mirrored = Blocked(min(shape) // 4) if isinstance(large.products, Blocked) else EAGER
    for name, method in {"orthogonalize": None, **_GIVEN}.items():
        plan = resolve(ORTHOGONALIZE, method, shape, torch.float32, CPU)
        yield name, replace(plan, products=mirrored, wide=EAGER)
    for precision in (torch.float32, torch.bfloat16, torch.float16):
        asked = resolve(ORTHOGONALIZE, None, shape, torch.float32, CPU, purpose=Purpose.STEP, precision=precision)
        for name, (method, engine) in _DEFAULTS.items():
            given = resolve(ORTHOGONALIZE, method, shape, torch.float32, CPU, precision=precision, engine=engine)
            usual = asked.engine if asked.method == method else given.engine
            yield f"Muon's {name}", replace(given, products=mirrored, wide=EAGER, engine=usual)


@dataclass(frozen=True)
class Errors:
    """The errors of a batch, (b,) each.

    Attributes:
        gram: The larger one of ||U - T||_F / ||T||_F and ||U - T||_2 / ||T||_2, for the T that `Direct` returns in
            float64 for the same matrix; for a plan that deflates or rounds to half precision, the matrix after that.
        direct: The same for `Direct` in the dtype of the plan: what the dtype loses with any engine.
        greatest: The greatest singular value of U.
    """

    gram: Tensor
    direct: Tensor
    greatest: Tensor


@torch.no_grad()
def errors(case: Case, A: Tensor) -> Errors:
    """The errors of a plan on the matrices A, (b, n, m) or (b, m, n), float32."""
    plan, schedule = case.plan, case.schedule
    A = A if (plan.shape[0] <= plan.shape[1]) == (A.shape[-2] <= A.shape[-1]) else A.mT
    P, first, _ = prepared(ORTHOGONALIZE, A, plan.preparation, plan.precision, plan.wide, plan.products, plan.thin)
    assert plan.engine is not None
    U, V = (e.run(ORTHOGONALIZE, P, schedule, plan.products, 0, first).double() for e in (plan.engine, Direct()))
    exact = A.double() if plan.precision == torch.float32 and not plan.preparation.deflation else P.double()
    norm = replace(plan.preparation, deflation=0.0)
    Y, begun, _ = prepared(ORTHOGONALIZE, exact, norm, torch.float64, EAGER, EAGER)
    T = Direct().run(ORTHOGONALIZE, Y, schedule, EAGER, 0, begun)
    return Errors(_error(U, T), _error(V, T), _spectral(torch.where(U.isfinite(), U, 1e6)))


def _error(U: Tensor, T: Tensor) -> Tensor:
    E = torch.where(U.isfinite(), U - T, 1e6)
    return torch.maximum(_share(_frobenius(E), _frobenius(T)), _share(_spectral(E), _spectral(T)))


def _frobenius(X: Tensor) -> Tensor:
    return X.square().sum((-2, -1)).sqrt()


def _spectral(X: Tensor) -> Tensor:
    short = X @ X.mT if X.shape[-2] <= X.shape[-1] else X.mT @ X
    return torch.linalg.eigvalsh(short)[:, -1].clamp_min(0).sqrt()


def _share(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(part == 0, 0.0, part / whole)
