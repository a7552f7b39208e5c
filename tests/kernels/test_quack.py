"""Quack's symmetric products: what they hand to the package, which refuses as much here as quack 0.5 does on a GPU."""

import sys
from dataclasses import dataclass, field
from types import ModuleType

import pytest
import torch

from matfn.kernels import EAGER, quack
from matfn.kernels.products import Eager
from matfn.kernels.quack import QuackSymmetric
from matrices import gaussian

REAL = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (9, 0)
DEVICE = "cuda" if REAL else "cpu"
HALF = [torch.float16, torch.bfloat16]
every_dtype = pytest.mark.parametrize("dtype", HALF, ids=str)


def refuse(A, B, C, alpha, beta):
    """What quack 0.5.0 cannot take: it reads 16 bytes at a time, along rows or columns, and floats as weights."""
    given = [A, B] if C is None else [A, B, C]
    assert {x.ndim for x in given} == {3}
    assert len({x.dtype for x in given} & set(HALF)) == len({x.dtype for x in given}) == 1
    (batch, n, k), more = A.shape, () if C is None else (C.shape,)
    assert (B.shape, *more) == ((batch, k, n), *((batch, n, n) for _ in more))
    for x in given:
        assert x.data_ptr() % 16 == 0
        steps = list(x.stride())
        steps.remove(1)
        assert 1 not in steps[1:]
        assert all(step > 0 and step % 8 == 0 for step in steps)
    assert n % 8 == 0  # the result has rows of n entries
    assert type(alpha) is type(beta) is float  # anything else is taken for a tensor


@pytest.fixture
def calls(monkeypatch):
    """A stand-in for quack in float32, which notes the arguments of each call; a card of sm_90 that is not there."""
    made = []

    def gemm_symmetric(A, B, C=None, out=None, out_dtype=None, dynamic_scheduler=False, alpha=1.0, beta=1.0):
        refuse(A, B, C, alpha, beta)
        made.append((A, B, C, alpha, beta))
        total = alpha * (A.float() @ B.float())
        total = total if C is None else total + beta * C.float()
        return (total.tril() + total.tril(-1).mT).to(A.dtype)

    package, interface = ModuleType("quack"), ModuleType("quack.gemm_interface")
    interface.gemm_symmetric = gemm_symmetric
    monkeypatch.setitem(sys.modules, "quack", package)
    monkeypatch.setitem(sys.modules, "quack.gemm_interface", interface)
    monkeypatch.setattr(quack, "_unfit", lambda device: None)
    quack._imported.cache_clear()
    yield made
    quack._imported.cache_clear()


def assert_close(got, want, size, k):
    """k + 3 float32 roundings of the sum of magnitudes, and a unit in the last place of the result."""
    unit = torch.finfo(got.dtype)
    allowed = (k + 3) * torch.finfo(torch.float32).eps * size + unit.eps * want.abs() + unit.tiny
    assert ((got.double() - want).abs() <= allowed).all()


def symmetric(n, dtype, seed):
    S = gaussian(2, n, n, seed=seed)
    return ((S + S.mT) / 2 / n**0.5).to(DEVICE, dtype)


def layouts(b, n, k, dtype):
    """The same kind of matrix as it can lie in memory."""
    yield gaussian(b, n, k, seed=1).to(DEVICE, dtype)
    yield gaussian(b, k, n, seed=2).to(DEVICE, dtype).mT
    yield gaussian(b, n, 2 * k, seed=3).to(DEVICE, dtype)[..., ::2]  # neither rows nor columns lie together
    yield gaussian(b, n, k + 1, seed=4).to(DEVICE, dtype)[..., 1:]  # rows begin anywhere
    yield gaussian(1, n, k, seed=5).to(DEVICE, dtype).expand(b, n, k)
    yield gaussian(n, b, k, seed=6).to(DEVICE, dtype).transpose(0, 1)


@every_dtype
@pytest.mark.parametrize(("b", "n", "k"), [(2, 24, 40), (1, 8, 16), (3, 16, 8)])
def test_a_matrix_times_its_transpose(calls, b, n, k, dtype):
    for X in layouts(b, n, k, dtype):
        before, got, Z = X.clone(), QuackSymmetric().syrk(X), X.double()
        assert_close(got, Z @ Z.mT, Z.abs() @ Z.mT.abs(), k)
        assert torch.equal(got, got.mT)
        assert torch.equal(X, before)
    assert len(calls) == 6
    assert all(A.data_ptr() == B.data_ptr() for A, B, *_ in calls)  # one copy serves both factors
    assert calls[0][0].stride()[1:] == (k, 1)
    assert calls[1][0].stride()[1:] == (1, n)  # columns that lie together are not copied


