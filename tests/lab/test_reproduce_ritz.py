"""`matfn reproduce ritz`: the simulation is the method, the ways are what they say, the search finds the best."""

import json
import math

import numpy as np
import pytest
import torch

from matfn import Recorder, RitzMinimax, orthogonalize
from matfn.iteration.residual import Residual
from matfn.lab.papers import reproduce
from matfn.lab.papers.ritz import report as ritz_report
from matfn.lab.papers.ritz import search as ritz_search
from matfn.lab.papers.ritz import study as ritz_study
from matfn.lab.papers.ritz import tables as ritz_tables
from matfn.lab.papers.ritz.carry import Carried, carried, momenta
from matfn.lab.papers.ritz.rules import (
    Grid,
    Sight,
    applied,
    compositions,
    followed_to_budget,
    followed_to_tolerance,
    started,
    to_budget,
    upper_end,
)
from matfn.lab.papers.ritz.ways import WAYS, closed_form, harmonic_values, jacobi
from matfn.lab.spectra import SPECTRA
from matfn.linalg.bounds import greatest_eigenvalue
from matfn.linalg.lanczos import lanczos
from matfn.methods.ritz_minimax.choice import chain

NAMES = ("gaussian", "i^-1", "log-uniform 1e-3")


def values(name, n=64):
    return torch.from_numpy(SPECTRA[name](n, n, 0).copy())


def as_the_method_looks(t, m):
    """With the vectors that the method draws."""
    V = Residual(torch.diag_embed(m), 2).sketch(2, t)
    return WAYS["Lanczos, mean"](m, V[None], 6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [2, 4])
