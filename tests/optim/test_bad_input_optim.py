"""Bad input of the optimizers: each error names the optimizer, says what was given and what to do; nothing changes.

Tables of inputs for constructors, groups, steps and state dicts, run over every optimizer where the rule plays no part.
"""

import copy
import math
import warnings

import pytest
import torch
from torch import nn

from matfn import Exact
from matfn.optim import SOAP, AdaMuon, MatrixOptimizer, Muon, NorMuon, PolarGrad, Shampoo, plan
from matfn.optim.rules import ElementNorm, Elementwise, Ema, Polar, RowNorm, Rule

ALL = [Muon, NorMuon, AdaMuon, PolarGrad, Shampoo, SOAP]
every = pytest.mark.parametrize("make", ALL)


def matrix(*shape, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return nn.Parameter(torch.randn(*(shape or (4, 6)), generator=generator).to(dtype))


def complain(error, optimizer, *words):
    """An error whose message begins with the optimizer's name and has the words in order."""
    return pytest.raises(error, match=f"(?s)^{optimizer}.*" + ".*".join(words))


# ----------------------------------------------------------------------------------------- constructors


def flattened():
    """Stands for a parameter of FSDP1, which has this attribute; `tests/distributed` has the real one."""
    param = matrix()
    param._fsdp_flattened = True
    return param


def quantized():
    return torch.quantize_per_tensor(torch.zeros(4, 6), 0.1, 0, torch.qint8)


PARAMETERS = {
    "complex": (lambda: matrix(dtype=torch.complex64), TypeError, "'w' is torch.complex64", "real floating-point"),
    "integer": (lambda: torch.zeros(4, 6, dtype=torch.int32), TypeError, "'w' is torch.int32", "floating-point"),
    "bool": (lambda: torch.zeros(4, 6, dtype=torch.bool), TypeError, "'w' is torch.bool", "floating-point"),
    "float8": (lambda: torch.zeros(4, 6, dtype=torch.float8_e4m3fn), TypeError, "'w' is torch.float8", "16, 32 or 64"),
    "sparse": (lambda: torch.zeros(4, 6).to_sparse(), TypeError, "'w' is sparse", "dense"),
    "sparse rows": (lambda: torch.zeros(4, 6).to_sparse_csr(), TypeError, "'w' is sparse", "dense"),
    "quantized": (quantized, TypeError, "'w' is quantized", "dense"),
    "meta": (
        lambda: torch.zeros(4, 6, device="meta"),
        TypeError,
        "'w' is on the meta device",
        "after the weights exist",
    ),
    "no leaf": (lambda: matrix() * 2, ValueError, "'w' is no leaf", "detached"),
    "flattened": (flattened, TypeError, "'w' belongs to FullyShardedDataParallel", "fully_shard"),
    "lazy": (lambda: nn.LazyLinear(3).weight, TypeError, "'w' has no shape yet", "example batch"),
    "vector": (lambda: matrix(6), ValueError, r"'w' of shape \(6,\) is not a matrix", "plan"),
    "number": (lambda: 5, TypeError, "must be tensors", "got a int"),
    "none": (lambda: None, TypeError, "must be tensors", "got a NoneType"),
}


@every
@pytest.mark.parametrize("kind", PARAMETERS)
def test_parameters_that_cannot_be_optimized(make, kind):
    build, error, *words = PARAMETERS[kind]
    with complain(error, f"{make.__name__}: group 0: ", *words):
        make([("w", build())], lr=0.1)


@pytest.mark.parametrize("kind", sorted(set(PARAMETERS) - {"complex", "vector", "number", "none"}))
def test_parameters_that_adamw_cannot_optimize_either(kind):
    build, error, *words = PARAMETERS[kind]
    with complain(error, "Muon: group 0: ", words[0].split(" ")[0]):
        Muon([{"params": [("w", build())], "rule": "adamw"}])


RATES = {
    "negative": (-0.1, ValueError, "lr must be >= 0, got -0.1"),
    "nan": (math.nan, ValueError, "lr must be >= 0, got nan"),
    "infinite": (math.inf, ValueError, "lr must be finite, got inf"),
    "minus infinity": (-math.inf, ValueError, "lr must be >= 0, got -inf"),
    "too many digits": (10**400, ValueError, "lr must fit a double"),
    "text": ("0.1", TypeError, "lr must be a number, got '0.1'"),
    "bool": (True, TypeError, "lr must be a number, got True"),
    "none": (None, TypeError, "lr must be a number, got None"),
    "list": ([0.1], TypeError, "lr must be a number, got"),
    "complex": (0.1j, TypeError, "lr must be a number, got 0.1j"),
    "tensor of two": (torch.ones(2), TypeError, r"lr must be a number or .* of shape \(2,\)"),
    "tensor of none": (torch.ones(0), TypeError, r"lr must be a number or .* of shape \(0,\)"),
    "complex tensor": (torch.tensor(0.1j), TypeError, "lr must be .*torch.complex64"),
    "bool tensor": (torch.tensor(True), TypeError, "lr must be .* torch.bool"),
    "meta tensor": (torch.zeros((), device="meta"), TypeError, "lr must be .* on meta"),
    "negative tensor": (torch.tensor(-1.0), ValueError, "lr must be >= 0"),
    "infinite tensor": (torch.tensor(math.inf), ValueError, "lr must be finite"),
}


@every
@pytest.mark.parametrize("kind", RATES)
def test_learning_rates(make, kind):
    value, error, words = RATES[kind]
    with complain(error, make.__name__, words):
        make([matrix()], lr=value)
    with complain(error, f"{make.__name__}: group 0", words):
        make([{"params": [matrix()], "lr": value}], lr=0.1)
    with complain(error, f"{make.__name__}: rest", words):
        make([{"params": [matrix(3)], "rule": "adamw"}], lr=0.1, rest={"lr": value})


COMMON = {
    "weight_decay": [(-1, ValueError), (math.inf, ValueError), (math.nan, ValueError), ("0", TypeError)],
    "momentum": [(1.0, ValueError), (-0.1, ValueError), (math.nan, ValueError), ("0.9", TypeError), (True, TypeError)],
    "cautious": [(1, TypeError), ("yes", TypeError), (None, TypeError)],
    "scale": [("jordon", ValueError), (3, TypeError), (lambda m: 1.0, TypeError), (lambda m, n: math.nan, ValueError)],
    "rounding": [("up", ValueError), (True, ValueError), (None, ValueError)],
    "seed": [(0.5, TypeError), ("0", TypeError), (True, TypeError), (None, TypeError)],
}
OWN = {
    NorMuon: {"beta2": [(1.0, ValueError), ("x", TypeError)], "eps": [(-1, ValueError), (math.inf, ValueError)]},
    AdaMuon: {"beta2": [(1.0, ValueError)], "eps": [(math.nan, ValueError)], "nesterov": [(1, TypeError)]},
    PolarGrad: {
        "variant": [("vanila", ValueError), (None, ValueError)],
        "power": [(1.5, ValueError), ("1", TypeError), (math.nan, ValueError)],
        "growth": [(1.0, ValueError), ("4", TypeError), (math.nan, ValueError)],
    },
    Shampoo: {
        "root_every": [(0, ValueError), (1.5, TypeError), (True, TypeError)],
        "start": [(0, ValueError), ("1", TypeError)],
        "ridge": [(-1e-6, ValueError), (math.inf, ValueError)],
    },
    SOAP: {"basis_every": [(0, ValueError), (2.0, TypeError)], "beta2": [(-0.1, ValueError)]},
}
VALUES = [(make, key, value, error) for make in ALL for key, cases in COMMON.items() for value, error in cases]
VALUES = [case for case in VALUES if not (case[1] == "scale" and case[0] in (Shampoo, SOAP))]
VALUES += [(make, key, v, error) for make, keys in OWN.items() for key, cases in keys.items() for v, error in cases]


@pytest.mark.parametrize(("make", "key", "value", "error"), VALUES)
def test_options_out_of_range_or_of_another_type(make, key, value, error):
    with complain(error, make.__name__, key):
        make([matrix()], **{"lr": 0.1, key: value})


WORDS = {
    "ns_steps": (5, "method=PolarExpress"),
    "ns_coefficients": ((3.4, -4.8, 2.0), "method=.*Tuned"),
    "adjust_lr_fn": ("match_rms_adamw", 'scale="jordan".*"moonlight"'),
    "adjust_lr": ("rms_norm", "scale="),
    "adamw_betas": ((0.9, 0.95), r"rest=dict\(lr=..., betas="),
    "betas": ((0.9, 0.95), "rest=dict"),
    "adamw_params": ([], 'plan.model.*"rule": "adamw"'),
    "muon_params": ([], "plan.model"),
    "wd": (0.1, "weight_decay="),
    "mu": (0.95, "momentum="),
    "flatten": (True, '"layout" in the group'),
    "distributed_mesh": (None, "leave it out"),
    "use_triton": (True, "engine= and products="),
    "newton_schulz_func": (None, "method="),
    "cautious_wd": (True, "cautious=True"),
    "use_nesterov": (True, "nesterov="),
    "num_heads": (4, "layout"),
    "fused": (True, "rest=dict"),
    "rank": (0, "leave it out"),
    "world_size": (1, "leave it out"),
    "momentun": (0.9, "momentum="),
    "nestrov": (True, "nesterov="),
    "foo": (1, "Its arguments are .*momentum"),
}


@pytest.mark.parametrize("word", WORDS)
def test_arguments_of_other_optimizers_name_ours(word):
    value, ours = WORDS[word]
    with complain(TypeError, f"Muon has no argument '{word}'", ours):
        Muon([matrix()], **{word: value})


@every
def test_words_without_a_counterpart(make):
    with complain(TypeError, f"{make.__name__} has no argument 'ns_steps'", "leave it out|method=PolarExpress"):
        make([matrix()], lr=0.1, ns_steps=5)
    with complain(
        TypeError, f"{make.__name__} has no argument 'precondition_frequency'", "nothing|root_every|basis_every"
    ):
        make([matrix()], lr=0.1, precondition_frequency=5)


@every
def test_options_are_named(make):
    with complain(TypeError, f"{make.__name__} takes params, lr by position, got 3 values", "weight_decay="):
        make([matrix()], 0.1, 0.01)


def test_a_subclass_of_ones_own_names_arguments_too():
    class Mine(Muon):
        def __init__(self, params, lr=0.1, *, sharpness=1.0):
            super().__init__(params, lr)

    assert Mine([matrix()], sharpness=2.0).param_groups[0]["lr"] == 0.1
    with complain(TypeError, "Mine has no argument 'sharpnes'", "sharpness="):
        Mine([matrix()], sharpnes=2.0)


@pytest.mark.parametrize(
    ("rules", "error", "words"),
    [
        (5, TypeError, "rules must map names"),
        ({"polargrad": 5}, TypeError, r"rules\['polargrad'\] must be a function"),
        ({"adamw": Muon}, ValueError, "other than"),
        ({"": Muon}, ValueError, "must be a word"),
        ({"second": Muon}, ValueError, "no group has them"),
    ],
)
def test_further_rules(rules, error, words):
    with complain(error, "Muon: ", words):
        Muon([matrix()], rules=rules)


def test_options_of_a_rest_that_is_not_there():
    with complain(ValueError, "Muon: rest= was given, but no parameter would use it"):
        Muon([matrix()], rest={"lr": 0.1})


# ----------------------------------------------------------------------------------------------- groups

GROUPS = {
    "no params": ({"lr": 0.1}, TypeError, 'must be a dict with "params"'),
    "no dict": (5, TypeError, 'must be a dict with "params", got 5'),
    "unknown rule": ({"rule": "muon"}, ValueError, "has rule 'muon'; the rules are"),
    "misspelt": ({"weight_deacy": 0.1}, ValueError, "did you mean 'weight_decay'"),
    "use_muon no bool": ({"use_muon": 1}, TypeError, "use_muon must be True or False, got 1"),
    "use_muon against rule": (
        {"use_muon": False, "rule": "matrix"},
        ValueError,
        "says the rule 'adamw', but .*'matrix'",
    ),
    "algorithm lion": ({"algorithm": "lion"}, ValueError, "algorithm must be 'muon' or 'adamw', got 'lion'"),
    "algorithm against rule": ({"algorithm": "muon", "rule": "adamw"}, ValueError, "says the rule 'matrix'"),
    "ns_steps": ({"ns_steps": 5}, ValueError, "has 'ns_steps', a word of another optimizer. Here it is method="),
    "ns_coefficients": ({"ns_coefficients": (1, 2, 3)}, ValueError, "has 'ns_coefficients'.*method="),
    "adjust_lr_fn": ({"adjust_lr_fn": "original"}, ValueError, "has 'adjust_lr_fn'.*scale="),
    "mu": ({"mu": 0.9}, ValueError, "'mu'.*'momentum'|'mu'.*momentum="),
    "flatten": ({"flatten": True}, ValueError, "has 'flatten'.*layout"),
    "betas": ({"betas": (0.9, 0.99)}, ValueError, "has option 'betas', which its rule does not know"),
    "eps": ({"eps": 1e-7}, ValueError, "has option 'eps', which its rule does not know"),
    "method": ({"method": Exact()}, ValueError, "'method', which is an argument of the optimizer"),
    "scale function": ({"scale": lambda m, n: 1.0}, ValueError, "Pass a function .* to the optimizer"),
    "rounding": ({"rounding": "up"}, ValueError, "rounding must be one of"),
    "layout": ({"layout": 3}, TypeError, '"layout" must be a function'),
    "set": ({"params": {matrix()}}, TypeError, "came as a set"),
}


@pytest.mark.parametrize("kind", GROUPS)
@pytest.mark.parametrize("when", ["construction", "later"])
def test_groups(kind, when):
    group, error, words = GROUPS[kind]
    given = {"params": [matrix(seed=1)], **group} if isinstance(group, dict) and kind != "no params" else group
    kept = dict(given) if isinstance(given, dict) else given
    if when == "construction":
        if kind == "no dict":
            return
        with complain(error, "Muon: group 0", words):
            Muon([given])
    else:
        optimizer = Muon([matrix()])
        with complain(error, "Muon: group 1", words):
            optimizer.add_param_group(given)
        assert len(optimizer.param_groups) == 1
    assert given == kept if not isinstance(given, dict) else set(given) == set(kept)


def test_flags_of_other_muons_are_translated():
    vectors = {"params": [matrix(5, 6)], "use_muon": False, "lr": 3e-4, "betas": (0.9, 0.95), "eps": 1e-10}
    optimizer = Muon([{"params": [matrix()], "use_muon": True, "momentum": 0.9}, vectors])
    assert [group["rule"] for group in optimizer.param_groups] == ["matrix", "adamw"]
    assert optimizer.param_groups[1]["betas"] == (0.9, 0.95)
    assert "use_muon" not in optimizer.param_groups[0]
    optimizer = NorMuon([{"params": [matrix()], "algorithm": "normuon"}, {"params": [matrix(3)], "algorithm": "adamw"}])
    assert [group["rule"] for group in optimizer.param_groups] == ["matrix", "adamw"]
    assert vectors["use_muon"] is False  # the caller's
    groups = [{"params": [matrix()]}, {"params": [matrix(5, 6)], "algorithm": "normuon"}]
    optimizer = Muon(groups, rules={"normuon": NorMuon})
    assert [group["rule"] for group in optimizer.param_groups] == ["matrix", "normuon"]


def test_the_same_tensor_in_two_groups():
    p = matrix()
    with complain(ValueError, "Muon: group 1", "'b' appears in more than one parameter group"):
        Muon([{"params": [("a", p)]}, {"params": [("b", p)], "rule": "adamw"}])
    with complain(ValueError, "Muon: group 0", "'a' and 'b' are the same tensor"):
        Muon([("a", p), ("b", p)])
    with complain(ValueError, "Muon: group 1", "two parameters are called 'a'"):
        Muon([{"params": [("a", p)]}, {"params": [("a", matrix(seed=1))]}])


# ------------------------------------------------------------------------------------------------- step


def trained(make=Muon, **options):
    """An optimizer of a matrix and a vector after one step, with gradients for the next."""
    a, b = matrix(), matrix(3)
    optimizer = make([{"params": [("a", a)]}, {"params": [("b", b)], "rule": "adamw"}], **{"lr": 0.1, **options})
    for _ in range(2):
        a.grad, b.grad = torch.ones(4, 6) + torch.eye(4, 6), torch.ones(3)
        if not optimizer.state:
            optimizer.step()
    return optimizer, a, b


def snapshot(optimizer):
    params = [p.detach().clone() for group in optimizer.param_groups for p in group["params"]]
    return params, copy.deepcopy(optimizer.state_dict()["state"])


def unchanged(optimizer, before):
    params, state = snapshot(optimizer)
    tensors = [value for entry in state.values() for value in entry.values()]
    kept = [value for entry in before[1].values() for value in entry.values()]
    pairs = [*zip(params, before[0], strict=True), *zip(tensors, kept, strict=True)]
    return all(torch.equal(x, y) for x, y in pairs)


def hand(optimizer, index, **values):
    optimizer.param_groups[index].update(values)


STEPS = {
    "sparse": (lambda o, a, b: setattr(a, "grad", a.grad.to_sparse()), RuntimeError, "'a' has a sparse gradient"),
    "sparse of adamw": (
        lambda o, a, b: setattr(b, "grad", b.grad.to_sparse()),
        RuntimeError,
        "'b' has a sparse gradient",
    ),
    "rate is text": (lambda o, a, b: hand(o, 0, lr="0.1"), TypeError, "group 0: lr must be a number, got '0.1'"),
    "rate is two": (
        lambda o, a, b: hand(o, 0, lr=torch.ones(2)),
        TypeError,
        "group 0: lr must be .*got a tensor of shape",
    ),
    "rate is nan": (lambda o, a, b: hand(o, 0, lr=math.nan), ValueError, "group 0: lr must be >= 0, got nan"),
    "rate is infinite": (lambda o, a, b: hand(o, 1, lr=math.inf), ValueError, "group 1: lr must be finite"),
    "momentum": (lambda o, a, b: hand(o, 0, momentum=1.5), ValueError, r"group 0: momentum must be in \[0, 1\)"),
    "scale": (lambda o, a, b: hand(o, 0, scale="x"), ValueError, "group 0: scale must be one of"),
    "betas": (lambda o, a, b: hand(o, 1, betas=0.9), TypeError, "group 1: betas must be a pair"),
    "a word of torch": (lambda o, a, b: hand(o, 0, ns_steps=3), ValueError, "group 0 has 'ns_steps'"),
    "a flag": (lambda o, a, b: hand(o, 0, use_muon=False), ValueError, "group 0 has 'use_muon'.*plan"),
    "momentum of adamw": (lambda o, a, b: hand(o, 1, momentum=0.9), ValueError, 'group 1 .*was given "momentum"'),
    "no option": (lambda o, a, b: o.param_groups[0].pop("nesterov"), RuntimeError, r"group 0 has no \['nesterov'\]"),
    "no rule": (lambda o, a, b: o.param_groups[0].pop("rule"), RuntimeError, r"group 0 has no \['rule'\]"),
    "appended": (
        lambda o, a, b: o.param_groups[0]["params"].append(matrix(2, 2)),
        RuntimeError,
        "2 parameters, but 1 n",
    ),
    "group by hand": (
        lambda o, a, b: o.param_groups.append({"params": []}),
        RuntimeError,
        r"group 2 has no \['param_n",
    ),
    "replaced": (lambda o, a, b: replace(o), RuntimeError, "group 0: parameter 'a' is another tensor"),
    "resized": (lambda o, a, b: resize(a, 5, 6), RuntimeError, r"'a' has shape \(5, 6\), but had \(4, 6\)"),
    "resized of adamw": (lambda o, a, b: resize(b, 4), RuntimeError, r"'b' has shape \(4,\)"),
    "converted": (lambda o, a, b: resize(a, 4, 6, dtype=torch.float64), RuntimeError, "'a' is now torch.float64"),
}


def replace(optimizer):
    new = matrix(seed=5)
    new.grad = torch.ones_like(new)
    optimizer.param_groups[0]["params"][0] = new


def resize(param, *shape, dtype=torch.float32):
    param.grad = None
    param.data = torch.ones(shape, dtype=dtype)
    param.grad = torch.ones(shape, dtype=dtype)


@pytest.mark.parametrize("kind", STEPS)
def test_steps_that_are_refused_change_nothing(kind):
    change, error, words = STEPS[kind]
    optimizer, a, b = trained()
    change(optimizer, a, b)
    tensors = [p.detach().clone() for p in (a, b)]
    state = {p: {key: value.clone() for key, value in optimizer.state[p].items()} for p in (a, b)}
    for _ in range(2):  # not only the first time
        with complain(error, "Muon: ", words):
            optimizer.step()
        assert all(torch.equal(p, q) for p, q in zip((a, b), tensors, strict=True))
        assert all(torch.equal(v, state[p][key]) for p in (a, b) for key, v in optimizer.state[p].items())


@every
@pytest.mark.parametrize("values", [{"foreach": True, "lr": torch.tensor(0.1)}, {"capturable": True}], ids=str)
def test_what_only_torchs_adamw_refuses_comes_before_a_matrix_moves(make, values):
    optimizer, a, _ = trained(make)
    hand(optimizer, 1, **values)
    before, state = a.detach().clone(), copy.deepcopy(optimizer.state[a])
    with pytest.raises((RuntimeError, AssertionError)) as caught:
        optimizer.step()
    assert f"{make.__name__}: rest" in caught.value.__notes__[0]
    assert torch.equal(a, before)
    assert all(torch.equal(value, state[key]) for key, value in optimizer.state[a].items())


@every
@pytest.mark.parametrize("closure", [5, "loss", torch.zeros(())])
def test_a_closure_is_a_function(make, closure):
    optimizer, *_ = trained(make)
    before = snapshot(optimizer)
    with complain(TypeError, rf"{make.__name__}\.step takes a function", "got"):
        optimizer.step(closure)
    assert unchanged(optimizer, before)


def test_an_error_of_the_closure_comes_out_and_nothing_has_changed():
    optimizer, *_ = trained()
    before = snapshot(optimizer)
    with pytest.raises(ZeroDivisionError):
        optimizer.step(lambda: 1 / 0)
    assert unchanged(optimizer, before)


@pytest.mark.parametrize("make", [Muon, NorMuon, AdaMuon, PolarGrad])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_method_that_refuses_nan_names_the_gradient_before_anything_moves(make, value):
    net = nn.ModuleDict({name: nn.Linear(6, 4, bias=False) for name in ("good", "bad", "fine")})
    optimizer = make(net.named_parameters(), lr=0.1, method=Exact())
    for seed, p in enumerate(net.parameters()):
        p.grad = torch.randn(4, 6, generator=torch.Generator().manual_seed(seed))
    optimizer.step()
    before = snapshot(optimizer)
    net["bad"].weight.grad[0, 0] = value
    with complain(
        ValueError, f"{make.__name__}: NaN or infinity in the gradient of 'bad.weight'", "Nothing has changed"
    ):
        optimizer.step()
    assert unchanged(optimizer, before)
    net["bad"].weight.grad.zero_()
    optimizer.step()
    assert not unchanged(optimizer, before)
    assert all(torch.isfinite(p).all() for p in net.parameters())


def test_a_momentum_that_is_nan_is_named():
    optimizer, a, _ = trained(method=Exact())
    optimizer.state[a]["momentum_buffer"][0, 0] = math.nan
    with complain(ValueError, "Muon: NaN or infinity in the momentum of 'a'"):
        optimizer.step()


def test_an_error_inside_a_rule_has_a_note_with_the_parameters():
    optimizer, *_ = trained()
    optimizer.before_move.append(lambda bucket, update: 1 / 0)
    with pytest.raises(ZeroDivisionError) as info:
        optimizer.step()
    assert info.value.__notes__ == ["This was in Muon.step, at the stack of the parameters a."]


@every
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_reaches_the_weights_by_methods_that_take_it(make, value):
    """As with torch's optimizers: a step that left the matrix as it is would hide it."""
    optimizer, a, _ = trained(make)
    a.grad[0, 0] = value
    optimizer.step()
    assert not torch.isfinite(a).all()


def test_a_frozen_parameter_that_gets_a_gradient_is_named_once():
    net = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 4))
    net[0].requires_grad_(False)
    optimizer = Muon(plan(net))
    net[0].requires_grad_(True)
    net(torch.ones(2, 4)).sum().backward()
    with pytest.warns(UserWarning, match=r"Muon: the plan froze 0\.weight, 0\.bias, which have gradients now"):
        optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()


