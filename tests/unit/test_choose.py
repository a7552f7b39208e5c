"""Which engine is chosen: Gram where it saves products and its rounding, by the model, does not show."""

import pytest
import torch

import matfn
from matfn import Coupled, Direct, Gram, PolarExpress
from matfn.engines import amplification, choose
from matfn.engines.cost import products_of
from matfn.iteration.target import INV_ROOT, POLAR, SIGN
from matrices import gaussian

BUDGET = PolarExpress().schedule(2)


def test_without_a_matrix_the_target_decides():
    assert choose(POLAR) == Direct()
    assert choose(SIGN) == Direct()
    assert choose(INV_ROOT.with_exponent(4)) == Coupled()


@pytest.mark.parametrize("shape", [(64, 256), (256, 64), (100, 200)], ids=str)
def test_gram_for_rectangles_in_float32(shape):
    engine = choose(POLAR, BUDGET, shape, torch.float32)
    assert isinstance(engine, Gram)
    assert engine.restarts is not None
    roundoff = torch.finfo(torch.float32).eps / 2
    assert amplification(BUDGET, engine.restarts, roundoff) * roundoff <= BUDGET.error()
    count = {e: sum(p.multiply_adds for p in products_of(BUDGET, e, shape)) for e in (engine, Direct())}
    assert count[engine] < count[Direct()]


@pytest.mark.parametrize(
    ("method", "shape", "dtype"),
    [
        (BUDGET, (64, 64), torch.float32),
        (BUDGET, (64, 256), torch.float64),
        (BUDGET, (64, 256), torch.bfloat16),
        (PolarExpress(steps=12).schedule(2), (64, 256), torch.float32),  # converges to the last digit
        (matfn.Prism(), (64, 256), torch.float32),
        (matfn.QDWH().fitted(POLAR, gaussian(1, 8, 8)).schedule(2), (64, 256), torch.float32),
    ],
    ids=["square", "float64", "bfloat16", "accurate", "no schedule", "no polynomials"],
)
def test_direct_otherwise(method, shape, dtype):
    assert choose(POLAR, method, shape, dtype) == Direct()


def test_orthogonalize_does_as_planned():
    X = gaussian(40, 160, seed=1).float()
    planned = choose(POLAR, BUDGET, (40, 160), torch.float32)
    U = matfn.orthogonalize(X)
    assert torch.equal(U, matfn.orthogonalize(X, engine=planned))
    assert not torch.equal(U, matfn.orthogonalize(X, engine=Direct()))
    exact = matfn.orthogonalize(X.double(), engine=Direct())
    assert torch.linalg.matrix_norm(U.double() - exact, 2) <= BUDGET.error()
    # What the model foretells, which is for singular values down to 1e-10: these are 1e-1 and more.
    assert torch.linalg.matrix_norm(U.double() - exact, 2) <= 1e-4


def test_verbs_that_promise_digits_stay_direct():
    X = gaussian(40, 160, seed=2).float()
    method = PolarExpress(steps=5)
    assert torch.equal(matfn.polar(X, method=method).U, matfn.orthogonalize(X, method=method, engine=Direct()))
