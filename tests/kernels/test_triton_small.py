"""Triton's kernels for the k x k matrices of deflation against float64: on a GPU, or in triton's interpreter."""
# ruff: noqa: E402 -- triton may be missing, and is asked for first

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytest.importorskip("triton", reason="triton is not installed: it comes with torch for CUDA, or pip install triton")

from offline import Request, compiled

from matfn.kernels import triton_small
from matfn.kernels.triton_small import LEAST_PHI, MOST_ROWS, RIDGE, root_terms, thin_product, whitening
from matfn.minimax.zolotarev import zolotarev
from matfn.run import preparation
from matrices import gaussian, orthogonal

EPS = torch.finfo(torch.float32).eps
SIZES = [1, 2, 15, 16, 17, 24, 40]  # one block of 16 rows, more, and parts of blocks
BEST = 0.9865  # least ratio of F to the inverse root, see `test_the_poles`


def eye(k):
    return torch.eye(k, dtype=torch.float64, device=DEVICE)


def trace(A):
    return A.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]


def with_spectrum(values, seed=0):
    """Symmetric matrices with these eigenvalues, in float32."""
    values = torch.stack(values).double().to(DEVICE)
    Q = orthogonal(values.shape[-1], seed=seed).double().to(DEVICE)
    A = (Q * values[:, None]) @ Q.mT
    return ((A + A.mT) / 2).float()


@pytest.mark.parametrize("k", SIZES)
def test_whitening(k):
    """Columns of very different lengths. Cholesky's error is relative to the matrix with equal columns."""
    Y = gaussian(2, 5 * k, k, seed=k).to(DEVICE) * torch.logspace(0, -2.5, k, device=DEVICE) * 100
    G = (Y.mT @ Y).float()
    W = whitening(G)
    assert torch.equal(W, W.triu())
    M = G.double() + RIDGE * trace(G.double()) * eye(k)
    lengths = M.diagonal(dim1=-2, dim2=-1).rsqrt()
    condition = torch.linalg.cond(lengths[:, :, None] * M * lengths[:, None])
    error = torch.linalg.matrix_norm(W.double().mT @ M @ W.double() - eye(k), 2)
    assert (error <= (k + 5) * k**0.5 * condition * EPS).all()


def hard_grams(k):
    """Rank one, zero, six decades, equal values; then negative values as by rounding, below the ridge and above it."""
    first = torch.zeros(k)
    first[0] = 1
    decades = torch.logspace(0, -12, k)
    ridge = RIDGE * decades.sum()
    return [first * 1e6, first * 0, decades, torch.ones(k) * 1e-6, decades - 0.6 * ridge, decades - 5 * ridge]


@pytest.mark.filterwarnings("ignore:invalid value encountered in sqrt")  # of a pivot that is dropped
@pytest.mark.parametrize("k", [2, 24, 40])
def test_whitening_of_deficient_matrices(k):
    """W exists, and W^T G W <= I, up to the rounding of the largest eigenvalue."""
    G = with_spectrum(hard_grams(k))
    W = whitening(G).double()
    assert W.isfinite().all()
    assert torch.allclose(W[1], eye(k) * RIDGE**-0.5)
    values = torch.linalg.eigvalsh(W.mT @ G.double() @ W)
    assert (values[:5] <= 1 + EPS / RIDGE).all()


def test_strides_and_other_matrices_change_nothing():
    G = with_spectrum([torch.logspace(0, -3, 20), torch.ones(20)])
    want = whitening(G)
    assert torch.equal(whitening(G.mT.contiguous().mT), want)
    assert torch.equal(whitening(G[1:])[0], want[1])  # no matrix depends on another one


def root_of_change(K, h, phi):
    """B^(1/2) for B = I + K / (h c^2), in float64 with c^2 in float32: the rounding of the trace is no error of F."""
    k = K.shape[-1]
    c2 = ((1 - trace(K) / h) / k).clamp_min(phi**2)
    values, vectors = torch.linalg.eigh(K.double() / (h * c2.double()) + eye(k))
    return (vectors * values.clamp_min(0.5).sqrt()[:, None]) @ vectors.mT


