"""From other Muons and back: momentum, options and steps of torch's Muon and of Keller Jordan's."""

import copy
import io
import warnings

import pytest
import torch
from torch import nn

from matfn import QDWH, Direct, PolarExpress, Tuned
from matfn.optim import SOAP, AdaMuon, Muon, NorMuon, PolarGrad, Shampoo, plan
from matfn.optim.matrices.layout import stack

needs_torchs = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon came with torch 2.9")
SHAPES = ((24, 16), (16, 40), (12, 12))


def weights(dtype=torch.float32, shapes=SHAPES):
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter((torch.randn(s, generator=generator, dtype=torch.float64) / 10).to(dtype)) for s in shapes]


def run(optimizer, params, steps):
    for k in steps:
        for j, p in enumerate(params):
            generator = torch.Generator().manual_seed(100 * k + j)
            p.grad = (torch.randn(p.shape, generator=generator, dtype=torch.float64) + 0.3).to(p.dtype)
        optimizer.step()


def polynomial(G, row, steps):
    """The steps of torch's Muon in float64, by singular values."""
    U, s, Vh = torch.linalg.svd(G, full_matrices=False)
    s = s / s.square().sum().sqrt()
    for _ in range(steps):
        s = row[0] * s + row[1] * s**3 + row[2] * s**5
    return U @ torch.diag(s) @ Vh


def torchs_by_hand(params, momenta, steps, *, lr, weight_decay, momentum, nesterov, row, count, ratio):
    """torch's Muon in float64."""
    W, B = ([x.detach().double().clone() for x in some] for some in (params, momenta))
    for k in steps:
        for j, (w, b) in enumerate(zip(W, B, strict=True)):
            generator = torch.Generator().manual_seed(100 * k + j)
            g = torch.randn(w.shape, generator=generator, dtype=torch.float64) + 0.3
            b.lerp_(g, 1 - momentum)
            update = polynomial(g.lerp(b, momentum) if nesterov else b, row, count)
            w.mul_(1 - lr * weight_decay).add_(update, alpha=-lr * ratio(*w.shape))
    return W


VECTOR = {"params": [nn.Parameter(torch.zeros(3))], "rule": "adamw"}
JORDAN = (3.4445, -4.7750, 2.0315)
VARIANTS = {
    "defaults": ({}, lambda m, n: max(1, m / n) ** 0.5),
    "adamw's size": ({"adjust_lr_fn": "match_rms_adamw"}, lambda m, n: 0.2 * max(m, n) ** 0.5),
    "other steps": ({"ns_coefficients": (1.875, -1.25, 0.375), "ns_steps": 3}, lambda m, n: max(1, m / n) ** 0.5),
    "no nesterov": ({"nesterov": False, "momentum": 0.8, "ns_steps": 4}, lambda m, n: max(1, m / n) ** 0.5),
}


@needs_torchs
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_of_torchs_muon_goes_on(variant):
    """In float64 the continuation is torch's algorithm, step by step, from the momentum that torch left."""
    options, ratio = VARIANTS[variant]
    params = weights(torch.float64)
    theirs = torch.optim.Muon(params, lr=0.05, weight_decay=0.2, **options)
    run(theirs, params, range(10))
    momenta = [theirs.state[p]["momentum_buffer"] for p in params]
    hyper = {"momentum": 0.95, "nesterov": True, **{k: v for k, v in options.items() if k in ("momentum", "nesterov")}}
    row, count = options.get("ns_coefficients", JORDAN), options.get("ns_steps", 5)
    expected = torchs_by_hand(
        params, momenta, range(10, 20), lr=0.05, weight_decay=0.2, row=row, count=count, ratio=ratio, **hyper
    )
    ours = Muon.from_torch(theirs, precision=torch.float64, engine=Direct())
    run(ours, params, range(10, 20))
    assert all(torch.allclose(p, w, rtol=0, atol=1e-11) for p, w in zip(params, expected, strict=True))


@needs_torchs
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_bfloat16_the_runs_differ_by_rounding_alone(dtype):
    """torch itself is off the exact run by rounding; ours may be off by as much again."""
    params = weights(dtype)
    theirs = torch.optim.Muon(params, lr=0.05)
    run(theirs, params, range(10))
    momenta = [theirs.state[p]["momentum_buffer"] for p in params]
    hyper = {"lr": 0.05, "weight_decay": 0.1, "momentum": 0.95, "nesterov": True, "row": JORDAN, "count": 5}
    exact = torchs_by_hand(params, momenta, range(10, 20), ratio=VARIANTS["defaults"][1], **hyper)
    twins, twin = copy.deepcopy((params, theirs))
    ours = Muon.from_torch(twin)
    run(theirs, params, range(10, 20))
    run(ours, [p for group in ours.param_groups for p in group["params"]], range(10, 20))
    for theirs_w, ours_w, w in zip(params, twins, exact, strict=True):
        assert (ours_w - w).norm() <= 2 * (theirs_w - w).norm()


