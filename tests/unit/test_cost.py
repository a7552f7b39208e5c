"""The counted products against those that the engines really ask for, and the sums of the specification."""

import pytest
import torch

from matfn import Coupled, Direct, Gram, NewtonSchulz, PolarExpress
from matfn.engines.cost import Product, computed, products_of, share
from matfn.iteration.target import INV, INV_ROOT, POLAR, SIGN, SQRT
from matfn.kernels import EAGER, Blocked
from matfn.methods import QDWH

DEGREES = [(3, 3), (5, 5, 5), (9, 7, 3), (15, 11, 13, 5), (17, 3)]


class Recording:
    """Does every product by torch and notes its name and sizes."""

    def __init__(self):
        self.found = []

    def __getattr__(self, name):
        def call(*matrices, **weights):
            left, right = (matrices[0], matrices[0].mT) if name == "syrk" else matrices[-2:]
            self.found.append(Product(name, left.shape[-2], left.shape[-1], right.shape[-1]))
            return getattr(EAGER, name)(*matrices, **weights)

        return call


def asked(engine, schedule, shape, target):
    """What the engine asks for, on a small multiple of the identity, which no schedule sends anywhere."""
    A = torch.eye(*shape, dtype=torch.float64)[None] / 2
    products = Recording()
    engine.run(target, A, schedule, products)
    return sorted(products.found, key=repr)


@pytest.mark.parametrize("degrees", DEGREES, ids=str)
@pytest.mark.parametrize("shape", [(4, 4), (4, 9), (9, 4)], ids=str)
@pytest.mark.parametrize("engine", [Direct(), Gram(()), Gram((1,)), Gram((1, 2))], ids=repr)
def test_the_polar_factor_is_counted_as_it_runs(engine, shape, degrees):
    schedule = PolarExpress(degree=degrees, lower=0.1).schedule(2)
    if isinstance(engine, Gram) and max(engine.restarts, default=0) >= len(degrees):
        pytest.skip("no such step")
    assert sorted(products_of(schedule, engine, shape), key=repr) == asked(engine, schedule, shape, POLAR)


@pytest.mark.parametrize("degrees", DEGREES, ids=str)
@pytest.mark.parametrize(
    ("engine", "target"),
    [
        (Direct(), SIGN),
        (Direct(), INV),
        (Coupled(), SQRT),
        *((Coupled(), INV_ROOT.with_exponent(p)) for p in (1, 3, 4, 7)),
    ],
    ids=str,
)
def test_square_functions_are_counted_as_they_run(engine, target, degrees):
    schedule = PolarExpress(degree=degrees, lower=0.1).schedule(target.p)
    assert sorted(products_of(schedule, engine, (5, 5), target), key=repr) == asked(engine, schedule, (5, 5), target)


def test_the_sums_of_the_specification():
    """Direct (1 + 2 a) T; Gram 4 T - 3 + 2 a, the paper's 4 T + 2 a without what the first and last step save."""
    n, a, steps = 10, 4, 5
    schedule = PolarExpress(steps=steps).schedule(2)

    def units(engine, kernel=EAGER):
        return sum(computed(p, kernel) for p in products_of(schedule, engine, (n, a * n))) / n**3

    assert units(Direct()) == (1 + 2 * a) * steps
    assert units(Gram(())) == 4 * steps - 3 + 2 * a
    # Symmetric products in rows of one: (n + 1) / (2 n) of each.
    half = (n + 1) / (2 * n)
    assert units(Direct(), Blocked(1)) == pytest.approx(half * (1 + a) * steps + a * steps)


@pytest.mark.parametrize(("n", "rows"), [(1, 8), (64, 16), (100, 16), (96, 32), (768, 192)])
def test_the_share_of_a_blocked_product(n, rows, monkeypatch):
    """What reaches torch.mm, entry of the result by entry, and (k + 1) / (2 k) for k block rows."""
    entries = []
    product = torch.mm
    monkeypatch.setattr(torch, "mm", lambda *a, out: entries.append(out.numel()) or product(*a, out=out))
    Blocked(rows).syrk(torch.ones(1, n, 2))
    assert share(Blocked(rows), n) == sum(entries) / n**2
    k = max(1, n // rows)
    assert share(Blocked(rows), n) == pytest.approx((k + 1) / (2 * k), abs=16 / n if n > 16 else 0.5)
    assert share(EAGER, n) == 1.0


def test_what_is_not_counted():
    schedule = NewtonSchulz().schedule(2)
    with pytest.raises(ValueError, match="restarts"):
        products_of(schedule, Gram(), (4, 8))
    with pytest.raises(ValueError, match="computes"):
        products_of(schedule, Coupled(), (4, 4))
    with pytest.raises(TypeError, match="without coefficients"):
        products_of(QDWH(lower=1e-3).schedule(2), Direct(), (4, 4))
