"""Steps as captured graphs (graph=True), with a recorder of torch's operations in place of CUDA."""

import contextlib
import copy
import sys
import warnings
import weakref

import pytest
import torch
from recorder import Recording
from torch import nn

import matfn
from matfn.optim import SOAP, AdaMuon, Muon, NorMuon, PolarGrad, Shampoo, plan
from matrices import gaussian

SHAPES = [(12, 8), (12, 8), (8, 20), (16, 16)]
KINDS = [
    *(Muon, NorMuon, AdaMuon),
    *(
        lambda p, v=v, **kw: PolarGrad(p, variant=v, method=matfn.PolarExpress(), **kw)
        for v in ("momentum-first", "polar-first", "heavy-ball")
    ),
]
IDS = ["muon", "normuon", "adamuon", "polargrad", "polar-first", "heavy-ball"]


@pytest.fixture(autouse=True)
def recorded(monkeypatch):
    """Captures on the CPU, and torch's AdamW with its counters in memory there."""
    monkeypatch.setattr("matfn.optim.replay.RECORDERS", {"cpu": Recording})
    adam = sys.modules[torch.optim.Adam.__module__]
    monkeypatch.setattr(adam, "_get_capturable_supported_devices", lambda *_, **__: ["cpu"])


def groups(dtype=torch.float32):
    """Matrices in two groups, and a vector for AdamW."""
    params = [nn.Parameter(gaussian(*shape, seed=i, dtype=dtype)) for i, shape in enumerate(SHAPES)]
    vector = nn.Parameter(gaussian(9, seed=9, dtype=dtype))
    slow = {"params": params[2:], "lr": 0.01, "weight_decay": 0.2}
    rest = {"params": [vector], "rule": "adamw", "lr": 3e-3}
    return [{"params": params[:2]}, slow, rest], [*params, vector]


def give_gradients(params, step, fresh):
    """The gradients of a step, in fresh memory or in the memory of the last ones."""
    for i, p in enumerate(params):
        gradient = gaussian(*p.shape, seed=100 * step + i, dtype=p.dtype)
        if fresh or p.grad is None:
            p.grad = gradient
        else:
            p.grad.copy_(gradient)


def schedule(optimizer, step):
    """Learning rates, weight decay and momentum that change at each step."""
    for i, group in enumerate(optimizer.param_groups):
        group["lr"] = 0.05 / (step + 1 + i)
        if group["rule"] != "adamw":
            group["weight_decay"] = 0.1 + 0.01 * step
            group["momentum"] = 0.85 + 0.005 * step
            if "beta2" in group:
                group["beta2"] = 0.9 + 0.002 * step


def recorder(optimizer):
    return optimizer._replay._recorder


def run_live(optimizer):
    """A step that runs with the operations of a captured one: numbers of groups are tensors."""
    replay = optimizer._replay
    replay._settled, replay._captured = None, []
    optimizer.step()


@pytest.mark.parametrize("fresh", [True, False], ids=["fresh", "kept"])
@pytest.mark.parametrize("kind", KINDS, ids=IDS)
def test_replayed_steps_are_those_that_run(kind, fresh):
    """20 steps with schedules: bit for bit the step that runs with tensors, and nearly the step without graphs."""
    made = [groups() for _ in range(3)]
    ours, live, plain = (kind(g, lr=0.05, graph=i < 2) for i, (g, _) in enumerate(made))
    for step in range(20):
        for optimizer, (_, params) in zip((ours, live, plain), made, strict=True):
            give_gradients(params, step, fresh)
            schedule(optimizer, step)
        ours.step()
        run_live(live)
        plain.step()
        for a, b in zip(made[0][1], made[1][1], strict=True):
            assert torch.equal(a, b), step
    moved = ["replay", "capture"] if fresh else []  # the second capture is of copies
    assert recorder(ours).log == ["run", "capture", *moved, *["replay"] * (18 if fresh else 19)]
    assert recorder(live).log == ["run"] * 20
    for a, b in zip(made[0][1], made[2][1], strict=True):
        # 20 steps, whose last operations round each in another order; the directions themselves are the same.
        assert (a - b).abs().max() <= 500 * torch.finfo(a.dtype).eps * b.abs().max()


