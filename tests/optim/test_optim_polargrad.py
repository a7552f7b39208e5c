"""PolarGrad: four variants against plain float64 loops, nu of an inexact factor, rows that no gradient reached."""

import pytest
import torch
from torch import nn

from matfn import QDWH, Exact, NewtonSchulz, PolarExpress, ZoloPD, certify, orthogonalize
from matfn.optim import Muon, PolarGrad, plan
from matfn.optim.matrices.layout import linear, stack
from matfn.optim.polargrad import VARIANTS

EPS64 = torch.finfo(torch.float64).eps
EPS32 = torch.finfo(torch.float32).eps
SHAPES = [(12, 12), (20, 7), (7, 20)]


def gaussian(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def parameter(*shape, seed=0, dtype=torch.float64):
    return nn.Parameter(gaussian(*shape, seed=seed, dtype=dtype))


def take(optimizer, p, g):
    """One step with this gradient; returns how far the parameter moved."""
    before = p.detach().clone()
    p.grad = g.clone()
    optimizer.step()
    return before - p.detach()


def by_svd(x):
    """The oracle: the polar factor, the nuclear norm, the rank."""
    u, s, v = torch.linalg.svd(x.double(), full_matrices=False)
    return u @ v, s.sum(), len(s)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("scale", "power"), [("unit", 1.0), ("rank", 1.0), ("unit", 0.5), (lambda m, n: 0.1 * m, 0.0)])
def test_four_steps_equal_the_formulas(shape, variant, scale, power):
    p, mu = parameter(*shape), 0.0 if variant == "vanilla" else 0.8
    options = {"variant": variant, "momentum": mu, "power": power, "scale": scale, "weight_decay": 0.2}
    optimizer = PolarGrad([p], 0.03, method=Exact(), **options)
    w, b = p.detach().clone(), torch.zeros(shape, dtype=torch.float64)
    for seed in range(4):
        g = gaussian(*shape, seed=seed + 1)
        take(optimizer, p, g)
        if variant == "heavy-ball":
            b = mu * b + g
        elif variant != "polar-first":
            b = mu * b + (1 - mu) * g
        u, nu, r = by_svd(g if variant == "polar-first" else b)
        if variant == "polar-first":
            b = mu * b + (1 - mu) * u
            u = b
        factor = (1 / r if scale == "rank" else 1) if isinstance(scale, str) else scale(*shape)
        w = (1 - 0.03 * 0.2) * w - 0.03 * factor * nu**power * u
    # polar factors of matrices of condition below 1e3, times nuclear norms below 100
    assert torch.allclose(p.detach(), w, rtol=0, atol=1e5 * EPS64)


@pytest.mark.parametrize("method", [None, Exact(), ZoloPD()])
def test_one_minus_the_momentum_of_a_vanilla_step_is_the_first_and_without_momentum_all_agree(method):
    g = gaussian(10, 6, seed=1)

    def first(variant, mu):
        p = parameter(10, 6)
        return take(PolarGrad([p], 1.0, variant=variant, momentum=mu, method=method), p, g)

    vanilla = first("vanilla", None)
    assert torch.allclose(first("momentum-first", 0.75), vanilla / 4, rtol=0, atol=1e3 * EPS64)
    assert torch.allclose(first("polar-first", 0.75), vanilla / 4, rtol=0, atol=1e3 * EPS64)
    for variant in VARIANTS:
        assert torch.allclose(first(variant, 0.0), vanilla, rtol=0, atol=1e3 * EPS64)


