"""What Muon takes as params, and the errors for what it does not."""

import inspect
import re

import pytest
import torch
from torch import nn

from matfn import Exact, PolarExpress
from matfn.optim import SOAP, AdaMuon, Muon, NorMuon, PolarGrad, Shampoo, plan
from matfn.optim.matrices.layout import linear, stack
from matfn.optim.options import FOREIGN


def matrix(*shape):
    return nn.Parameter(torch.randn(*(shape or (4, 6))))


def stepped(optimizer):
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.randn_like(p)
    optimizer.step()
    return optimizer


def test_tensors_pairs_groups_and_plans_are_taken():
    net = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 4))
    weights = [net[0].weight, net[2].weight]
    stepped(Muon(weights))
    stepped(Muon(iter(weights)))
    named = stepped(Muon([(n, p) for n, p in net.named_parameters() if p.ndim == 2]))
    assert named.param_groups[0]["param_names"] == ["0.weight", "2.weight"]
    vectors = [p for p in net.parameters() if p.ndim < 2]
    groups = [{"params": weights}, {"params": vectors, "rule": "adamw", "lr": 1e-4, "betas": (0.5, 0.9)}]
    optimizer = stepped(Muon(groups, rest={"weight_decay": 0.0}))
    assert optimizer.param_groups[1]["lr"] == 1e-4
    assert optimizer.param_groups[1]["betas"] == (0.5, 0.9)
    assert optimizer.param_groups[1]["weight_decay"] == 0.0
    assert "betas" not in optimizer.param_groups[0]
    assert "momentum" not in optimizer.param_groups[1]
    stepped(Muon(plan(net)))


def test_the_callers_dicts_are_not_changed():
    group = {"params": [matrix()], "lr": 0.1}
    rest = {"lr": 1e-3}
    Muon([group, {"params": [matrix(3)], "rule": "adamw"}], rest=rest)
    assert set(group) == {"params", "lr"}
    assert rest == {"lr": 1e-3}


def test_a_parameter_that_is_no_matrix_needs_a_layout_a_rule_or_a_plan():
    for shape in [(6,), (2, 4, 6), (4, 3, 3, 3), ()]:
        with pytest.raises(ValueError, match=rf"'w'.*{re.escape(str(tuple(shape)))}.*plan\(model\).*adamw"):
            Muon([("w", nn.Parameter(torch.zeros(shape)))])
    stepped(Muon([{"params": [matrix(2, 4, 6), matrix(3, 5, 2)], "layout": stack}]))
    stepped(Muon([{"params": [matrix(2, 4, 6)], "layout": [stack((2, 4, 6)).cut(2)]}]))
    with pytest.raises(ValueError, match="has 1 entries, but there are 2 parameters"):
        Muon([{"params": [matrix(), matrix()], "layout": [linear((4, 6))]}])
    with pytest.raises(ValueError, match=r"\(4, 6\), but its layout is for \(6, 4\)"):
        Muon([{"params": [matrix()], "layout": [linear((6, 4))]}])


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        (nn.Linear(3, 3), TypeError, r"plan\(model\)"),
        (torch.zeros(3, 3), TypeError, "single Tensor"),
        ({"params": []}, TypeError, "single dict"),
        ([], ValueError, "empty"),
        ([torch.zeros(3, 3), {"params": []}], TypeError, "in one list"),
        ([{"params": {torch.zeros(3, 3)}}], TypeError, "set"),
        (["weight"], TypeError, "got a str"),
        ([("a", torch.zeros(3, 3)), torch.zeros(3, 3)], TypeError, "name all or none"),
        ([("a", torch.zeros(3, 3)), ("a", torch.zeros(3, 3))], ValueError, "called 'a'"),
        ({torch.zeros(3, 3), torch.ones(3, 3)}, TypeError, "as a set"),
        (frozenset({("a", torch.zeros(3, 3))}), TypeError, "as a set"),
        (5, TypeError, "got 5"),
        ([{"params": [torch.zeros(3, 3)], "layout": 3}], TypeError, '"layout" must be a function'),
        ([{"params": [torch.zeros(3, 3)], "layout": lambda shape: 3}], TypeError, "must give a Layout"),
        ([torch.zeros(3, 3, dtype=torch.complex64)], TypeError, "complex64"),
        ([torch.zeros(3, 3, dtype=torch.int32)], TypeError, "int32"),
        ([{"params": [torch.zeros(3, 3)], "rule": "muon"}], ValueError, "'muon'"),
    ],
)
def test_wrong_params_are_refused(params, error, message):
    with pytest.raises(error, match=message):
        Muon(params)


