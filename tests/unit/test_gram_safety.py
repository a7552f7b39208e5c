"""The Gram engine on low-rank matrices: its error stays below what its plan foretells, whatever the spectrum.

`python -m studies.gram_safety` searches longer.
"""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn

from matfn import Direct, Gram, PolarExpress, Tuned, orthogonalize
from matfn.engines import gram_error
from matfn.engines.gram import _longest
from matfn.iteration.target import ORTHOGONALIZE
from matfn.kernels import EAGER, Blocked
from matfn.optim import Muon, NorMuon
from matfn.run.plan import Purpose, resolve
from matrices import generator
from studies.gram_safety.search import SPECTRA, VECTORS, bred, cases, drawn, errors

CPU = torch.device("cpu")
NINE = PolarExpress((9,) * 4, norm="schatten4")
METHODS = {"default": None, "degree 9": NINE, "six steps": PolarExpress(steps=6), "Jordan": Tuned("jordan")}


def low_rank(m, n, rank, seed=0):
    draw = generator(seed)
    left, right = torch.randn(m, rank, generator=draw), torch.randn(rank, n, generator=draw)
    return left @ right


def wrong(A, **options):
    """The relative error against float64 by `Direct`, in the Frobenius norm, of the worst matrix."""
    exact = orthogonalize(A.double(), method=options.get("method"), engine=Direct())
    error = torch.linalg.matrix_norm(orthogonalize(A, **options).double() - exact)
    return (error / torch.linalg.matrix_norm(exact).clamp_min(1e-30)).max().item()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("shape", [(192, 768), (768, 192)], ids=str)
def test_low_rank_in_float32(shape, name):
    for rank in (1, 2, 20):
        for products in (None, EAGER, Blocked(96)):
            assert wrong(low_rank(*shape, rank), method=METHODS[name], products=products) <= 0.01


@pytest.mark.parametrize("shape", [(192, 768), (768, 192)], ids=str)
def test_without_a_restart_low_rank_loses_one_rounding_of_the_model(shape):
    """If Q took a step from the other side, mirrored products would lose all digits here.

    The model counts 64 roundings for a sum of 4096 terms in the worst case; random entries leave about one.
    """
    foretold = gram_error(NINE.schedule(2), (), torch.float32) / 64
    assert foretold < 0.05
    for rank in (1, 20):
        assert wrong(low_rank(*shape, rank), method=NINE, engine=Gram(()), products=Blocked(96)) <= foretold


@pytest.mark.parametrize("profile", ["x86-avx2", "amd-avx512-bf16", "arm-bf16", "cuda-sm90"])
def test_low_rank_on_every_machine(profile, monkeypatch):
    monkeypatch.setenv("MATFN_MACHINE", profile)
    A = low_rank(192, 768, 2)
    for method in METHODS.values():
        assert wrong(A, method=method) <= 0.01
        assert wrong(A.mT, method=method) <= 0.01


@pytest.mark.parametrize("products", [None, Blocked(48)], ids=str)
def test_low_rank_zero_and_full_in_one_batch(products):
    full = torch.randn(192, 400, generator=generator(1))
    tail = low_rank(192, 400, 1) + 1e-3 * full
    A = torch.stack([torch.zeros(192, 400), low_rank(192, 400, 1) * 1e-30, full * 1e30, tail, low_rank(192, 400, 150)])
    for method in METHODS.values():
        U = orthogonalize(A, method=method, products=products)
        assert (U[0] == 0).all()
        assert wrong(A, method=method, products=products) <= 0.01


def move(make, gradient, **options):
    weight = nn.Parameter(torch.zeros_like(gradient))
    optimizer = make([weight], lr=1.0, weight_decay=0.0, scale="spectral", **options)
    weight.grad = gradient.clone()
    optimizer.step()
    return weight.detach().double() / (gradient.shape[0] / gradient.shape[1]) ** 0.5