@pytest.mark.parametrize("seed", range(20))
def test_nu_is_the_nuclear_norm(seed):
    m, n = torch.randint(1, 40, (2,), generator=torch.Generator().manual_seed(seed)).tolist()
    g, p = gaussian(m, n, seed=seed), nn.Parameter(torch.zeros(m, n, dtype=torch.float64))
    moved = take(PolarGrad([p], 1.0, variant="vanilla", method=Exact()), p, g)
    assert torch.linalg.matrix_norm(moved, 2).item() == pytest.approx(torch.linalg.svdvals(g).sum().item(), rel=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", [1e-8, 1e-3, 1e4])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_the_update_is_as_large_as_the_gradient(variant, size, dtype, tolerance):
    one, other = (nn.Parameter(torch.zeros(16, 10, dtype=dtype)) for _ in range(2))
    first, second = (PolarGrad([p], 1.0, variant=variant) for p in (one, other))
    for seed in range(3):
        g = gaussian(16, 10, seed=seed, dtype=dtype)
        a, b = take(first, one, g), take(second, other, size * g)
        # each weight is a sum of three updates, so what is seen of one is rounded at the size of the sum
        assert torch.linalg.matrix_norm(b - size * a) < tolerance * torch.linalg.matrix_norm(size * a)
    muon = Muon([nn.Parameter(torch.zeros(16, 10, dtype=dtype))], lr=1.0, method=Exact())
    [p] = muon.param_groups[0]["params"]
    assert torch.linalg.matrix_norm(take(muon, p, size * gaussian(16, 10, dtype=dtype))) > 1


def test_the_heavy_ball_is_momentum_first_at_another_rate():
    ball, average, curvature = parameter(14, 9), parameter(14, 9), torch.logspace(0, -1, 14, dtype=torch.float64)
    lr, mu = 2e-3, 0.9
    first = PolarGrad([ball], lr, variant="heavy-ball", momentum=mu)
    second = PolarGrad([average], lr / (1 - mu), variant="momentum-first", momentum=mu)
    for _ in range(50):
        for p, optimizer in ((ball, first), (average, second)):
            take(optimizer, p, curvature[:, None] * p.detach())
        assert torch.linalg.matrix_norm(ball - average) < 1e-10 * torch.linalg.matrix_norm(average)
    assert torch.linalg.matrix_norm(ball) < 0.5 * torch.linalg.matrix_norm(gaussian(14, 9))


@pytest.mark.parametrize("method", [QDWH(), PolarExpress(), NewtonSchulz(steps=5), PolarExpress(steps=3)])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_nu_is_that_of_the_very_factor_and_certify_says_how_wrong(method, precision):
    if isinstance(method, QDWH) and precision is torch.bfloat16:
        pytest.skip("QDWH is computed in float32")
    g, p = gaussian(64, 64, seed=1, dtype=torch.float32), nn.Parameter(torch.zeros(64, 64))
    moved = take(PolarGrad([p], 1.0, variant="vanilla", method=method, precision=precision), p, g)
    u = orthogonalize(g, method=method, precision=precision)
    nu = (g.double() * u.double()).sum()
    # float32 sums of 4096 products, in pairs: 12 roundings; then the product nu U
    assert torch.allclose(moved.double(), nu * u.double(), rtol=20 * EPS32, atol=0)
    nuclear = torch.linalg.svdvals(g.double()).sum()
    assert min(1.0, (nu / nuclear).item()) == pytest.approx(certify(g, u, exact=True).direction.item(), rel=1e-6)
    if isinstance(method, QDWH):
        assert abs(nu / nuclear - 1) < 1e-6


@pytest.mark.parametrize("method", [QDWH(), PolarExpress(), NewtonSchulz(steps=5), PolarExpress(steps=2)])
def test_over_the_rank_the_update_is_a_projection_whatever_the_length_of_the_factor(method):
    g, p = gaussian(30, 20, seed=1), nn.Parameter(torch.zeros(30, 20, dtype=torch.float64))
    moved = take(PolarGrad([p], 1.0, variant="vanilla", scale="rank", method=method), p, g)
    rest = g - moved
    assert abs((rest * moved).sum() / (g * g).sum()) < 1e3 * EPS64  # orthogonal to what was taken off
    assert (g * moved).sum() > 0.3 * (g * g).sum()  # and that was most of it: (nu^2 / r) of ||G||_F^2


@pytest.mark.parametrize("rank", [0, 1, 3, 6])
def test_the_rank_is_that_of_the_gradient(rank):
    g = gaussian(10, rank, seed=1) @ gaussian(rank, 8, seed=2)
    p, q = (nn.Parameter(torch.zeros(10, 8, dtype=torch.float64)) for _ in range(2))
    unit = take(PolarGrad([p], 1.0, variant="vanilla"), p, g)
    over = take(PolarGrad([q], 1.0, variant="vanilla", scale="rank"), q, g)
    assert torch.allclose(over * max(rank, 1), unit, rtol=0, atol=1e4 * EPS64)
    assert not torch.isnan(over).any()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("method", [None, Exact(), PolarExpress(steps=8), QDWH(lower=1e-3)])
def test_rows_of_unused_tokens_stay_to_the_last_bit(variant, method):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(300, 16), nn.Linear(16, 16), nn.Linear(16, 4))
    decided = plan(model, overrides={"0.weight": "matrix"}, allow=("embedding",))
    optimizer = PolarGrad(decided, 0.01, variant=variant, method=method)
    before, used = model[0].weight.detach().clone(), torch.arange(0, 60, 4)
    for step in range(3):
        optimizer.zero_grad()
        model(used[step:]).square().sum().backward()
        optimizer.step()
    unused = torch.ones(300, dtype=torch.bool)
    unused[used] = False
    assert torch.equal(model[0].weight[unused], before[unused])
    assert (model[0].weight[used] != before[used]).any(-1).all()


def test_the_safeguard_cuts_a_spike_and_learns_a_new_level():
    def sizes(growth):
        p = nn.Parameter(torch.zeros(6, 4, dtype=torch.float64))
        optimizer = PolarGrad([p], 1.0, variant="vanilla", growth=growth, method=Exact())
        g = gaussian(6, 4, seed=1) / torch.linalg.matrix_norm(gaussian(6, 4, seed=1), "nuc")
        return [torch.linalg.matrix_norm(take(optimizer, p, k * g), 2).item() for k in [0, 1, 1, 100] + [5] * 60]

    free, guarded = sizes(None), sizes(3.0)
    assert free == pytest.approx([0, 1, 1, 100] + [5] * 60, rel=1e-12)
    average, expected = 0.0, []
    for k in [0, 1, 1, 100] + [5] * 60:  # a spike counts no more than growth times the average, here and afterwards
        cut = min(k, 3 * average) if average else k
        average = 0.9 * average + 0.1 * cut if average else cut
        expected.append(cut)
    assert guarded == pytest.approx(expected, rel=1e-12)
    assert guarded[3] == pytest.approx(3.0)
    assert guarded[-1] == pytest.approx(5.0)


