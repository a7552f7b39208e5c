"""What every optimizer must do, whatever its rule: one suite over a table. A new optimizer is one line in `CASES`."""

import copy
import io
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from matfn import Exact
from matfn.optim import SOAP, AdaMuon, Muon, NorMuon, PolarGrad, Shampoo, minimax, plan
from matfn.optim.matrices.layout import convolution, stack


class Case(NamedTuple):
    """An optimizer, a learning rate that suits a quadratic with eigenvalues in [0.1, 1], and which symmetries it has.

    `turns` is "both" if gradients P G Q move weights by P D Q for all orthogonal P and Q, "right" if only for P = I,
    "no" if for neither. The options are those of an accurate method where the rule has one.
    """

    make: Callable[..., Any]
    lr: float
    turns: str
    options: Mapping[str, Any] = MappingProxyType({})


CASES = {
    "muon": Case(Muon, 0.1, "both"),
    "muon exact": Case(Muon, 0.1, "both", {"method": Exact()}),
    "muon cautious": Case(Muon, 0.1, "no", {"cautious": True}),
    "normuon": Case(NorMuon, 0.1, "right"),
    "adamuon": Case(AdaMuon, 0.3, "no"),
    "polargrad": Case(PolarGrad, 1.0, "both", {"scale": "rank"}),
    "polargrad polar-first": Case(PolarGrad, 1.8, "both", {"scale": "rank", "variant": "polar-first", "momentum": 0.5}),
    "polargrad heavy-ball": Case(PolarGrad, 0.2, "both", {"scale": "rank", "variant": "heavy-ball", "momentum": 0.8}),
    "polargrad vanilla": Case(PolarGrad, 1.8, "both", {"scale": "rank", "variant": "vanilla"}),
    "polargrad guarded": Case(PolarGrad, 1.0, "both", {"scale": "rank", "growth": 4.0}),
    "polargrad half power": Case(PolarGrad, 0.1, "both", {"power": 0.5}),
    "shampoo": Case(Shampoo, 0.1, "no", {"root_every": 2}),
    "shampoo alone": Case(Shampoo, 0.2, "both", {"graft": "none", "ridge": 1e-3}),
    "shampoo with sgd": Case(Shampoo, 1.0, "both", {"graft": "sgd", "ridge": 1e-3, "start": 2}),
    "shampoo minimax": Case(Shampoo, 0.1, "no", {"method": minimax, "ridge": 1e-4}),
    "soap": Case(SOAP, 0.1, "no", {"basis_every": 2}),  # its first step is Adam's own
}
every = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def build(case, params, **options):
    return case.make(params, **{"lr": case.lr, **case.options, **options})


