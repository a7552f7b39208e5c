"""Ritz safety: spectra and matrices chosen to make RitzMinimax diverge, and how far above its upper end each one gets.

Divergence is what exceeds a derived bound, long before infinity. A step maps [0, 1] to [0, 1], but for the last one,
whose image is centred: it ends at 1 + E < 2. Of the rows of the table only those are in use whose 1 - E exceeds what
rounding moves, so that 2 holds with rounding too. Numbers of double precision leave no room for more than the square
root of the roundoff.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from matfn.engines import Coupled, Engine
from matfn.iteration.residual import Residual
from matfn.iteration.target import POLAR, Target
from matfn.kernels import EAGER
from matfn.linalg.norms import prescale
from matfn.methods import RitzMinimax

__all__ = ["END", "SLACK", "SPECTRA", "Worst", "bases", "bred", "greatest", "greatest_root", "on_vectors", "structured"]

END = 2.0  # no value may exceed it after the last step
SLACK = 2.0**-26  # nor 1 + this before it, in double precision

Draw = Callable[[Tensor, Tensor], Tensor]  # from uniform numbers, (b, n) and (b, 1), to s, (b, n)

SPECTRA: dict[str, Draw] = {
    "log-uniform": lambda u, a: 10 ** (-16 * a * u),
    "uniform": lambda u, a: u * a,
    "nearly equal": lambda u, a: 1 + 10 ** (-16 * a) * (u - 0.5),
    "all equal": lambda u, a: torch.ones_like(u) * a,
    "two clusters": lambda u, a: 10 ** (-16 * a * (u > 0.5)),
    "four clusters": lambda u, a: 10 ** (-16 * a * (3 * u).round() / 3),
    "one above": lambda u, a: torch.cat([torch.ones_like(a), 10 ** (-8 * a) * u[:, 1:]], -1),
    "one above all equal": lambda u, a: torch.cat([10 ** (8 * a), torch.ones_like(u[:, 1:])], -1),
    "one below all equal": lambda u, a: torch.cat([10 ** (-16 * a), torch.ones_like(u[:, 1:])], -1),
    "power law": lambda u, a: torch.arange(1, u.shape[-1] + 1, dtype=u.dtype).expand_as(u) ** (-4 * a),
    "steep end": lambda u, a: u ** (1 + 16 * a),
    "low rank": lambda u, a: torch.where(u > a, u, 0.0),
    "low rank and noise": lambda u, a: torch.where(u > 0.8, u, 10 ** (-8 * a) * u),
    "denormal tail": lambda u, a: torch.where(u > 0.5, u, 1e-308 * u * a),
    "zero": lambda u, _: torch.zeros_like(u),
}


@dataclass(frozen=True)
class Worst:
    """Over the members of a batch.

    Attributes:
        before: (b,), the greatest s before the last step.
        end: (b,), the greatest s at the end; infinite for NaN.
        least: (b,), the least eigenvalue of M on the way, which must not be negative.
    """

    before: Tensor
    end: Tensor
    least: Tensor

    @property
    def diverged(self) -> Tensor:
        """Which members exceed the bounds."""
        return (self.before > 1 + SLACK) | (self.end > END + SLACK) | (self.least < 0)


class _Blind(Residual):
    """Eigenvectors without a share in the sketch; the method learns of them from norms alone."""

    hidden = 0

    def sketch(self, columns: int, draw: int) -> Tensor:
        """As ever, but for zeros in the first places."""
        S = super().sketch(columns, draw).clone()
        S[: self.hidden] = 0
        return S


@torch.no_grad()
def on_vectors(method: RitzMinimax, s: Tensor, p: int, hidden: int = 0, key: int = 0) -> Worst:
    """The very steps that the method takes on diagonal matrices, applied to their eigenvalues.

    Args:
        method: To a budget, or with a tolerance.
        s: (b, n), float64, not negative; scaled here as the verbs scale.
        p: Exponent.
        hidden: The sketch sees nothing of so many of the values, the first ones.
        key: Of the sketch.
    """
    m = (s / s.amax(-1, keepdim=True).clamp(min=1e-300)) ** p
    m = m / (m.sum(-1, keepdim=True) if p == 2 else torch.linalg.vector_norm(m, dim=-1, keepdim=True)).clamp(min=1e-300)
    before = end = torch.zeros_like(m[:, 0])
    least, done = torch.zeros_like(before), False
    assert method.steps is not None
    for k in range(method.steps):
        residual = _Blind(torch.diag_embed(m), p, key)
        residual.hidden = hidden
        if done := method.done(k, residual):
            break
        step = method.step(k, residual)
        q = torch.zeros_like(m)
        for c in reversed(step.coefficients):
            q = q * m + torch.as_tensor(c)[..., 0]
        m, before = m * q**p, torch.maximum(before, end)
        end = torch.nan_to_num(m, nan=torch.inf).amax(-1).clamp(min=0) ** (1 / p)
        least = torch.minimum(least, m.amin(-1))
    # To an accuracy no step is known to be the last one: none may leave its image.
    return Worst(torch.maximum(before, end) if done or method.tol is not None else before, end, least)


def bred(score: Callable[[Tensor], Tensor], s: Tensor, rounds: int, draw: Generator) -> Tensor:
    """Spectra of the highest score after some generations: the upper half stays, with a changed copy of each.

    Args:
        score: (b, n) -> (b,).
        s: (b, n), to begin with; b even.
        rounds: Generations.
        draw: Of the changes, which move a fifth of the logarithms by 1e-6 to 1.
    """
    for _ in range(rounds):
        best = s[torch.nan_to_num(score(s), nan=torch.inf).argsort(descending=True)[: len(s) // 2]]
        where, size = torch.rand(best.shape, generator=draw), torch.rand(len(best), 1, generator=draw)
        moved = torch.randn(best.shape, generator=draw, dtype=s.dtype) * 10 ** (-6 * size)
        s = torch.cat([best, best * torch.where(where < 0.2, moved, 0.0).exp()])
    return s


def bases(b: int, n: int, draw: Generator) -> dict[str, Tensor]:
    """Orthogonal matrices, (b, n, n): at random, the axes themselves, and one whose entries are equal in size."""
    angle = torch.arange(n, dtype=torch.float64)
    # Hartley's: cas(2 pi j k / n) / sqrt(n); for n = 2, 4 entries are equal, else a few values repeat.
    turned = 2 * torch.pi * angle[:, None] * angle / n
    random = torch.linalg.qr(torch.randn(b, n, n, generator=draw, dtype=torch.float64))[0]
    return {
        "random": random,
        "axes": torch.eye(n, dtype=torch.float64).expand(b, -1, -1),
        "even": ((turned.cos() + turned.sin()) / n**0.5).expand(b, -1, -1),
    }


def structured(n: int) -> dict[str, Tensor]:
    """Projections and their complements, (n, n), whose rounding errors have equal signs where their entries have."""
    ones = torch.full((n, n), 1.0 / n, dtype=torch.float64)
    place = torch.arange(n)
    blocks = (place[:, None] % 4 == place % 4).double() * 4 / n
    cycle = (((place[:, None] - place) % n == 1) | ((place - place[:, None]) % n == 1)).double()
    squares = {int(x) ** 2 % n for x in place[1:]}
    paley = torch.tensor([[float((int(i) - int(j)) % n in squares) for j in place] for i in place], dtype=torch.float64)
    found = {"ones": ones, "blocks": blocks, "cycle": cycle, "residues": paley + paley.mT}
    eye = torch.eye(n, dtype=torch.float64)
    return found | {f"I - {name}": eye - A / torch.linalg.matrix_norm(A, 2) for name, A in found.items()}


@torch.no_grad()
def greatest(A: Tensor, method: RitzMinimax, engine: Engine, dtype: torch.dtype, key: int = 0) -> Tensor:
    """The greatest singular value after the run, (b,); infinite for NaN.

    Args:
        A: (b, m, n), float32 at least.
        method: To a budget.
        engine: Of the polar factor.
        dtype: Of the iteration.
        key: Of the sketch.
    """
    X = engine.run(POLAR, prescale(A)[0].to(dtype), method, EAGER, key).double()  # pyright: ignore[reportArgumentType]
    finite = X.isfinite().all(-1).all(-1)
    return torch.where(finite, torch.linalg.matrix_norm(torch.where(finite[:, None, None], X, 0.0), 2), torch.inf)


@torch.no_grad()
def greatest_root(values: Tensor, V: Tensor, target: Target, method: RitzMinimax, dtype: torch.dtype) -> Tensor:
    """The greatest value of A^(1/p) Z, (b,), for the inverse root Z of A = V diag(values) V^T; 1 where Z is exact.

    Args:
        values: (b, n), positive.
        V: (b, n, n), orthogonal.
        target: An inverse root.
        method: To a budget.
        dtype: Of the iteration.
    """
    values = values / torch.linalg.vector_norm(values, dim=-1, keepdim=True)
    A = (V * values[:, None]) @ V.mT
    Z = Coupled().run(target, ((A + A.mT) / 2).to(dtype), method, EAGER).double()  # pyright: ignore[reportArgumentType]
    half = values[:, None] ** (0.5 / target.p)
    S = (V.mT @ Z @ V) * half * half.mT
    finite = S.isfinite().all(-1).all(-1)
    return torch.where(finite, torch.linalg.matrix_norm(torch.where(finite[:, None, None], S, 0.0), 2), torch.inf)