@needs_torchs
def test_names_groups_schedules_and_adamw_are_taken_over():
    net = nn.Sequential(nn.Embedding(11, 8), nn.Linear(8, 12), nn.Linear(12, 8))
    pairs = [(n, p) for n, p in net.named_parameters() if p.ndim == 2 and n != "0.weight"]
    rest = [(n, p) for n, p in net.named_parameters() if p.ndim == 1 or n == "0.weight"]
    muon = torch.optim.Muon([{"params": pairs[:1], "lr": 0.5}, {"params": pairs[1:]}], lr=0.1, weight_decay=0.0)
    adamw = torch.optim.AdamW(rest, lr=3e-3, betas=(0.8, 0.9))
    scheduler = torch.optim.lr_scheduler.ConstantLR(muon, 0.5)
    for optimizer in (muon, adamw):
        run(optimizer, list(net.parameters()), range(3))
    ours = Muon.from_torch(muon, adamw)
    assert [g["lr"] for g in ours.param_groups] == [0.25, 0.05, 3e-3]
    assert [g["param_names"] for g in ours.param_groups[:2]] == [["1.weight"], ["2.weight"]]
    assert ours.param_groups[0]["initial_lr"] == 0.5
    assert ours.param_groups[2]["betas"] == (0.8, 0.9)
    assert scheduler.optimizer is muon
    twin, twin_adamw = copy.deepcopy((net, adamw))
    run(ours, list(net.parameters()), range(3, 6))
    run(twin_adamw, list(twin.parameters()), range(3, 6))
    for name, p in net.named_parameters():
        if p.ndim == 1 or name == "0.weight":
            assert torch.equal(p, dict(twin.named_parameters())[name])


@needs_torchs
def test_arguments_replace_what_was_taken_over_in_every_group():
    net = nn.Sequential(nn.Linear(8, 12), nn.Linear(12, 8))
    muon = torch.optim.Muon([{"params": [net[0].weight], "lr": 0.5}, {"params": [net[1].weight]}], lr=0.1)
    adamw = torch.optim.AdamW([net[0].bias, net[1].bias], lr=3e-3, betas=(0.8, 0.9))
    torch.optim.lr_scheduler.ConstantLR(muon, 0.5)
    run(muon, [net[0].weight, net[1].weight], range(2))
    given = {"lr": 0.02, "weight_decay": 0.3, "momentum": 0.5, "scale": "moonlight", "nesterov": False}
    ours = Muon.from_torch(muon, adamw, **given, rest={"lr": 7e-4, "weight_decay": 0.0}, cautious=True)
    for group in ours.param_groups[:2]:
        assert {key: group[key] for key in given} == given
        assert (group["initial_lr"], group["cautious"]) == (0.02, True)
    rest = ours.param_groups[2]
    assert (rest["lr"], rest["weight_decay"], rest["betas"]) == (7e-4, 0.0, (0.8, 0.9))
    assert torch.equal(ours.state[net[1].weight]["momentum_buffer"], muon.state[net[1].weight]["momentum_buffer"])


