"""The state dict: torch's format, bit-identical on resume, portable between wrappers, and refused with reasons."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict, set_optimizer_state_dict

from matfn import Exact, PolarExpress
from matfn.optim import Muon, plan
from matfn.optim.checkpoint import bare


def model(dtype=torch.float32):
    torch.manual_seed(0)
    parts = [nn.Embedding(11, 8), nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 8), nn.LayerNorm(8), nn.Linear(8, 11)]
    return nn.Sequential(*parts).to(dtype)


def train(net, optimizer, steps, start=0):
    for i in range(start, start + steps):
        x = torch.randint(0, 11, (32,), generator=torch.Generator().manual_seed(i))
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x).float(), (3 * x + 1) % 11).backward()
        optimizer.step()


def saved(state):
    """Through a file, with nothing but tensors and plain values allowed."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


OPTIONS = {"lr": 0.01, "weight_decay": 0.1, "rest": {"lr": 3e-3, "weight_decay": 0.1}}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_resuming_is_bit_identical(dtype):
    through, first = model(dtype), model(dtype)
    train(through, Muon(plan(through), **OPTIONS), 6)
    optimizer = Muon(plan(first), **OPTIONS)
    train(first, optimizer, 3)
    weights, state = saved(first.state_dict()), saved(optimizer.state_dict())
    second = model(dtype)
    second.load_state_dict(weights)
    resumed = Muon(plan(second), **{**OPTIONS, "lr": 0.5})
    resumed.load_state_dict(state)
    train(second, resumed, 3, start=3)
    assert same(through, second)


def test_the_schedule_resumes_too():
    def build():
        net = model()
        optimizer = Muon(plan(net), **OPTIONS)
        return net, optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6)

    def run(net, optimizer, scheduler, steps, start):
        for i in range(start, start + steps):
            train(net, optimizer, 1, start=i)
            scheduler.step()

    through = build()
    run(*through, 6, 0)
    first, second = build(), build()
    run(*first, 3, 0)
    for new, old in zip(second, first, strict=True):
        new.load_state_dict(saved(old.state_dict()))
    run(*second, 3, 3)
    assert same(through[0], second[0])


def test_momentum_of_half_precision_weights_stays_float32():
    net, other = model(torch.bfloat16), model(torch.bfloat16)
    optimizer, loaded = Muon(plan(net)), Muon(plan(other))
    train(net, optimizer, 3)
    loaded.load_state_dict(saved(optimizer.state_dict()))
    for p, q in zip((net[1].weight, net[3].weight), (other[1].weight, other[3].weight), strict=True):
        momentum = loaded.state[q]["momentum_buffer"]
        assert momentum.dtype == torch.float32
        assert torch.equal(momentum, optimizer.state[p]["momentum_buffer"])
        assert not torch.equal(momentum, momentum.bfloat16().float())


def test_float32_state_loads_into_a_bfloat16_model_and_back():
    wide, narrow = model(), model(torch.bfloat16)
    first, second = Muon(plan(wide)), Muon(plan(narrow))
    train(wide, first, 2)
    second.load_state_dict(saved(first.state_dict()))
    assert torch.equal(
        second.state[narrow[1].weight]["momentum_buffer"], first.state[wide[1].weight]["momentum_buffer"]
    )
    # AdamW's own moments have the parameter's dtype, as torch makes them
    assert second.state[narrow[0].weight]["exp_avg"].dtype == torch.bfloat16
    train(narrow, second, 1)
    first.load_state_dict(saved(second.state_dict()))
    assert first.state[wide[0].weight]["exp_avg"].dtype == torch.float32
    train(wide, first, 1)


def by_name(state):
    """The state of each parameter that has some, by its name."""
    found = {}
    for group in state["param_groups"]:
        found |= dict(zip(group["param_names"], group["params"], strict=True))
    return {name: state["state"][number] for name, number in found.items() if number in state["state"]}


def as_saved_before(state):
    """The same in the form of earlier versions: names instead of numbers, an entry for each parameter."""
    entries = by_name(state)
    groups = [{**group, "params": group["param_names"]} for group in state["param_groups"]]
    for group in groups:
        del group["param_names"]
    return {
        "state": {name: entries.get(name, {}) for group in groups for name in group["params"]},
        "param_groups": groups,
    }