def test_each_matrix_of_each_block_has_its_own_safeguard():
    p, q = parameter(2, 6, 4), parameter(6, 4)
    groups = [{"params": [p], "layout": stack}, {"params": [q], "layout": [linear((6, 4)).cut((4, 2))], "growth": 2.0}]
    optimizer = PolarGrad(groups, 1.0, variant="vanilla", growth=3.0, method=Exact())
    for k in (torch.ones(2), torch.tensor([1.0, 100.0])):
        before = p.detach().clone(), q.detach().clone()
        p.grad = gaussian(2, 6, 4, seed=1) * k[:, None, None]
        q.grad = gaussian(6, 4, seed=2) * torch.cat([k[0].expand(4), k[1].expand(2)])[:, None]
        optimizer.step()
        moved = before[0] - p.detach(), before[1] - q.detach()
        last = [torch.linalg.matrix_norm(x, 2).item() for x in (*moved[0], moved[1][:4], moved[1][4:])]
    first = [torch.linalg.matrix_norm(x, "nuc").item() for x in gaussian(2, 6, 4, seed=1)]
    first += [torch.linalg.matrix_norm(x, "nuc").item() for x in gaussian(6, 4, seed=2).split((4, 2))]
    assert last == pytest.approx([first[0], 3 * first[1], first[2], 2 * first[3]], rel=1e-10)


def test_variants_and_powers_may_differ_by_group():
    shapes = [(6, 4)] * 4
    together, apart = ([parameter(*s, seed=i) for i, s in enumerate(shapes)] for _ in range(2))
    kinds = [{"variant": v, "power": w} for v, w in zip(VARIANTS, (1.0, 0.5, 1.0, 0.0), strict=True)]
    one = PolarGrad([{"params": [p], **kind} for p, kind in zip(together, kinds, strict=True)], 0.1, momentum=0.5)
    each = [PolarGrad([{"params": [p], **kind}], 0.1, momentum=0.5) for p, kind in zip(apart, kinds, strict=True)]
    for step in range(3):
        for i in range(4):
            together[i].grad = apart[i].grad = gaussian(6, 4, seed=10 * step + i)
        one.step()
        for optimizer in each:
            optimizer.step()
    for p, q in zip(together, apart, strict=True):
        assert torch.allclose(p, q, rtol=0, atol=100 * EPS64)


class Backwards:
    """An oracle that points the wrong way."""

    def evaluate(self, target, A):
        return -Exact().evaluate(target, A).to(A.dtype)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_the_step_is_a_descent_for_any_oracle(power):
    right, wrong = parameter(6, 4), parameter(6, 4)
    g = gaussian(6, 4, seed=2)
    options = {"variant": "vanilla", "power": power}
    expected = take(PolarGrad([right], 0.1, method=Exact(), **options), right, g)
    assert torch.allclose(take(PolarGrad([wrong], 0.1, method=Backwards(), **options), wrong, g), expected)
    assert (g * expected).sum() > 0


def test_nan_stays_in_its_own_matrix():
    p, q = parameter(6, 4), parameter(6, 4, seed=1)
    optimizer = PolarGrad([p, q], 0.1, growth=3.0)
    p.grad, q.grad = torch.full((6, 4), torch.nan, dtype=torch.float64), gaussian(6, 4, seed=2)
    optimizer.step()
    assert torch.isnan(p).all()
    assert torch.isfinite(q).all()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"variant": "nesterov"}, ValueError, r"variant must be one of \('momentum-first'.*got 'nesterov'"),
        ({"variant": "vanilla", "momentum": 0.9}, ValueError, 'variant="vanilla" has no momentum, got 0.9'),
        ({"power": 1.5}, ValueError, r"power must be in \[0, 1\], got 1.5: 0 is Muon"),
        ({"power": "1"}, TypeError, "power must be a number"),
        ({"growth": 1.0}, ValueError, "growth must be > 1, or None"),
        ({"growth": "no"}, TypeError, "growth must be a number"),
        ({"scale": "ranks"}, ValueError, "scale must be one of .*'rank'.*got 'ranks'"),
        ({"nesterov": True}, TypeError, "nesterov"),
    ],
)
def test_wrong_options_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        PolarGrad([parameter(4, 3)], 0.1, **options)


def test_the_learning_rate_has_no_default_and_the_rank_belongs_to_polargrad():
    with pytest.raises(TypeError, match="lr"):
        PolarGrad([parameter(4, 3)])
    with pytest.raises(ValueError, match="scale must be one of"):
        Muon([parameter(4, 3)], scale="rank")
