"""Eigenvalues and first components of tiny tridiagonal matrices, by LAPACK and by the path for other devices."""

import mpmath
import pytest
import torch

from matfn.linalg.tridiagonal import _apart, eigen, first_components, sectioned
from matrices import generator

EPS = 2.0**-52
SECTIONS = 255.0**-5  # of the binary order that the first round of sectioning finds


def off_cpu(T):
    """What `eigen` does off a CPU."""
    T = _apart(T)
    values = sectioned(T)
    return values, first_components(T, values)


def tridiagonal(diagonal, off):
    return torch.diag_embed(diagonal) + torch.diag_embed(off, 1) + torch.diag_embed(off, -1)


def jacobi(nodes, weights):
    """The tridiagonal matrix with these eigenvalues and squared first components, by Lanczos steps in 60 digits."""
    ctx = mpmath.MPContext()
    ctx.dps = 60
    x, v = [ctx.mpf(t) for t in nodes], [ctx.sqrt(ctx.mpf(w) / sum(weights)) for w in weights]
    basis, a, b = [v], [], []
    for _ in range(len(x)):
        w = [s * t for s, t in zip(x, basis[-1], strict=True)]
        a.append(ctx.fdot(w, basis[-1]))
        for u in basis * 2:
            share = ctx.fdot(w, u)
            w = [s - share * t for s, t in zip(w, u, strict=True)]
        norm = ctx.sqrt(ctx.fdot(w, w))
        b.append(norm)
        basis.append([s / norm for s in w] if norm > ctx.mpf(10) ** -50 else [ctx.mpf(0)] * len(x))
    return tridiagonal(*(torch.tensor([float(t) for t in x], dtype=torch.float64) for x in (a, b[:-1])))


def problems():
    """Positive semidefinite: random, graded, clustered, of rank one, decoupled, zero."""
    draw = generator(0)
    uniform = torch.rand(40, 7, generator=draw, dtype=torch.float64)
    A = torch.randn(40, 20, 7, generator=draw, dtype=torch.float64)
    L = torch.diag_embed(uniform) + torch.diag_embed(uniform[:, 1:] - 0.5, -1)
    random = L @ L.mT
    graded = torch.diag_embed(10.0 ** -torch.arange(7)).double()
    found = {"random": random, "wide": tridiagonal(2 + A[:, 0].abs(), A[:, 1, :6].clamp(-1, 1)), "graded": None}
    found["graded"] = (graded @ random @ graded + (graded @ random @ graded).mT) / 2
    found["clustered"] = torch.eye(7, dtype=torch.float64) + 1e-9 * random
    found["Laplace"] = tridiagonal(torch.full((1, 7), 2.0), torch.full((1, 6), -1.0)).double()
    return found


PROBLEMS = problems()


@pytest.mark.parametrize("name", PROBLEMS)
def test_against_lapack(name):
    """Eigenvalues to the rounding of the largest one and five rounds of sectioning, and forms with smooth functions.

    Within a cluster the shares are as uncertain as the gaps; their sum is put right by those who use them.
    """
    T = PROBLEMS[name]
    values, shares = off_cpu(T)
    want, vectors = torch.linalg.eigh(T)
    size = want[..., -1:]
    assert (values.diff(dim=-1) >= -1e-12 * size).all()
    assert ((values - want).abs() <= 20 * EPS * size + SECTIONS * want.abs()).all()
    assert ((shares.sum(-1) - 1).abs() <= (0.5 if name == "clustered" else 1e-7)).all()
    shares = shares / shares.sum(-1, keepdim=True)
    for f in (torch.sqrt, torch.exp, lambda x: x**3):
        got = (shares * f(values.clamp(min=0) / size)).sum(-1)
        form = (vectors[..., 0, :] ** 2 * f(want.clamp(min=0) / size)).sum(-1)
        assert ((got - form).abs() <= 1e-7).all()
    lapack = eigen(T)
    assert torch.equal(lapack[0], want)
    assert torch.equal(lapack[1], vectors[..., 0, :] ** 2)


