"""Muon's rule: against a float64 oracle by SVD, against torch.optim.Muon, over scales, dtypes, layouts and groups."""

import math

import pytest
import torch
from torch import nn

from matfn import QDWH, Exact, PolarExpress, Tuned, ZoloPD, orthogonalize
from matfn.iteration.target import POLAR
from matfn.optim import SCALES, MatrixOptimizer, Muon, jordan, plan
from matfn.optim.matrices.layout import convolution, linear, stack, transposed, transposed_convolution
from matfn.optim.rules.ema import Ema
from matfn.optim.rules.rule import Rule
from matfn.run.plan import Purpose, resolve

EPS64 = torch.finfo(torch.float64).eps
EPS32 = torch.finfo(torch.float32).eps
BF16 = 2.0**-8  # unit roundoff


def gaussian(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def parameter(*shape, seed=0, dtype=torch.float32):
    return nn.Parameter(gaussian(*shape, seed=seed, dtype=dtype))


def take(optimizer, params, grads):
    """One step with these gradients; returns how far each parameter moved."""
    before = [p.detach().clone() for p in params]
    for p, g in zip(params, grads, strict=True):
        p.grad = None if g is None else g.clone()
    optimizer.step()
    return [b - p.detach() for b, p in zip(before, params, strict=True)]


def usually(x, precision=None):
    """The polar factor by the method and engine that Muon takes when it is told nothing."""
    plan = resolve(POLAR, None, tuple(x.shape), x.dtype, x.device, purpose=Purpose.STEP)
    return orthogonalize(x, method=plan.method, engine=plan.engine, precision=precision or x.dtype)


def by_svd(x, schedule=None):
    """The oracle: U f(S) V^T with f the scalar schedule, or 1."""
    u, s, v = torch.linalg.svd(x.double(), full_matrices=False)
    return (u * (torch.ones_like(s) if schedule is None else schedule(s))) @ v


@pytest.mark.parametrize("shape", [(6, 6), (24, 8), (8, 24)])
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("scale", [*SCALES, lambda m, n: m + n / 7])
def test_three_steps_equal_the_formula_in_float64(shape, nesterov, scale):
    p = parameter(*shape, dtype=torch.float64)
    options = {"lr": 0.03, "momentum": 0.9, "weight_decay": 0.2}
    optimizer = Muon([p], nesterov=nesterov, scale=scale, method=Exact(), **options)
    w, b = p.detach().clone(), torch.zeros(shape, dtype=torch.float64)
    factor = (SCALES.get(scale, scale) if isinstance(scale, str) else scale)(*shape)
    for seed in range(3):
        g = gaussian(*shape, seed=seed + 1, dtype=torch.float64)
        take(optimizer, [p], [g])
        b = 0.9 * b + 0.1 * g
        direction = by_svd(0.9 * b + 0.1 * g if nesterov else b)
        w = (1 - 0.03 * 0.2) * w - 0.03 * factor * direction
    # two SVDs of matrices of condition below 1e3: their polar factors agree to about that times eps
    assert torch.allclose(p.detach(), w, rtol=0, atol=1e3 * EPS64 * factor)


@pytest.mark.parametrize("shape", [(16, 48), (48, 16)])
def test_a_polynomial_method_moves_the_singular_values_by_its_scalar_map(shape):
    p, g = parameter(*shape, dtype=torch.float64), gaussian(*shape, seed=1, dtype=torch.float64)
    [moved] = take(Muon([p], lr=1.0, momentum=0.0, method=PolarExpress(steps=4)), [p], [g])
    x = g / torch.linalg.matrix_norm(g)
    expected = jordan(*shape) * by_svd(x, PolarExpress(steps=4).schedule())
    # forward error: a few products per step, each eps * sqrt(n); p - (p - u) rounds once more at |p| <= 8
    assert torch.allclose(moved, expected, rtol=0, atol=200 * EPS64)


@pytest.mark.parametrize("shape", [(32, 32), (64, 24), (24, 64)])
@pytest.mark.parametrize("nesterov", [True, False])
def test_agrees_with_torch_muon_up_to_bfloat16(shape, nesterov):
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon")
    ours, theirs = parameter(*shape), parameter(*shape)
    options = {"lr": 0.02, "momentum": 0.95, "nesterov": nesterov, "weight_decay": 0.1}
    optimizer = Muon([ours], method=Tuned("jordan"), precision=torch.bfloat16, **options)
    reference = torch.optim.Muon([theirs], **options)
    for seed in range(4):
        g = gaussian(*shape, seed=seed + 1)
        [a], [b] = take(optimizer, [ours], [g]), take(reference, [theirs], [g])
        # Both round each of three products in each of five steps to bfloat16, in their own order.
        assert torch.linalg.matrix_norm(a - b) <= 15 * BF16 * torch.linalg.matrix_norm(b)
        momentum = (optimizer.state[ours]["momentum_buffer"], reference.state[theirs]["momentum_buffer"])
        assert torch.equal(*momentum)


@pytest.mark.parametrize("exponent", [-100, -30, 30, 90])
def test_gradients_scaled_by_a_power_of_two_give_the_same_bits(exponent):
    one, other = parameter(24, 40), parameter(24, 40)
    optimizers = Muon([one]), Muon([other])
    for seed in range(3):
        g = gaussian(24, 40, seed=seed + 1)
        take(optimizers[0], [one], [g])
        take(optimizers[1], [other], [g * 2.0**exponent])
    assert torch.equal(one, other)


@pytest.mark.parametrize("norm", [1e-30, 1e-10, 1e-9, 1.0, 1e9, 1e30])
def test_no_epsilon_enters_at_any_gradient_norm(norm):
    p, g = nn.Parameter(torch.zeros(64, 128)), gaussian(64, 128, seed=1)
    [moved] = take(Muon([p], lr=1.0, method=Exact()), [p], [g / g.norm() * norm])
    assert torch.allclose(torch.linalg.svdvals(moved), torch.ones(64), rtol=0, atol=1e3 * EPS32)


def test_a_zero_gradient_gives_a_zero_direction_and_zero_rows_stay():
    p, q = parameter(6, 8), parameter(6, 8, seed=1)
    g = gaussian(6, 8, seed=2)
    g[2] = 0
    moved, partly = take(Muon([p, q], lr=0.1, weight_decay=0.0), [p, q], [torch.zeros(6, 8), g])
    assert torch.equal(moved, torch.zeros(6, 8))
    assert torch.equal(partly[2], torch.zeros(8))


def test_a_parameter_without_gradient_is_left_alone():
    p, q = parameter(6, 8), parameter(6, 8, seed=1)
    optimizer = Muon([p, q], lr=0.1, weight_decay=0.5)
    moved, still = take(optimizer, [p, q], [gaussian(6, 8), None])
    assert moved.any()
    assert not still.any()
    assert not optimizer.state.get(q)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_gradients_are_only_read(dtype):
    params = [parameter(6, 8, dtype=dtype), parameter(8, 6, dtype=dtype)]
    optimizer = Muon(params, nesterov=False)
    for seed in range(3):
        grads = [gaussian(*p.shape, seed=seed, dtype=dtype) for p in params]
        for p, g in zip(params, grads, strict=True):
            p.grad = g.clone()
        held = [(p.grad, p.grad._version) for p in params]
        optimizer.step()
        for p, g, (object_, version) in zip(params, grads, held, strict=True):
            assert p.grad is object_
            assert p.grad._version == version
            assert torch.equal(p.grad, g)


def test_momentum_of_bfloat16_weights_is_float32_and_not_renormalised():
    # pytorch#194664: there the buffer itself is normalised when nesterov is off
    p = parameter(16, 24, dtype=torch.bfloat16)
    g = gaussian(16, 24, seed=1, dtype=torch.bfloat16) * 32
    optimizer = Muon([p], nesterov=False, momentum=0.75)
    for step in range(1, 5):
        take(optimizer, [p], [g])
        buffer = optimizer.state[p]["momentum_buffer"]
        assert buffer.dtype == torch.float32
        # 1 - 0.75^k is exact in binary, and so is its product with eight bits of a bfloat16
        assert torch.equal(buffer, g.float() * (1 - 0.75**step))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_are_moved_in_float32_and_rounded_once(dtype):
    p, g = parameter(16, 24, dtype=dtype), gaussian(16, 24, seed=1, dtype=dtype)
    start = p.detach().float()
    take(Muon([p], lr=1e-2, momentum=0.0, weight_decay=0.1, precision=torch.float32), [p], [g])
    moved = start * (1 - 1e-3) - 1e-2 * usually(g.float())
    assert p.dtype == dtype
    # float32 rounding before the last rounding may flip a tie: then they are one unit in the last place apart
    assert torch.allclose(p.detach().float(), moved.to(dtype).float(), rtol=2 * torch.finfo(dtype).eps, atol=0)
    assert (p.detach() == moved.to(dtype)).float().mean() > 0.99


def test_cautious_decay_acts_only_where_update_and_weight_agree():
    plain, cautious, none = (parameter(16, 24) for _ in range(3))
    g = gaussian(16, 24, seed=1)
    options = {"lr": 0.1, "momentum": 0.0}
    [decayed] = take(Muon([plain], weight_decay=0.5, **options), [plain], [g])
    [partly] = take(Muon([cautious], weight_decay=0.5, cautious=True, **options), [cautious], [g])
    [update] = take(Muon([none], weight_decay=0.0, **options), [none], [g])
    agree = update * gaussian(16, 24) >= 0
    assert 0.2 < agree.float().mean() < 0.8
    assert torch.allclose(partly, torch.where(agree, decayed, update), rtol=0, atol=8 * EPS32)
    assert torch.equal(partly[~agree], update[~agree])


CONV = [
    (convolution((256, 16, 3, 3)), math.sqrt(256 / 144)),
    (convolution((64, 4, 3, 3), groups=2), 1.0),
    (convolution((96, 4, 2, 2), groups=2), math.sqrt(48 / 16)),
    (transposed_convolution((4, 96, 2, 2)), math.sqrt(96 / 16)),
    (linear((48, 16)).cut(3), 1.0),
    (linear((48, 8)).cut((32, 8, 8)), None),
    (transposed((8, 48)), math.sqrt(6)),
    (stack((5, 24, 6)), 2.0),
    (linear((48, 16)).cut((32, 8, 8)).tiled(rows=12), 1.0),
    (linear((48, 24)).tiled(rows=2, columns=4), 2.0),
]


@pytest.mark.parametrize(("layout", "scale"), CONV)
def test_every_block_is_orthogonal_with_the_scale_of_its_own_shape(layout, scale):
    p = parameter(*layout.shape)
    optimizer = Muon([{"params": [p], "layout": [layout]}], lr=1.0, method=Exact())
    [moved] = take(optimizer, [p], [gaussian(*layout.shape, seed=1)])
    for i, (b, m, n) in enumerate(layout.matrices):
        block = torch.empty(b, m, n)
        layout.slot(block, i).copy_(layout.pieces(moved)[i])
        expected = torch.full((b, min(m, n)), jordan(m, n) if scale is None else scale)
        assert torch.allclose(torch.linalg.svdvals(block), expected, rtol=0, atol=1e3 * EPS32)


class Seen(Rule):
    """Remembers the stacks it was asked for."""

    padded_below = 0

    def __init__(self):
        self.stacks = []

    def update(self, stack, runs):
        self.stacks.append(tuple(stack.shape))
        return stack


def counting(params):
    """Muon, and the stacks that its rules were asked for."""
    optimizer, seen = Muon(params), Seen()
    optimizer.chain = (*optimizer.chain, seen)
    return optimizer, seen.stacks


def test_equal_blocks_go_through_one_call_and_give_what_each_alone_gives():
    shapes = [(8, 8), (24, 8), (8, 8), (8, 24)]
    together, alone = ([parameter(*s, seed=i) for i, s in enumerate(shapes)] for _ in range(2))
    grads = [gaussian(*s, seed=10 + i) for i, s in enumerate(shapes)]
    groups = [
        {"params": together[:1], "lr": 0.1},
        {"params": [together[1]], "layout": [linear((24, 8)).cut(3)], "lr": 0.2},
        {"params": together[2:], "lr": 0.3},
    ]
    optimizer, stacks = counting(groups)
    moved = take(optimizer, together, grads)
    assert stacks == [(5, 8, 8), (1, 8, 24)]
    for i, lr in enumerate([0.1, 0.2, 0.3, 0.3]):
        layout = linear((24, 8)).cut(3) if i == 1 else linear(shapes[i])
        single = take(Muon([{"params": [alone[i]], "layout": [layout]}], lr=lr), [alone[i]], [grads[i]])[0]
        # a batched product may sum in another order than a single one: a few eps per step, times a slope below 30
        assert torch.allclose(moved[i], single, rtol=0, atol=1e3 * EPS32 * lr)


def test_buckets_are_computed_once_and_again_when_the_gradients_change():
    p, q = parameter(6, 8), parameter(6, 8, seed=1)
    optimizer, stacks = counting([p, q])
    take(optimizer, [p, q], [gaussian(6, 8)] * 2)
    first = optimizer.buckets
    take(optimizer, [p, q], [gaussian(6, 8)] * 2)
    assert all(one is other for one, other in zip(optimizer.buckets, first, strict=True))
    take(optimizer, [p, q], [gaussian(6, 8), None])
    assert stacks == [(2, 6, 8), (2, 6, 8), (1, 6, 8)]


def test_groups_have_their_own_options():
    p, q = parameter(8, 8), parameter(8, 8)
    first = {"params": [p], "lr": 0.5, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0, "scale": "jordan"}
    second = {"params": [q], "lr": 0.25, "momentum": 0.0, "weight_decay": 1.0, "cautious": True, "scale": "moonlight"}
    optimizer = Muon([first, second], method=Exact())
    g = gaussian(8, 8, seed=1)
    a, b = take(optimizer, [p, q], [g, g])
    update = by_svd(g).float()
    decay = 0.25 * gaussian(8, 8) * (update * gaussian(8, 8) >= 0)
    assert torch.allclose(a, 0.5 * update, rtol=0, atol=1e2 * EPS32)
    assert torch.allclose(b, 0.25 * 0.2 * math.sqrt(8) * update + decay, rtol=0, atol=1e2 * EPS32)


def test_empty_and_one_row_matrices():
    row, column, empty = parameter(1, 7), parameter(7, 1), nn.Parameter(torch.zeros(0, 7))
    optimizer = Muon([row, column, empty], lr=1.0, method=Exact(), scale="spectral")
    grads = [gaussian(1, 7, seed=1), gaussian(7, 1, seed=2), torch.zeros(0, 7)]
    a, b, _ = take(optimizer, [row, column, empty], grads)
    assert a.norm() == pytest.approx(1 / math.sqrt(7), rel=100 * EPS32)
    assert b.norm() == pytest.approx(math.sqrt(7), rel=100 * EPS32)


def test_nan_gradients_pass_through_into_their_own_matrix_only():
    p, q = parameter(6, 8), parameter(6, 8, seed=1)
    bad = gaussian(6, 8)
    bad[0, 0] = torch.nan
    take(Muon([p, q]), [p, q], [bad, gaussian(6, 8)])
    assert p.isnan().all()
    assert q.isfinite().all()


def test_converges_on_a_convex_quadratic_as_the_learning_rate_decays():
    # With the exact polar factor and no momentum each singular value of the error goes s -> |s - lr|: once it is below
    # the learning rate it stays below (or below the decrement), so the final error is at most the last learning rate.
    target = gaussian(12, 12, seed=3, dtype=torch.float64)
    p = nn.Parameter(torch.zeros(12, 12, dtype=torch.float64))
    steps, start = 200, 0.1
    optimizer = Muon([p], lr=start, momentum=0.0, method=Exact())
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: (steps - k) / steps)
    for _ in range(steps):
        optimizer.zero_grad()
        (0.5 * (p - target).square().sum()).backward()
        optimizer.step()
        schedule.step()
    assert torch.linalg.matrix_norm(p.detach() - target, 2) <= start / steps * (1 + 1e-9)