@every
def test_an_optimizer_holds_frozen_parameters_and_moves_them_when_they_are_unfrozen(make):
    frozen, other = matrix().requires_grad_(False), matrix(seed=1)
    optimizer = make([("frozen", frozen), ("other", other)], lr=0.1, weight_decay=0.1)
    other.grad = torch.ones(4, 6) + torch.eye(4, 6)
    optimizer.step()
    assert torch.equal(frozen, matrix())
    assert not optimizer.state.get(frozen)
    frozen.requires_grad_(True)
    frozen.grad = torch.ones(4, 6) + torch.eye(4, 6)
    optimizer.step()
    assert not torch.equal(frozen, matrix())


# -------------------------------------------------------------------------------------- load_state_dict


def entry(state, number=0):
    return state["state"][number]


def put(state, key, value, number=0):
    state["state"][number][key] = value


def group(state, index=0):
    return state["param_groups"][index]


LOADS = {
    "none": (lambda s: None, TypeError, "takes the result of state_dict.*got a NoneType"),
    "list": (lambda s: [s], TypeError, "got a list"),
    "of a model": (lambda s: {"weight": torch.zeros(3)}, ValueError, "Was the state dict of a model passed"),
    "no state": (lambda s: {"param_groups": s["param_groups"]}, ValueError, 'has the keys "state"'),
    "state is a list": (lambda s: {**s, "state": []}, TypeError, '"state" of a state dict must map'),
    "entry is a tensor": (
        lambda s: s["state"].update({0: torch.zeros(3)}),
        TypeError,
        '"state" of a state dict must map',
    ),
    "groups are a dict": (
        lambda s: {**s, "param_groups": {}},
        TypeError,
        '"param_groups" of a state dict must be a list',
    ),
    "group is a list": (lambda s: {**s, "param_groups": [[]]}, TypeError, "must be a list of dicts"),
    "no params": (lambda s: group(s).pop("params") and None, TypeError, '"params" must be a list'),
    "params are tensors": (lambda s: group(s).update(params=[torch.zeros(2)]), TypeError, '"params" must be a list'),
    "param twice": (lambda s: group(s, 1).update(params=[0]), ValueError, "the parameter 0 is in the state dict twice"),
    "name twice": (lambda s: group(s, 1).update(param_names=["a"]), ValueError, "name 'a' twice"),
    "names are no list": (lambda s: group(s).update(param_names=5), TypeError, '"param_names" must be a list'),
    "names are few": (lambda s: group(s).update(param_names=[]), ValueError, '2 parameters .* but 1 "param_names"'),
    "other name": (lambda s: group(s).update(param_names=["z"]), ValueError, "a: missing"),
    "fewer groups": (lambda s: s["param_groups"].pop() and None, ValueError, "b: missing from the state dict"),
    "other rule": (
        lambda s: group(s).update(rule="adamw"),
        ValueError,
        "a: group 0 has rule 'adamw' there, 'matrix' here",
    ),
    "other chain": (
        lambda s: group(s).update(chain="Ema, Polar, Odd"),
        ValueError,
        "saved by an optimizer whose rules",
    ),
    "no option": (lambda s: group(s).pop("momentum") and None, ValueError, r"group 0 lacks \['momentum'\]"),
    "no rate of adamw": (lambda s: group(s, 1).pop("lr") and None, ValueError, r"group 1 lacks \['lr'\]"),
    "rate is text": (lambda s: group(s).update(lr="0.1"), TypeError, "group 0 of the state dict: lr must be a number"),
    "rate is infinite": (lambda s: group(s).update(lr=math.inf), ValueError, "lr must be finite"),
    "rate is nan": (
        lambda s: group(s, 1).update(lr=math.nan),
        ValueError,
        "group 1 of the state dict: lr must be >= 0",
    ),
    "rate is negative": (lambda s: group(s).update(lr=-1.0), ValueError, "lr must be >= 0"),
    "betas": (lambda s: group(s, 1).update(betas=[0.9]), TypeError, "betas must be a pair"),
    "flag": (lambda s: group(s).update(cautious="no"), TypeError, "cautious must be True or False"),
    "rounding": (lambda s: group(s).update(rounding="up"), ValueError, "rounding must be one of"),
    "foreign word": (lambda s: group(s).update(ns_steps=5), ValueError, "has 'ns_steps', a word of another optimizer"),
    "missing state": (lambda s: entry(s, 1).pop("exp_avg").sum() and None, ValueError, "b: state 'exp_avg' is missing"),
    "surplus state": (lambda s: put(s, "other", torch.zeros(2)), ValueError, "a: state 'other' is unexpected"),
    "shape": (
        lambda s: put(s, "momentum_buffer", torch.zeros(6, 4)),
        ValueError,
        r"has shape \(6, 4\), wanted \(4, 6\)",
    ),
    "number": (lambda s: put(s, "momentum_buffer", 3.0), ValueError, r"has shape \(\), wanted"),
    "text": (lambda s: put(s, "momentum_buffer", "x"), ValueError, "is a str, wanted a tensor"),
    "integer": (
        lambda s: put(s, "momentum_buffer", torch.zeros(4, 6, dtype=torch.int64)),
        ValueError,
        "is torch.int64",
    ),
    "bool": (
        lambda s: put(s, "momentum_buffer", torch.zeros(4, 6).bool()),
        ValueError,
        "is torch.bool, wanted floating",
    ),
    "complex": (
        lambda s: put(s, "momentum_buffer", torch.zeros(4, 6) * 1j),
        ValueError,
        "is torch.complex64, wanted fl",
    ),
    "meta": (lambda s: put(s, "momentum_buffer", torch.zeros(4, 6, device="meta")), ValueError, "on the meta device"),
    "sparse": (
        lambda s: put(s, "momentum_buffer", torch.zeros(4, 6).to_sparse()),
        ValueError,
        "is sparse, wanted a dense",
    ),
    "quantized": (lambda s: put(s, "momentum_buffer", quantized()), ValueError, "is quantized, wanted a dense"),
    "nan": (lambda s: put(s, "momentum_buffer", torch.full((4, 6), math.nan)), ValueError, "a: state 'mom.* holds NaN"),
    "infinite": (lambda s: put(s, "momentum_buffer", torch.full((4, 6), math.inf)), ValueError, "holds infinity"),
    "negative square": (lambda s: put(s, "exp_avg_sq", -torch.ones(3), 1), ValueError, "b: .* holds negative numbers"),
    "negative step": (lambda s: put(s, "step", torch.tensor(-5.0), 1), ValueError, "wanted a count of steps"),
    "half a step": (lambda s: put(s, "step", torch.tensor(0.5), 1), ValueError, "wanted a count of steps"),
    "nan step": (lambda s: put(s, "step", math.nan, 1), ValueError, "wanted a count of steps"),
    "true step": (lambda s: put(s, "step", True, 1), ValueError, "is a bool, wanted a tensor"),
    "unknown parameter": (lambda s: s["state"].update({7: {}}), ValueError, "7: state of a parameter in no group"),
    "no step": (lambda s: entry(s, 1).pop("step").sum() and None, ValueError, "b: state 'step' is missing"),
}
FOR_ALL = (
    "none",
    "of a model",
    "param twice",
    "rate is text",
    "rate is infinite",
    "integer",
    "meta",
    "nan",
    "no option",
)