def test_the_same_tensor_twice_is_refused():
    p = matrix()
    with pytest.raises(ValueError, match="'a' and 'b' are the same tensor"):
        Muon([("a", p), ("b", p)])
    with pytest.raises(ValueError, match="more than one parameter group"):
        Muon([{"params": [p]}, {"params": [p]}])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "lr must be >= 0, got -1.0"),
        ({"lr": float("nan")}, "lr must be >= 0"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\)"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"scale": "jordon"}, "'jordon'"),
    ],
)
def test_values_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Muon([matrix()], **options)
    with pytest.raises(ValueError, match=message):
        Muon([{"params": [matrix()], **options}])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": "0.1"}, "lr must be a number, got '0.1'"),
        ({"lr": True}, "lr must be a number, got True"),
        ({"lr": torch.zeros(2)}, "lr must be a number"),
        ({"momentum": "0.9"}, "momentum must be a number"),
        ({"weight_decay": None}, "weight_decay must be a number"),
        ({"nesterov": "no"}, "nesterov must be True or False, got 'no'"),
        ({"cautious": 1}, "cautious must be True or False, got 1"),
    ],
)
def test_values_of_another_type_are_refused(options, message):
    with pytest.raises(TypeError, match=message):
        Muon([matrix()], **options)
    with pytest.raises(TypeError, match=message):
        Muon([{"params": [matrix()], **options}])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"precision": "bfloat16"}, TypeError, "precision must be .* got 'bfloat16'"),
        ({"precision": 16}, TypeError, "precision must be .* got 16"),
        ({"scale": 3}, TypeError, "scale must be the name of a scale or a function .* got 3"),
        ({"scale": lambda m, n: "1"}, TypeError, "for a 4 x 6 matrix it returned '1'"),
        ({"scale": lambda m: 1.0}, TypeError, r"called with \(4, 6\) it raised"),
        ({"scale": lambda m, n: float("inf")}, ValueError, "scale must be finite"),
    ],
)
def test_objects_that_would_fail_in_the_first_step_fail_at_once(options, error, message):
    with pytest.raises(error, match=message):
        Muon([matrix()], **options)


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        (5, "rest must be a mapping"),
        ({"betas": 0.9}, r"rest: betas must be a pair such as \(0.9, 0.999\), got 0.9"),
        ({"betas": (0.9, "0.99")}, "rest: betas must be a number"),
        ({"lr": "1e-3"}, "rest: lr must be a number"),
        ({"eps": None}, "rest: eps must be a number"),
        ({"amsgrad": 1}, "rest: amsgrad must be True or False"),
    ],
)
def test_rest_options_of_another_type_are_refused(rest, message):
    with pytest.raises(TypeError, match=message):
        Muon([{"params": [matrix(3)], "rule": "adamw"}], rest=rest)
    if isinstance(rest, dict):
        with pytest.raises(TypeError, match=message.replace("rest", "group 0")):
            Muon([{"params": [matrix(3)], "rule": "adamw", **rest}])


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("wd", "weight_decay"),
        ("lrr", "lr"),
        ("LR", "lr"),
        ("rl", "lr"),
        ("learning_rate", "lr"),
        ("weight-decay", "weight_decay"),
        ("decay", "weight_decay"),
        ("momentun", "momentum"),
        ("nestrov", "nesterov"),
        ("Scale", "scale"),
        ("epsilon", "eps"),
        ("rules", "rule"),
    ],
)
@pytest.mark.parametrize("rule", ["matrix", "adamw"])
def test_what_looks_like_an_option_is_refused(key, meant, rule):
    optimizer = Muon([matrix()])
    with pytest.raises(ValueError, match=f"unknown option '{key}'; did you mean '{meant}'"):
        optimizer.add_param_group({"params": [matrix()], "rule": rule, key: 1})
    assert len(optimizer.param_groups) == 1


