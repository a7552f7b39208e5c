"""PRISM as a method: claims C1, C2 and C12-C19 of its specification on matrices, its sketches and its arguments."""

import numpy as np
import pytest
import torch

import matfn
from matfn import NewtonSchulz, Prism
from matfn.iteration.residual import Residual
from matfn.methods.prism.family import family
from matfn.methods.prism.fit import blocks, least, moments
from matrices import gaussian, generator, of_eigenvalues, of_singular_values, orthogonal
from studies.prism.counts import first, watch
from studies.spectra import SPECTRA

EXACT3, EXACT5 = Prism(degree=3, sketch="exact"), Prism(degree=5, sketch="exact")
EPS32 = 2.0**-23


def rms(U):
    """rms(I - U^T U) of a tall U, in float64."""
    G = U.double().mT @ U.double()
    return ((torch.eye(len(G)) - G).norm() / len(G) ** 0.5).item()


def traces(R, highest):
    """tr R^0 .. tr R^highest."""
    values = torch.linalg.eigvalsh(R)
    return [values.pow(i).sum() for i in range(highest + 1)]


def written_out(t, d):
    """m_1 .. m_4 of the loss in terms of traces, as the specification lists them."""
    if d == 1:
        m3 = 4 * (t[3] - 2 * t[4] + t[5])
        return [4 * (t[3] - t[2]), 4 * t[2] - 10 * t[3] + 6 * t[4], m3, t[4] - 2 * t[5] + t[6]]
    return [
        -3 * t[4] + t[5] / 2 + 2 * t[6] + t[7] / 2,
        4 * t[4] - 4 * t[5] - 9 * t[6] / 2 + 3 * t[7] + 3 * t[8] / 2,
        4 * t[6] - 6 * t[7] + 2 * t[9],
        t[8] - 2 * t[9] + t[10],
    ]


@pytest.mark.parametrize("d", [1, 2])
def test_c01_quartic_identity(d):
    Q, _ = of_eigenvalues(torch.rand(40, generator=generator(1), dtype=torch.float64))
    R, of = torch.eye(40) - Q, family(2, d)
    C = blocks(lambda W: Q @ W, torch.eye(40, dtype=torch.float64), of)
    m, want = moments([c[None] for c in C])[0], torch.stack(written_out(traces(R, 10), d))
    # `moments` divides by the square of the largest entry of C_0.
    assert (m * C[0].abs().max() ** 2 - want).abs().max() <= 1e-12 * want.abs().max()
    g = torch.eye(40) + 0.77 * R if d == 1 else torch.eye(40) + R / 2 + 0.77 * R @ R
    loss = (torch.eye(40) - Q @ g @ g).square().sum()
    constant = C[0].square().sum()
    assert abs(constant + sum(c * 0.77**k for k, c in enumerate(want, 1)) - loss) <= 1e-12 * loss


@pytest.mark.parametrize(("p", "d"), [(1, 2), (2, 3), (3, 1), (3, 2), (4, 1), (4, 2), (8, 1)])
def test_the_loss_for_every_p_and_degree(p, d):
    """Against the dense norm of I - M g(R)^p, at several a."""
    M, _ = of_eigenvalues(torch.rand(12, generator=generator(p), dtype=torch.float64))
    R, of, eye = torch.eye(12) - M, family(p, d), torch.eye(12, dtype=torch.float64)
    C = blocks(lambda W: M @ W, eye, of)
    f = eye
    for j in range(1, d):
        f = f + np.prod([(1 / p + i) / (i + 1) for i in range(j)]) * torch.linalg.matrix_power(R, j)
    for a in (*of.interval, sum(of.interval) / 2):
        g = f + a * torch.linalg.matrix_power(R, d)
        want = eye - M @ torch.linalg.matrix_power(g, p)
        assert (sum(c * a**j for j, c in enumerate(C)) - want).abs().max() <= 1e-12


