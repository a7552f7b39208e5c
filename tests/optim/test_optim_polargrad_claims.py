"""PolarGrad: claims on convergence that take seconds; the rates and thresholds are those of papers/polargrad.md."""

import math

import pytest
import torch
from torch import nn

from matfn import Exact
from matfn.optim import Muon, PolarGrad


def gaussian(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def rotation(n, seed):
    return torch.linalg.qr(gaussian(n, n, seed=seed))[0]


def curvature_of(m, kappa, seed=5):
    """A symmetric matrix with eigenvalues from 1 down to 1 / kappa."""
    Q = rotation(m, seed)
    return Q @ torch.diag(torch.logspace(0, -math.log10(kappa), m, dtype=torch.float64)) @ Q.T


def run(optimizer, x, gradient, value, steps):
    """Values before the first and after each step."""
    values = [value(x.detach()).item()]
    for _ in range(steps):
        x.grad = gradient(x.detach())
        optimizer.step()
        values.append(value(x.detach()).item())
    return values


@pytest.mark.parametrize(("m", "n", "kappa"), [(20, 20, 10), (40, 10, 10), (40, 10, 100), (60, 30, 10), (30, 30, 1)])
@pytest.mark.parametrize("scale", ["rank", "min"])
def test_each_step_gains_what_the_theory_promises(m, n, kappa, scale):
    """At 1 / (L r) the gap shrinks by 1 - 1/(r kappa_H) and by 1 - 1/(kappa_G^2 kappa_H) at least, in every step."""
    H, x = curvature_of(m, kappa), nn.Parameter(gaussian(m, n, seed=1))
    r = min(m, n)
    options = {"scale": "rank"} if scale == "rank" else {"scale": lambda m, n: 1 / min(m, n)}
    optimizer = PolarGrad([x], 1.0, variant="vanilla", method=Exact(), **options)
    for _ in range(100):
        g = H @ x.detach()
        before, s = (x.detach() * g).sum() / 2, torch.linalg.svdvals(g)
        x.grad = g
        optimizer.step()
        ratio = ((x.detach() * (H @ x.detach())).sum() / 2 / before).item()
        assert ratio <= 1 - 1 / (r * kappa) + 1e-9
        assert ratio <= 1 - ((s[-1] / s[0]) ** 2 / kappa).item() + 1e-9


@pytest.mark.parametrize("scale", ["unit", "rank"])
@pytest.mark.parametrize("r", [1, 2, 5, 10])
def test_the_step_is_limited_by_the_rank_unless_the_scale_takes_it_out(r, scale):
    """Identity Hessian, equal singular values: 1 / r converges, 2.04 / r diverges, and 1 does for r of 5 and 10."""
    # 12 x r: in a larger matrix what is left after a step is rounding of full rank, for which 1 / r is too much
    start = rotation(12, 1)[:, :r]

    def last(lr, steps=200):
        x = nn.Parameter(start.clone())
        optimizer = PolarGrad([x], lr, variant="vanilla", method=Exact(), scale=scale)
        return run(optimizer, x, lambda x: x, lambda x: (x * x).sum() / 2, steps)[-1]

    unit = 1 / r if scale == "unit" else 1.0
    assert last(unit) < 1e-25
    assert last(1.9 * unit) < 1e-8 * r
    assert last(2.04 * unit) > 1e3
    if scale == "unit" and r >= 5:
        assert last(1.0, steps=20) > 1e6


def test_muon_stalls_at_a_height_of_gamma_squared_and_polargrad_does_not():
    """12 x 12, kappa 10, 60 / gamma steps: the plateau over gamma^2 is .67 to a tenth."""
    H = curvature_of(12, 10)

    def plateau(make, lr, steps):
        x = nn.Parameter(gaussian(12, 12, seed=1))
        values = run(make([x], lr), x, lambda x: H @ x, lambda x: (x * (H @ x)).sum() / 2, steps)
        return sum(values[-200:]) / 200

    def sign_descent(params, lr):
        return Muon(params, lr, momentum=0.0, nesterov=False, method=Exact(), scale="unit")

    heights = [plateau(sign_descent, lr, int(60 / lr)) / lr**2 for lr in (0.2, 0.1, 0.05)]
    middle = sum(heights) / len(heights)
    assert all(abs(height / middle - 1) < 0.1 for height in heights)
    assert 0.3 < middle < 1.5  # the level itself depends on the draw

    def polar(params, lr):
        return PolarGrad(params, lr, variant="vanilla", method=Exact())

    assert plateau(polar, 0.1, 2000) < 1e-12


class Quadratic:
    """The paper's regression: 1/2 ||A X B - C||_F^2, drawn in its order, in float64."""

    def __init__(self):
        torch.manual_seed(42)
        self.A, self.B, self.C = torch.randn(1000, 500), torch.randn(100, 250), torch.randn(1000, 250)
        torch.manual_seed(42)
        start = torch.empty(500, 100).uniform_(-1, 1)
        self.A, self.B, self.C, self.start = (t.double() for t in (self.A, self.B, self.C, start))
        # through Gram matrices: the same function, in a tenth of the time
        self.AA, self.BB, self.ACB = self.A.T @ self.A, self.B @ self.B.T, self.A.T @ self.C @ self.B.T
        best = torch.linalg.pinv(self.A) @ self.C @ torch.linalg.pinv(self.B)
        self.least = self.value(best)

    def value(self, x):
        return (self.A @ x @ self.B - self.C).square().sum() / 2

    def gradient(self, x):
        return self.AA @ x @ self.BB - self.ACB

    def gap(self, lr, steps):
        x = nn.Parameter(self.start.clone())
        optimizer = PolarGrad([x], lr, variant="vanilla", method=Exact())
        for _ in range(steps):
            x.grad = self.gradient(x.detach())
            optimizer.step()
        return (self.value(x.detach()) - self.least).item()


def test_the_papers_quadratic_has_the_measured_gaps_and_its_edge_lies_below_the_published_rate():
    problem = Quadratic()
    assert problem.least.item() == pytest.approx(99685.898, rel=1e-5)
    assert problem.gap(3e-8, 10) == pytest.approx(3.268e6, rel=0.02)
    assert problem.gap(3e-8, 100) == pytest.approx(4.079e3, rel=0.02)
    assert not problem.gap(4e-8, 100) < 1e12


def test_the_papers_completion_converges_with_polargrad_and_stalls_with_muon():
    torch.manual_seed(42)
    target = torch.randn(500, 5) @ torch.randn(250, 5).T
    mask = (torch.rand(500, 250) < 0.3).float()

    def loss(make, steps):
        torch.manual_seed(42)
        x, y = (nn.Parameter(torch.empty(n, 5).uniform_(-1, 1)) for n in (500, 250))
        optimizer = make([x, y])
        for _ in range(steps):
            optimizer.zero_grad()
            value = (mask * (x @ y.T - target)).square().sum() / mask.sum()
            value.backward()
            optimizer.step()
        return (mask * (x @ y.T - target)).square().sum().item() / mask.sum().item()

    assert loss(lambda p: PolarGrad(p, 30.0, variant="vanilla"), 100) < 1e-12
    assert loss(lambda p: PolarGrad(p, 15.0, variant="vanilla"), 100) < 1e-6
    assert loss(lambda p: Muon(p, 0.25, scale="unit", method=Exact()), 1000) > 1e-4
