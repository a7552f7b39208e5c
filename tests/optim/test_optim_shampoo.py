"""Shampoo: against a plain float64 implementation, with any method of roots, over grafts, ages and failures."""

import copy
import math
import warnings

import pytest
import torch
from plain import CASES, PlainShampoo, gradient, parameter, run
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from matfn import Exact, PolarExpress, Prism, certify
from matfn.optim import SOAP, Cutting, Shampoo, minimax
from matfn.optim.matrices.layout import linear
from matfn.optim.rules import roots as rule
from matfn.optim.rules.roots import inverse_roots

EPS32 = torch.finfo(torch.float32).eps
BASE = {
    "lr": 0.02,
    "momentum": 0.9,
    "weight_decay": 0.1,
    "beta2": 0.95,
    "ridge": 1e-6,
    "eps": 1e-8,
    "factor_every": 1,
    "root_every": 1,
    "start": 1,
    "graft": "none",
    "root": {},
}
VARIANTS = {
    "adam": {"graft": "adam"},
    "sgd": {"graft": "sgd"},
    "none": {},
    "seldom alone": {"root_every": 7, "ridge": 1e-3},
    "seldom": {"graft": "adam", "factor_every": 3, "root_every": 7, "start": 5},
    "seldom sgd": {"graft": "sgd", "factor_every": 2, "root_every": 5, "start": 4},
    "half": {"graft": "adam", "root": {2: 2, 3: 2}},
    "no averages": {"momentum": 0.0, "beta2": 0.0, "ridge": 1e-3},
}


def make(case, dtype=torch.float64, **options):
    layout, cutting, *_ = CASES[case]
    param = parameter(layout, dtype)
    options = {"cutting": cutting, **BASE, **options}
    return Shampoo([{"params": [param], "layout": [layout]}], **options), param


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("case", CASES)
def test_fifty_steps_equal_the_plain_implementation(case, variant):
    optimizer, param = make(case, **VARIANTS[variant])
    plain = PlainShampoo(case, param, **{**BASE, **VARIANTS[variant]})
    expected = plain.run(50)
    assert (run(optimizer, param, 50) - expected).abs().max() <= 1e-10
    assert (expected - parameter(CASES[case][0])).abs().max() > 0.1  # something was there to get wrong


def exact_residuals(optimizer, param, p, weight):
    """Of each root in use, sqrt(n) times the certified residual: the Frobenius norm of the defect R^p A - I."""
    found = []
    for key, roots in optimizer.state[param].items():
        if key.startswith("roots"):
            A = optimizer.state[param][key.replace("roots", "factors")] / weight
            A = A + 1e-4 * torch.linalg.matrix_norm(A, keepdim=True) * torch.eye(A.shape[-1])
            c = certify(A, roots, of="inv_root", p=p, exact=True)
            found += [math.sqrt(A.shape[-1]) * r for r in c.residual.tolist()]
    return found


@pytest.mark.parametrize("graft", ["none", "sgd"])
@pytest.mark.parametrize("root", [None, 2])
@pytest.mark.parametrize(
    "method",
    [
        minimax,
        lambda p, lower: PolarExpress(steps=8 - p, lower=lower, cushion=0.0),  # five and less than six would do
        lambda p, lower: Prism(steps=6 if p == 2 else 9),
        PolarExpress(steps=20),
    ],
)
def test_other_methods_stay_within_the_error_that_certify_reports(method, root, graft):
    # The gradients do not depend on the weights, so both runs have the same factors and only the roots differ.
    params = [nn.Parameter(torch.zeros(12, 9, dtype=torch.float64)) for _ in range(2)]
    options = {"lr": 1.0, "ridge": 1e-4, "root_every": 1, "graft": graft, "root": root, "beta2": 0.9}
    exact = Shampoo([params[0]], **options)
    other = Shampoo([params[1]], method=method, tolerance=1.0, **options)
    p, allowed, largest = root or 4, 0.0, 0.0
    before = torch.zeros(12, 9, dtype=torch.float64)
    for t in range(1, 51):
        for param, optimizer in zip(params, (exact, other), strict=True):
            param.grad = gradient(torch.zeros(12, 9), t)
            optimizer.step()
        size = (params[0].detach() - before).norm().item()
        before = params[0].detach().clone()
        defects = exact_residuals(other, params[1], p, 1 - 0.9**t)
        # R^p A = I + E with ||E|| = e < 1 makes R = A^(-1/p) (I + E)^(1/p), off by a factor within (1 - e)^(-1/p)
        factor = math.prod((1 - e) ** (-1 / p) for e in defects) - 1
        largest = max(largest, *defects)
        allowed += size * factor * (2 if graft == "sgd" else 1) + 1e-12
        assert (params[1] - params[0]).norm() <= allowed
    assert largest < 0.9  # or the bound says nothing