@every_dtype
@pytest.mark.parametrize(("alpha", "beta"), [(0.3, -2.0), (1, 2), (1.0, 0.5)])
def test_products_and_sums(calls, alpha, beta, dtype):
    M, C = symmetric(24, dtype, 3), symmetric(24, dtype, 5)
    m, c = M.double(), C.double()
    products = QuackSymmetric()
    assert_close(products.sym_mm(M, M.mT), m @ m, m.abs() @ m.abs(), 24)
    got = products.sym_addmm(C, M, M, alpha=alpha, beta=beta)
    assert_close(got, alpha * (m @ m) + beta * c, abs(alpha) * (m.abs() @ m.abs()) + abs(beta) * c.abs(), 24)
    assert [call[3:] for call in calls] == [(1.0, 1.0), (float(alpha), float(beta))]


@dataclass(frozen=True)
class Noted(Eager):
    """Products that note their names."""

    made: list = field(default_factory=list, hash=False)

    def mm(self, A, B):
        self.made.append("mm")
        return super().mm(A, B)

    def addmm(self, C, A, B, *, alpha, beta):
        self.made.append("addmm")
        return super().addmm(C, A, B, alpha=alpha, beta=beta)


def test_the_rest_goes_to_other_products(calls):
    """Sizes without whole pieces of 16 bytes, weights that are tensors, and results without symmetry."""
    others = Noted()
    products = QuackSymmetric(others)
    X, M = gaussian(2, 24, 12, seed=1).half(), symmetric(24, torch.float16, 2).cpu()
    odd = symmetric(25, torch.float16, 3).cpu()
    weight = torch.full((2, 1, 1), 0.5)
    assert torch.equal(products.syrk(X), EAGER.syrk(X))
    assert torch.equal(products.sym_mm(odd, odd), EAGER.sym_mm(odd, odd))
    for alpha, beta in ((weight, 1.0), (2.0, weight)):
        want = EAGER.sym_addmm(M, M, M, alpha=alpha, beta=beta)
        assert torch.equal(products.sym_addmm(M, M, M, alpha=alpha, beta=beta), want)
    products.sym_addmm(odd, odd, odd, alpha=1.0, beta=1.0)
    products.mm(M, X)
    products.addmm(X, M, X, alpha=1.0, beta=2.0)
    assert others.made.count("addmm") == 4
    assert others.made[:2] == ["mm", "mm"]
    assert not calls


def test_what_is_refused(calls, monkeypatch):
    products = QuackSymmetric()
    with pytest.raises(TypeError, match=r"QuackSymmetric takes torch.float16, torch.bfloat16, got torch.float32: take"):
        products.syrk(torch.ones(1, 8, 8))
    X = torch.ones(1, 8, 8, dtype=torch.bfloat16, requires_grad=True)
    with pytest.raises(RuntimeError, match="QuackSymmetric has no derivative: take EAGER"):
        products.syrk(X)
    with torch.no_grad():
        assert not products.syrk(X).requires_grad
    monkeypatch.undo()
    with pytest.raises(RuntimeError, match="GPU of sm_90 or newer, got a tensor on cpu: take EAGER"):
        products.syrk(X.detach().cpu())


def test_an_older_card_is_refused(monkeypatch):
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    quack._unfit.cache_clear()
    assert quack._unfit(torch.device("cuda", 0)) == "a GPU of sm_89"
    quack._unfit.cache_clear()


def test_a_missing_package_is_named(calls, monkeypatch):
    monkeypatch.setitem(sys.modules, "quack.gemm_interface", None)
    with pytest.raises(ImportError, match=r'needs the package quack-kernels.*pip install "matfn\[hopper\]", or take'):
        QuackSymmetric().syrk(torch.ones(1, 8, 8, dtype=torch.float16))


def test_empty_stacks(calls):
    assert QuackSymmetric().syrk(torch.empty(0, 8, 16, dtype=torch.float16)).shape == (0, 8, 8)
    assert QuackSymmetric().syrk(torch.empty(2, 0, 16, dtype=torch.float16)).shape == (2, 0, 0)


@pytest.mark.skipif(not REAL, reason="needs a GPU of sm_90 or newer")
@every_dtype
def test_the_package_itself(dtype):
    pytest.importorskip("quack", reason="quack-kernels is not installed: pip install matfn[hopper]")
    for X in layouts(2, 264, 136, dtype):
        got, Z = QuackSymmetric().syrk(X), X.double()
        assert_close(got, Z @ Z.mT, Z.abs() @ Z.mT.abs(), 136)
        assert torch.equal(got, got.mT)
    M, C = symmetric(264, dtype, 3), symmetric(264, dtype, 5)
    m, c = M.double(), C.double()
    got = QuackSymmetric().sym_addmm(C, M, M, alpha=0.3, beta=-2.0)
    assert_close(got, 0.3 * (m @ m) - 2.0 * c, 0.3 * (m.abs() @ m.abs()) + 2.0 * c.abs(), 264)