def test_the_state_dict_has_torchs_format_and_holds_plain_values():
    net = model()
    optimizer = Muon(plan(net), scale="moonlight", method=PolarExpress(steps=3), precision=torch.bfloat16)
    train(net, optimizer, 1)
    state = saved(optimizer.state_dict())
    assert set(state) == {"state", "param_groups"}
    assert set(state["state"]) == set(range(9))
    assert [group["params"] for group in state["param_groups"]] == [[0, 1], [2, 3], [4, 5, 6, 7, 8]]
    assert [g["param_names"] for g in state["param_groups"]] == [g["param_names"] for g in optimizer.param_groups]
    assert set(by_name(state)["1.weight"]) == {"momentum_buffer"}
    other = torch.optim.AdamW(list(net.named_parameters())).state_dict()
    assert set(other) == set(state)
    assert set(other["param_groups"][0]) - set(state["param_groups"][1]) == set()
    assert state["param_groups"][0]["scale"] == "moonlight"


def test_unnamed_tensors_are_named_by_group_and_position():
    p, q, r = (nn.Parameter(torch.randn(4, 6)) for _ in range(3))
    optimizer = Muon([{"params": [p, q]}, {"params": [r], "rule": "adamw"}])
    groups = optimizer.state_dict()["param_groups"]
    assert [group["param_names"] for group in groups] == [["group0.0", "group0.1"], ["group1.0"]]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["_orig_mod.a.weight", "b"], ["a.weight", "b"]),
        (["module.a.weight", "module.b"], ["a.weight", "b"]),
        (["module._orig_mod.a.weight"], ["a.weight"]),
        (["_orig_mod.module.a.weight"], ["a.weight"]),
        (["layers.0._orig_mod.fc.weight"], ["layers.0.fc.weight"]),
        (["a._checkpoint_wrapped_module.w"], ["a.w"]),
        (["a.module.weight"], ["a.module.weight"]),
        (["my_orig_mod.weight"], ["my_orig_mod.weight"]),
        (["module.weight", "temp"], ["module.weight", "temp"]),  # a layer called module, and no wrapper
        (["module.module.weight", "module.temp"], ["module.weight", "temp"]),
        ([], []),
    ],
)
def test_what_wrappers_add_is_told_from_layers_of_that_name(names, expected):
    assert list(bare(names).values()) == expected


class HasModule(nn.Module):
    """A model with a layer called "module", no wrapper of anything."""

    def __init__(self):
        super().__init__()
        self.module = nn.Linear(8, 8)
        self.temp = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.module(x) * self.temp


def grouped(net):
    """Named pairs as they come, not by a plan: the wrapper's names."""
    pairs = list(net.named_parameters())
    matrices = [(name, p) for name, p in pairs if p.ndim == 2]
    return [{"params": matrices}, {"params": [pair for pair in pairs if pair[1].ndim < 2], "rule": "adamw"}]


@pytest.mark.parametrize("build", [HasModule, lambda: nn.Linear(8, 8)], ids=["has-module", "plain"])
@pytest.mark.parametrize(
    "wrap", [lambda m: m, nn.DataParallel, lambda m: torch.compile(m, backend="eager")], ids=["none", "dp", "compiled"]
)
def test_a_state_by_wrapped_names_loads_under_any_other(build, wrap):
    inner, other = build(), build()
    first = Muon(grouped(wrap(inner)))
    inner(torch.ones(3, 8)).sum().backward()
    first.step()
    for target in (Muon(grouped(other)), Muon(grouped(nn.DataParallel(other))), Muon(plan(other))):
        target.load_state_dict(saved(first.state_dict()))
        buffers = [target.state[p]["momentum_buffer"] for p in other.parameters() if p.ndim == 2]
        assert torch.equal(buffers[0], next(first.state[p]["momentum_buffer"] for p in first.state if p.ndim == 2))


