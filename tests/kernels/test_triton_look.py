"""A look by Triton's kernels against torch: on a GPU where there is one, in triton's interpreter where not."""
# ruff: noqa: E402 -- triton may be missing, and is asked for first

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytest.importorskip("triton", reason="triton is not installed: it comes with torch for CUDA, or pip install triton")

import triton
import triton.language as tl
from offline import Request, compiled

import matfn
from matfn import Direct, Gram, RitzMinimax
from matfn.iteration.residual import Residual
from matfn.iteration.target import POLAR
from matfn.kernels import EAGER
from matfn.kernels.triton_bound import combined
from matfn.kernels.triton_look import _signed, look, sketched
from matfn.kernels.triton_quadrature import sectioned, shares, tridiagonal
from matfn.linalg.bounds import greatest_eigenvalue
from matfn.methods.ritz_minimax import fused
from matfn.methods.ritz_minimax.density import density
from matfn.methods.ritz_minimax.fused import rehearsal
from matfn.methods.ritz_minimax.kept import Kept, Looking
from matfn.methods.ritz_minimax.table import chain, rounding_loss
from matrices import gaussian, of_singular_values, spectrum

HALF = [torch.float16, torch.bfloat16]
every_dtype = pytest.mark.parametrize("dtype", [*HALF, torch.float32], ids=str)


@pytest.fixture
def kernels(monkeypatch):
    """Let the method take the kernels on a CPU, too."""
    monkeypatch.setattr(fused, "can_look", lambda M, *_: True)
    monkeypatch.setattr("matfn.methods.ritz_minimax.ritz_minimax.can_look", lambda M, *_: M.dtype != torch.float64)


def grams(n, dtype, p=2):
    """M of matrices with norm 1: Gaussian, steep, of rank 1, zero, equal values; then one with NaN."""
    A = [gaussian(n, n + 9, seed=1), of_singular_values(spectrum(n, 1e3), n, n + 9)[0]]
    A += [torch.outer(gaussian(n), gaussian(n + 9, seed=2)), torch.zeros(n, n + 9), torch.eye(n, n + 9)]
    A += [torch.full((n, n + 9), float("nan"))]
    X = torch.stack([a.double() / max(float(a.norm()), 1e-30) for a in A]).to(DEVICE, torch.float32).to(dtype)
    return X @ X.mT


def seen(residual, degrees, draw, columns=2, depth=6, zoom=1.0, **options):
    """What the kernels choose."""
    power = None
    if draw == 0:
        power = residual.square if zoom == 1 else residual.zoomed_square(zoom)
    candidates = rehearsal(residual.p, degrees, residual.roundoff, residual.M.device)
    given = dict(columns=columns, depth=depth, key=residual.key, draw=draw, measured=draw == 0)
    return look(residual.M, power, candidates, zoom=zoom, **given, **options)


def losses(residual, degrees, draw, columns=2, depth=6):
    """The loss of every candidate on the spectrum that torch sees, the first steps, and the upper end."""
    p, density_ = residual.p, density(residual, columns, depth, draw)
    top = greatest_eigenvalue(residual.M, residual.square).double() if draw == 0 else torch.ones_like(density_.least)
    top = torch.where(top > 0, top, 1.0).maximum(density_.greatest)
    steps = chain(p, degrees, residual.roundoff, residual.M.device)
    s = ((density_.nodes / top[:, None]).clamp(max=1) ** (1 / p))[..., None]
    for c in steps:
        s = s * sum(c[:, j] * s ** (p * j) for j in range(c.shape[1]))
    loss = (density_.weights[..., None] * (1 - s) ** 2).sum(1)
    return loss + (rounding_loss(p, steps, residual.roundoff) if p > 2 else 0), steps[0], top


CASES = [(2, (2, 2, 2), dtype) for dtype in (*HALF, torch.float32)]
CASES += [(2, (1, 3), torch.float32), (4, (2, 1), torch.float32), (1, (2,), torch.float32)]