@pytest.mark.parametrize(
    "nodes",
    [
        [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 1.0],
        [1e-14, 1e-10, 1e-7, 1e-5, 1e-3, 0.1, 1.0],
        [0.5, 0.6, 0.999, 0.9999, 1.0],
        [1e-200, 1.0],
    ],
    ids=str,
)
def test_against_a_spectrum_that_was_put_in(nodes):
    """In 60 digits, so that LAPACK does not check itself."""
    weights = [1 / (1 + i) for i in range(len(nodes))]
    T = jacobi(nodes, weights)[None]
    for path in (eigen, off_cpu):
        values, shares = path(T)
        assert (values - torch.tensor(nodes, dtype=torch.float64)).abs().max() <= 20 * EPS + SECTIONS
        share = torch.tensor(weights, dtype=torch.float64) / sum(weights)
        large = torch.tensor(nodes) > 1e-6  # below, the rounding of T itself mixes neighbours
        assert ((shares - share).abs() * large).max() <= 1e-9
        assert abs((shares * values.clamp(min=0).sqrt()).sum() - (share * torch.tensor(nodes).sqrt()).sum()) <= 1e-7


def test_eigenvalues_far_apart_keep_their_size():
    """Sectioning goes down to 2^-256 of the largest one; a diagonal matrix has no rounding that would hide them."""
    want = 10.0 ** -torch.arange(0, 50, 10, dtype=torch.float64).flip(0)
    values = sectioned(torch.diag_embed(want.flip(0))[None])
    assert ((values / want - 1).abs() <= 2 * SECTIONS).all()


def test_what_is_decoupled_has_no_share():
    """A zero off the diagonal ends the Krylov space; whatever follows belongs to no part of the first axis."""
    T = torch.zeros(1, 5, 5, dtype=torch.float64)
    T[0, :3, :3] = PROBLEMS["Laplace"][0, :3, :3]
    for tail in (torch.zeros(2, 2), torch.eye(2) * T[0, 0, 0], torch.eye(2) * 1e-3):
        T[0, 3:, 3:] = tail
        want, vectors = torch.linalg.eigh(T[0, :3, :3])
        values, shares = off_cpu(T)
        for f in (torch.sqrt, torch.exp):
            got, form = (shares * f(values)).sum(), (vectors[0] ** 2 * f(want)).sum()
            assert abs(got - form) <= 1e-10
        assert shares[0, 3:].max() <= 1e-24  # the Ritz values leave these out
        assert (values[0, :3] - want).abs().max() <= 20 * EPS * 4 + SECTIONS * 4


def test_zero():
    T = torch.zeros(2, 4, 4, dtype=torch.float64)
    for path in (eigen, off_cpu):
        values, shares = path(T)
        assert values.abs().max() <= 1e-140
        assert shares.isfinite().all()
        assert (shares.sum(-1) > 0.9).all()  # off a CPU each has the whole of it, and the mean is 0 all the same
    T[1] = torch.eye(4)
    values, shares = off_cpu(T)
    assert values[1, 0] == pytest.approx(1)
    assert (values[0, 0], shares[0, 0]) == (pytest.approx(0, abs=1e-140), pytest.approx(1))


def test_each_is_as_if_alone():
    T = torch.cat([PROBLEMS["random"][:3], PROBLEMS["graded"][:3], PROBLEMS["clustered"][:2]])
    values, shares = off_cpu(T)
    for i, one in enumerate(T):
        alone = off_cpu(one[None])
        assert torch.equal(alone[0][0], values[i])
        assert torch.allclose(alone[1][0], shares[i], rtol=1e-6)


def test_the_path_off_a_cpu_reads_nothing_back():
    T = torch.empty(3, 2, 7, 7, dtype=torch.float64, device="meta")
    values, shares = eigen(T)
    assert values.shape == shares.shape == (3, 2, 7)
    assert values.device.type == "meta"