def test_a_frozen_number_would_be_found():
    """The recorder repeats a step with the numbers that it was captured with."""
    p, lr = torch.ones(3), [1.0]
    replay = Recording(torch.device("cpu")).capture(lambda: torch._foreach_mul_([p], lr[0] + 1))
    assert torch.equal(p, torch.ones(3)), "a capture must not run"
    replay()
    lr[0] = 4.0
    replay()
    assert torch.equal(p, torch.full((3,), 4.0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("cautious", [False, True])
def test_other_dtypes_replay(dtype, cautious):
    ours, live = groups(dtype), groups(dtype)
    options = {"rounding": "compensated"} if dtype is torch.bfloat16 else {}
    one, two = (Muon(g, weight_decay=0.1, cautious=cautious, graph=True, **options) for g, _ in (ours, live))
    for step in range(8):
        for optimizer, (_, params) in ((one, ours), (two, live)):
            give_gradients(params, step, True)
            schedule(optimizer, step)
        one.step()
        run_live(two)
    assert recorder(one).log[-1] == "replay"
    assert all(torch.equal(a, b) for a, b in zip(ours[1], live[1], strict=True))


def test_another_option_or_set_of_gradients_is_captured_anew():
    made, params = groups()
    optimizer = Muon(made, graph=True)
    for step in range(3):
        give_gradients(params, step, False)
        optimizer.step()
    assert recorder(optimizer).log == ["run", "capture", "replay", "replay"]
    optimizer.param_groups[0]["nesterov"] = False
    for _ in range(3):
        optimizer.step()
    assert recorder(optimizer).log[4:] == ["run", "capture", "replay", "replay"]
    optimizer.param_groups[0]["nesterov"] = True
    optimizer.step()
    assert recorder(optimizer).log[8:] == ["replay"], "the first graph is kept"
    held, params[0].grad = params[0].grad, None
    before = params[0].detach().clone()
    for _ in range(3):
        optimizer.step()
    assert recorder(optimizer).log[9:] == ["run", "capture", "replay", "replay"]
    assert torch.equal(before, params[0])
    params[0].grad = held
    optimizer.step()
    assert recorder(optimizer).log[13:] == ["replay"]


def test_a_loaded_state_is_used():
    made, params = groups()
    optimizer = Muon(made, graph=True)
    for step in range(4):
        give_gradients(params, step, False)
        optimizer.step()
    saved, weights = copy.deepcopy(optimizer.state_dict()), [p.detach().clone() for p in params]
    results = []
    for _ in range(2):
        optimizer.load_state_dict(copy.deepcopy(saved))
        with torch.no_grad():
            for p, w in zip(params, weights, strict=True):
                p.copy_(w)
        for step in range(4, 8):
            give_gradients(params, step, False)
            optimizer.step()
        results.append([p.detach().clone() for p in params])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_failed_capture_leaves_the_steps_as_they_are():
    (made, params), (plain, others) = groups(), groups()
    one, two = Muon(made, graph=True), Muon(plain)
    for step in range(5):
        for ps in (params, others):
            give_gradients(ps, step, False)
        if step == 1:
            recorder(one).failure = RuntimeError("no memory for a graph")
            with pytest.warns(RuntimeWarning, match=r"Muon: graph=True has no effect.*no memory for a graph"):
                one.step()
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                one.step()
        two.step()
    assert recorder(one).log == ["run", "capture"]
    assert all((a - b).abs().max() <= 50 * 2**-23 * b.abs().max() for a, b in zip(params, others, strict=True))


def test_a_step_that_waits_is_not_captured(monkeypatch):
    made, params = groups()
    optimizer = Muon(made, graph=True)
    monkeypatch.setattr(Recording, "warm_up", lambda self, work: work() or "the host waits for the device at x.py:3")
    give_gradients(params, 0, False)
    optimizer.step()  # may compile kernels
    with pytest.warns(RuntimeWarning, match="host waits for the device at x.py:3"):
        optimizer.step()
    optimizer.step()
    assert recorder(optimizer).log == []


def test_waits_of_new_steps_do_not_count(monkeypatch):
    # A loaded state has AdamW's counters on the host, and another set of gradients may compile kernels.
    made, params = groups()
    optimizer = Muon(made, graph=True)
    waits = ["the host waits"] * 3 + [""]
    monkeypatch.setattr(Recording, "warm_up", lambda self, work: work() or waits.pop(0))
    give_gradients(params, 0, False)
    for _ in range(3):
        optimizer.load_state_dict(optimizer.state_dict())
        optimizer.step()
    for _ in range(2):
        optimizer.step()
    assert recorder(optimizer).log == ["capture", "replay"]


def test_steps_that_are_new_and_wait_without_end_are_not_captured(monkeypatch):
    made, params = groups()
    optimizer = Muon(made, graph=True)
    monkeypatch.setattr(Recording, "warm_up", lambda self, work: work() or "the host waits")
    for step in range(8):
        give_gradients(params, 0, False)
        params[step % 2].grad = None
        with pytest.warns(RuntimeWarning, match="the host waits") if step == 7 else contextlib.nullcontext():
            optimizer.step()
    assert recorder(optimizer).log == []


def test_another_list_of_options_is_read():
    made, params = groups()
    optimizer = Muon(made, graph=True)
    give_gradients(params, 0, False)
    for _ in range(2):
        optimizer.step()
    optimizer.param_groups[0] = dict(optimizer.param_groups[0])
    before = params[0].detach().clone()
    for lr in (1e-2, 1e-3, 1e-4):
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
        moved, before = (params[0] - before).norm().item(), params[0].detach().clone()
        assert lr <= moved <= 10 * lr, "the captured step read the numbers of the old group"


def test_gradients_that_move_in_alternating_sets():
    (made, params), (plain, others) = groups(), groups()
    one, two = Muon(made, graph=True), Muon(plain)
    for step in range(16):
        for optimizer, ps in ((one, params), (two, others)):
            give_gradients(ps, step, fresh=True)
            if step // 2 % 2:
                ps[0].grad = ps[-1].grad = None  # fewer numbers than in the other set
            schedule(optimizer, step)
            optimizer.step()
    assert recorder(one).log.count("capture") == 4  # of each set in place, then on copies
    assert all((a - b).abs().max() <= 100 * 2**-23 * b.abs().max() for a, b in zip(params, others, strict=True))


def test_gradients_are_not_held(monkeypatch):
    made, params = groups()
    optimizer = Muon(made, graph=True)
    monkeypatch.setattr(Recording, "capture", lambda self, work: work() or (lambda: None))
    give_gradients(params, 0, False)
    for _ in range(3):
        optimizer.step()
    assert optimizer._replay.captures == 1
    gradients = [weakref.ref(p.grad) for p in params]
    assert all(each() is not None for each in gradients)
    optimizer.zero_grad(set_to_none=True)
    assert all(each() is None for each in gradients), "the next gradients cannot take this memory"


def test_copies_keep_the_option_and_capture_graphs_of_their_own():
    made, params = groups()
    optimizer = Muon(made, graph=True)
    for step in range(3):
        give_gradients(params, step, False)
        optimizer.step()
    other = copy.deepcopy(optimizer)
    assert other.graph
    assert other._replay.captures == 0
    assert "graph" not in optimizer.param_groups[0]


def test_a_captured_training_step_of_ones_own():
    """Forward pass, backward pass and step in one graph, as docs/optimizers.md writes it."""
    models = [nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 4)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    rates = [torch.tensor(0.05), torch.tensor(3e-3)]
    rest = {"lr": rates[1], "capturable": True}
    one, two = (Muon(plan(model), lr=rates[0], rest=dict(rest)) for model in models)
    inputs = torch.zeros(5, 8)

    def train(model, optimizer):
        model(inputs).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)

    for step in range(3):
        inputs.copy_(gaussian(5, 8, seed=step))
        for model, optimizer in zip(models, (one, two), strict=True):
            train(model, optimizer)
    replay = Recording(torch.device("cpu")).capture(lambda: train(models[0], one))
    for step in range(3, 12):
        inputs.copy_(gaussian(5, 8, seed=step))
        rates[0].fill_(0.05 / step)
        rates[1].fill_(3e-3 / step)
        replay()
        train(models[1], two)
    assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True))


