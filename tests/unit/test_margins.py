"""Restarts of Gram in low precision: no singular value leaves the interval, whatever the matrix."""

import pytest
import torch

import matfn
from matfn import Direct, Gram, PolarExpress
from matfn.engines.restarts import margins
from matfn.run.plan import LIFTED
from matrices import gaussian

SCHEDULE = LIFTED.schedule(2)


def spectra(count, k, generator):
    """Six kinds, an equal number of each: geometric, flat, one outlier, log-uniform, two levels, nearly singular."""
    uniform = torch.rand(count, k, generator=generator)
    tilt = torch.rand(count, 1, generator=generator)
    steps = torch.arange(k) / max(1, k - 1)
    outlier = torch.cat([torch.ones(count, 1), 10 ** (-4 * tilt) * uniform[:, 1:]], 1)
    levels = torch.where(torch.rand(count, k, generator=generator) < 0.5, uniform, 1e-4 * uniform)
    singular = torch.where(torch.rand(count, k, generator=generator) < 0.3, uniform, 1e-9)
    kinds = [10 ** (-6 * tilt * steps), uniform, outlier, 10 ** (-6 * uniform), levels, singular]
    return torch.stack(kinds, 1)[torch.arange(count), torch.arange(count) % 6]


def matrices(count, n, m, seed):
    """Singular vectors at random, or coordinates: there the rounding errors of an entry all point one way."""
    generator = torch.Generator().manual_seed(seed)
    U = torch.linalg.qr(torch.randn(count, n, n, generator=generator)).Q
    V = torch.linalg.qr(torch.randn(count, m, n, generator=generator)).Q
    along = torch.rand(2, count, 1, 1, generator=generator) < 0.3
    U = torch.where(along[0], torch.eye(n), U)
    V = torch.where(along[1], torch.eye(m)[:, :n], V)
    return (U * spectra(count, n, generator)[:, None, :]) @ V.mT


@pytest.mark.parametrize(("n", "m"), [(1, 4), (2, 8), (4, 16), (8, 32), (16, 64), (48, 96)])
def test_nothing_is_blown_up_in_bfloat16(n, m):
    """The least and greatest singular value stay in the image of the schedule, but for its rounding of one step."""
    A = matrices(max(60, 30000 // (n * m)), n, m, seed=n)
    U = matfn.orthogonalize(A, method=LIFTED, engine=Gram((2, 4)), precision=torch.bfloat16)
    top = torch.linalg.svdvals(U)[:, 0]
    low, high = SCHEDULE.images()[-1]
    last = SCHEDULE.rows[-1]
    reach = SCHEDULE.images()[-2][1]
    # What the terms of the last step may be wrong by, entry by entry of two products: relative errors of u each.
    rounding = 2 * 2.0**-8 * reach * sum(abs(float(c)) * reach ** (2 * j) for j, c in enumerate(last.coefficients))
    assert low < 1 < high
    assert top.max() <= high + rounding
    aligned = (U * A).sum((-2, -1)) / torch.linalg.svdvals(A).sum(-1)
    assert aligned.min() >= 0.7  # no direction is lost, where the classical five steps guarantee no more


def test_without_the_margin_they_would_be(monkeypatch):
    """Four steps with slopes twice as steep: matrices of 2 x 8 reach 140, those of 4 x 16 reach 340."""
    steep = PolarExpress((5, 5, 5, 7), lower=2.5e-3, cushion=0.06, norm="schatten4")
    monkeypatch.setattr("matfn.engines.gram.margins", lambda method, restarts, dtype: (1.0,) * len(restarts))
    U = matfn.orthogonalize(matrices(1500, 2, 8, seed=2), method=steep, engine=Gram((2,)), precision=torch.bfloat16)
    assert torch.linalg.svdvals(U).max() > 2


def test_the_margin_is_the_rounding_of_the_largest_factor():
    """Two steps multiply the smallest values by c_0 c_0'; halfway the steps are those of a scalar."""
    (margin,) = margins(SCHEDULE, (2,), torch.bfloat16)
    growth = float(SCHEDULE.rows[0].coefficients[0]) * float(SCHEDULE.rows[1].coefficients[0])
    assert margin == pytest.approx(1 + growth * 2.0**-8, rel=1e-3)
    assert margins(SCHEDULE, (2,), torch.float32)[0] == pytest.approx(1, abs=1e-5)
    assert margins(matfn.Prism(), (2, 4), torch.bfloat16) == (1.0, 1.0)


def test_at_high_precision_the_margin_does_not_show():
    X = gaussian(12, 30, seed=1)
    method = PolarExpress(steps=6)
    direct, gram = (matfn.orthogonalize(X, method=method, engine=e) for e in (Direct(), Gram((2, 4))))
    assert torch.allclose(direct, gram, rtol=0, atol=1e-11)


@pytest.mark.parametrize("restarts", [(2, 2), (4, 2), (0,), (True,), [2]], ids=str)
def test_restarts_rise(restarts):
    with pytest.raises(ValueError, match="rising step counts"):
        Gram(restarts)