def test_defaults_train_a_small_network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 4))
    x = gaussian(64, 8, seed=1)
    y = torch.tanh(x @ gaussian(8, 4, seed=2))
    optimizer = Muon(plan(model), rest={"lr": 1e-2})
    losses = []
    for _ in range(100):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]


def test_an_optimizer_is_a_chain_of_rules():
    class Sign(Rule):
        """Descent along the sign of the momentum."""

        def update(self, stack, runs):
            return stack.sign()

    p, g = parameter(4, 6), gaussian(4, 6, seed=1)
    options = {"lr": 0.5, "momentum": 0.9, "nesterov": True, "weight_decay": 0.0, "cautious": False}
    optimizer = MatrixOptimizer([p], {**options, "scale": lambda m, n: 2.0}, (Ema(), Sign()))
    assert torch.allclose(take(optimizer, [p], [g])[0], g.sign(), rtol=0, atol=8 * EPS32)
    with pytest.raises(NotImplementedError, match=r"Rule must define update\(stack, runs\)"):
        take(MatrixOptimizer([p], {**options, "scale": "jordan"}, (Ema(), type("MyRule", (Rule,), {})())), [p], [g])


def test_precision_is_that_of_the_iteration_alone():
    p, g = nn.Parameter(torch.zeros(16, 24)), gaussian(16, 24, seed=1)
    optimizer = Muon([p], lr=1.0, momentum=0.0, precision=torch.bfloat16)
    [moved] = take(optimizer, [p], [g])
    assert torch.equal(moved, usually(g, precision=torch.bfloat16))
    assert not torch.equal(moved, usually(g))
    assert optimizer.state[p]["momentum_buffer"].dtype == torch.float32


