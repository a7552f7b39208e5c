"""Triton's symmetric products against float64: on a GPU where there is one, in triton's interpreter where not."""
# ruff: noqa: E402 -- triton reads whether to interpret when it is imported

import os
import sys
from types import SimpleNamespace

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"
pytest.importorskip("triton", reason="triton is not installed: it comes with torch for CUDA, or pip install triton")

import triton
import triton.language as tl

from child import completed
from matfn import Direct, Gram, PolarExpress
from matfn.iteration.target import POLAR
from matfn.kernels import EAGER, triton_symm
from matfn.kernels.triton_symm import DTYPES, Tile, TritonSymmetric, place
from matfn.linalg.norms import prescale
from matrices import gaussian, orthogonal

SMALL = TritonSymmetric(Tile(16, 16, 4, 2))
# One entry; one tile; tiles that hang over in every direction; several rows of tiles.
SHAPES = [(1, 1), (16, 16), (33, 7), (50, 40)]
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def matrices(n, k, dtype, *, seed=0):
    """X (2, n, k) and three symmetric (2, n, n), of which M and P commute, on the device."""
    X, S = gaussian(2, n, k, seed=seed), gaussian(2, n, n, seed=seed + 1)
    M = (S + S.mT) / 2 / n**0.5
    C = gaussian(2, n, n, seed=seed + 2)
    return [A.to(DEVICE, dtype) for A in (X, M, M @ M / 2, C + C.mT)]


def assert_close(got, want, size, k):
    """k float32 additions of numbers whose magnitudes add up to `size`, and a rounding of the result to its dtype.

    The interpreter cuts digits off where a GPU rounds, so that is a whole unit in the last place.
    """
    dtype = torch.finfo(got.dtype)
    allowed = (k + 3) * torch.finfo(torch.float32).eps * size + dtype.eps * want.abs() + dtype.tiny * dtype.eps
    assert ((got.double() - want).abs() <= allowed).all()


@every_dtype
@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_a_matrix_times_its_transpose(n, k, dtype):
    X, *_ = matrices(n, k, dtype)
    for Y in (X, gaussian(2, k, n, seed=3).to(DEVICE, dtype).mT):  # as it lies in memory, and transposed
        before, got, Z = Y.clone(), SMALL.syrk(Y), Y.double()
        assert got.dtype == dtype
        assert got.is_contiguous()
        assert torch.equal(got, got.mT)
        assert_close(got, Z @ Z.mT, Z.abs() @ Z.mT.abs(), k)
        assert torch.equal(Y, before)


# One number for all, one for each, one tensor for all.
WEIGHTS = [(0.3, -2.0), (torch.tensor([0.3, 0.4])[:, None, None], torch.tensor([[[2.0]]]))]


@every_dtype
@pytest.mark.parametrize("n", [1, 16, 33])
def test_commuting_matrices(n, dtype):
    """The lower half of the product is compared: the upper one is its mirror image, the same up to rounding."""
    _, M, P, C = matrices(n, 1, dtype)
    m, p, c = (A.double() for A in (M, P, C))
    held = torch.full_like(C, 7.0), C.mT  # a symmetric matrix is read where it lies, in any order
    cases = [(SMALL.sym_mm(M, P), m @ p, m.abs() @ p.abs())]
    for alpha, beta in WEIGHTS:
        a, b = (w.to(DEVICE) if isinstance(w, torch.Tensor) else w for w in (alpha, beta))
        want = a * (m @ p) + b * c
        cases.append((SMALL.sym_addmm(held[1], M, P, alpha=a, beta=b), want, m.abs() @ p.abs() + 2 * c.abs()))
    for got, want, size in cases:
        assert got.dtype == dtype
        assert torch.equal(got, got.mT)
        assert_close(got.tril(), want.tril(), size, n)


def test_what_has_no_symmetry_is_torchs():
    X, M, *_ = matrices(20, 9, torch.float32)
    assert torch.equal(SMALL.mm(M, X), EAGER.mm(M, X))
    assert torch.equal(SMALL.addmm(X, M, X, alpha=2.0, beta=3.0), EAGER.addmm(X, M, X, alpha=2.0, beta=3.0))


@triton.jit
def walk(out, tiles, GROUP: tl.constexpr):
    t = tl.program_id(0)
    i, j = place(t, tiles, GROUP)
    tl.store(out + t, i * 1000 + j)