@needs_torchs
def test_a_checkpoint_of_torchs_muon_loads_and_what_is_not_in_it_is_said():
    params, file = weights(), io.BytesIO()
    theirs = torch.optim.Muon(params, lr=0.07, weight_decay=0.03, adjust_lr_fn="match_rms_adamw", eps=1e-3)
    run(theirs, params, range(3))
    torch.save(theirs.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    before = copy.deepcopy(state)
    others = weights()
    vector = nn.Parameter(torch.zeros(3))
    ours = Muon([{"params": others}, {"params": [("bias", vector)], "rule": "adamw", "lr": 0.5}])
    with pytest.warns(UserWarning, match="load_state_dict") as said:
        ours.load_state_dict(state)
    text = " ".join(str(w.message) for w in said)
    assert "method=Tuned(name='jordan', steps=5)" in text
    assert "eps=0.001 has no counterpart" in text
    assert "bias keep their own state" in text
    group = ours.param_groups[0]
    assert (group["lr"], group["weight_decay"], group["scale"]) == (0.07, 0.03, "moonlight")
    assert ours.param_groups[1]["lr"] == 0.5
    for p, q in zip(params, others, strict=True):
        assert torch.equal(ours.state[q]["momentum_buffer"], theirs.state[p]["momentum_buffer"])
    assert str(state) == str(before)


@needs_torchs
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_matrix_of_torchs_muon_that_is_under_adamw_here_is_named(prefix):
    """Such as the head of a model, which a plan gives to AdamW."""
    params = weights()
    theirs = torch.optim.Muon([(f"{prefix}w{i}", p) for i, p in enumerate(params)])
    run(theirs, params, range(1))
    ours = Muon([{"params": [("w0", params[0]), ("w1", params[1])]}, {"params": [("w2", params[2])], "rule": "adamw"}])
    with pytest.raises(ValueError, match=r"Muon: the Muon of this state dict moves w2 as a matrix, .* overrides"):
        ours.load_state_dict(theirs.state_dict())
    assert not ours.state


@needs_torchs
@pytest.mark.parametrize("other", [PolarGrad, NorMuon, AdaMuon, Shampoo, SOAP])
def test_a_checkpoint_of_torchs_muon_is_refused_by_other_rules(other):
    params = weights()
    theirs = torch.optim.Muon(params)
    run(theirs, params, range(1))
    optimizer = other(weights(), lr=0.1)
    with pytest.raises(ValueError, match=rf"{other.__name__}: [^\n]*\n.*rules are Ema, Polar; the rules here"):
        optimizer.load_state_dict(theirs.state_dict())
    assert not optimizer.state


@needs_torchs
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_there_and_back_again(dtype):
    params = weights(dtype)
    first = torch.optim.Muon(params, lr=0.05, adjust_lr_fn="match_rms_adamw", ns_steps=6)
    run(first, params, range(4))
    momenta = {p: first.state[p]["momentum_buffer"].clone() for p in params}
    back, rest = Muon.from_torch(first).to_torch()
    assert rest is None
    assert type(back) is torch.optim.Muon
    for key in ("lr", "weight_decay", "momentum", "nesterov", "ns_coefficients", "ns_steps", "adjust_lr_fn"):
        assert back.param_groups[0][key] == first.param_groups[0][key]
    assert all(torch.equal(back.state[p]["momentum_buffer"], momenta[p]) for p in params)
    run(back, params, range(4, 6))


@needs_torchs
def test_a_model_under_a_plan_goes_to_torch():
    net = nn.Sequential(nn.Embedding(11, 8), nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 8), nn.Linear(8, 11))
    ours = Muon(plan(net), lr=0.03, rest={"lr": 1e-3})
    run(ours, list(net.parameters()), range(2))
    with pytest.warns(UserWarning, match="torch goes on with its own five steps"):
        muon, adamw = ours.to_torch()
    held = [p for optimizer in (muon, adamw) for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in net.parameters()}
    before = [p.detach().clone() for p in net.parameters()]
    for optimizer in (muon, adamw):
        run(optimizer, list(net.parameters()), range(2, 3))
    assert all(not torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True))
    assert int(adamw.state[net[1].bias]["step"]) == 3


@needs_torchs
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Muon(weights(), scale="spectral"), "scale='spectral'; torch has"),
        (lambda: Muon(weights(), cautious=True), "cautious=True, which torch lacks"),
        (lambda: Muon(weights(), rounding="stochastic"), "rounding='stochastic', which torch lacks"),
        (lambda: Muon([{"params": [nn.Parameter(torch.zeros(2, 3, 4))], "layout": stack}]), "is not one matrix"),
        (
            lambda: Muon([{"params": weights(), "rounding": "nearest"}, {**VECTOR, "rounding": "compensated"}]),
            "group 1 has rounding='compensated'",
        ),
        (lambda: Muon([{"params": [nn.Parameter(torch.zeros(3))], "rule": "adamw"}]), "no group has the matrix rule"),
    ],
)
def test_what_torch_lacks_is_refused(make, message):
    with pytest.raises(ValueError, match=rf"Muon\.to_torch: .*{message}"):
        make().to_torch()


