"""Rounding of half-precision weights: to nearest, stochastic and compensated, of matrices and of the rest."""

import copy
import io
import math

import pytest
import torch
from torch import nn

from matfn import Exact
from matfn.optim import SOAP, AdaMuon, Muon, NorMuon, PolarGrad, Shampoo
from matfn.optim.matrices.layout import convolution, linear, stack
from matfn.optim.matrices.rounding import narrowed_, noise_key, stochastic

HALF = (torch.bfloat16, torch.float16)
MENDED = ("stochastic", "compensated")


def both(dtype, start=1.0, shape=(32, 32), **options):
    """An optimizer of a matrix and a vector that start at one value."""
    a = nn.Parameter(torch.full(shape, start, dtype=dtype))
    b = nn.Parameter(torch.full((1024,), start, dtype=dtype))
    groups = [{"params": [("a", a)]}, {"params": [("b", b)], "rule": "adamw", "eps": 1e-6}]
    return Muon(groups, **{"lr": 0.02, "method": Exact(), **options}), a, b


def run(optimizer, steps, seed=0):
    for k in range(steps):
        generator = torch.Generator().manual_seed(seed + k)
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)
        optimizer.step()


@pytest.mark.parametrize("dtype", HALF)
def test_the_noise_is_unbiased_and_rounds_to_a_neighbour(dtype):
    """For numbers of every size, subnormal ones of the dtype too: mean within 5 standard errors, and two values."""
    count = 2**16
    tiny = torch.finfo(dtype).smallest_normal
    sizes = [1.0 + 0.37 * torch.finfo(dtype).eps, 1.999, 3e-3, 1e-5, 0.3 * tiny, 1.7 * tiny, 40000.0 / 3, 1.1e-7]
    for k, size in enumerate(sizes):
        for x in (torch.tensor(size), -torch.tensor(size)):
            rounded = stochastic(x.expand(count), dtype, key=k).double()
            low, high = rounded.unique().tolist() if len(rounded.unique()) == 2 else (x.double(),) * 2
            assert low <= x.double() <= high
            # float32 holds 2^-16 and 2^-13 of the spacing, the noise as many steps
            share = (x.double() - low) / (high - low) if high > low else 0.0
            error = math.sqrt(share * (1 - share) / count)
            assert abs(rounded.mean() - x.double()) <= (5 * error + 2**-12) * (high - low)
            neighbours = torch.tensor([low, high]).to(dtype)
            assert high == low or neighbours.view(torch.int16).diff().abs() == 1


@pytest.mark.parametrize("dtype", HALF)
def test_numbers_that_the_dtype_has_and_those_beyond_it_are_rounded_to_nearest(dtype):
    top = torch.finfo(dtype).max
    x = torch.tensor([0.0, -0.0, 1.0, -2.5, top, -top, math.inf, -math.inf, 2.0**-24, 3.4e38, -3.4e38])
    for key in range(20):
        assert torch.equal(stochastic(x, dtype, key), x.to(dtype))
    assert stochastic(torch.full((1000,), math.nan), dtype, 0).isnan().all()


@pytest.mark.parametrize("dtype", HALF)
def test_the_rest_of_a_compensated_weight_is_kept(dtype):
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    weight, rest = torch.zeros(1000, dtype=dtype), torch.zeros(1000, dtype=dtype)
    narrowed_(weight, x, "compensated", 0, rest)
    assert torch.equal(weight, x.to(dtype))
    # the weight is off by half a unit in the last place, the rest by half a unit of what is left
    unit = torch.finfo(dtype).eps / 2
    assert (weight.double() + rest.double() - x.double()).abs().max() <= max(unit**2 * 4, 2.0**-25)
    narrowed_(weight, torch.full((1000,), math.inf), "compensated", 0, rest)
    assert weight.isinf().all()
    assert not rest.any()


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("rounding", ["nearest", *MENDED])
def test_five_hundred_steps_of_decay(dtype, rounding):
    optimizer, a, b = both(dtype, weight_decay=0.01, rounding=rounding, rest={"lr": 0.02, "weight_decay": 0.01})
    for _ in range(500):
        a.grad, b.grad = torch.zeros_like(a), torch.zeros_like(b)
        optimizer.step()
    expected = (1 - 2e-4) ** 500
    for p in (a, b):
        mean = p.double().mean().item()
        if rounding == "nearest":
            assert mean == 1.0  # the loss that the others mend
        else:
            assert mean == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("rounding", MENDED)