@pytest.mark.parametrize(("p", "degrees", "dtype"), CASES, ids=str)
def test_the_choice_is_as_good_as_torchs(p, degrees, dtype):
    """On the spectrum that torch sees. Two candidates may lose the same up to rounding of the spectrum."""
    residual = Residual(grams(24, dtype), p)
    for draw in (0, 3):
        found = seen(residual, degrees, draw)
        loss, first, top = losses(residual, degrees, draw)
        # For equal values the bound has the root of a difference that cancels, of 8 roundings in float32.
        assert (found.top / top - 1).abs().max() <= (8 * torch.finfo(torch.float32).eps) ** 0.5
        row = found.row[:, : degrees[0] + 1].double()
        # Compositions may have the same first step, a row of the table in float32.
        same = (first[None] - row[:, None]).abs().amax(-1) <= 1e-6 * row.abs().amax(-1, keepdim=True)
        assert same.any(-1).all()
        lost = torch.where(same, loss, torch.inf).amin(-1)
        # Lanczos in float32 leaves noise where the Krylov space is exhausted: weights of zeros move by 1e-4.
        assert (lost <= loss.amin(-1) * (1 + 1e-3) + 1e-12).all()
        powers = torch.arange(row.shape[-1], device=DEVICE) + 1 / p
        scaled = row / found.top.double()[:, None] ** powers
        assert (found.coefficients[:, : degrees[0] + 1] / scaled - 1).abs().max() <= 1e-5


@pytest.mark.parametrize("n", [16, 33])
def test_the_choice_does_not_depend_on_the_launches(n):
    """One launch for all, or one for each step with the rows cut among programs; other members of the batch."""
    residual = Residual(grams(n, torch.float32), 2)
    whole, cut = (seen(residual, (2, 2), 0, alone=alone) for alone in (n, 8))
    assert torch.equal(whole.coefficients, cut.coefficients)
    one = seen(Residual(residual.M[1:2], 2), (2, 2), 0)
    assert torch.equal(whole.coefficients[1:2], one.coefficients)
    assert whole.coefficients.isfinite().all()  # the iterate keeps its NaN, the coefficients have none
    assert torch.equal(whole.row[3], whole.row[5])  # a matrix with NaN counts as a zero matrix


@pytest.mark.parametrize(("columns", "depth"), [(1, 2), (3, 4), (4, 9)])
def test_other_sketches(columns, depth):
    residual = Residual(grams(20, torch.float32)[:2], 2)
    found = seen(residual, (2, 2), 1, columns=columns, depth=depth)
    loss, first, _ = losses(residual, (2, 2), 1, columns, depth)
    same = (first[None] - found.row[:, None].double()).abs().amax(-1) <= 1e-6 * found.row.abs().amax(-1, keepdim=True)
    assert (torch.where(same, loss, torch.inf).amin(-1) <= loss.amin(-1) * (1 + 1e-3)).all()


def test_float16_measures_the_square_times_n():
    """The squares of a flat spectrum, 1/n^2 here, would be below the least numbers of float16."""
    M = (torch.eye(64, device=DEVICE) / 3e4).half()[None]
    found = seen(Residual(M, 2), (2, 2), 0, zoom=64.0)
    assert found.top.item() * 3e4 == pytest.approx(1, rel=3e-2)  # float16 holds 1/30000 to 1 %


@triton.jit
def sketch_kernel(
    out, key, draw, n, KEYED: tl.constexpr, COLUMNS: tl.constexpr, COLS: tl.constexpr, BLOCK: tl.constexpr
):
    v = sketched(key, draw, n, KEYED, COLUMNS, COLS, BLOCK)
    tl.store(out + tl.arange(0, COLS)[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :], v)


@pytest.mark.parametrize("key", [0, 7, 2**31 + 7, 2**40 - 5, 2**40 + 5, torch.tensor(2**35 + 1)], ids=str)
def test_the_sketch_is_the_residuals(key):
    """All keys are numbers of one type for triton: another type is another program."""
    n, columns = 21, 3
    S = Residual(torch.eye(n)[None], 2, key).sketch(columns, 5)
    out = torch.empty(4, 32, device=DEVICE)
    keyed = isinstance(key, torch.Tensor)
    number = key.to(DEVICE) if keyed else _signed(key)
    assert keyed or -(2**31) <= number < 2**31
    sketch_kernel[(1,)](out, number, 5, n, keyed, columns, 4, 32)
    assert (out[:columns, :n].cpu().T - S / S.norm(dim=0)).abs().max() <= 1e-6
    assert not out[columns:].any()
    assert not out[:, n:].any()