def by_name(warned):
    return [str(w.message) for w in warned if w.category is RuntimeWarning]


def test_a_root_that_has_not_converged_is_computed_again_and_named():
    layout, cutting = linear((9, 7)), Cutting(block=7)
    params = [parameter(layout, torch.float32) for _ in range(2)]
    options = {**BASE, "cutting": cutting}
    exact = Shampoo([("h.0.weight", params[0])], **options)
    short = Shampoo([("h.0.weight", params[1])], method=PolarExpress(steps=2), **options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(short, params[1], 3)
    assert "'h.0.weight', block [0:4, 0:7], side 0 was computed again in float64" in " ".join(by_name(caught))
    run(exact, params[0], 3)
    assert torch.equal(params[0], params[1])


def test_no_warning_where_all_is_well():
    optimizer, param = make("blocks", torch.float32, method=minimax)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(optimizer, param, 30)


@pytest.mark.parametrize("broken", ["nan", "indefinite"])
@pytest.mark.parametrize("method", [None, minimax])
def test_a_root_that_does_not_exist_keeps_the_old_one(broken, method):
    sound, others = parameter(linear((6, 5)), torch.float32), parameter(linear((6, 5)), torch.float32)
    optimizer = Shampoo([("bad", sound), ("good", others)], root_every=5, method=method)
    both = [(sound, "factors_2x6"), (others, "factors_2x6")]
    for t in range(1, 11):
        for p in (sound, others):
            p.grad = gradient(p.detach(), t).float()
        if t == 6:
            held = optimizer.state[sound]["roots_2x6"].clone(), optimizer.state[others]["roots_2x6"].clone()
            spoilt = optimizer.state[both[0][0]][both[0][1]]
            spoilt.fill_(torch.nan) if broken == "nan" else spoilt.mul_(-100)
            with pytest.warns(RuntimeWarning, match="'bad', block .*, side 0 keeps its last value") as caught:
                optimizer.step()
            assert not any("good" in text for text in by_name(caught))
        else:
            optimizer.step()
    assert torch.equal(optimizer.state[sound]["roots_2x6"], held[0])
    assert not torch.equal(optimizer.state[others]["roots_2x6"], held[1])
    assert torch.isfinite(sound).all()


class Refusing:
    """A decomposition that never succeeds in float32."""

    def __init__(self, kind):
        self.kind = kind

    def evaluate(self, target, A):
        if self.kind == "raises":
            raise torch.linalg.LinAlgError("did not converge")
        return torch.full_like(A, torch.nan if self.kind == "nan" else torch.inf)


@pytest.mark.parametrize("kind", ["raises", "nan", "inf"])
def test_a_decomposition_that_fails_is_computed_again(kind):
    (exact, p), (failing, q) = make("matrix", torch.float32), make("matrix", torch.float32, method=Refusing(kind))
    with pytest.warns(RuntimeWarning, match="'group0.0', block .* was computed again in float64"):
        run(failing, q, 3)
    assert torch.equal(run(exact, p, 3), q)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 1e25])
