"""The claims of PolarGrad that seconds can settle: identities, the rate bound, the plateau of Muon, the step limit.

All on f(X) = <X - X*, H (X - X*)> / 2 in float64, H symmetric with eigenvalues spaced evenly in the logarithm between
1 / kappa and 1, so that L = 1, and with the optimizers of `matfn.optim` with `Exact()`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from matfn import Exact, polar
from matfn.optim import Muon, PolarGrad

__all__ = ["Bowl", "homogeneity", "nuclear_norm", "plateau", "rate_bound", "step_limit", "twins"]

VARIANTS = ("vanilla", "momentum-first", "polar-first", "heavy-ball")


@dataclass(frozen=True)
class Bowl:
    """The problem: m x n unknowns, condition kappa of the Hessian; everything follows from the seed."""

    m: int
    n: int
    kappa: float
    seed: int = 0

    def made(self) -> tuple[Tensor, Tensor]:
        """H, m x m, and the start with X* = 0, m x n, standard normal."""
        source = torch.Generator().manual_seed(self.seed)
        Q = torch.linalg.qr(torch.randn(self.m, self.m, generator=source, dtype=torch.float64)).Q
        exponents = torch.linspace(0, 1, self.m, dtype=torch.float64)
        H = (Q * self.kappa**-exponents) @ Q.T
        return H, torch.randn(self.m, self.n, generator=source, dtype=torch.float64)

    @property
    def rank(self) -> int:
        """That of a gradient in general position."""
        return min(self.m, self.n)


def descend(H: Tensor, X: nn.Parameter, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    """F before each step and after the last one; stops early if F exceeds 1e6 times its first value."""
    values = []
    for _ in range(steps):
        X.grad = H @ X.detach()
        values.append(0.5 * float((X.detach() * X.grad).sum()))
        if not values[-1] <= 1e6 * values[0]:
            return values
        optimizer.step()
    return [*values, 0.5 * float((X.detach() * (H @ X.detach())).sum())]


def nuclear_norm(seed: int = 0) -> float:
    """C1: the worst relative difference of <G, U> and the sum of the singular values, over 20 shapes."""
    source, worst = torch.Generator().manual_seed(seed), 0.0
    for _ in range(20):
        m, n = (int(x) for x in torch.randint(1, 80, (2,), generator=source))
        G = torch.randn(m, n, generator=source, dtype=torch.float64)
        total = float(torch.linalg.svdvals(G).sum())
        worst = max(worst, abs(float((G * polar(G).U).sum()) / total - 1))
    return worst


def homogeneity(dtype: torch.dtype, variant: str) -> float:
    """C2: the worst ||u(a G) - a u(G)|| / ||a u(G)|| of a first step u, over a = 1e-8, ..., 1e4; "muon" for Muon's."""
    G = torch.randn(30, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def update(scale: float) -> Tensor:
        X = nn.Parameter(torch.zeros(30, 20, dtype=dtype))
        X.grad = (scale * G).to(dtype)
        muon = variant == "muon"
        made = Muon([X], lr=1.0, method=Exact()) if muon else PolarGrad([X], lr=1.0, variant=variant, method=Exact())
        made.step()
        return -X.detach().double()

    one = update(1.0)
    return max(float((update(a) - a * one).norm() / (a * one).norm()) for a in (10.0**k for k in range(-8, 5)))


def twins(steps: int = 50) -> float:
    """C3: the worst relative distance of heavy-ball at gamma and momentum-first at gamma / (1 - beta), beta = 0.9."""
    H, start = Bowl(20, 12, 10).made()
    X, Y = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    first = PolarGrad([X], lr=0.005, variant="heavy-ball", momentum=0.9, method=Exact())
    second = PolarGrad([Y], lr=0.005 / (1 - 0.9), variant="momentum-first", momentum=0.9, method=Exact())
    worst = 0.0
    for _ in range(steps):
        X.grad, Y.grad = H @ X.detach(), H @ Y.detach()
        first.step()
        second.step()
        worst = max(worst, float((X - Y).detach().norm() / Y.detach().norm()))
    return worst


def rate_bound(bowl: Bowl, steps: int = 400) -> tuple[float, float, float]:
    """C9: at lr = 1 / (L r) the worst excess of f_{k+1} / f_k over each bound, and the mean ratio.

    The bounds are 1 - 1 / (r kappa_H) and 1 - 1 / (kappa_2(G_k)^2 kappa_H). Steps at f < 1e-26 f_0, where rounding
    shows, do not count.
    """
    H, start = bowl.made()
    X = nn.Parameter(start)
    optimizer = PolarGrad([X], lr=1 / bowl.rank, variant="vanilla", method=Exact())
    first, second, ratios, values = -1.0, -1.0, [], []
    for _ in range(steps):
        gradient = H @ X.detach()
        s = torch.linalg.svdvals(gradient)
        before, *_, after = descend(H, X, optimizer, 1)
        values.append(before)
        if before < 1e-26 * values[0]:
            break
        ratios.append(after / before)
        first = max(first, ratios[-1] - (1 - 1 / (bowl.rank * bowl.kappa)))
        second = max(second, ratios[-1] - (1 - 1 / (float(s[0] / s[-1]) ** 2 * bowl.kappa)))
    return first, second, sum(ratios) / len(ratios)


def plateau(lr: float, rule: str, bowl: Bowl = Bowl(12, 12, 10), scale: float = 60.0) -> float:
    """C10: the mean of f over the last quarter of 60 / lr steps of "muon" (no momentum), or over the last step."""
    H, start = bowl.made()
    X = nn.Parameter(start)
    if rule == "muon":
        muon = Muon([X], lr=lr, momentum=0.0, nesterov=False, scale=lambda m, n: 1.0, method=Exact())
        values = descend(H, X, muon, round(scale / lr))
        tail = values[-len(values) // 4 :]
        return sum(tail) / len(tail)
    return descend(H, X, PolarGrad([X], lr=lr, variant="vanilla", method=Exact()), round(scale / lr))[-1]


def step_limit(rank: int, lr: float, steps: int = 2000) -> float:
    """C11: f / f_0 at the end with the identity for a Hessian, from a 20 x rank start with singular values 1 to 1.1.

    More than 1e6 where it diverged. (A start of low rank in a larger matrix would not do: rounding has full rank.)
    """
    source = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(20, rank, generator=source, dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(rank, rank, generator=source, dtype=torch.float64)).Q
    X = nn.Parameter((left * torch.linspace(1, 1.1, rank, dtype=torch.float64)) @ right)
    values = descend(
        torch.eye(20, dtype=torch.float64), X, PolarGrad([X], lr=lr, variant="vanilla", method=Exact()), steps
    )
    return values[-1] / values[0]