class Jordans(torch.optim.Optimizer):
    """The groups and state of Keller Jordan's SingleDeviceMuonWithAuxAdam, and its steps."""

    def __init__(self, groups):
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if group["use_muon"]:
                    buffer = state.setdefault("momentum_buffer", torch.zeros_like(p))
                    buffer.lerp_(p.grad, 1 - group["momentum"])
                    update = polynomial(p.grad.lerp(buffer, group["momentum"]), JORDAN, 5)
                    update *= max(1, p.shape[0] / p.shape[1]) ** 0.5
                else:
                    one, two = (state.setdefault(key, torch.zeros_like(p)) for key in ("exp_avg", "exp_avg_sq"))
                    state["step"] = step = state.get("step", 0) + 1
                    one.lerp_(p.grad, 1 - group["betas"][0])
                    two.lerp_(p.grad.square(), 1 - group["betas"][1])
                    size = (two / (1 - group["betas"][1] ** step)).sqrt() + group["eps"]
                    update = one / (1 - group["betas"][0] ** step) / size
                p.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"])


def jordans(params):
    adam = {"lr": 3e-3, "betas": (0.9, 0.95), "eps": 1e-10, "weight_decay": 0.1, "use_muon": False}
    muon = {"lr": 0.02, "momentum": 0.95, "weight_decay": 0.1, "use_muon": True}
    return [{"params": params[:2], **muon}, {"params": params[2:], **adam}]


@pytest.mark.parametrize("way", ["from_torch", "load_state_dict", "groups"])
def test_jordans_muon_goes_on(way):
    params = weights(torch.float64)
    theirs = Jordans(jordans(params))
    run(theirs, params, range(5))
    twins, twin = copy.deepcopy((params, theirs))
    options = {"precision": torch.float64, "engine": Direct()}
    if way == "from_torch":
        ours = Muon.from_torch(twin, **options)
    else:
        groups = jordans(twins) if way == "groups" else [{"params": twins[:2]}, {"params": twins[2:], "rule": "adamw"}]
        ours = Muon(groups, method=Tuned("jordan"), **options)
        assert [group["rule"] for group in ours.param_groups] == ["matrix", "adamw"]
        ours.load_state_dict(twin.state_dict())
    run(theirs, params, range(5, 10))
    run(ours, twins, range(5, 10))
    assert all(torch.allclose(p, q, rtol=0, atol=1e-10) for p, q in zip(params, twins, strict=True))


def test_other_optimizers_are_refused_by_name():
    p = weights()
    for other in (torch.optim.SGD(p, lr=0.1), torch.optim.AdamW(p), 5, Muon(p)):
        with pytest.raises(TypeError, match=r"Muon\.from_torch takes torch\.optim\.Muon or .* got "):
            Muon.from_torch(other)
    with pytest.raises(
        TypeError, match=r"Muon\.from_torch: adamw must be a torch\.optim\.AdamW, got torch\.optim\.sgd"
    ):
        Muon.from_torch(Jordans(jordans(p)), torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=0.1))


@needs_torchs
def test_groups_with_different_steps_are_refused():
    a, b, _ = weights()
    with pytest.raises(ValueError, match="the groups have different steps"):
        Muon.from_torch(torch.optim.Muon([{"params": [a]}, {"params": [b], "ns_steps": 3}]))


@pytest.mark.parametrize(
    "group",
    [
        {"params": [0], "lr": 0.1, "mu": 0.9, "algorithm": "muon", "weight_decay": 0.0},
        {"params": [0], "lr": 0.1, "wd": 0.1, "momentum": 0.9, "ns_steps": 5, "adamw_betas": (0.9, 0.95)},
    ],
    ids=["dion", "moonlight"],
)
def test_sums_of_gradients_are_refused_with_the_way_out(group):
    optimizer = Muon(weights(shapes=((3, 4),)), lr=0.3)
    state = {"state": {0: {"momentum": torch.ones(3, 4)}}, "param_groups": [group]}
    with pytest.raises(ValueError, match=r"Muon: .*sums gradients.*multiply theirs by 1 - momentum"):
        optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["lr"] == 0.3