def test_a_gradient_that_cannot_be_squared_does_not_reach_the_factors(bad):
    param = parameter(linear((6, 5)), torch.float32)
    optimizer = Shampoo([param], graft="none", cutting=Cutting(block=3), root_every=1)
    for t in range(1, 4):
        param.grad = gradient(param.detach(), t).float()
        if t == 2:
            before = copy.deepcopy(optimizer.state[param])
            param.grad[0, 0] = bad
        optimizer.step()
    state = optimizer.state[param]
    assert all(torch.isfinite(value).all() for key, value in state.items() if key.startswith(("factors", "roots")))
    assert not torch.equal(state["factors_2x3"], before["factors_2x3"])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("graft", ["adam", "sgd", "none"])
def test_what_is_not_finite_shows_in_the_weights(graft, bad):
    """As for torch's optimizers, and at once: an update of zero would stop the matrix for ever without a word."""
    param = parameter(linear((6, 5)), torch.float32)
    optimizer = Shampoo([param], graft=graft, root_every=2)
    for t in range(1, 4):
        param.grad = gradient(torch.zeros(6, 5), t).float()
        if t == 2:
            param.grad[0, 0] = bad
        optimizer.step()
        assert bool(torch.isfinite(param).all()) == (t < 2)


def test_a_square_that_overflows_stops_its_entry_of_the_graft_as_in_adam():
    """The second moment is torch.optim.Adam's, infinite there and nowhere NaN; the others go on as if nothing were."""
    param, other = (parameter(linear((6, 5)), torch.float32) for _ in range(2))
    optimizer, adam = Shampoo([param], beta2=0.99), torch.optim.Adam([other], betas=(0.9, 0.99))
    moved = []
    for t in range(1, 151):
        for p in (param, other):
            p.grad = gradient(torch.zeros(6, 5), t).float()
            p.grad[0, 0] = 1e25 if t == 5 else p.grad[0, 0]
        before = param.detach().clone()
        optimizer.step()
        adam.step()
        moved.append((param.detach() - before).norm())
    squares = optimizer.state[param]["exp_avg_sq"]
    assert squares.isinf().nonzero().tolist() == [[0, 0]]
    torch.testing.assert_close(squares, adam.state[other]["exp_avg_sq"], rtol=1e-5, atol=0)
    # The momentum's 1e24 sinks below the root of the greatest number, 1.8e19, in log(1e5) / log(1/0.9) = 110 steps.
    assert torch.isfinite(param).all()
    assert moved[-1] > 0