def loads():
    return [(Muon, kind) for kind in LOADS] + [(make, kind) for make in ALL[1:] for kind in FOR_ALL]


@pytest.mark.parametrize(("make", "kind"), loads())
def test_a_state_dict_that_does_not_fit_changes_nothing(make, kind):
    change, error, words = LOADS[kind]
    saver, *_ = trained(make, lr=0.3)
    state = copy.deepcopy(saver.state_dict())
    state = next(x for x in (change(state), state) if x is not None or kind == "none")
    optimizer, *_ = trained(make, lr=0.7)
    before, options = snapshot(optimizer), copy.deepcopy(optimizer.state_dict()["param_groups"])
    with complain(error, f"{make.__name__}: ", words):
        optimizer.load_state_dict(state)
    assert unchanged(optimizer, before)
    assert optimizer.state_dict()["param_groups"] == options
    optimizer.load_state_dict(saver.state_dict())  # and a good one loads after it
    assert optimizer.param_groups[0]["lr"] == 0.3


@every
def test_an_infinite_average_of_squares_loads(make):
    """It stops its entry, as in torch's optimizers: a run goes on with it."""
    optimizer, _, b = trained(make)
    optimizer.state[b]["exp_avg_sq"][0] = math.inf
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert optimizer.state[b]["exp_avg_sq"][0] == math.inf