@pytest.mark.parametrize(
    ("dtype", "usual"),
    [(torch.bfloat16, torch.bfloat16), (torch.float32, torch.bfloat16), (torch.float64, torch.float64)],
)
def test_iteration_is_in_bfloat16_where_the_machine_has_it_unless_weights_are_float64(dtype, usual, monkeypatch):
    monkeypatch.setenv("MATFN_MACHINE", "amd-avx512-bf16")
    p, g = nn.Parameter(torch.zeros(48, 64, dtype=dtype)), gaussian(48, 64, seed=1, dtype=dtype)
    [moved] = take(Muon([p], lr=1.0, momentum=0.0), [p], [g])
    wide = torch.promote_types(dtype, torch.float32)
    assert torch.equal(moved, usually(g.to(wide), precision=usual).to(dtype))
    assert usual == wide or not torch.equal(moved, usually(g.to(wide)).to(dtype))


@pytest.mark.parametrize("method", [QDWH(), ZoloPD()])
def test_methods_that_are_more_than_products_are_not_cut_to_half_precision(method):
    p, g = nn.Parameter(torch.zeros(16, 24)), gaussian(16, 24, seed=1)
    [moved] = take(Muon([p], lr=1.0, momentum=0.0, method=method), [p], [g])
    assert torch.equal(moved, orthogonalize(g, method=method))
    assert torch.linalg.matrix_norm(moved @ moved.mT - torch.eye(16)) <= 100 * 2**-23


