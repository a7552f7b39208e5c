"""Triton's symmetric products against float64: on a GPU where there is one, in triton's interpreter where not."""
# ruff: noqa: E402 -- triton may be missing, and is asked for first

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytest.importorskip("triton", reason="triton is not installed: it comes with torch for CUDA, or pip install triton")

import triton
import triton.language as tl

if DEVICE == "cpu" and tuple(map(int, triton.__version__.split(".")[:2])) < (3, 6):
    pytest.skip("triton's interpreter refuses tensor descriptors that are right before 3.6", allow_module_level=True)

from matfn import Direct, Gram, PolarExpress
from matfn.iteration.target import POLAR
from matfn.kernels import EAGER, triton_symm
from matfn.kernels.triton_capture import check_compiled
from matfn.kernels.triton_symm import DTYPES, DescriptorTile, PointerTile, TritonSymmetric, candidates
from matfn.kernels.triton_symm_descriptor import describable
from matfn.kernels.triton_symm_pointer import place
from matfn.linalg.norms import prescale
from matrices import gaussian, orthogonal

SMALL = TritonSymmetric(PointerTile(16, 16, 4, 2))
SQUARE, WIDE = (TritonSymmetric(DescriptorTile(16, columns, 16, 4, 2)) for columns in (16, 32))
# One entry; one tile; tiles that hang over in every direction; several rows of tiles. Descriptors need whole 16 bytes.
CASES = [(SMALL, n, k) for n, k in ((1, 1), (16, 16), (33, 7), (50, 40))]
CASES += [(made, n, k) for made in (SQUARE, WIDE) for n, k in ((8, 8), (16, 16), (56, 24))]
every_kernel = pytest.mark.parametrize(
    "made", [SMALL, SQUARE, WIDE, TritonSymmetric(WIDE.tile, "tf32x3")], ids=("pointers", "square", "wide", "tf32x3")
)
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
@pytest.mark.parametrize(("made", "n", "k"), CASES, ids=str)
def test_a_matrix_times_its_transpose(made, n, k, dtype):
    X, *_ = matrices(n, k, dtype)
    for Y in (X, gaussian(2, k, n, seed=3).to(DEVICE, dtype).mT):  # as it lies in memory, and transposed
        before, got, Z = Y.clone(), made.syrk(Y), Y.double()
        assert got.dtype == dtype
        assert got.is_contiguous()
        assert torch.equal(got, got.mT)
        assert_close(got, Z @ Z.mT, Z.abs() @ Z.mT.abs(), k)
        assert torch.equal(Y, before)


# One number for all, one for each, one tensor for all.
WEIGHTS = [(0.3, -2.0), (torch.tensor([0.3, 0.4])[:, None, None], torch.tensor([[[2.0]]]))]


@every_dtype
@pytest.mark.parametrize(("made", "n"), [(SMALL, 1), (SMALL, 33), (SQUARE, 40), (WIDE, 16), (WIDE, 40)], ids=str)
def test_commuting_matrices(made, n, dtype):
    """The lower half of the product is compared: the upper one is its mirror image, the same up to rounding."""
    _, M, P, C = matrices(n, 1, dtype)
    m, p, c = (A.double() for A in (M, P, C))
    held = torch.full_like(C, 7.0), C.mT  # a symmetric matrix is read where it lies, in any order
    cases = [(made.sym_mm(M, P), m @ p, m.abs() @ p.abs())]
    for alpha, beta in WEIGHTS:
        a, b = (w.to(DEVICE) if isinstance(w, torch.Tensor) else w for w in (alpha, beta))
        want = a * (m @ p) + b * c
        cases.append((made.sym_addmm(held[1], M, P, alpha=a, beta=b), want, m.abs() @ p.abs() + 2 * c.abs()))
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


@every_kernel
def test_offsets_beyond_31_bits(made):
    """The third matrix begins 2^31 entries behind the first: 4 GB that are reserved and never touched between."""
    far = 2**30 + 8
    try:
        memory = torch.empty(2 * far + 64, dtype=torch.bfloat16, device=DEVICE)
    except RuntimeError:
        pytest.skip("4 GB cannot be reserved here")
    X = memory.as_strided((3, 8, 8), (far, 8, 1))
    X.copy_(gaussian(3, 8, 8, seed=4))
    close = X.clone()
    assert torch.equal(made.syrk(X), made.syrk(close))


def strided(shape, strides, dtype=torch.float16, offset=0):
    return torch.zeros(4096, dtype=dtype).as_strided(shape, strides, offset)