def gaussian(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def rotation(n, seed):
    return torch.linalg.qr(gaussian(n, n, seed=seed))[0]


def network(dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    parts = [nn.Embedding(11, 8), nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 8), nn.LayerNorm(8), nn.Linear(8, 11)]
    return nn.Sequential(*parts).to(dtype)


def tokens(seed):
    return torch.randint(0, 11, (32,), generator=torch.Generator().manual_seed(seed))


def loss_of(net, seed):
    x = tokens(seed)
    return nn.functional.cross_entropy(net(x).float(), (3 * x + 1) % 11)


def train(net, optimizer, steps, start=0):
    for seed in range(start, start + steps):
        optimizer.zero_grad()
        loss_of(net, seed).backward()
        optimizer.step()


def through_a_file(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def all_shapes(dtype=torch.float32):
    """Named groups that hold parameters of every number of axes."""
    named = {f"p{n}": nn.Parameter(gaussian((4, 6, 3, 2)[:n], seed=n, dtype=dtype)) for n in range(5)}
    groups = [
        {"params": [("p2", named["p2"])]},
        {"params": [("p3", named["p3"])], "layout": stack},
        {"params": [("p4", named["p4"])], "layout": convolution},
        {"params": [("p0", named["p0"]), ("p1", named["p1"])], "rule": "adamw"},
    ]
    return named, groups


def give_gradients(named, seed=10):
    for n, p in enumerate(named.values()):
        p.grad = gaussian(tuple(p.shape), seed=seed + n, dtype=p.dtype)


@every
@pytest.mark.parametrize("shape", [(12, 12), (16, 6), (6, 16)])
def test_converges_on_a_strongly_convex_quadratic(case, shape):
    m, n = shape
    left, right = rotation(m, 1), rotation(n, 2)
    curvature = torch.logspace(0, -1, m * n, dtype=torch.float64).reshape(m, n)
    target, x = gaussian(m, n, seed=3), nn.Parameter(gaussian(m, n, seed=4))
    optimizer = build(case, [x])
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 1 - k / 300)
    values = []
    for _ in range(300):
        optimizer.zero_grad()
        value = (curvature * (left @ (x - target) @ right) ** 2).sum() / 2
        value.backward()
        optimizer.step()
        schedule.step()
        values.append(value.item())
    # The rules of constant size end within a few last steps of the minimum: lr / 300 in the spectral norm each.
    assert values[-1] < 1e-4 * values[0]


@every
def test_turns_with_the_matrix_where_the_rule_says_so(case):
    if case.turns == "no":
        pytest.skip("the rule looks at single entries")
    P = rotation(10, 1) if case.turns == "both" else torch.eye(10, dtype=torch.float64)
    Q = rotation(6, 2)
    x = nn.Parameter(gaussian(10, 6, seed=3))
    y = nn.Parameter(P @ x.detach() @ Q)
    optimizers = build(case, [x], weight_decay=0.1), build(case, [y], weight_decay=0.1)
    for seed in range(4):
        g = gaussian(10, 6, seed=10 + seed)
        for p, grad, optimizer in zip((x, y), (g, P @ g @ Q), optimizers, strict=True):
            p.grad = grad
            optimizer.step()
    # roundings of eps, amplified by the condition of what is decomposed (below 10) and by the products of the steps
    assert torch.allclose(P @ x @ Q, y, rtol=0, atol=1e4 * torch.finfo(torch.float64).eps)


@every
def test_a_closure_is_evaluated_with_gradients(case):
    one, two = network(), network()
    first, second = build(case, plan(one)), build(case, plan(two))

    def closure():
        first.zero_grad()
        loss = loss_of(one, 0)
        loss.backward()
        return loss

    assert first.step(closure).requires_grad
    train(two, second, 1)
    assert same(one, two)


@every
def test_groups_and_schedulers_set_each_rate(case):
    a, b = nn.Parameter(gaussian(6, 4)), nn.Parameter(gaussian(6, 4))
    optimizer = build(case, [{"params": [a]}, {"params": [b], "lr": 0.0}])
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, [lambda k: 1.0 - k, lambda k: 1.0])
    start = a.detach().clone()
    for moved in (True, False):
        before = a.detach().clone()
        a.grad, b.grad = gaussian(6, 4, seed=1), gaussian(6, 4, seed=1)
        optimizer.step()
        schedule.step()
        assert torch.equal(a, before) != moved
        assert torch.equal(b, start)


@every
def test_decay_is_by_lr_times_weight_decay_and_cautious_where_weight_and_update_agree(case):
    plain, decayed, careful = (nn.Parameter(gaussian(8, 6)) for _ in range(3))
    options = {"lr": 0.01}
    optimizers = (
        build(case, [plain], **{**options, "cautious": False}),
        build(case, [decayed], **{**options, "cautious": False}, weight_decay=5.0),
        build(case, [careful], **{**options, "cautious": True}, weight_decay=5.0),
    )
    for p, optimizer in zip((plain, decayed, careful), optimizers, strict=True):
        p.grad = gaussian(8, 6, seed=1)
        optimizer.step()
    moved = gaussian(8, 6) - plain.detach()
    agree = moved * gaussian(8, 6) >= 0
    tight = {"rtol": 0, "atol": 8 * torch.finfo(torch.float64).eps}
    assert 0.1 < agree.double().mean() < 0.9
    assert torch.allclose(decayed, 0.95 * gaussian(8, 6) - moved, **tight)
    assert torch.allclose(careful, (1 - 0.05 * agree.double()) * gaussian(8, 6) - moved, **tight)


@every
def test_accumulated_micro_batches_equal_one_batch(case):
    one, two = network(torch.float64), network(torch.float64)
    first, second = build(case, plan(one)), build(case, plan(two))
    loss_of(one, 0).backward()
    x = tokens(0)
    for part in x.chunk(4):
        (nn.functional.cross_entropy(two(part), (3 * part + 1) % 11) / 4).backward()
    first.step()
    second.step()
    for p, q in zip(one.parameters(), two.parameters(), strict=True):
        # the loss is computed in float32; a factor amplifies that by the condition, AdamW by |g| / eps
        assert torch.allclose(p, q, rtol=0, atol=1e-2 * case.lr)


