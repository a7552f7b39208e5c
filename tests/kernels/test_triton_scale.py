"""Triton's passes for norm, division, cast and sketch against float64: on a GPU, or in triton's interpreter."""
# ruff: noqa: E402 -- triton may be missing, and is asked for first

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytest.importorskip("triton", reason="triton is not installed: it comes with torch for CUDA, or pip install triton")

import triton
import triton.language as tl
from offline import Request, compiled

from matfn.kernels import triton_scale
from matfn.kernels.triton_scale import DTYPES, cosine_of_square, scaled
from matfn.linalg.norms import prescale
from matrices import gaussian

EPS = torch.finfo(torch.float32).eps
# The norm is a sum of at most 32 terms in a thread, 3 + 5 + 3 levels over threads, 9 over parts; half of it for the
# root. The factor, two products and the sketch's own sum of up to 33 terms add to it.
ROUNDING = 60 * EPS
# Wide, tall, one entry, one row, one column; more entries than a tile; more columns than a tile of the sketch.
SHAPES = [(20, 50), (50, 20), (1, 1), (1, 40), (40, 1), (33, 1100), (70, 70)]
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def layouts(b, m, n, dtype, seed=0):
    """The same kind of stack as it lies in memory after several operations."""
    A = gaussian(b, m, n, seed=seed).to(DEVICE, dtype)
    wider = torch.full((b, m + 3, n + 5), 7.0, dtype=dtype, device=DEVICE)
    wider[:, 1 : m + 1, 2 : n + 2] = A
    yield from (A, A.mT.contiguous().mT, wider[:, 1 : m + 1, 2 : n + 2], A[:1].expand(b, m, n))
    yield A.transpose(0, 1).contiguous().transpose(0, 1)


def oracle(A, factor, k):
    """X and sketch in float64."""
    A = A.double()
    norm = torch.linalg.matrix_norm(A, keepdim=True)
    X = factor * A / torch.where(norm == 0, 1.0, norm)
    H = X if X.shape[-2] <= X.shape[-1] else X.mT
    length = H.shape[-2] // k if k else 0
    weights = torch.arange(1, length + 1, dtype=torch.float64, device=A.device).square().cos()
    rows = H[:, : k * length].unflatten(1, (k, length)) if k else H[:, :0, None]
    return X, (rows * weights[:, None]).sum(2)


def assert_close(got, want, size):
    """The rounding of float32 arithmetic relative to `size`, and one rounding to the dtype of the result.

    The interpreter cuts digits off where a GPU rounds, so that is a whole unit in the last place.
    """
    kind = torch.finfo(got.dtype)
    allowed = ROUNDING * size + kind.eps * want.abs() + kind.tiny * kind.eps
    assert ((got.double() - want).abs() <= allowed).all()