@pytest.mark.parametrize("scale", [1e-30, 1e-24, 1e22, 1e30])
def test_a_block_whose_squares_are_lost_is_named(scale):
    """A block of true zeros is not: the first two rows have no gradient."""
    param = parameter(linear((6, 5)), torch.float32)
    optimizer = Shampoo([param], graft="adam", cutting=Cutting(block=2), root_every=2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for t in range(1, 4):
            param.grad = (gradient(torch.zeros(6, 5), t) * scale).float()
            param.grad[:2] = 0
            optimizer.step()
    said = [str(warning.message) for warning in caught]
    assert said
    assert all("is the identity: the gradients are not zero, but their squares are" in text for text in said)
    assert any("block [2:4, 0:" in text for text in said)
    assert not any("block [0:2" in text for text in said)


def test_zero_gradients_move_nothing_and_cost_nothing_later():
    param = parameter(linear((6, 5)))
    start = param.detach().clone()
    optimizer = Shampoo([param], root_every=1)
    for _ in range(3):
        param.grad = torch.zeros(6, 5, dtype=torch.float64)
        optimizer.step()
    assert torch.equal(param, start)
    param.grad = gradient(start, 1)
    optimizer.step()
    assert torch.isfinite(param).all()
    assert not torch.equal(param, start)


@pytest.mark.parametrize("exponent", [-30, 30])
def test_gradients_scaled_by_a_power_of_two_give_the_same_weights(exponent):
    one, other = (parameter(linear((9, 7)), torch.float32) for _ in range(2))
    optimizers = [Shampoo([p], graft="none", root_every=2) for p in (one, other)]
    for t in range(1, 6):
        g = gradient(torch.zeros(9, 7), t).float()
        for p, optimizer, scale in zip((one, other), optimizers, (1.0, 2.0**exponent), strict=True):
            p.grad = g * scale
            optimizer.step()
    assert torch.allclose(one, other, rtol=0, atol=1e3 * EPS32 * 1e-3 * 5)


def test_factors_of_one_size_are_one_batch_whatever_they_belong_to(monkeypatch):
    shapes = [(6, 4), (4, 6), (6, 6), (12, 4)]
    params = [(f"w{i}", parameter(linear(shape), torch.float32)) for i, shape in enumerate(shapes)]
    optimizer = Shampoo(params, cutting=Cutting(block=6), root_every=3)
    sizes = []
    real = inverse_roots
    monkeypatch.setattr(rule, "inverse_roots", lambda A, *rest: sizes.append(tuple(A.shape)) or real(A, *rest))
    for t in range(1, 4):
        for _, p in params:
            p.grad = gradient(p.detach(), t).float()
        optimizer.step()
    assert sorted(sizes) == [(4, 4, 4), (6, 6, 6)]  # three steps, one of them with roots


def test_parameters_of_any_age_and_group_move_as_they_would_alone():
    late = {"a": 1, "b": 4, "c": 1, "d": 6}
    options = {"root_every": 3, "factor_every": 2, "cutting": Cutting(block=4), "start": 2}

    def groups(params):
        return [
            {"params": [(n, params[n]) for n in "ab"], "beta2": 0.9, "lr": 0.1},
            {"params": [(n, params[n]) for n in "cd"], "momentum": 0.5, "start": 3, "ridge": 1e-3, "eps": 1e-3},
        ]

    together = {n: parameter(linear((7, 5))) for n in late}
    optimizer = Shampoo(groups(together), **options)
    for t in range(1, 12):
        for n, p in together.items():
            p.grad = gradient(p.detach(), t) if t >= late[n] else None
        optimizer.step()
        if t == 7:
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for i, pair in enumerate(("ab", "cd")):
        for n in pair:
            alone = {m: parameter(linear((7, 5))) for m in late}
            single = Shampoo([{**groups(alone)[i], "params": [alone[n]]}], **options)
            for t in range(late[n], 12):
                alone[n].grad = gradient(alone[n].detach(), t)
                single.step()
            assert torch.allclose(alone[n], together[n], rtol=0, atol=1e-12)


class Reads(TorchDispatchMode):
    """Which tensors are read on the host."""

    def __init__(self):
        super().__init__()
        self.pointers = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            self.pointers.add(args[0].data_ptr())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("make_optimizer", [lambda p: Shampoo(p, root_every=5), lambda p: SOAP(p, basis_every=5)])
def test_only_steps_with_roots_read_anything_but_the_counters(make_optimizer):
    params = [parameter(linear(shape), torch.float32) for shape in ((6, 4), (4, 6), (8, 3))]
    optimizer = make_optimizer(params)
    for t in range(1, 9):
        for p in params:
            p.grad = gradient(p.detach(), t).float()
        with Reads() as reads:
            optimizer.step()
        counters = {optimizer.state[p]["step"].data_ptr() for p in params}
        waited = bool(reads.pointers - counters)
        assert waited == (isinstance(optimizer, Shampoo) and t in (1, 6))


def test_the_graft_lends_its_size_to_each_whole_matrix():
    start = parameter(linear((9, 7)))
    moves = {}
    for graft in ("none", "sgd", "adam"):
        for cutting in (Cutting(), Cutting(block=4)):
            param = nn.Parameter(start.detach().clone())
            optimizer = Shampoo([param], lr=1.0, graft=graft, cutting=cutting)
            param.grad = gradient(start.detach(), 1)
            optimizer.step()
            moves[graft, cutting.block] = start.detach() - param.detach()
    g = gradient(start.detach(), 1)
    for block in (1024, 4):
        assert math.isclose(moves["sgd", block].norm(), g.norm(), rel_tol=1e-12)
        assert math.isclose(moves["adam", block].norm(), (g / (g.abs() + 1e-8)).norm(), rel_tol=1e-12)
        for graft in ("sgd", "adam"):
            cosine = (moves[graft, block] * moves["none", block]).sum()
            assert math.isclose(cosine, moves[graft, block].norm() * moves["none", block].norm(), rel_tol=1e-12)


def test_without_averages_the_direction_is_the_polar_factor():
    param = parameter(linear((9, 7)))
    start = param.detach().clone()
    param.grad = gradient(start, 1)
    U, _, Vh = torch.linalg.svd(param.grad, full_matrices=False)
    Shampoo([param], lr=1.0, graft="none", momentum=0.0, beta2=0.0, ridge=1e-12).step()
    # a ridge of r changes the root of an eigenvalue s^2 by r |A| / (4 s^2); the condition of G is about 20
    assert torch.allclose(start - param, U @ Vh, rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"graft": "rmsprop"}, "graft must be one of"),
        ({"graft": "none", "start": 3}, "start=3 needs a graft"),
        ({"root": 0}, "root must be p"),
        ({"root": {2: 1.5}}, "root must be p"),
        ({"root": True}, "root must be p"),
        ({"tolerance": 0.0}, "tolerance must be positive"),
        ({"ridge": -1e-6}, "ridge must be >= 0"),
        ({"beta2": 1.0}, r"beta2 must be in \[0, 1\)"),
        ({"root_every": 0}, "root_every must be at least 1"),
        ({"method": PolarExpress().schedule(2)}, "p = 4"),
    ],
)
def test_what_makes_no_sense_is_refused_when_it_is_said(options, message):
    with pytest.raises(ValueError, match=message):
        Shampoo([parameter(linear((6, 5)))], **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "exact"}, "method must be a value"),
        ({"method": Exact}, "method must be a value"),
        ({"factor_every": 2.0}, "factor_every must be a whole number"),
        ({"start": True}, "start must be a whole number"),
        ({"tolerance": "tight"}, "tolerance must be a number"),
    ],
)
def test_what_is_of_another_type_is_refused_when_it_is_said(options, message):
    with pytest.raises(TypeError, match=message):
        Shampoo([parameter(linear((6, 5)))], **options)


def test_a_state_of_other_blocks_does_not_fit():
    param, other = parameter(linear((6, 5))), parameter(linear((6, 5)))
    optimizer = Shampoo([("w", param)])
    param.grad = gradient(param.detach(), 1)
    optimizer.step()
    with pytest.raises(ValueError, match="w: state 'factors_2x3' is missing"):
        Shampoo([("w", other)], cutting=Cutting(block=3)).load_state_dict(optimizer.state_dict())


def test_without_a_ridge_the_pseudo_inverse_leaves_dead_columns_alone():
    param = parameter(linear((6, 4)))
    start = param.detach().clone()
    options = {"graft": "none", "momentum": 0.0, "beta2": 0.0, "lr": 1.0}
    optimizer = Shampoo([param], ridge=0.0, method=Exact(singular="pseudo-inverse"), **options)
    g = gradient(start, 1) * torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    param.grad = g
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()
    U, s, Vh = torch.linalg.svd(g, full_matrices=False)
    assert torch.allclose(start - param, (U * (s > 1e-9)) @ Vh, rtol=0, atol=1e-10)
    assert torch.allclose(param[:, 1], start[:, 1], rtol=0, atol=1e-13)
