"""A share of the search for divergence that fits in seconds; `python -m studies.ritz` is the whole of it."""

import pytest
import torch

from loops import looped
from matfn import Direct, Gram, RitzMinimax
from matfn.iteration.target import INV_ROOT
from matfn.methods.ritz_minimax.table import table
from matrices import generator
from studies.ritz.safety import END, SLACK, SPECTRA, bases, bred, greatest, greatest_root, on_vectors, structured

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
every_dtype = looped("dtype", DTYPES)


def spectra(family, b, n, seed):
    draw = generator(seed)
    uniform = torch.rand(b, n, generator=draw, dtype=torch.float64)
    return SPECTRA[family](uniform, torch.rand(b, 1, generator=draw, dtype=torch.float64)).double()


@looped(("p", "hidden"), [(1, 0), (2, 0), (2, 4), (3, 4)])
@pytest.mark.parametrize("family", SPECTRA)
def test_spectra(family, p, hidden):
    """The least a sketch can see; to a budget and to an accuracy."""
    s = spectra(family, 40, 16, seed=p)
    # Each p and degree has a table that takes seconds to compute: the exponents 2 and 3 have all degrees.
    others = (RitzMinimax(degree=3, steps=3), RitzMinimax(degree=(7, 5), tol=1e-9)) if p > 1 else ()
    for method in (RitzMinimax(), *others):
        worst = on_vectors(method, s, p, hidden)
        assert not worst.diverged.any(), (method, worst)


def test_bred_spectra():
    """Six generations of those that come out largest."""
    for p, degree in ((2, 5), (3, 5), (4, 3)):
        method = RitzMinimax(degree=degree, steps=3)

        def score(s, method=method, p=p):
            worst = on_vectors(method, s, p, hidden=2)
            return torch.maximum(worst.before - 1, worst.end - END)

        s = bred(score, spectra("four clusters", 40, 12, seed=degree), 6, generator(1))
        assert not on_vectors(method, s, p, hidden=2).diverged.any()


def test_what_the_search_would_find():
    """An upper end that is too low by a hundredth: the search is not blind."""

    class Short(RitzMinimax):
        def step(self, k, residual):
            of = super().step(k, residual)
            scaled = tuple(c * 1.01 for c in of.coefficients)
            return type(of)(scaled, ()) if k == 0 else of

    worst = on_vectors(Short(), spectra("one above", 40, 16, seed=0), 2)
    assert worst.diverged.all()
    assert (worst.before > 1.005).all()


@pytest.mark.parametrize("engine", [Direct(), Gram()], ids=str)
@every_dtype
def test_matrices(dtype, engine):
    draw = generator(3)
    for i, family in enumerate(SPECTRA):
        s = spectra(family, 2, 29, seed=i)
        left, right = (list(bases(2, 29, draw).values())[(i + j) % 3] for j in range(2))
        method = RitzMinimax(degree=(3, 5, 7, 9)[i % 4], steps=1 + i % 7)
        assert (greatest((left * s[:, None]) @ right.mT, method, engine, dtype) <= END + SLACK).all(), (family, method)


@every_dtype
def test_matrices_whose_rounding_errors_agree(dtype):
    """Entries of few values: all errors of one sign pattern, up to sqrt(n)/2 times what independent ones add up to."""
    for n in (29, 61):
        A = torch.stack(list(structured(n).values()))
        for steps in (2, 5, 9):
            assert (greatest(A, RitzMinimax(steps=steps), Direct(), dtype) <= END + SLACK).all()


@pytest.mark.parametrize(("p", "degree"), [(2, 3), (2, 5), (2, 7), (3, 3), (3, 7), (4, 5), (8, 5)])
@every_dtype
def test_roots(dtype, p, degree):
    """More steps than the matrix needs: the widest rows would do as well in exact numbers; errors of q^(p-1) forbid."""
    u = torch.finfo(dtype).eps / 2
    least = min(0.5, 10 * u * abs(table(p, (degree - 1) // 2).coefficients[0]).sum())
    draw = generator(4)
    for family in ("log-uniform", "four clusters", "low rank"):
        s = spectra(family, 4, 29, seed=p)
        values = ((s / s.amax(-1, keepdim=True)).clamp(min=least) ** p).clamp(min=100 * u)
        V = bases(4, 29, draw)["random"]
        top = greatest_root(values, V, INV_ROOT.with_exponent(p), RitzMinimax(degree=degree, steps=10), dtype)
        assert (top <= END + SLACK).all(), (family, top)


@pytest.mark.parametrize("p", [3, 4, 8])
def test_steps_that_nobody_needs_do_no_harm(p):
    """Of a matrix of condition 30, whose root is there after four steps: six more leave it there."""
    values, V = torch.logspace(0, -1.5, 48, dtype=torch.float64)[None], bases(1, 48, generator(5))["random"]
    for dtype, target in ((torch.float32, INV_ROOT.with_exponent(p)), (torch.float64, INV_ROOT.with_exponent(p))):
        top = [greatest_root(values, V, target, RitzMinimax(steps=steps), dtype) - 1 for steps in (6, 8, 10)]
        assert max(top).item() <= 100 * torch.finfo(dtype).eps * 30 ** (1 / p)