@every_dtype
@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_the_quotient_the_norm_and_the_sketch(m, n, dtype):
    for number, A in enumerate(layouts(2, m, n, dtype)):
        before, precision, k = A.clone(), DTYPES[number % 3], (min(m, n) // 3, 0, 1)[number % 3]
        got = scaled(A, precision, factor=8.0, sketch=k)
        X, S = oracle(A, 8.0, k)
        assert got.X.dtype == got.sketch.dtype == precision
        assert_close(got.X, X, X.abs())
        assert_close(got.sketch, S, 8.0)  # a sum of entries of a matrix of norm 8, with weights below 1
        assert got.sketch.is_contiguous()
        assert torch.equal(got.peak, A.abs().amax((-2, -1), keepdim=True).float())
        norm = torch.linalg.matrix_norm(A.double(), keepdim=True) / got.peak.double()
        assert ((got.norm - norm).abs() <= ROUNDING * norm).all()
        assert (got.norm >= 1 - EPS).all()
        assert torch.equal(A, before)


def test_the_result_lies_in_memory_as_the_argument():
    A, transposed, *_ = layouts(2, 20, 50, torch.float32)
    assert scaled(A, torch.float16).X.stride() == A.stride()
    assert scaled(transposed, torch.float16, sketch=3).X.stride() == transposed.stride()


def test_powers_of_two_change_no_bit():
    A = gaussian(1, 30, 40, seed=1).to(DEVICE, torch.float32)
    exponents = [-100, -40, 0, 40, 100]
    got = scaled(torch.cat([A * 2.0**e for e in exponents]), torch.float32, sketch=4)
    for X, S, norm in zip(got.X, got.sketch, got.norm, strict=True):
        assert torch.equal(X, got.X[2])
        assert torch.equal(S, got.sketch[2])
        assert torch.equal(norm, got.norm[2])
    assert torch.equal(got.peak.flatten(), got.peak[2].flatten() * torch.tensor([2.0**e for e in exponents]).to(DEVICE))


@pytest.mark.parametrize("scale", [1e-42, 1e-38, 1e-30, 1e-20, 1e20, 1e30, 3e37])
def test_squares_neither_overflow_nor_underflow(scale):
    A = (gaussian(2, 30, 40, seed=2).to(DEVICE) * scale).float()
    got, (X, _) = scaled(A, torch.float32, sketch=2), oracle(A, 1.0, 2)
    assert_close(got.X, X, X.abs())
    assert torch.equal(got.peak, A.abs().amax((-2, -1), keepdim=True))
    norm = torch.linalg.matrix_norm(A.double(), keepdim=True)
    assert ((got.norm * got.peak.double() - norm).abs() <= ROUNDING * norm).all()
    if 1e-30 <= scale <= 1e30:  # the norm is a normal float32 number
        assert ((got.size - norm).abs() <= ROUNDING * norm).all()


def test_one_large_entry_among_small_ones():
    """Parts with small peaks are lost beside the part with the large one, without a NaN."""
    A = torch.full((1, 100, 200), 1e-30, device=DEVICE)
    A[0, 70, 150] = 1e30
    got = scaled(A, torch.float32)
    assert got.X[0, 70, 150] == 1
    assert (got.norm, got.peak) == (1, 1e30)
    assert got.X.count_nonzero() == 1  # 1e-60 is zero in float32


def test_zero_nan_and_infinity_stay_in_their_matrix():
    A = gaussian(6, 20, 700, seed=3).to(DEVICE, torch.float32)
    A[1] = 0
    A[2, 19, 699] = torch.nan
    A[3, 0, 0] = torch.inf
    A[4, 7, 3], A[4, 0, 0] = -torch.inf, torch.nan
    got, (X, scale) = scaled(A, torch.float32, sketch=4), prescale(A)
    alone = scaled(A[[0, 5]], torch.float32, sketch=4)
    assert got.X[[2, 3, 4]].isnan().all()
    assert got.sketch[[2, 3, 4]].isnan().all()
    assert not got.X[1].any()
    assert not got.sketch[1].any()
    for mine, single in zip(got, alone, strict=True):
        assert torch.equal(mine[[0, 5]], single)  # no matrix depends on another one
    assert torch.equal(got.X.isnan(), X.isnan())
    torch.testing.assert_close(got.peak, scale.peak, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(got.norm, scale.norm, rtol=ROUNDING, atol=0, equal_nan=True)


def test_large_magnitudes_in_half_precision():
    """float16 holds 65504; the square of it overflows float16, the sum of the squares does not overflow float32."""
    A = torch.full((1, 16, 64), 65504.0, dtype=torch.float16, device=DEVICE)
    got = scaled(A, torch.float16, factor=32.0)
    assert torch.equal(got.X, torch.ones_like(A))
    assert abs(got.norm - 32) <= 32 * EPS


@triton.jit
def weigh(out, COUNT: tl.constexpr):
    r = tl.arange(0, COUNT)
    tl.store(out + r, cosine_of_square(r))


def test_the_weights_of_long_sums():
    """Cosines of integers up to 4 million."""
    got = torch.empty(2048, device=DEVICE)
    weigh[(1,)](got, 2048)
    want = torch.arange(2048, dtype=torch.float64, device=DEVICE).square().cos()
    error = (got - want).abs()
    assert error[:1024].max() <= 6e-7
    assert error.max() <= 2e-6


class Counted:
    """A kernel that counts its launches."""

    def __init__(self, kernel):
        self.kernel, self.launches = kernel, 0

    def __getitem__(self, grid):
        self.launches += 1
        return self.kernel[grid]


@pytest.mark.parametrize("b", [1, 7])
def test_two_launches(b, monkeypatch):
    kernels = {name: Counted(getattr(triton_scale, name)) for name in ("reduce_parts", "write_scaled")}
    for name, kernel in kernels.items():
        monkeypatch.setattr(triton_scale, name, kernel)
    scaled(gaussian(b, 9, 30).to(DEVICE, torch.float32), torch.float16, sketch=2)
    assert [k.launches for k in kernels.values()] == [1, 1]


def test_an_empty_stack():
    for shape in ((0, 5, 3), (2, 0, 3), (2, 3, 0)):
        got = scaled(torch.empty(shape, device=DEVICE), torch.float16)
        assert (got.X.shape, got.X.dtype) == (shape, torch.float16)
        assert (got.norm == 1).all()


def test_bad_input_is_refused():
    A = torch.ones(1, 4, 6, device=DEVICE)
    with pytest.raises(TypeError, match=r"scaled takes and gives .*, got torch\.float64 .*take prescale"):
        scaled(A.double(), torch.float16)
    with pytest.raises(TypeError, match=r"precision torch\.float64"):
        scaled(A, torch.float64)
    with pytest.raises(ValueError, match=r"at most 4 sums of rows of \(1, 4, 6\), got 5"):
        scaled(A, torch.float16, sketch=5)
    with pytest.raises(RuntimeError, match="has no derivative: take prescale"):
        scaled(A.requires_grad_(), torch.float16)


INTEGERS = (
    *("rows", "columns", "length", "sketched", "parts", "spread"),
    *("a_batch", "a_row", "a_column", "x_batch", "x_row", "x_column"),
)
REDUCED = {"A", "partial", "rows", "columns", "parts", "a_batch", "a_row", "a_column"}


def request(name, capability, *, argument="*fp32", **constants):
    kinds = {"A": argument, "X": "*fp16", "S": "*fp16", "factor": "fp32", **dict.fromkeys(INTEGERS, "i32")}
    kinds |= dict.fromkeys(("partial", "peak_to", "norm_to", "size_to"), "*fp32")
    if name == "reduce_parts":
        kinds = {key: kind for key, kind in kinds.items() if key in REDUCED}
    whole = set(kinds) - {"factor", "sketched", "parts", "spread"} - set(constants)
    return Request("matfn.kernels.triton_scale", name, capability, 8, 3, kinds, constants, tuple(sorted(whole)))


def test_the_compiler_needs_few_registers_and_moves_sixteen_bytes_at_a_time():
    """64 registers and 256 threads: four programs on a processor. By row and by column, in float32 and bfloat16."""
    asked = []
    for capability in (80, 90, 100):
        asked.append(request("reduce_parts", capability, rows=1, a_column=1, ROWS=1, COLUMNS=8192))
        for one in (("a_column", "x_column"), ("a_row", "x_row")):
            shape = dict(SKETCH=True, PARTS=512, ROWS=32, COLUMNS=128)
            asked.append(request("write_scaled", capability, **dict.fromkeys(one, 1), **shape))
    shape = dict(
        SKETCH=True, PARTS=1, ROWS=1, COLUMNS=64, length=1, sketched=1, parts=1, spread=1, a_column=1, x_column=1
    )
    asked.append(request("write_scaled", 90, argument="*bf16", **shape))  # numbers that triton specialises
    asked.append(request("write_scaled", 90, **{**shape, "SKETCH": False, "rows": 1}))
    *large, bfloat16, flat = compiled(*asked)
    for report in large:
        assert (report.spilled, report.registers <= 64) == (0, True), report
        assert "ld.global.v4.b32" in report.ptx
        assert ".local" not in report.ptx
    assert bfloat16.spilled == flat.spilled == 0