# Whether the copy engine can read it: rows of whole 16 bytes from a whole address, and no memory shared.
DESCRIBABLE = {
    "rows": (strided((2, 8, 16), (128, 16, 1)), True),
    "columns": (strided((2, 16, 8), (128, 1, 16)), True),
    "longer rows": (strided((2, 8, 12), (512, 24, 1)), True),
    "rows of 24 bytes": (strided((2, 8, 12), (96, 12, 1)), False),
    "the same rows in float32": (strided((2, 8, 12), (96, 12, 1), torch.float32), True),
    "matrices 8 bytes off": (strided((2, 8, 8), (100, 8, 1)), False),
    "one matrix, whose stride means nothing": (strided((1, 8, 8), (100, 8, 1)), True),
    "an address 8 bytes off": (strided((2, 8, 8), (64, 8, 1), offset=4), False),
    "one matrix many times": (strided((3, 8, 8), (0, 8, 1)), False),
    "one row many times": (strided((1, 8, 8), (64, 0, 1)), False),
    "nothing contiguous": (strided((1, 8, 8), (512, 64, 8)), False),
    "one row": (strided((2, 1, 16), (16, 3, 1)), True),
    "nothing": (strided((2, 8, 0), (8, 8, 1)), False),
}


@pytest.mark.parametrize(("X", "wanted"), DESCRIBABLE.values(), ids=DESCRIBABLE)
def test_what_a_descriptor_can_describe(X, wanted):
    assert describable(X) is wanted
    assert describable(X.mT) is wanted or X.shape[1] == 1
    assert describable(DESCRIBABLE["rows"][0], X) is wanted


@pytest.fixture
def used(monkeypatch):
    """The tiles of the kernels that run."""
    tiles = []
    for name in ("by_pointers", "by_descriptors"):
        true = getattr(triton_symm, name)
        monkeypatch.setattr(triton_symm, name, lambda tile, *given, true=true: (tiles.append(tile), true(tile, *given)))
    return tiles


def test_what_has_no_descriptor_goes_by_pointers(used):
    """For every operand, a result of odd rows, and an older card; to the last bit as with the tile that serves."""
    X, M, _, C = matrices(24, 16, torch.float16)
    bad = torch.zeros(2, 24, 28, dtype=torch.float16, device=DEVICE)[..., 2:26].copy_(M)
    WIDE.syrk(X)
    assert used.pop() == WIDE.tile
    for given in ((C, bad, M), (C, M, bad), (bad, M, M)):
        got = WIDE.sym_addmm(*given, alpha=1.0, beta=1.0)
        assert isinstance(used[-1], PointerTile)
        wanted = TritonSymmetric(used.pop()).sym_addmm(*(x.clone() for x in given), alpha=1.0, beta=1.0)
        assert torch.equal(got, wanted)
    used.clear()
    WIDE.syrk(X[:, :23])
    assert isinstance(used.pop(), PointerTile)


def test_an_older_card_goes_by_pointers(used, monkeypatch):
    monkeypatch.setattr(triton_symm, "_capability", lambda device: (8, 0))
    WIDE.syrk(torch.ones(1, 16, 16, device=DEVICE))
    TritonSymmetric().syrk(torch.ones(1, 16, 16, device=DEVICE))
    assert all(isinstance(tile, PointerTile) for tile in used)


@pytest.mark.parametrize(("made", "engine"), [(SMALL, Direct()), (WIDE, Gram())], ids=str)
def test_the_polar_factor(made, engine):
    """On condition 10, against the SVD: as accurate as with torch's products."""
    U, V = orthogonal(20, seed=5), orthogonal(36, seed=6)[:20]
    A, _ = prescale(((U * torch.logspace(0, -1, 20, dtype=torch.float64)) @ V)[None])
    method = PolarExpress(steps=7).schedule(2)
    for X in (A, A.mT):
        got = engine.run(POLAR, X.to(DEVICE, torch.float32), method, made)[0].double().cpu()
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


def test_what_cannot_be_launched_is_refused():
    with pytest.raises(ValueError, match="as many columns as rows, or twice as many, got 64 x 32"):
        DescriptorTile(64, 32, 32, 4, 3)
    with pytest.raises(TypeError, match="tile is a PointerTile, a DescriptorTile or None, got 128"):
        TritonSymmetric(tile=128)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match='"ieee" or "tf32x3", got \'tf32\''):
        TritonSymmetric(float32="tf32")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("capability", [(8, 0), (9, 0), (10, 0), (12, 0)], ids=str)