def test_stacks_are_bounded_and_the_bound_changes_nothing(monkeypatch):
    grads = [gaussian(6, 8, seed=i) for i in range(7)]

    def moved():
        params = [nn.Parameter(torch.zeros(6, 8)) for _ in grads]
        optimizer = Muon(params, lr=1.0, method=Exact())
        return take(optimizer, params, grads), [bucket.shape[0] for bucket in optimizer.buckets]

    together, one = moved()
    monkeypatch.setattr("matfn.optim.matrices.buckets.ENTRIES", 3 * 48)
    apart, several = moved()
    assert one == [7]
    assert several == [3, 3, 1]
    # One matrix at a time or several: LAPACK's order of operations is the same, batched products' may not be.
    assert all(torch.allclose(a, b, rtol=0, atol=16 * 2**-23) for a, b in zip(together, apart, strict=True))


def test_a_nan_spoils_its_own_matrix_alone():
    """From the rows on from which the default deflates, too: its eigendecomposition refuses what is not finite."""
    shapes = {"wide": (260, 600), "a": (260, 260), "b": (260, 260), "small": (8, 8)}
    params = {name: torch.nn.Parameter(torch.zeros(shape)) for name, shape in shapes.items()}
    optimizer = Muon(list(params.items()), lr=1.0)
    for bad in (math.nan, 1.0, math.inf):
        for p in params.values():
            p.grad = torch.randn_like(p)
        params["b"].grad[0, 0] = bad
        optimizer.step()
    assert torch.isnan(params["b"]).all()
    for name in ("wide", "a", "small"):
        assert torch.isfinite(params[name]).all()
        assert params[name].any()


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("lr", [0.1, torch.tensor(0.1)], ids=["number", "tensor"])
@pytest.mark.parametrize("cautious", [True, False])
def test_one_tensor_after_the_other_gives_what_lists_give(monkeypatch, nesterov, lr, cautious):
    """Large matrices are averaged and moved while they are in the cache; here all are large."""
    moved = []
    for large in (2**18, 1):
        monkeypatch.setattr("matfn.optim.matrices.foreach._LARGE", large)
        generator = torch.Generator().manual_seed(0)
        params = [torch.nn.Parameter(torch.randn(12, 20, generator=generator)) for _ in range(3)]
        optimizer = Muon(params, lr=lr, weight_decay=0.5, nesterov=nesterov, cautious=cautious)
        for _ in range(2):
            for p in params:
                p.grad = torch.randn(12, 20, generator=generator)
            optimizer.step()
        moved.append(torch.stack([p.detach() for p in params]))
    assert torch.equal(*moved)