@pytest.mark.parametrize("make", [Muon, NorMuon, AdaMuon, PolarGrad, Shampoo, SOAP])
def test_small_updates_are_not_lost(make, rounding, dtype):
    """Weights near 1/8 and updates of 1e-6 to 1e-4, below half a unit in the last place of bfloat16.

    A step of size d is rounded up or down with variance at most d times the spacing u, so the error of the sum along
    the exact move e has the variance u sum |e|^3 / (sum e^2)^2. A rest is at most u / 2 and loses half of its own unit.
    """
    start = ((1 + torch.randn(32, 24, generator=torch.Generator().manual_seed(1)) / 8) / 8).to(dtype)

    def moved(dtype, **options):
        w = nn.Parameter(start.to(dtype, copy=True))
        optimizer = make([("w", w)], lr=1e-4, **options)
        for _ in range(40):
            generator = torch.Generator().manual_seed(7)  # one direction, so that nothing cancels
            w.grad = torch.randn(32, 24, generator=generator).to(HALF[0]).to(HALF[1]).to(dtype)
            optimizer.step()
        rest = optimizer.state[w].get("compensation", torch.zeros(()))
        return w.detach().double() + rest.double() - start.double()

    exact, found = moved(torch.float32), moved(dtype, rounding=rounding)
    along = (found * exact).sum() / exact.square().sum()
    eps = torch.finfo(dtype).eps
    noise = 5 * math.sqrt(eps / 8 * exact.abs().pow(3).sum()) / exact.square().sum()
    lost = 40 * max(eps / 8 * eps / 8, 2.0**-25) * exact.abs().sum() / exact.square().sum()
    bound = noise if rounding == "stochastic" else lost
    assert abs(along - 1) < 1e-3 + bound
    assert bound < 0.5  # otherwise it says nothing


@pytest.mark.parametrize("rounding", MENDED)
@pytest.mark.parametrize("dtype", [*HALF, torch.float32])
def test_a_resumed_run_has_the_same_bits(rounding, dtype):
    through, a, b = both(dtype, rounding=rounding, seed=3, weight_decay=0.1)
    first, c, d = both(dtype, rounding=rounding, seed=3, weight_decay=0.1)
    run(through, 6)
    run(first, 3)
    file = io.BytesIO()
    torch.save((first.state_dict(), c.detach(), d.detach()), file)
    file.seek(0)
    state, *weights = torch.load(file, weights_only=True)
    resumed, e, f = both(dtype)
    for p, value in zip((e, f), weights, strict=True):
        p.data.copy_(value)
    resumed.load_state_dict(state)
    assert [group["rounding"] for group in resumed.param_groups] == [rounding] * 2
    assert [group["seed"] for group in resumed.param_groups] == [3, 3]
    run(resumed, 3, seed=3)
    assert torch.equal(e, a)
    assert torch.equal(f, b)


def test_the_noise_follows_from_seed_name_and_step_alone():
    """So it is the same on every process, whatever else they have done with torch's generators."""
    runs = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(runs))
        optimizer, a, b = both(torch.bfloat16, rounding="stochastic", seed=seed)
        before = torch.get_rng_state()
        run(optimizer, 3)
        assert torch.equal(torch.get_rng_state(), before)
        runs.append((a, b))
    assert all(torch.equal(x, y) for x, y in zip(runs[0], runs[1], strict=True))
    assert all(not torch.equal(x, y) for x, y in zip(runs[0], runs[2], strict=True))
    assert len({noise_key(s, n, p, t) for s in range(3) for n in "ab" for p in range(2) for t in range(9)}) == 108


@pytest.mark.parametrize("rounding", MENDED)
def test_float32_weights_move_as_before_and_keep_no_more_state(rounding):
    plain, a, b = both(torch.float32)
    other, c, d = both(torch.float32, rounding=rounding)
    for optimizer in (plain, other):
        run(optimizer, 3)
    assert torch.equal(a, c)
    assert torch.equal(b, d)
    assert set(other.state[c]) == {"momentum_buffer"}
    assert set(other.state[d]) == {"step", "exp_avg", "exp_avg_sq"}