@pytest.mark.parametrize("wrong", [nn.Linear(3, 3).state_dict(), {"foo": 1}, {}])
def test_what_is_no_state_of_an_optimizer_is_said_to_be_none(wrong):
    with pytest.raises(ValueError, match='has the keys "state" and "param_groups"; this one has'):
        Muon(plan(model())).load_state_dict(wrong)
    with pytest.raises(TypeError, match="got a NoneType"):
        Muon(plan(model())).load_state_dict(None)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_model_converted_after_a_step_is_refused_until_the_state_is_cast(dtype):
    net = model()
    optimizer = Muon(plan(net))
    train(net, optimizer, 2)
    net.to(dtype)
    before = copy.deepcopy(net)
    momentum = optimizer.state[net[1].weight]["momentum_buffer"]
    for _ in range(2):  # not only the first time
        with pytest.raises(RuntimeError, match=r"is now torch\.\w+ on cpu .* converted or moved after the optimizer"):
            train(net, optimizer, 1)
        assert same(net, before)
    optimizer.load_state_dict(optimizer.state_dict())
    cast = optimizer.state[net[1].weight]["momentum_buffer"]
    assert cast.dtype == torch.promote_types(dtype, torch.float32)
    assert torch.equal(cast.float(), momentum)
    train(net, optimizer, 1)
    assert not same(net, before)


def test_compiled_and_plain_models_exchange_their_state():
    plain, inner = model(), model()
    compiled = torch.compile(inner, backend="eager")
    first, second = Muon(plan(plain)), Muon(plan(compiled))
    train(plain, first, 2)
    inner.load_state_dict(plain.state_dict())
    second.load_state_dict(saved(first.state_dict()))
    train(plain, first, 1, start=2)
    train(compiled, second, 1, start=2)
    assert same(plain, inner)
    first.load_state_dict(saved(second.state_dict()))


@pytest.mark.parametrize("form", [lambda state: state, as_saved_before], ids=["now", "before"])
def test_a_state_dict_with_prefixes_loads(form):
    net, other = model(), model()
    optimizer, loaded = Muon(plan(net)), Muon(plan(other))
    train(net, optimizer, 1)
    state = form(saved(optimizer.state_dict()))
    state["state"] = {f"module.{n}" if isinstance(n, str) else n: entry for n, entry in state["state"].items()}
    for group in state["param_groups"]:
        for key in ("params", "param_names"):
            group[key] = [f"module.{n}" if isinstance(n, str) else n for n in group.get(key, group["params"])]
    if form is as_saved_before:
        for group in state["param_groups"]:
            del group["param_names"]
    loaded.load_state_dict(state)
    same_state(by_name(loaded.state_dict()), by_name(optimizer.state_dict()))
    assert loaded.param_groups[0]["param_names"] == ["1.weight", "3.weight"]


def same_state(one, other):
    assert set(one) == set(other)
    for key, entry in one.items():
        assert set(entry) == set(other[key])
        for name, value in entry.items():
            assert value.dtype == other[key][name].dtype
            assert torch.equal(value, other[key][name])


def test_a_file_of_earlier_versions_loads():
    net, other = model(torch.bfloat16), model(torch.bfloat16)
    optimizer, loaded = Muon(plan(net), **OPTIONS), Muon(plan(other))
    train(net, optimizer, 2)
    loaded.load_state_dict(as_saved_before(saved(optimizer.state_dict())))
    same_state(loaded.state_dict()["state"], optimizer.state_dict()["state"])
    assert loaded.param_groups[0]["lr"] == 0.01


def test_names_match_whatever_the_order_is():
    a, b = (nn.Parameter(torch.zeros(4, 4)) for _ in range(2))
    one, two = Muon([("a", a), ("b", b)]), Muon([("b", b), ("a", a)])
    a.grad, b.grad = torch.ones(4, 4), 2 * torch.ones(4, 4)
    one.step()
    two.load_state_dict(saved(one.state_dict()))
    assert torch.equal(two.state[a]["momentum_buffer"], one.state[a]["momentum_buffer"])