@pytest.mark.parametrize("shape", [(192, 768), (512, 520), (40, 96)], ids=str)
@pytest.mark.parametrize("precision", [None, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_gradient_of_rank_one_moves_within_the_schedule(shape, precision):
    """A step of Muon is at most the greatest value of its schedule."""
    given = {"degree 9": NINE} if precision == torch.float32 else {}
    for name, method in {"default": None, **given}.items():
        plan = resolve(ORTHOGONALIZE, method, shape, torch.float32, CPU, purpose=Purpose.STEP, precision=precision)
        top = plan.iteration.images()[-1][1] + 0.01
        moved = move(Muon, low_rank(*shape, 1), method=method, precision=precision)
        assert torch.linalg.matrix_norm(moved, 2) <= top, name


@pytest.mark.parametrize("make", [Muon, NorMuon])
def test_the_move_of_a_low_rank_gradient_is_that_of_direct(make):
    for rank in (1, 3):
        gradient, options = low_rank(192, 768, rank), {"method": NINE, "precision": torch.float32}
        moved, exact = move(make, gradient, **options), move(make, gradient, engine=Direct(), **options)
        assert torch.linalg.matrix_norm(moved - exact) <= 0.01 * torch.linalg.matrix_norm(exact)


def test_what_the_search_would_find():
    """Without the restarts that the plan has, there are errors above 1 %: the search is not blind."""
    case = next(c for c in cases(((16, 64),)) if c.name == "degree 9, Schatten-4")
    assert case.restarts
    M = drawn("low rank", ("in pairs", "random"), (16, 64), 64, generator(2))
    M = replace(M, values=torch.tensor([1.0, 1e-3] + [0.0] * 14, dtype=torch.float64).expand(64, -1))
    assert errors(case, M.dense()).gram.max() <= 0.01
    bare = replace(case, plan=replace(case.plan, engine=Gram(()).planned(case.schedule, torch.float32)))
    assert errors(bare, M.dense()).gram.max() > 0.01


def test_no_matrix_exceeds_the_bound():
    """A share of the search: every plan with some kinds of spectrum, after one generation of climbing."""
    draw, families, names = generator(3), itertools.cycle(SPECTRA), itertools.cycle(itertools.product(VECTORS, VECTORS))
    for case in cases(((16, 64), (64, 16))):
        for family, vectors in itertools.islice(zip(families, names, strict=False), 3):
            M = drawn(family, vectors, (16, 64), 4, draw)
            found = errors(case, bred(lambda A, case=case: errors(case, A.dense()).gram, M, 1, draw).dense())
            assert (found.gram - found.direct).max() <= case.bound, (case.name, family, vectors)


def test_the_plans_of_the_search_are_promised():
    """In float32 the model foretells at most 1 % for each plan, and more than that without its restarts."""
    for case in cases(((16, 64),)):
        if case.plan.precision == torch.float32:
            assert gram_error(case.schedule, case.restarts, torch.float32) <= 0.01
            if case.restarts and "Muon" not in case.name:
                assert gram_error(case.schedule, (), torch.float32) > min(0.01, case.schedule.error())


@pytest.mark.parametrize("left", VECTORS)
def test_what_float16_adds_to_the_diagonal_makes_m_positive(left):
    """M in float16 has eigenvalues below zero by its rounding errors; u times the longest row exceeds them.

    Errors with a common sign, of equal entries and zero rows, may leave a tenth of what is added below zero.
    """
    draw, below = generator(5), []
    for family, n in itertools.product(
        ("low rank", "rank one and noise", "a few and a tail", "log-uniform"), (16, 128)
    ):
        A = drawn(family, (left, "random"), (n, 2 * n), 8, draw).dense().double()
        M = A @ A.mT
        M = (M / torch.linalg.matrix_norm(M, keepdim=True).clamp_min(1e-300) * 2.0**7).half()
        below.append(torch.linalg.eigvalsh(M.double())[:, 0].min() / 2.0**7)
        added = _longest(M).double() * torch.finfo(torch.float16).eps / 2
        least = torch.linalg.eigvalsh(M.double() + torch.diag_embed(added.expand(-1, n)))[:, :1]
        assert (least >= (-0.1 if left == "even" else 0.0) * added).all(), (family, n)
    assert left == "axes" or min(below) < -1e-5  # otherwise it says nothing