@every
def test_a_scaled_loss_gives_the_same_bits_and_infinities_skip_the_step(case):
    plain, scaled = network(), network()
    first, second = build(case, plan(plain)), build(case, plan(scaled))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    train(plain, first, 2)
    for seed in range(2):
        second.zero_grad()
        scaler.scale(loss_of(scaled, seed)).backward()
        scaler.step(second)
        scaler.update()
    assert same(plain, scaled)
    before, state = copy.deepcopy(scaled), copy.deepcopy(second.state_dict()["state"])
    scaled[1].weight.grad[0, 0] = torch.inf
    scaler.scale(torch.zeros(()))
    scaler.step(second)
    scaler.update()
    assert same(before, scaled)
    for number, entry in second.state_dict()["state"].items():
        assert all(torch.equal(value, state[number][key]) for key, value in entry.items())


@every
def test_gradients_are_only_read(case):
    named, groups = all_shapes()
    optimizer = build(case, groups)
    for seed in range(3):
        give_gradients(named, seed)
        held = {name: (p.grad, p.grad.clone(), p.grad._version) for name, p in named.items()}
        optimizer.step()
        for name, p in named.items():
            gradient, value, version = held[name]
            assert p.grad is gradient
            assert p.grad._version == version
            assert torch.equal(p.grad, value)


@every
def test_what_has_no_gradient_neither_decays_nor_gets_state(case):
    net = network()
    net[3].weight.requires_grad_(False)
    before = copy.deepcopy(net)
    by_plan = build(case, plan(net), weight_decay=0.5)
    assert "3.weight" not in [name for group in by_plan.param_groups for name in group["param_names"]]
    p, q = nn.Parameter(gaussian(6, 4)), nn.Parameter(gaussian(6, 4, seed=1))
    optimizer = build(case, [p, q], weight_decay=0.5)
    p.grad = gaussian(6, 4, seed=2)
    optimizer.step()
    assert torch.equal(q, gaussian(6, 4, seed=1))
    assert not optimizer.state.get(q)
    train(net, by_plan, 2)
    assert torch.equal(net[3].weight, before[3].weight)
    assert not torch.equal(net[1].weight, before[1].weight)
    q.grad = gaussian(6, 4, seed=3)  # and it may come later
    optimizer.step()
    assert not torch.equal(q, gaussian(6, 4, seed=1))


@every
def test_groups_without_parameters_without_gradients_and_without_entries(case):
    p, nothing = nn.Parameter(gaussian(6, 4)), nn.Parameter(torch.zeros(0, 4, dtype=torch.float64))
    optimizer = build(case, [{"params": []}, {"params": [p]}, {"params": [nothing]}, {"params": [], "rule": "adamw"}])
    optimizer.step()
    assert torch.equal(p, gaussian(6, 4))
    p.grad, nothing.grad = gaussian(6, 4, seed=1), torch.zeros(0, 4, dtype=torch.float64)
    optimizer.step()
    assert not torch.equal(p, gaussian(6, 4))
    assert not optimizer.state.get(nothing)
    saved = through_a_file(optimizer.state_dict())
    optimizer.load_state_dict(saved)
    saved["param_groups"][3]["rule"] = "matrix"
    with pytest.raises(ValueError, match="no parameter: group 3 has rule 'matrix' there, 'adamw' here"):
        optimizer.load_state_dict(saved)


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_number_of_axes_in_every_dtype(case, dtype):
    named, groups = all_shapes(dtype)
    optimizer = build(case, groups, weight_decay=0.01, rest={"lr": 0.1})
    before = {name: p.detach().clone() for name, p in named.items()}
    for seed in (10, 20):
        give_gradients(named, seed)
        optimizer.step()
    for name, p in named.items():
        assert p.dtype == dtype
        assert torch.isfinite(p).all()
        assert not torch.equal(p, before[name])
    for name in ("p2", "p3", "p4"):
        assert all(x.dtype == torch.promote_types(dtype, torch.float32) for x in tensors(optimizer.state[named[name]]))


def tensors(state):
    """The state of a parameter but for counters, which live on the host in float32."""
    return [value for key, value in state.items() if key != "step"]


@every
def test_sparse_and_complex_are_refused_by_name_and_change_nothing(case):
    p, q = nn.Parameter(gaussian(6, 4)), nn.Parameter(gaussian(6, 4))
    optimizer = build(case, [("first", p), ("second", q)])
    p.grad, q.grad = gaussian(6, 4, seed=1), gaussian(6, 4, seed=2).to_sparse()
    with pytest.raises(RuntimeError, match=r"'second' has a sparse gradient.*adamw"):
        optimizer.step()
    assert torch.equal(p, gaussian(6, 4))
    assert not optimizer.state
    with pytest.raises(TypeError, match=r"'z' is torch\.complex64"):
        build(case, [("z", nn.Parameter(torch.zeros(4, 4, dtype=torch.complex64)))])


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_resumed_run_has_the_same_bits(case, dtype):
    options = {"weight_decay": 0.1, "rest": {"lr": 3e-3}}
    through, first, second = network(dtype), network(dtype), network(dtype, seed=1)
    train(through, build(case, plan(through), **options), 5)
    optimizer = build(case, plan(first), **options)
    train(first, optimizer, 3)
    second.load_state_dict(through_a_file(first.state_dict()))
    resumed = build(case, plan(second), **{**options, "lr": 0.5})
    resumed.load_state_dict(through_a_file(optimizer.state_dict()))
    train(second, resumed, 2, start=3)
    assert same(through, second)