def spectra(k):
    """A flat one, a power law, rank one with all of the norm, six decades, nothing."""
    first = torch.zeros(k)
    first[0] = 1
    law, decades = torch.arange(1, k + 1) ** -1.5, torch.logspace(0, -12, k)
    return [torch.full((k,), 1 / k / 40), 0.9 * law / law.sum(), first, decades / decades.sum(), first * 0]


@pytest.mark.parametrize("k", [1, 2, 17, 24])
def test_the_inverse_root(k):
    """F B^(1/2) lies between the ends of Zolotarev's function, up to rounding relative to the largest entry of B."""
    h = 2.0**14
    K = with_spectrum([h * s for s in spectra(k)], seed=k)
    T = root_terms(K, h, LEAST_PHI)
    assert T.shape == (5, 4, k, k)
    F = T.double().sum(1) + eye(k)
    values, vectors = torch.linalg.eigh(root_of_change(K, h, LEAST_PHI))
    half = (vectors * values.sqrt()[:, None]) @ vectors.mT
    ratio = torch.linalg.eigvalsh(half @ F @ half)
    slack = (k**0.5 + 2) * EPS * values.amax(-1, keepdim=True) ** 2
    assert (ratio >= BEST - slack).all()
    assert (ratio <= 1 + slack).all()
    own = torch.linalg.eigvalsh((F + F.mT) / 2)
    assert (own > 0).all()
    assert (own < 1).all()


@pytest.mark.parametrize("decades", [0.0, 1.0, 2.0, 4.0])
def test_the_change_is_positive_definite_and_shrinks(decades):
    """I + P (F - I) P^T with P in float16 from `whitening`, on matrices that are nearly of rank k = 20."""
    n, k, h = 60, 20, 2.0**14
    X = gaussian(1, n, 200, seed=7)
    X = torch.linalg.svd(X, full_matrices=False)
    values = torch.cat([torch.logspace(0, -decades, k), torch.full((n - k,), 1e-4)])
    X = (X.U * values) @ X.Vh
    X = X / torch.linalg.matrix_norm(X, keepdim=True) * 2.0**7
    H = X.to(DEVICE, torch.float16)
    S = H.float().mT @ gaussian(1, n, k, seed=8).to(DEVICE).float()  # a sketch
    Y = H.float() @ S / h
    P = thin_product(Y, whitening(Y.mT @ Y), torch.float16)
    P = thin_product(P, whitening(P.float().mT @ P.float()), torch.float16)
    R = P.mT.float() @ H.float()
    C = root_terms(R @ R.mT, h, LEAST_PHI).double().sum(1)
    P = P.double()
    D = torch.linalg.eigvalsh(torch.eye(n, dtype=torch.float64, device=DEVICE) + P @ ((C + C.mT) / 2) @ P.mT)
    assert D.min() > 0
    assert D.max() <= 1 + 1e-12


def test_a_nan_stays_in_its_matrix():
    G = with_spectrum([torch.logspace(0, -3, 18), torch.ones(18), torch.logspace(0, -2, 18)])
    broken = G.clone()
    broken[1, 3, 5] = broken[1, 5, 3] = torch.nan
    for function in (whitening, lambda A: root_terms(A, 64.0, LEAST_PHI)):
        got = function(broken)
        assert got[1].isnan().any()
        assert torch.equal(got[[0, 2]], function(G[[0, 2]]))


def test_the_poles():
    """The literals are Zolotarev's function of four poles on [1, 1.05 (1 + 1 / phi^2)], from another file."""
    top = 1.05 * (1 + LEAST_PHI**-2)
    best, _ = zolotarev(4, top**-0.5)
    given = [[getattr(triton_small, f"{name}{t}").value for t in range(4)] for name in "SW"]
    assert given[0] == pytest.approx([s * top for s in best.shifts], rel=1e-8)
    assert given[1] == pytest.approx([w * top**0.5 for w in best.weights], rel=1e-8)
    assert triton_small.CONSTANT.value == pytest.approx(best.constant * top**-0.5, rel=1e-8)
    assert best.image >= BEST
    assert tuple(zip(*given, strict=True)) == preparation.POLES  # torch's form, which serves where no kernel does
    assert (triton_small.CONSTANT.value, LEAST_PHI) == (preparation.CONSTANT, preparation.LEAST)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("n", "k"), [(1, 1), (70, 5), (64, 16), (130, 33)])