@pytest.mark.parametrize("unnamed", ["ours", "theirs", "no names saved"])
def test_without_names_on_one_side_positions_match(unnamed):
    def made(named):
        weights = [nn.Parameter(torch.zeros(4, 4)), nn.Parameter(torch.zeros(4, 3))]
        return Muon([(f"w{i}", w) for i, w in enumerate(weights)] if named else weights), weights

    (one, weights), (two, others) = made(unnamed != "theirs"), made(unnamed != "ours")
    for w in weights:
        w.grad = torch.randn_like(w)
    one.step()
    state = saved(one.state_dict())
    if unnamed == "no names saved":
        del state["param_groups"][0]["param_names"]
    two.load_state_dict(state)
    for w, other in zip(weights, others, strict=True):
        assert torch.equal(two.state[other]["momentum_buffer"], one.state[w]["momentum_buffer"])
    third = Muon([{"params": others[:1]}, {"params": others[1:]}])
    state["param_groups"][0].pop("param_names", None)
    with pytest.raises(ValueError, match=r"matched by position.*\[2\] parameters, those of this optimizer \[1, 1\]"):
        third.load_state_dict(state)


@pytest.mark.parametrize("options", [{}, {"flatten_optimizer_state_dict": True}, {"full_state_dict": True}], ids=str)
@pytest.mark.parametrize("wrap", [lambda m: m, lambda m: torch.compile(m, backend="eager")], ids=["plain", "compiled"])
def test_torchs_own_functions_for_checkpoints_round_trip(wrap, options):
    given, got = StateDictOptions(**options), []
    for seed in range(2):
        torch.manual_seed(seed)
        net = wrap(nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 4)).bfloat16())
        optimizer = Muon(plan(net), **(OPTIONS if seed == 0 else {}))
        if seed == 0:
            for _ in range(2):
                optimizer.zero_grad()
                net(torch.randn(3, 4).bfloat16()).square().sum().backward()
                optimizer.step()
            state = get_optimizer_state_dict(net, optimizer, options=given)
        else:
            set_optimizer_state_dict(net, optimizer, state, options=given)
        got.append(optimizer)
    same_state(by_name(got[0].state_dict()), by_name(got[1].state_dict()))
    assert got[1].state_dict()["param_groups"] == got[0].state_dict()["param_groups"]


def test_loading_shares_no_tensor_and_changes_no_argument():
    net, other = model(), model()
    optimizer, loaded = Muon(plan(net)), Muon(plan(other))
    train(net, optimizer, 2)
    state = optimizer.state_dict()
    before = copy.deepcopy(state)
    loaded.load_state_dict(state)
    train(other, loaded, 2)
    for number, entry in before["state"].items():
        for key, value in entry.items():
            assert torch.equal(state["state"][number][key], value)
    assert state["param_groups"] == before["param_groups"]


def drop(state, group):
    """Take the last parameter out of a group."""
    return state["param_groups"][group]["params"].pop(), state["param_groups"][group]["param_names"].pop()


def add(state, group, number, name):
    state["param_groups"][group]["params"].append(number)
    state["param_groups"][group]["param_names"].append(name)