@every
def test_copies_continue_alike_and_apart(case):
    net = network()
    train(net, optimizer := build(case, plan(net)), 2)
    twin_net, twin = copy.deepcopy((net, optimizer))
    train(net, optimizer, 1, start=2)
    assert not same(net, twin_net)
    train(twin_net, twin, 1, start=2)
    assert same(net, twin_net)


@every
def test_the_state_dict_has_torchs_format_and_holds_tensors_and_plain_values(case):
    net = network()
    train(net, optimizer := build(case, plan(net)), 1)
    state = through_a_file(optimizer.state_dict())
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    names = [name for group in state["param_groups"] for name in group["param_names"]]
    assert numbers == list(range(len(names)))
    assert sorted(names) == sorted(name for name, _ in net.named_parameters())
    stateless = {"1.weight", "3.weight"} if case.options.get("variant") == "vanilla" else set()
    assert {names[number] for number in state["state"]} == set(names) - stateless
    for entry in state["state"].values():
        assert all(isinstance(value, torch.Tensor) for value in entry.values())
    plain = (bool, int, float, str, list, tuple, type(None))
    assert all(isinstance(value, plain) for group in state["param_groups"] for value in group.values())


@every
def test_state_moves_to_another_dtype(case):
    net = network()
    train(net, optimizer := build(case, plan(net)), 2)
    state = through_a_file(optimizer.state_dict())
    for dtype, working in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        other = network(dtype)
        loaded = build(case, plan(other))
        loaded.load_state_dict(state)
        for key, value in loaded.state[other[1].weight].items():
            expected = state["state"][0][key]  # "1.weight" is the first parameter of the first group
            assert value.dtype == (expected.dtype if key == "step" else working)
            assert torch.equal(value, expected.to(value.dtype))
        train(other, loaded, 1)


@every
def test_what_does_not_fit_is_named_with_the_reason_and_nothing_is_changed(case):
    net = network()
    train(net, optimizer := build(case, plan(net)), 1)
    good = through_a_file(optimizer.state_dict())
    before = copy.deepcopy(good)
    missing, misshapen, foreign = (copy.deepcopy(good) for _ in range(3))
    missing["state"][99] = {}
    foreign["state"].setdefault(0, {})["surprise"] = torch.zeros(3)
    wrongs = [(missing, "99: state of a parameter in no group"), (foreign, "1.weight: state 'surprise' is unexpected")]
    if 0 in good["state"]:
        key = next(iter(good["state"][0]))
        misshapen["state"][0][key] = torch.zeros(2, 3, 5)
        wrongs.append((misshapen, rf"1.weight: state '{key}' has shape \(2, 3, 5\), wanted"))
    for wrong, message in wrongs:
        with pytest.raises(ValueError, match=message):
            optimizer.load_state_dict(wrong)
    for number, entry in through_a_file(optimizer.state_dict())["state"].items():
        assert all(torch.equal(value, before["state"][number][key]) for key, value in entry.items())


@every
def test_hooks_see_each_update_before_the_weights_move_and_the_weights_after(case):
    p, q = nn.Parameter(gaussian(6, 4)), nn.Parameter(gaussian(6, 4))
    optimizer, plain = build(case, [("p", p)]), build(case, [("p", q)])
    seen, after = [], []
    optimizer.before_move.append(lambda bucket, d: seen.append((bucket.names, bucket.weights()[0].clone(), d.clone())))
    optimizer.after_move.append(lambda bucket: after.append((bucket.names, bucket.weights()[0].clone())))
    for x, o in ((p, optimizer), (q, plain)):
        x.grad = gaussian(6, 4, seed=1)
        o.step()
    [(names, before, direction)] = seen
    assert names == ("p",)
    assert torch.equal(before, gaussian(6, 4))
    assert torch.equal(p, q)
    assert after[0][0] == ("p",)
    assert torch.equal(after[0][1], p)
    assert torch.linalg.vector_norm(p.detach() - before) > 0
    cosine = torch.nn.functional.cosine_similarity((before - p.detach()).flatten(), direction.flatten(), dim=0)
    assert cosine > 1 - 1e-9