@pytest.mark.parametrize(("degree", "taylor"), [(3, (1.5, -0.5)), (5, (15 / 8, -10 / 8, 3 / 8))])
def test_c02_the_lower_end_is_newton_schulz(degree, taylor):
    low = family(2, (degree - 1) // 2).interval[0]
    step = Prism(degree=degree, interval=(low, low), warm=1).step(0, Residual(torch.eye(2)[None], 2))
    assert step.coefficients == pytest.approx(taylor, abs=1e-15)
    X = gaussian(6, 4)
    U = matfn.orthogonalize(X, method=Prism(degree=degree, interval=(low, low)))
    assert (U - matfn.orthogonalize(X, method=NewtonSchulz(degree, 5))).abs().max() <= 1e-14


def test_c12_small_residuals_do_not_underflow():
    r = (0.5 + 0.5 * torch.rand(64, generator=generator(0))) * 1e-6
    t = [(r**i).sum() for i in range(11)]
    assert (t[8] - 2 * t[9] + t[10]).item() == 0  # the raw moment m_4
    of = family(2, 2)
    m = (1 - r)[None, :, None]
    a = least(moments(blocks(lambda W: m * W, torch.ones(1, 64, 1), of)), *of.interval)
    assert a.dtype == torch.float32
    assert abs(a.item() - 3 / 8) <= 1e-5
    M = torch.eye(64) - torch.diag(r)
    (alpha,) = (c.item() for c in EXACT5.step(0, Residual(M[None], 2)).coefficients[2:])
    assert abs(alpha - 3 / 8) <= 1e-5


@pytest.mark.parametrize("d", [1, 2])
def test_c13_solver_against_roots(d):
    rng, of = np.random.default_rng(d), family(2, d)
    low, high = of.interval
    m = torch.from_numpy(rng.random((2000, 20)) ** rng.uniform(0.1, 6, (2000, 1)))
    loss = moments(blocks(lambda W: m.unsqueeze(-1) * W, torch.ones(2000, 20, 1, dtype=torch.float64), of))
    found = least(loss, low, high).numpy()
    for row, a in zip(loss.numpy(), found, strict=True):
        quartic = np.polynomial.Polynomial([0, *row])
        roots = quartic.deriv().roots()
        roots = roots[abs(roots.imag) <= 1e-9].real
        points = np.array([low, high, *roots[(roots > low) & (roots < high)]])
        best = points[quartic(points).argmin()]
        assert abs(a - best) <= 1e-10
        assert quartic(a) - quartic(best) <= 1e-9 * abs(row).max()


def test_c14_inverse_fourth_root():
    """As `inv_rootm`: 14 steps reach rounding at condition 1e6, where coupled Newton is not there after 18."""
    values = torch.logspace(0, -6, 96, dtype=torch.float64)
    A, V = of_eigenvalues(values)
    want = (V * values ** (-1 / 4)) @ V.mT

    def error(method):
        return ((matfn.inv_rootm(A, 4, method=method) - want).norm() / want.norm()).item()

    # 14 steps to rms 1e-6; two more square that twice.
    assert error(Prism(steps=16, sketch="exact")) <= 1e-11
    assert error(Prism(steps=16)) <= 1e-11
    assert error(Prism(steps=14)) <= 1e-5
    assert error(NewtonSchulz(3, 18)) > 1e-3


def test_c15_zero_columns_change_nothing():
    A = gaussian(64, 32, seed=2)
    A[:, 16:] = 0
    U, block = (matfn.orthogonalize(X, method=Prism(steps=12, sketch="exact")) for X in (A, A[:, :16]))
    assert not U[:, 16:].any()
    assert abs(rms(U) - 0.5**0.5) <= 1e-12
    assert (U[:, :16] - block).abs().max() <= 1e-12
    assert (torch.linalg.svdvals(U)[16:] == 0).all()


def test_c16_the_inverse_in_closed_form():
    values = torch.rand(50, generator=generator(4), dtype=torch.float64)
    t = [(1 - values).pow(i).sum() for i in range(7)]
    closed = ((t[4] - t[5]) / (t[4] - 2 * t[5] + t[6])).clamp(1, 2)
    of = family(1, 2)
    loss = moments(blocks(lambda W: values[None, :, None] * W, torch.ones(1, 50, 1, dtype=torch.float64), of))
    assert abs(least(loss, 1, 2).item() - closed) <= 1e-12
    A, _, _ = of_singular_values(torch.logspace(0, -3, 50, dtype=torch.float64), 50, 50)
    inverse = torch.linalg.inv(A)

    def steps(method):
        return next(
            k for k in range(10, 30)
            if (matfn.inv(A, method=method(k)) @ A - torch.eye(50)).norm() <= 1e-9 * 50**0.5
        )  # fmt: skip

    assert abs(steps(lambda k: Prism(steps=k, sketch="exact")) - 14) <= 2
    assert abs(steps(lambda k: NewtonSchulz(5, k)) - 18) <= 2
    error = (matfn.inv(A, method=Prism(steps=18)) - inverse).norm() / inverse.norm()
    assert error <= 1e-10


def test_c17_floor_in_float32():
    floor = min(watch(gaussian(512, 512, seed=1).float(), Prism(degree=5), 16))
    assert floor <= 5e-7


def test_c17_float32_assembly_lifts_the_heaviest_tails():
    """HTMP 0.1: 40 and more steps in truth, half of them once rounding has put a floor under the spectrum."""
    sigma = torch.from_numpy(SPECTRA["htmp 0.1"](512, 256, 0).copy())
    U, V = orthogonal(512, 256, seed=1).float(), orthogonal(256, seed=2).float()
    A = (U * sigma.float()) @ V.mT
    assert 15 <= first(watch(A, EXACT5, 24), 1e-2 / 256**0.5) <= 22
    s = sigma / sigma.norm()
    of, steps = family(2, 2), 0
    while ((1 - s**2).norm() > 1e-2) and steps < 80:
        m = s[None, :, None] ** 2
        a = least(moments(blocks(lambda W, m=m: m * W, torch.ones_like(m), of)), *of.interval)
        s, steps = s * (1 + (1 - s**2) / 2 + a * (1 - s**2) ** 2), steps + 1
    assert steps > 40


def test_c18_determinism():
    A = gaussian(128, 64, dtype=torch.float32)

    def run(seed):
        draw = None if seed is None else torch.Generator().manual_seed(seed)
        return matfn.orthogonalize(A, method=Prism(), generator=draw)

    assert torch.equal(run(None), run(None))
    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))
    for seed in (2, None):
        assert (run(1) - run(seed)).abs().max() <= 1e-6 + 4 * EPS32


def test_c19_orientation():
    A = gaussian(60, 40, seed=5)
    U = matfn.orthogonalize(A, method=Prism(steps=12))
    W, _, Vh = torch.linalg.svd(A, full_matrices=False)
    assert (matfn.orthogonalize(A.mT.contiguous(), method=Prism(steps=12)).mT - U).abs().max() <= 1e-14
    assert (U - W @ Vh).abs().max() <= 1e-14


@pytest.mark.parametrize("method", [Prism(steps=10), Prism(steps=10, sketch="exact"), Prism(3, steps=14)], ids=str)
def test_rank_deficient(method):
    """The factor on the range; off it rounding, lifted by at most 2.95 (cubic: 2) a step, and nothing else."""
    A, U, V = of_singular_values(torch.tensor([5.0, 2.0, 0.5], dtype=torch.float64), 9, 6)
    lifted = 2.0**14 if method.degree == 3 else 2.95**10
    error = (matfn.orthogonalize(A, method=method) - U @ V.mT).norm()
    assert error <= 10 * 2.0**-52 * lifted