@pytest.mark.parametrize("dtype", HALF)
def test_the_memory_is_as_documented(dtype):
    def sizes(**options):
        optimizer, a, b = both(dtype, **options)
        run(optimizer, 1)
        return [sum(x.nbytes for x in optimizer.state[p].values()) / p.numel() for p in (a, b)]

    count = 4 / 1024  # the counter
    assert sizes() == [4, 4 + count]
    assert sizes(rounding="stochastic") == [4 + count, 8 + count]
    assert sizes(rounding="compensated") == [6, 10 + count]


@pytest.mark.parametrize("rounding", MENDED)
@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((6, 4), linear((6, 4)).cut(3)),
        ((3, 4, 5), stack((3, 4, 5))),
        ((6, 4, 3, 2), convolution((6, 4, 3, 2), groups=2)),
        ((6, 4, 3, 2), linear((6, 4, 3, 2))),
    ],
)
def test_pieces_of_one_parameter_keep_their_rest_apart(rounding, shape, layout):
    """Decay alone: every entry follows the same law, whatever block or matrix it is in."""
    w = nn.Parameter(torch.ones(shape, dtype=torch.bfloat16))
    if len(shape) == 4:
        w = nn.Parameter(w.detach().to(memory_format=torch.channels_last))
    optimizer = Muon([{"params": [w], "layout": [layout]}], lr=0.02, weight_decay=0.05, rounding=rounding)
    for _ in range(300):
        w.grad = torch.zeros_like(w)
        optimizer.step()
    assert w.double().mean().item() == pytest.approx(0.999**300, rel=0.02)
    if rounding == "compensated":
        assert w.unique().numel() == 1
        assert optimizer.state[w]["compensation"].shape == w.shape


def test_groups_may_round_apart():
    a, b = (nn.Parameter(torch.ones(8, 8, dtype=torch.bfloat16)) for _ in range(2))
    optimizer = Muon([{"params": [a]}, {"params": [b], "rounding": "compensated"}], lr=0.02, weight_decay=0.01)
    for _ in range(100):
        a.grad, b.grad = torch.zeros_like(a), torch.zeros_like(b)
        optimizer.step()
    assert torch.equal(a, torch.ones_like(a))
    assert b.double().mean().item() == pytest.approx(0.98, rel=0.005)


def test_further_rules_and_the_rest_round_as_the_optimizer():
    a, b = (nn.Parameter(torch.ones(8, 8, dtype=torch.bfloat16)) for _ in range(2))
    groups = [{"params": [a]}, {"params": [b], "rule": "second"}]
    optimizer = Muon(groups, rules={"second": lambda p: PolarGrad(p, lr=0.1)}, rounding="stochastic", seed=4)
    assert [(group["rounding"], group["seed"]) for group in optimizer.param_groups] == [("stochastic", 4)] * 2


@pytest.mark.parametrize("rounding", MENDED)
def test_a_file_of_an_earlier_version_starts_its_rests_at_zero(rounding):
    plain, *_ = both(torch.bfloat16)
    run(plain, 2)
    state = copy.deepcopy(plain.state_dict())
    for group in state["param_groups"]:
        for key in ("rounding", "seed", "chain"):
            group.pop(key, None)
    optimizer, c, d = both(torch.bfloat16, rounding=rounding)
    optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["rounding"] == rounding
    assert optimizer.state[d]["exp_avg"].dtype == torch.float32
    run(optimizer, 2)
    assert torch.isfinite(c).all()
    assert set(optimizer.state[c]) == {"momentum_buffer", "compensation" if rounding == "compensated" else "step"}


def test_a_change_of_rounding_between_steps_is_refused_until_the_state_is_cast():
    optimizer, *_ = both(torch.bfloat16)
    run(optimizer, 1)
    for group in optimizer.param_groups:
        group["rounding"] = "compensated"
    with pytest.raises(RuntimeError, match=r"'b' .*its rounding was changed.*load_state_dict\(optimizer\.state_dict"):
        run(optimizer, 1)


@pytest.mark.parametrize("rounding", MENDED)
def test_a_compiled_step_has_the_noise_of_each_step(rounding):
    """torch leaves the generator out of its graphs, so that the noise of each step is new."""
    plain, a, b = both(torch.bfloat16, rounding=rounding, shape=(4, 4))
    other, c, d = both(torch.bfloat16, rounding=rounding, shape=(4, 4))
    run(plain, 3)
    other.step = torch.compile(other.step, backend="eager")
    run(other, 3)
    assert torch.equal(a, c)
    assert torch.equal(b, d)