def test_arguments_of_the_optimizer_are_no_options_of_a_group():
    for key in ("method", "precision", "rest"):
        with pytest.raises(ValueError, match=f"'{key}', which is an argument of the optimizer"):
            Muon([{"params": [matrix()], key: None}])


@pytest.mark.parametrize("rule", ["matrix", "adamw"])
def test_keys_of_schedulers_loggers_and_the_users_own_are_kept(rule):
    foreign = [*FOREIGN, "tag", "layer", "depth", "role", "max_grad_norm", "wd_mult"]
    optimizer = Muon([{"params": [matrix()], "rule": rule, **dict.fromkeys(foreign, 0.5)}])
    assert all(optimizer.param_groups[0][key] == 0.5 for key in foreign)


def test_misspelt_and_misplaced_group_options_are_refused():
    with pytest.raises(ValueError, match="'weight_deacy'; did you mean 'weight_decay'"):
        Muon([{"params": [matrix()], "weight_deacy": 0.1}])
    with pytest.raises(ValueError, match="'betas', which its rule does not know"):
        Muon([{"params": [matrix()], "betas": (0.9, 0.99)}])
    with pytest.raises(ValueError, match="'momentum', which its rule does not know"):
        Muon([{"params": [matrix(3)], "rule": "adamw", "momentum": 0.9}])
    kept = Muon([{"params": [matrix()], "lr_scale": 0.5}])
    assert kept.param_groups[0]["lr_scale"] == 0.5


def test_rest_options_are_checked_and_must_be_of_use():
    groups = [{"params": [matrix(3)], "rule": "adamw"}]
    with pytest.raises(ValueError, match=r"\['momentum'\] which torch.optim.AdamW lacks"):
        Muon(groups, rest={"momentum": 0.9})
    with pytest.raises(ValueError, match="did you mean 'betas'"):
        Muon(groups, rest={"beta": (0.9, 0.9)})
    with pytest.raises(ValueError, match="-1"):
        Muon(groups, rest={"lr": -1.0})
    with pytest.raises(ValueError, match="no parameter would use it"):
        Muon([matrix()], rest={"lr": 1e-3})
    Muon(plan(nn.Linear(4, 6, bias=False)), rest={"lr": 1e-3})


@pytest.mark.parametrize("method", ["polar-express", PolarExpress, 5, object()])
def test_a_method_is_an_object(method):
    with pytest.raises(TypeError, match=r"method must be a|is no method"):
        Muon([matrix()], method=method)


def test_precision_without_an_iteration_is_refused():
    with pytest.raises(ValueError, match=r"Exact\(.*\) does not iterate"):
        Muon([matrix()], method=Exact(), precision=torch.bfloat16)


def test_sparse_and_complex_gradients_are_refused_by_name():
    p = matrix()
    optimizer = Muon([("table", p)])
    p.grad = torch.zeros(4, 6).to_sparse()
    before = p.detach().clone()
    with pytest.raises(RuntimeError, match="'table' has a sparse gradient"):
        optimizer.step()
    assert torch.equal(p, before)


def test_method_objects_stay_out_of_the_groups():
    optimizer = Muon([matrix()], method=PolarExpress(steps=3), precision=torch.bfloat16, scale=lambda m, n: 1.0)
    for value in optimizer.param_groups[0].values():
        assert isinstance(value, int | float | str | bool | list)
    assert optimizer.param_groups[0]["scale"] == "custom"


@pytest.mark.parametrize("kind", [Muon, NorMuon, AdaMuon, PolarGrad, Shampoo, SOAP])
def test_arguments_of_the_optimizer_are_refused_in_a_group(kind):
    """In a group they would have no effect."""
    options = kind([matrix()], lr=0.1).param_groups[0]
    arguments = set(inspect.signature(kind).parameters) - set(options)
    assert len(arguments) >= 3
    for word in arguments:
        with pytest.raises(ValueError, match=f"group 0 .*'{word}'"):
            kind([{"params": [matrix()], word: None}], lr=0.1)