def test_to_a_budget_the_simulation_is_the_method(name, steps):
    s = values(name)
    U = orthogonalize(torch.diag(s), method=RitzMinimax(steps=steps))
    expected = (1 - torch.linalg.svdvals(U)).square().mean().sqrt()
    found = followed_to_budget(started(s.numpy(), 2, 1), steps, as_the_method_looks)
    torch.testing.assert_close(found[0], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_to_an_accuracy_the_simulation_is_the_method(name):
    s, recorder = values(name), Recorder(RitzMinimax(tol=1e-6))
    orthogonalize(torch.diag(s), method=recorder)
    assert followed_to_tolerance(started(s.numpy(), 2, 1), as_the_method_looks) == [recorder.steps_taken]


def test_the_candidates_are_the_methods():
    for p, steps in ((2, 1), (2, 4), (4, 3)):
        ours, theirs = compositions(p, 2, steps, Grid()), chain(p, (2,) * steps, 2.0**-53, torch.device("cpu"))
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", [*NAMES, "outlier x100", "rank-deficient"])
def test_the_upper_end_is_the_methods(name):
    m = values(name)[None] ** 2
    M = torch.diag_embed(m)
    torch.testing.assert_close(upper_end(m), greatest_eigenvalue(M, M @ M), rtol=1e-7, atol=0)
    assert upper_end(m) >= m.max()


def drawn_vectors(columns, n=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, n, columns, generator=generator, dtype=torch.float64)


def quadratic_form(m, V, power, each):
    """Sum of v^T M^power v over the columns, as they are or each scaled to norm 1; as a mean."""
    V = V / torch.linalg.vector_norm(V, dim=-2, keepdim=True) if each else V
    return ((m[:, None] ** power * V.square()).sum((-2, -1))) / V.square().sum((-2, -1))


@pytest.mark.parametrize(
    ("way", "each", "first", "last"),
    [
        ("Lanczos, Gauss", True, 0, 7),
        ("block, Rayleigh-Ritz", False, 0, 7),
        # Without the node at 0 the weights are scaled: a ratio to the first power.
        ("Lanczos, Radau", True, 1, 8),
        ("harmonic", True, 1, 8),
    ],
)
def test_rules_are_exact_to_their_degree(way, each, first, last):
    """Four products: Gauss and block Gauss to degree 7, with a node at 0 to degree 8; not beyond."""
    m, V = torch.linspace(0.02, 1, 64, dtype=torch.float64), drawn_vectors(2)
    density = WAYS[way](m.expand(3, -1), V, 4)
    unit = (density.weights * density.nodes**first).sum(-1) / quadratic_form(m, V, first, each)

    def error(power):
        found = (density.weights * density.nodes**power).sum(-1) / unit
        return (found / quadratic_form(m, V, power, each) - 1).abs().max()

    assert max(error(power) for power in range(first, last + 1)) < 1e-10
    # Columns apart are 2 x 4 nodes, a block 8 of them together: exact beyond, but for the block's odd degrees.
    assert error(last + 2) > 1e-10


def test_moments_are_global_steps():
    m = torch.linspace(0.1, 1, 64, dtype=torch.float64).expand(3, -1)
    V = drawn_vectors(2)
    torch.testing.assert_close(WAYS["moments, float64"](m, V, 3).nodes, WAYS["global, mean"](m, V, 3).nodes)


def test_jacobi_matrix_of_the_uniform_measure():
    """Legendre's: diagonal 1/2, off the diagonal k / (2 sqrt(4 k^2 - 1))."""
    T = jacobi(torch.tensor([[1 / (j + 1) for j in range(9)]], dtype=torch.float64))[0]
    torch.testing.assert_close(T.diagonal()[:4], torch.full((4,), 0.5, dtype=torch.float64))
    expected = [k / (2 * math.sqrt(4 * k**2 - 1)) for k in range(1, 5)]
    torch.testing.assert_close(T.diagonal(1), torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=0)
    assert abs(torch.linalg.eigvalsh(T)[0]) < 1e-12


def test_harmonic_values_against_the_generalized_problem():
    m, V = torch.linspace(0.02, 1, 64, dtype=torch.float64), drawn_vectors(1)
    T = lanczos(lambda W: m[:, None] * W, V, 5)[:, 0]
    for one, found in zip(T.numpy(), harmonic_values(T).numpy(), strict=True):
        inner, beta = one[:5, :5], one[4, 5]
        left = inner @ inner
        left[-1, -1] += beta**2
        np.testing.assert_allclose(np.sort(np.linalg.eigvals(np.linalg.solve(inner, left)).real), found, rtol=1e-9)
        assert (found > np.linalg.eigvalsh(inner)).all()  # so they are no better lower ends
        np.testing.assert_allclose(np.linalg.eigvalsh(one)[1:], found, rtol=1e-9)  # Radau's nodes


def test_closed_form():
    expected = torch.tensor([0.5, 2.0, 7.0], dtype=torch.float64)
    Q = torch.linalg.qr(drawn_vectors(3, 3))[0]
    found = closed_form((Q * expected) @ Q.mT)
    torch.testing.assert_close(found, expected.expand(3, -1), rtol=1e-13, atol=0)


def test_costs():
    assert Sight(columns=2, depth=6).cost(5) == 12
    assert Sight(columns=2, depth=6, every=2).cost(4) == 6
    assert Sight(columns=2, depth=6, every=1000).cost(3) == 4


def test_more_steps_and_better_looks_are_better():
    s = SPECTRA["gaussian"](64, 64, 0)
    errors = [to_budget(s, steps, Sight("truth")).item() for steps in (2, 3, 4, 5)]
    assert errors == sorted(errors, reverse=True)
    assert to_budget(s, 5, Sight(depth=2), seeds=5).mean() > to_budget(s, 5, Sight(depth=12), seeds=5).mean()


def test_the_search_finds_what_trying_everything_finds():
    s = torch.linspace(0.05, 1, 16, dtype=torch.float64)
    count = len(ritz_search.rows()[0])
    pairs = torch.cartesian_prod(torch.arange(count), torch.arange(count))
    best = min(ritz_search.losses(s, part).min().item() for part in pairs.split(20_000))
    sequence = ritz_search.best_ends(s, 2, 8)
    assert ritz_search.losses(s, sequence).item() == pytest.approx(best, rel=1e-9)
    assert ritz_search.any_quintics(s, sequence) <= best**0.5


def test_losses_are_those_of_the_polynomials():
    s = torch.linspace(0.05, 1, 16, dtype=torch.float64)
    inner, last = ritz_search.rows()
    state = applied(applied(s, 2, inner[100]), 2, last[150])
    found = ritz_search.losses(s, torch.tensor([100, 150]))
    torch.testing.assert_close(found, (1 - state).square().mean())


def test_momentum_of_noise():
    """Stationary, the sum of squares is (0.05)^2 / (1 - 0.95^2) times that of a gradient."""
    *_, last = momenta("noise", 32, 200)
    assert np.sum(last**2) / 32**2 == pytest.approx(0.05**2 / (1 - 0.95**2), rel=0.25)


def test_carried_looks_cost_little_and_fresh_ones_less():
    found = carried("drift and noise", 32, 12, 3, lambda text: None)
    assert found.told <= found.fresh * 1.001
    assert found.every_look[1] > found.told


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(ritz_study, "spectra", lambda scale: {name: values(name).numpy() for name in NAMES})
    scale = ritz_study.Scale(drawn=0, small=0, seeds=2, matrices=16, optimizer_steps=4, starts=2)
    return ritz_study.Study(scale, lambda text: None)


def test_scores(small):
    told = small.score(Sight("truth"), Grid(every=1))
    deep, shallow = small.score(Sight(depth=12)), small.score(Sight(depth=2))
    assert set(told.means.values()) == {1.0}
    assert told.more == (0, 0)
    assert deep.means[5] < shallow.means[5] <= shallow.worst_draws[5]
    assert shallow.worst[5][1] in NAMES
    assert shallow.more[0] > 0


def test_the_page(small, tmp_path):
    scores = [small.score(Sight(columns=c, depth=d)) for c, d in ((1, 3), (1, 6), (2, 3))]
    once = small.score(Sight(every=ritz_tables.FIRST))
    found = {3: ritz_search.found(values("gaussian", 16).numpy(), 3, 2, 2)}
    moved = Carried("noise", 0.1, 0.2, {1: 0.3, 4: 0.3, 16: 0.3}, {1: 0.2, 4: 0.2, 16: 0.2}, {0: 7, 1: 8, 4: 8, 16: 8})
    three = {2.0: {"closed form": 1e-15, "LAPACK": 1e-15}}
    results = ritz_tables.Results(
        scores, scores, scores[:1], [once], [(scores[0], scores[1])], {"gaussian": found}, [moved], three
    )
    path = reproduce.write(ritz_report.made(results, small.scale), tmp_path)
    text = path.read_text()
    assert path.name == "ritz_measurement.md"
    assert "| Lanczos, mean 2 x 6, before the first step | 12 once | 6 |" in text
    plain = json.loads((tmp_path / "ritz_measurement.json").read_text())
    assert plain["equal"][0]["relative"]["3"].keys() == set(NAMES)
    assert {file.name for file in tmp_path.glob("*.png")} == {"ritz_measurement.png", "ritz_measurement-ways.png"}


def test_three_by_three_formula_needs_float64():
    found = ritz_tables.three_by_three()
    assert found[14.0]["closed form, float32"] > 0.01
    assert found[2.0]["closed form"] < 1e-12