def test_closures_run_outside():
    made, params = groups()
    optimizer, calls = Muon(made, graph=True), []

    def closure():
        give_gradients(params, len(calls), False)
        calls.append(None)
        return 1.0

    for _ in range(4):
        assert optimizer.step(closure) == 1.0
    assert len(calls) == 4
    assert recorder(optimizer).log == ["run", "capture", *["replay"] * 3]


@pytest.mark.parametrize("hooks", ["before_move", "after_move"])
def test_hooks_are_refused(hooks):
    made, params = groups()
    optimizer = Muon(made, graph=True)
    give_gradients(params, 0, False)
    getattr(optimizer, hooks).append(lambda *_: None)
    before = [p.detach().clone() for p in params]
    with pytest.raises(RuntimeError, match=f"graph=True replays its steps, which would not call .* {hooks}"):
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, params, strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounding": "stochastic"}, 'would repeat the noise of one step under rounding="stochastic"'),
        ({"method": matfn.Exact()}, r"cannot capture Exact\(.*which reads values"),
        ({"method": matfn.RitzMinimax(tol=1e-3)}, r"cannot capture RitzMinimax\(.*which reads values"),
        ({"method": matfn.RitzMinimax(every=9)}, r"cannot capture RitzMinimax\(.*every=9\), .* Leave every or graph"),
    ],
)
def test_what_cannot_be_captured_is_refused(options, message):
    with pytest.raises(ValueError, match=f"Muon: graph=True {message}"):
        Muon(groups()[0], graph=True, **options)


def test_devices_without_graphs_are_refused(monkeypatch):
    monkeypatch.setattr("matfn.optim.replay.RECORDERS", {})
    with pytest.raises(ValueError, match="graph=True needs all parameters on one CUDA device, got cpu"):
        Muon(groups()[0], graph=True)
    with pytest.raises(TypeError, match="graph must be True or False, got 1"):
        Muon(groups()[0], graph=1)


@pytest.mark.parametrize("kind", [Shampoo, SOAP])
def test_rules_that_count_steps_take_no_graph(kind):
    with pytest.raises(TypeError, match=f"{kind.__name__} has no argument 'graph'"):
        kind(groups()[0], graph=True)
    made = [{**groups()[0][0], "rule": "other"}]
    with pytest.raises(ValueError, match=rf"cannot capture the rule 'other' \({kind.__name__}\), which counts steps"):
        Muon(made, rules={"other": lambda p: kind(p)}, graph=True)