# --------------------------------------------------------------------------------- optimizers of one's own

BASE = {"lr": 0.1, "weight_decay": 0.0, "cautious": False, "scale": "unit"}


class Copy(Elementwise):
    def update(self, gradients, into, run):
        torch._foreach_copy_(into, gradients)


class Damp(Rule):
    reads = ("damping",)

    def update(self, stack, runs):
        return stack * runs[0].options["damping"]


@pytest.mark.parametrize(
    ("defaults", "chain", "error", "words"),
    [
        ({}, (Copy(),), ValueError, "lack 'lr' .read by MatrixOptimizer., 'weight_decay'"),
        ({k: v for k, v in BASE.items() if k != "scale"}, (Copy(),), ValueError, "lack 'scale'"),
        (BASE, (Ema(), Polar()), ValueError, "lack 'momentum' .read by Ema., 'nesterov'"),
        (BASE, (Copy(), RowNorm()), ValueError, "lack 'beta2' .read by RowNorm., 'eps'"),
        (BASE, (Copy(), ElementNorm()), ValueError, "lack 'beta2' .read by ElementNorm."),
        (BASE, (Copy(), Damp()), ValueError, "lack 'damping' .read by Damp."),
        (5, (Copy(),), TypeError, "defaults must be a mapping"),
        (BASE, (), TypeError, "chain must be a tuple"),
        (BASE, (Copy(), 5), TypeError, "chain must be a tuple"),
        (BASE, [Copy()], TypeError, "chain must be a tuple"),
        ({**BASE, "lr": "x"}, (Copy(),), TypeError, "lr must be a number"),
    ],
)
def test_options_that_a_chain_needs_are_missed_at_construction(defaults, chain, error, words):
    class Mine(MatrixOptimizer):
        def __init__(self, params):
            super().__init__(params, defaults, chain)

    with complain(error, "Mine", words):
        Mine([matrix()])


def test_a_chain_with_its_options_steps():
    class Mine(MatrixOptimizer):
        def __init__(self, params):
            super().__init__(params, {**BASE, "damping": 0.5}, (Copy(), Damp()))

    p = matrix()
    optimizer = Mine([p])
    p.grad = torch.ones(4, 6)
    optimizer.step()
    assert torch.allclose(p, matrix() - 0.05)


def test_a_group_may_have_a_label_of_the_user_but_no_word_without_effect():
    assert Muon([{"params": [matrix()], "rank": 3}]).param_groups[0]["rank"] == 3
    with complain(ValueError, "Muon: group 0", "'beta1'"):
        Muon([{"params": [matrix()], "beta1": 0.9}])
