"""Products that the caller gives are used for every large product: preparation, sketches and projection included."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from matfn import QDWH, Direct, Gram, PolarExpress, Prism, RitzMinimax, ZoloPD, orthogonalize
from matfn.kernels import EAGER
from matfn.optim import Muon, PolarGrad
from matrices import gaussian

PRODUCTS = {"mm", "bmm", "addmm", "baddbmm", "addbmm", "matmul", "einsum", "linear", "mv", "addmv"}


class Given:
    """The caller's products, which note that they run."""

    def __init__(self):
        self.inside = 0

    def __hash__(self):
        return id(self)

    def __getattr__(self, name):
        def call(*matrices, **weights):
            self.inside += 1
            try:
                return getattr(EAGER, name)(*matrices, **weights)
            finally:
                self.inside -= 1

        return call


class Watch(TorchDispatchMode):
    """Counts the multiply-adds of products inside and outside of `given`."""

    def __init__(self, given):
        super().__init__()
        self.given, self.within, self.outside = given, 0, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in PRODUCTS:
            left = args[1] if name in ("addmm", "baddbmm", "addmv") else args[0]
            work = result.numel() * left.shape[-1]
            if self.given.inside:
                self.within += work
            else:
                self.outside.append((work, name, tuple(result.shape)))
        return result


METHODS = {
    "default": PolarExpress(),
    "degree 9": PolarExpress((9,) * 3),
    "deflated": PolarExpress((5, 5, 5), lower=1.4e-2, norm="schatten4", deflation=1 / 8),
    "prism": Prism(steps=3),
    "exact prism": Prism(steps=2, sketch="exact"),
    "ritz": RitzMinimax(steps=3),
    "qdwh": QDWH(lower=1e-3),
    "zolo": ZoloPD(lower=1e-3),
    "qdwh on the range": QDWH(lower=1e-8),
    "on the range": PolarExpress(steps=30, lower=1e-8),
}


@pytest.mark.parametrize("shape", [(48, 160), (160, 48), (64, 64)], ids=str)
@pytest.mark.parametrize("name", METHODS)
def test_orthogonalize(name, shape):
    """What is multiplied elsewhere, such as the k x k matrices of a deflation, is below a seventh of one X X^T."""
    X, given = gaussian(2, *shape, seed=1).float(), Given()
    with Watch(given) as watch:
        orthogonalize(X, method=METHODS[name], products=given)
    assert watch.within > 2 * X.numel() * min(shape)
    assert max((work for work, *_ in watch.outside), default=0) <= X.numel() * min(shape) / 7, watch.outside


@pytest.mark.parametrize("engine", [Direct(), Gram(())], ids=repr)
def test_engines(engine):
    X, given = gaussian(1, 48, 160, seed=2).float(), Given()
    with Watch(given) as watch:
        orthogonalize(X, method=PolarExpress(norm="schatten4"), engine=engine, products=given)
    assert watch.within
    assert not watch.outside


@pytest.mark.parametrize("make", [Muon, PolarGrad])
def test_optimizers(make):
    weight, given = torch.nn.Parameter(gaussian(128, 256, seed=3).float()), Given()
    optimizer = make([weight], lr=0.1, products=given)
    weight.grad = gaussian(128, 256, seed=4).float()
    with Watch(given) as watch:
        optimizer.step()
    assert watch.within > 4 * 128 * 128 * 256
    assert max((work for work, *_ in watch.outside), default=0) <= 128 * 128 * 256 / 10, watch.outside