def test_the_thin_product(n, k, dtype):
    Y = gaussian(2, n, k, seed=1).to(DEVICE, dtype)
    A = gaussian(8, k, k, seed=2).to(DEVICE, torch.float32)
    for stack, terms in ((A[:2], A[:2, None]), (A.view(2, 4, k, k), A.view(2, 4, k, k))):
        for Z in (Y, Y.mT.contiguous().mT):
            for precision in (torch.float32, torch.float16):
                got = thin_product(Z, stack, precision)
                want = Y.double() @ terms.double().sum(1)
                size = Y.double().abs() @ terms.double().abs().sum(1)
                # Three TF32 products drop terms of 2^-22; k + 4 additions. The interpreter cuts digits off.
                allowed = (4 + k + 4) * EPS * size + torch.finfo(precision).eps * want.abs() + 1e-7
                assert got.dtype == precision
                assert ((got.double() - want).abs() <= allowed).all()


def test_an_empty_stack():
    nothing = torch.empty(0, 5, 5, device=DEVICE)
    assert whitening(nothing).shape == (0, 5, 5)
    assert root_terms(nothing, 1.0, LEAST_PHI).shape == (0, 4, 5, 5)
    assert thin_product(torch.empty(0, 7, 5, device=DEVICE), nothing, torch.float16).shape == (0, 7, 5)


def test_bad_input_is_refused():
    G = torch.ones(1, 4, 4, device=DEVICE)
    with pytest.raises(TypeError, match=r"whitening takes \(b, k, k\) in float32, got \(1, 4, 4\) in torch\.float64"):
        whitening(G.double())
    with pytest.raises(TypeError, match=r"root_terms takes \(b, k, k\) in float32, got \(1, 4, 3\)"):
        root_terms(G[:, :, :3], 1.0, LEAST_PHI)
    with pytest.raises(ValueError, match="whitening takes at most 128 rows, got 129: take torch's decompositions"):
        whitening(torch.ones(1, MOST_ROWS + 1, MOST_ROWS + 1, device=DEVICE))
    with pytest.raises(ValueError, match=r"poles for phi >= 0\.00390625, got 0\.001"):
        root_terms(G, 1.0, 0.001)
    with pytest.raises(RuntimeError, match="has no derivative"):
        whitening(G.requires_grad_())


def request(name, capability, warps, *, Y="*fp32", out="*fp32", **constants):
    if name == "invert":
        kinds = {"G": "*fp32", "out": "*fp32", "h": "fp32", "phi2": "fp32", "k": "i32", "ridge": "fp32"}
        whole = ("G", "out")
    else:
        kinds = {"Y": Y, "A": "*fp32", "out": out}
        kinds |= dict.fromkeys(("n", "k", "blocks", "y_batch", "y_row", "y_column"), "i32")
        whole = ("A", "Y", "n", "out", "y_batch")
    whole = tuple(n for n in whole if n not in constants)
    return Request("matfn.kernels.triton_small", name, capability, warps, 3, kinds, constants, whole)


def test_matrices_stay_in_registers():
    """No spills up to 64 rows; at 128 rows at most 16 registers of a thread."""
    hopper = [request("invert", 90, warps, TERMS=4, K=K, BLOCK=16) for K, warps in triton_small.WARPS.items()]
    hopper += [request("invert", 90, triton_small.WARPS[K], TERMS=1, K=K, BLOCK=16) for K in (64, 128)]
    hopper.append(request("invert", 90, 1, TERMS=4, K=16, BLOCK=16, k=1))  # triton specialises 1
    hopper.append(request("multiply", 90, 4, Y="*fp16", out="*fp16", TERMS=4, K=128, ROWS=64, y_column=1))
    others = [request("invert", c, triton_small.WARPS[K], TERMS=4, K=K, BLOCK=16) for c in (80, 100) for K in (64, 128)]
    asked = hopper + others
    for question, report in zip(asked, compiled(*asked), strict=True):
        assert report.spilled <= (64 if question.constants["K"] == 128 else 0), (question, report)
        assert report.shared <= 40_000, (question, report)