@pytest.mark.parametrize("float32", ["ieee", "tf32x3"])
def test_every_size_and_layout_has_a_tile(capability, float32):
    """Also a matrix of few rows that no descriptor takes, on a card whose least tile needs descriptors."""
    for n in (*range(1, 300), 1000, 4096):
        for dtype in DTYPES:
            found = triton_symm._busiest(capability, 132, dtype, float32, 2, n, False)
            assert isinstance(found, PointerTile)
            assert triton_symm._busiest(capability, 132, dtype, float32, 2, n, True) is not None


def tiles(capability, dtype, n, **options):
    return [made.tile for made in candidates(capability, dtype, n, **options)]


def test_candidates_suit_the_card_the_dtype_and_the_rows():
    half, full = torch.bfloat16, torch.float32
    hopper = tiles((9, 0), half, 4096)
    assert hopper[0] == DescriptorTile(128, 256, 64, 8, 3)
    assert {type(tile) for tile in hopper} == {DescriptorTile, PointerTile}
    assert not any(tile.specialized for tile in hopper if isinstance(tile, DescriptorTile))
    assert all(isinstance(tile, PointerTile) for card in ((8, 0), (8, 9), (12, 0)) for tile in tiles(card, half, 4096))
    assert all(isinstance(tile, PointerTile) for tile in tiles((9, 0), full, 4096))
    assert isinstance(tiles((10, 0), full, 4096, float32="tf32x3")[0], DescriptorTile)
    assert candidates((9, 0), full, 512, float32="tf32x3")[0].float32 == "tf32x3"
    assert all(max(triton_symm._sides(tile)) < 128 for tile in tiles((9, 0), half, 64))
    assert len(tiles((9, 0), half, 1)) == 1
    assert len(set(candidates((9, 0), half, 4096))) == len(hopper)


def test_the_last_wave_decides_which_tile_is_taken():
    """132 processors: 12 x 21 squares of 128 are two waves, and 12 x 12 wide tiles too, which take twice as long."""

    def taken(b, n, *, described=True):
        return triton_symm._busiest((9, 0), 132, torch.float16, "ieee", b, n, described)

    assert taken(8, 4096) == DescriptorTile(128, 256, 64, 8, 3)
    assert taken(12, 768) == DescriptorTile(128, 128, 64, 8, 4)
    assert taken(100, 64) != taken(8, 4096)
    assert taken(8, 4096, described=False) == PointerTile(128, 64, 8, 3)


def kernel():
    """A stand-in for a compiled kernel."""


def test_nothing_is_compiled_while_a_graph_is_captured(monkeypatch):
    """What ran before may be captured, in any size; another dtype, alignment, tile or device may not."""
    capturing = [False]
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing[0])
    card, X = torch.device("cuda", 0), torch.zeros(64)

    def launch(given, device=card, depth=32):
        with check_compiled(kernel, device, given, {"DEPTH": depth}):
            pass

    launch([X, 48, 1, 0.5])
    with pytest.raises(KeyError), check_compiled(kernel, card, [X.half(), 48, 1, 0.5], {"DEPTH": 32}):
        raise KeyError  # a launch that failed is not taken for one that ran
    capturing[0] = True
    launch([X[16:], 64, 1, 0.7])
    for given in ([X.half(), 48, 1, 0.5], [X[1:], 48, 1, 0.5], [X, 49, 1, 0.5], [X, 48, 2, 0.5]):
        with pytest.raises(
            RuntimeError, match=r"kernel has not been compiled.*run the same step once before the captur"
        ):
            launch(given)
    for options in ({"depth": 64}, {"device": torch.device("cuda", 1)}):
        with pytest.raises(RuntimeError, match="has not been compiled"):
            launch([X, 48, 1, 0.5], **options)
    launch([X.half()], device=torch.device("cpu"))


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
@every_dtype
@pytest.mark.parametrize("float32", ["ieee", "tf32x3"])
def test_every_candidate_on_a_card(dtype, float32):
    """Several tiles in each direction, more of them than processors, and both layouts of each operand."""
    X, M, P, C = matrices(2056, 520, dtype)
    for made in candidates(torch.cuda.get_device_capability(), dtype, 2056, float32=float32):
        for Y in (X, X.mT.contiguous().mT):
            got = made.syrk(Y)
            assert torch.equal(got, got.mT)
            size = Y.double().abs() @ Y.double().abs().mT
            assert_close(
                got, Y.double() @ Y.double().mT, size * (1 + 2.0**-21 / 520 / 1.2e-7 * (float32 != "ieee")), 520
            )
        got = made.sym_addmm(C, M, P, alpha=0.3, beta=-2.0)
        assert torch.equal(got, got.mT)
        m, p, c = (x.double() for x in (M, P, C))
        assert_close(got.tril(), (0.3 * (m @ p) - 2 * c).tril(), m.abs() @ p.abs() * 4 + 2 * c.abs(), 2056)