@pytest.mark.parametrize(
    ("group", "words"),
    [
        ({"adjust_lr_fn": "other"}, "adjust_lr_fn='other' has no counterpart"),
        ({"ns_steps": 0}, "a schedule needs at least one step"),
        ({"lr": None}, "lr must be a number"),
        ({"momentum": 1.5}, "momentum must be in"),
    ],
)
def test_options_of_torchs_muon_that_do_not_fit_change_nothing(group, words):
    given = {"lr": 0.1, "weight_decay": 0.1, "momentum": 0.9, "nesterov": True, "ns_coefficients": JORDAN}
    given |= {"eps": 1e-7, "ns_steps": 5, "adjust_lr_fn": None, "params": [0]}
    optimizer = Muon(weights(shapes=((3, 4),)), lr=0.3)
    with pytest.raises((TypeError, ValueError), match=rf"^Muon: .*{words}"):
        optimizer.load_state_dict({"state": {}, "param_groups": [{**given, **group}]})
    assert optimizer.param_groups[0]["lr"] == 0.3
    del given["momentum"]
    with pytest.raises(ValueError, match=r"group 0 lacks \['momentum'\]"):
        optimizer.load_state_dict({"state": {}, "param_groups": [given]})


@pytest.mark.parametrize("theirs", [Muon, NorMuon, AdaMuon, PolarGrad, Shampoo, SOAP])
@pytest.mark.parametrize("ours", [Muon, NorMuon, AdaMuon, PolarGrad, Shampoo, SOAP])
@pytest.mark.parametrize("steps", [0, 1])
def test_state_of_another_optimizer_is_refused(ours, theirs, steps):
    one, two = weights(shapes=((6, 4),)), weights(shapes=((6, 4),))
    saved, loaded = theirs(one, lr=0.1), ours(two, lr=0.2)
    run(saved, one, range(steps))
    if ours is theirs:
        loaded.load_state_dict(saved.state_dict())
        assert loaded.param_groups[0]["lr"] == 0.1
        return
    with pytest.raises(ValueError, match=rf"{ours.__name__}: the state dict does not fit .*\n.*saved by an optimizer"):
        loaded.load_state_dict(saved.state_dict())
    assert loaded.param_groups[0]["lr"] == 0.2
    assert not loaded.state
    old = copy.deepcopy(saved.state_dict())  # a file of an earlier version does not say its rules
    del old["param_groups"][0]["chain"]
    if steps or {ours, theirs} == {Muon, PolarGrad}:
        with pytest.raises(ValueError, match="does not fit"):
            loaded.load_state_dict(old)


def test_a_method_of_ones_own_goes_before_that_of_torch():
    params = weights()
    ours = Muon.from_torch(Jordans(jordans(params)), method=PolarExpress(steps=3))
    assert ours.chain[1].method == PolarExpress(steps=3)


@pytest.mark.parametrize("method", [QDWH(), Tuned("jordan", steps=3), None])
def test_the_steps_of_a_checkpoint_are_said_if_they_are_not_these(method):
    params, others = weights(), weights()
    theirs, ours = Jordans(jordans(params)), Muon([{"params": others[:2]}, {"params": others[2:], "rule": "adamw"}])
    ours.chain[1].method = method
    with pytest.warns(UserWarning, match=r"Muon\.load_state_dict: its steps .* Tuned|method=Tuned"):
        ours.load_state_dict(theirs.state_dict())
    ours.chain[1].method = Tuned("jordan")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours.load_state_dict(theirs.state_dict())


@needs_torchs
def test_a_checkpoint_with_names_loads_in_any_order_and_without_prefixes():
    net = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 8), nn.Linear(8, 8))
    wrapped = [(f"module.{n}", p) for n, p in net.named_parameters() if p.ndim == 2][::-1]
    theirs = torch.optim.Muon(wrapped, lr=0.07)
    run(theirs, [p for _, p in wrapped], range(2))
    other = copy.deepcopy(net)
    ours = Muon(plan(other, overrides={"3.weight": "matrix"}, allow=("head",)))
    with pytest.warns(UserWarning, match="its steps"):
        ours.load_state_dict(theirs.state_dict())
    for name, p in net.named_parameters():
        if p.ndim == 2:
            held = ours.state[dict(other.named_parameters())[name]]["momentum_buffer"]
            assert torch.equal(held, theirs.state[p]["momentum_buffer"])


def test_jordans_muon_without_adamw_goes_on():
    class Plain(torch.optim.Optimizer):
        def __init__(self, params):
            super().__init__(params, {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.9})

    params = weights()
    theirs = Plain(params)
    for p in params:
        theirs.state[p]["momentum_buffer"] = torch.ones_like(p)
    ours = Muon.from_torch(theirs)
    assert ours.param_groups[0]["nesterov"] is True
    assert ours.param_groups[0]["momentum"] == 0.9
    assert ours.chain[1].method == Tuned("jordan")
    assert all(torch.equal(ours.state[p]["momentum_buffer"], torch.ones_like(p)) for p in params)