def broken(change):
    net = model()
    optimizer = Muon(plan(net))
    train(net, optimizer, 1)
    state = saved(optimizer.state_dict())
    change(state)
    return state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: drop(s, 0), r"3\.weight: missing from the state dict"),
        (lambda s: add(s, 0, 9, "9.weight"), r"9\.weight: unexpected"),
        (lambda s: s["param_groups"][0]["params"].append(9), '10 parameters in the "params" .* but 9 "param_names"'),
        (lambda s: s["state"].update({9: {}}), r"9: state of a parameter in no group"),
        (lambda s: by_name(s)["0.weight"].pop("exp_avg"), r"0\.weight: state 'exp_avg' is missing"),
        (lambda s: s["state"][0].update(other=torch.zeros(1)), r"1\.weight: state 'other' is unexpected"),
        (lambda s: s["state"][0].update(momentum_buffer="x"), r"1\.weight: state 'momentum_buffer' is a str, wanted"),
        (
            lambda s: s["state"][0].update(momentum_buffer=torch.zeros(8, 16)),
            r"1\.weight: state 'momentum_buffer' has shape \(8, 16\), wanted \(16, 8\)",
        ),
        (lambda s: add(s, 1, *drop(s, 0)), r"3\.weight: in group 1 of the state dict, in group 0 here"),
        (
            lambda s: s["param_groups"][0].update(rule="adamw"),
            r"1\.weight: group 0 has rule 'adamw' there, 'matrix' here",
        ),
        (lambda s: s["param_groups"][0].update(scale="custom"), "group 0 of the state dict: scale must be one of"),
        (lambda s: s.pop("state"), "has the keys"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_changed(change, message):
    net = model()
    optimizer = Muon(plan(net), lr=0.77)
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(broken(change))
    assert optimizer.param_groups[0]["lr"] == 0.77
    assert not optimizer.state


def test_a_state_dict_of_a_torch_optimizer_is_refused():
    net = model()
    with pytest.raises(ValueError, match="matched by position"):
        Muon(plan(net)).load_state_dict(torch.optim.AdamW(net.parameters()).state_dict())
    groups = [{"params": list(group["params"])} for group in Muon(plan(net)).param_groups]
    with pytest.raises(ValueError, match=r"1\.weight: group 0 has rule None there, 'matrix' here"):
        Muon(plan(net)).load_state_dict(torch.optim.AdamW(groups).state_dict())


def test_a_parameter_that_never_had_a_gradient_round_trips():
    p, q = (nn.Parameter(torch.randn(4, 6)) for _ in range(2))
    optimizer = Muon([("p", p), ("q", q)])
    p.grad = torch.randn(4, 6)
    optimizer.step()
    state = saved(optimizer.state_dict())
    assert set(state["state"]) == {0}
    optimizer.load_state_dict(state)
    assert q not in optimizer.state
    q.grad = torch.randn(4, 6)
    optimizer.step()
    assert optimizer.state[q]
    optimizer.load_state_dict(state)
    assert not optimizer.state.get(q)


@pytest.mark.parametrize(
    "copier", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["copy", "pickle"]
)
def test_copies_continue_alike_and_apart(copier):
    net = model()
    optimizer = Muon(plan(net), method=Exact(), scale="spectral", **OPTIONS)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)  # schedulers wrap optimizer.step on the instance
    train(net, optimizer, 2)
    twin, other = copier((net, optimizer))
    assert other.chain[1].method == Exact()
    before = copy.deepcopy(net)
    train(twin, other, 2, start=2)
    assert same(net, before)
    train(net, optimizer, 2, start=2)
    assert same(net, twin)
    assert scheduler.get_last_lr()[0] == optimizer.param_groups[0]["lr"]
    other.add_param_group({"params": [("new", nn.Parameter(torch.zeros(2, 3)))]})
    assert set(other.param_groups[-1]) == set(optimizer.param_groups[0]) - {"initial_lr"}


def test_state_dict_hooks_run():
    net = model()
    optimizer = Muon(plan(net))
    calls = []
    optimizer.register_state_dict_pre_hook(lambda o: calls.append("save"))
    optimizer.register_state_dict_post_hook(lambda o, s: {**s, "extra": 1})
    optimizer.register_load_state_dict_pre_hook(lambda o, s: {key: s[key] for key in ("state", "param_groups")})
    optimizer.register_load_state_dict_post_hook(lambda o: calls.append("loaded"))
    state = optimizer.state_dict()
    assert state["extra"] == 1
    optimizer.load_state_dict(state)
    assert calls == ["save", "loaded"]


def test_a_state_dict_that_lost_its_state_is_refused():
    """torch.distributed.checkpoint loads into tensors that exist, so a fresh state dict gets options and no state."""
    net = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3))
    optimizer = Muon(plan(net))
    for param in net.parameters():
        param.grad = torch.ones_like(param)
    optimizer.step()
    lost = {**optimizer.state_dict(), "state": {}}
    with pytest.raises(ValueError, match=r"was saved with the state of \d parameters, and here it has none"):
        Muon(plan(net)).load_state_dict(lost)
    for group in lost["param_groups"]:
        del group["filled"]
    fresh = Muon(plan(net))
    fresh.load_state_dict(lost)
    assert not fresh.state