@pytest.mark.parametrize("tiles", [1, 2, 3, 4, 5, 13])
def test_every_tile_of_the_triangle_is_made_once(tiles):
    out = torch.empty(tiles * (tiles + 1) // 2, dtype=torch.int32, device=DEVICE)
    walk[(len(out),)](out, tiles, 4)
    assert sorted(out.tolist()) == [i * 1000 + j for i in range(tiles) for j in range(i + 1)]


def test_offsets_beyond_31_bits():
    """The third matrix begins 2^31 entries behind the first: 4 GB that are reserved and never touched between."""
    far = 2**30 + 8
    try:
        memory = torch.empty(2 * far + 64, dtype=torch.bfloat16, device=DEVICE)
    except RuntimeError:
        pytest.skip("4 GB cannot be reserved here")
    X = memory.as_strided((3, 8, 8), (far, 8, 1))
    X.copy_(gaussian(3, 8, 8, seed=4))
    close = X.clone()
    assert torch.equal(SMALL.syrk(X), SMALL.syrk(close))


@pytest.mark.parametrize("engine", [Direct(), Gram()], ids=str)
def test_the_polar_factor(engine):
    """On condition 10, against the SVD: as accurate as with torch's products."""
    U, V = orthogonal(20, seed=5), orthogonal(36, seed=6)[:20]
    A, _ = prescale(((U * torch.logspace(0, -1, 20, dtype=torch.float64)) @ V)[None])
    method = PolarExpress(steps=7).schedule(2)
    for X in (A, A.mT):
        got = engine.run(POLAR, X.to(DEVICE, torch.float32), method, SMALL)[0].double().cpu()
        want = U @ V if X is A else (U @ V).mT
        # The steps end within 1e-7; a step rounds by n eps at most, and the smallest value is lifted ten times.
        assert torch.linalg.matrix_norm(got - want, 2) <= 7 * 20 * 10 * torch.finfo(torch.float32).eps


def test_an_empty_batch():
    assert SMALL.syrk(torch.empty(0, 5, 3, device=DEVICE)).shape == (0, 5, 5)


def test_float64_is_refused():
    with pytest.raises(TypeError, match=r"got torch\.float64: take EAGER"):
        SMALL.syrk(torch.empty(1, 5, 3, dtype=torch.float64, device=DEVICE))


def test_no_derivative_is_lost():
    X = torch.ones(1, 4, 4, device=DEVICE, requires_grad=True)
    with pytest.raises(RuntimeError, match="has no derivative: take EAGER"):
        SMALL.syrk(X)
    with torch.no_grad():
        assert not SMALL.syrk(X).requires_grad


def stand_in(rows, dtype=torch.bfloat16):
    """What the choice sees of a tensor on a GPU, which need not exist for it."""
    shape, stride = torch.Size((3, rows, 2 * rows)), (2 * rows * rows, 2 * rows, 1)
    return SimpleNamespace(
        device=torch.device("cuda"), dtype=dtype, shape=shape, requires_grad=False, stride=lambda i: stride[i]
    )


def test_the_quickest_tile_is_kept(monkeypatch):
    """By kind: dtype, order in memory, and sizes up to a factor of two."""
    monkeypatch.setattr(triton_symm, "_CHOSEN", {})
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(triton_symm, "_milliseconds", lambda work: work())
    tried = []

    def launch(tile):
        tried.append(tile)
        return abs(tile.size - 100) + tile.depth

    def quickest(*given):
        return triton_symm._quickest(stand_in(*given), stand_in(*given), launch)

    assert quickest(700) == quickest(1000) == Tile(128, 32, 4, 4)
    assert tried == list(triton_symm.TILES)
    quickest(1100)
    assert quickest(1000, torch.float32) in triton_symm.TILES_WIDE
    assert len(tried) == 3 * len(triton_symm.TILES)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    quickest(1000)
    with pytest.raises(RuntimeError, match="run the step once before"):
        quickest(5000)


NATIVE = """
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from matfn.kernels.triton_symm import TILES, TritonSymmetric, symmetric_product

if not torch.cuda.is_available():
    try:
        TritonSymmetric().syrk(torch.ones(1, 2, 2))
    except RuntimeError as error:
        assert "take Blocked()" in str(error), error
    else:
        raise SystemExit("a tensor on a CPU was taken")
tile, names = TILES[0], symmetric_product.arg_names
given = dict(ADD=True, ALPHAS=True, BETAS=False, WIDEN=False, SIZE=tile.size, DEPTH=tile.depth, GROUP=8)
given |= dict(a_column=1, b_row=1, c_column=1)
kinds = dict(A="*bf16", B="*bf16", C="*bf16", out="*bf16", alpha="*fp32", beta="fp32")
whole = ("A", "B", "C", "out", "n", "k", "a_row", "b_column", "c_row", "a_batch", "b_batch", "c_batch")
source = ASTSource(
    symmetric_product,
    {name: "constexpr" if name in given else kinds.get(name, "i32") for name in names},
    {(names.index(name),): value for name, value in given.items()},
    {(names.index(name),): [["tt.divisibility", 16]] for name in whole},
)
made = compile(source, target=GPUTarget("cuda", 90, 32), options=dict(num_warps=tile.warps, num_stages=tile.stages))
assert "wgmma.mma_async" in made.asm["ptx"]  # Hopper's own matrix instruction
assert "cp.async.cg" in made.asm["ptx"]  # 16 bytes at a time
assert made.metadata.shared <= 98304, made.metadata.shared
"""


@pytest.mark.skipif(sys.platform != "linux", reason="triton compiles for CUDA on Linux")
def test_it_compiles_for_a_gpu_that_is_not_there(tmp_path):
    """For compute capability 9.0, by the compiler that comes with triton; and a CPU without interpreter is refused."""
    without = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    env = {**without, "OMP_NUM_THREADS": "1", "TRITON_CACHE_DIR": str(tmp_path)}
    done = completed([sys.executable, "-c", NATIVE], env=env)
    assert done.returncode == 0, done.stderr[-3000:]