@triton.jit
def quadrature_kernel(alphas, betas, held, out, STEPS: tl.constexpr, NODES: tl.constexpr, E: tl.constexpr):
    lane = tl.arange(0, E)
    radau = (lane // NODES) % 2 == 1
    size = tridiagonal(alphas, betas, held, lane // (2 * NODES), radau, STEPS, 1, E)
    tl.debug_barrier()
    x = sectioned(held, lane % NODES, STEPS, E, 32, 11)
    tl.store(out + lane, x * size)
    tl.store(out + E + lane, shares(held, x, STEPS, E))


QUADRATURES = {
    "Laplace": ([2.0] * 6, [1.0] * 6),
    "graded": ([1.0, 1e-2, 1e-3, 1e-5, 1e-6, 1e-7], [1e-2, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8]),
    "clustered": ([1.0, 1.0, 1.0, 0.5, 0.5, 0.5], [1e-6, 1e-6, 1e-6, 1e-6, 1e-6, 1e-3]),
    "ended": ([1.0, 0.5, 0.25, 0.0, 0.0, 0.0], [0.3, 0.1, 0.0, 0.0, 0.0, 0.0]),
}


@pytest.mark.parametrize("name", QUADRATURES)
def test_quadrature_against_lapack(name):
    """Sums of weights times functions, for Gauss and Gauss-Radau. Blocks that are decoupled have no weight."""
    alphas, betas = (torch.tensor(x, dtype=torch.float32, device=DEVICE) for x in QUADRATURES[name])
    held = torch.empty(34, 16, dtype=torch.float64, device=DEVICE)
    out = torch.empty(2, 16, dtype=torch.float64, device=DEVICE)
    quadrature_kernel[(1,)](alphas, betas, held, out, 6, 8, 16)
    a, b, pivot = alphas.double().cpu(), betas.double().cpu(), 1.0
    for j in range(6):
        pivot = max(float(a[j] - (b[j - 1] ** 2 / pivot if j else 0)), float(a[0]) * torch.finfo(torch.float32).eps)
    for rule, (diagonal, off) in enumerate(((a, b[:5]), (torch.cat([a, (b[5:] ** 2 / pivot)]), b))):
        n = len(diagonal)
        values, vectors = torch.linalg.eigh(torch.diag(diagonal) + torch.diag(off, 1) + torch.diag(off, -1))
        x, w = (line[8 * rule : 8 * rule + n].cpu() for line in out)
        assert w.sum().item() == pytest.approx(1, abs=1e-6)
        for f in (lambda x: x, lambda x: x.clamp(min=0).sqrt(), lambda x: (1 + x).log()):
            # The last pivot of Radau's matrix is a difference of float32 numbers, and its rounding moves the node at 0.
            assert (w * f(x)).sum().item() == pytest.approx(float((vectors[0] ** 2 * f(values)).sum()), abs=1e-5)


@every_dtype
def test_the_combination(dtype):
    M = grams(37, dtype)[:2]
    power, numbers = M @ M, torch.tensor([[3.5, -4.0, 1.5], [1.9, -1.2, 0.4]], device=DEVICE)
    got = combined(M, 4 * power, numbers, 4.0)
    c = numbers.double()[..., None, None]
    want = (c[:, 0] - 1) * torch.eye(37, device=DEVICE) + c[:, 1] * M.double() + c[:, 2] * power.double()
    assert got.dtype == dtype
    size = (c.abs().sum(1) + 1).max()
    assert (got.double() - want).abs().max() <= size * (torch.finfo(dtype).eps + 4 * torch.finfo(torch.float32).eps)


@every_dtype
@pytest.mark.parametrize("engine", [Direct(), Gram()], ids=str)
def test_the_polar_factor(kernels, engine, dtype):
    """As near to orthogonal as with torch's steps, up to the rounding of the iteration."""
    A, _, _ = of_singular_values(spectrum(20, 30.0), 20, 31, seed=3)
    A = torch.stack([A, gaussian(20, 31, seed=4)]).float().to(DEVICE)
    got = matfn.orthogonalize(A, method=RitzMinimax(steps=4), engine=engine, precision=dtype)
    want = matfn.orthogonalize(A.double(), method=RitzMinimax(steps=4), engine=engine)
    far = [(1 - torch.linalg.svdvals(U.double())).square().mean(-1).sqrt() for U in (got, want)]
    assert (far[0] <= 1.05 * far[1] + 20 * torch.finfo(dtype).eps).all()


@every_dtype
def test_kept_steps_on_a_matrix_that_has_grown(kernels, dtype):
    """Kept steps never lift a value above their bound, whatever the matrix: here of rank 1 after a flat spectrum."""
    flat, spike = torch.eye(20, 31)[None] / 20**0.5, torch.outer(gaussian(20), gaussian(31))[None]
    method, rows = RitzMinimax(steps=4, every=5), torch.zeros(1, 4, 3, device=DEVICE)
    Direct().run(POLAR, flat.to(DEVICE, dtype), Looking(method, rows), EAGER)
    kept = Kept(method, rows, torch.finfo(dtype).eps / 2)
    for A in (spike / spike.norm(), of_singular_values(spectrum(20, 1e4), 20, 31)[0][None]):
        X = (A / A.norm()).to(DEVICE, dtype)
        got = Direct().run(POLAR, X, kept, EAGER)
        assert torch.linalg.matrix_norm(got.double(), 2).item() <= 1.3 + 20 * torch.finfo(dtype).eps


def request(capability, rows, **flags):
    block = 1 << (rows - 1).bit_length()
    warps = 8 if block <= 2048 else 16
    pointers = dict(images="*fp32", basis="*fp32", alphas="*fp32", betas="*fp32", held="*fp64", sums="*fp32")
    pointers |= dict(M="*bf16", table="*fp64", out="*fp32")
    numbers = ("key", "draw", "first", "last", "b", "n", "rows", "parts", "candidates", "left")
    constants = dict(KEYED=False, ROUNDOFF=2**-9, MEASURED=True, SQUARED=True, P=2, K=2, STEPS=6, COLUMNS=2, COLS=2)
    constants |= dict(BLOCK=block, ROWS=warps * 1024 // block if block > 512 else 16, NODES=8, E=32, POINTS=32)
    constants |= dict(ROUNDS=11, CHUNK=32, PARTS=32, **flags)
    types = {**pointers, **dict.fromkeys(numbers, "i32")}
    aligned = (*pointers, "n", "candidates")
    return Request("matfn.kernels.triton_look", "look_kernel", capability, warps, 3, types, constants, aligned)


def beside(name, capability, **constants):
    """The request of another kernel, for 1024 rows."""
    pointers = dict(M="*bf16", power="*bf16", sums="*fp32", numbers="*fp32", rows="*fp32", out="*bf16", zoom="fp32")
    types = {**pointers, **dict.fromkeys(("n", "parts", "stride"), "i32")}
    names = {
        "first_sums": ("M", "sums"),
        "second_sums": ("M", "power", "sums"),
        "combine_kernel": ("M", "power", "out"),
    }
    types |= {} if name == "scale_kernel" else {"rows": "i32"}
    types |= {"out": "*fp32"} if name == "scale_kernel" else {}
    constants = {"BLOCK": 1024, "ROWS": 8, **constants} if name != "scale_kernel" else constants
    given = (*names.get(name, ("sums", "out")), "n")
    return Request("matfn.kernels.triton_bound", name, capability, 8, 3, types, constants, given)


def reports():
    """One kernel for the whole look of 512 rows; for more rows the first step, a step, and the rest."""
    asked = [request(capability, 512, START=True, CHOOSE=True) for capability in (80, 90, 100)]
    asked += [request(90, 4096, START=start, CHOOSE=False) for start in (True, False)]
    for capability in (80, 90, 100):
        asked += [beside("first_sums", capability), beside("second_sums", capability, PARTS=32)]
        asked += [beside("combine_kernel", capability)]
        asked += [beside("scale_kernel", capability, ROUNDOFF=2**-9, SQUARED=True, K=2, PARTS=32)]
    return asked, compiled(*asked)


def test_registers_are_not_spilled():
    for asked, report in zip(*reports(), strict=True):
        most = 65536 // (32 * asked.warps)
        # The sketch takes float64 and 64 bits; its launch is one in seven.
        starts = asked.constants.get("START", False) and not asked.constants["CHOOSE"]
        assert report.spilled <= 128 * starts, asked
        assert report.registers <= min(most, 255)
        assert report.shared <= 32768
