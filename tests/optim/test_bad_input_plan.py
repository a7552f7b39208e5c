"""Bad input to plan: one clear error each, which says what was given, what was wanted and what to do."""

import re

import pytest
import torch
from plan_models import Chain, Experts, Named
from torch import nn

from matfn.optim import PlanError, plan
from matfn.optim.matrices.layout import Layout, linear, stack, transposed

X = torch.randn(5, 8)


def model():
    return Chain(q_proj=nn.Linear(8, 12), mid=nn.Linear(12, 12), head=nn.Linear(12, 3))


TYPES = [  # arguments, error
    ({"model": None}, "plan needs the model, an nn.Module; got a NoneType"),
    ({"model": nn.Linear}, "plan needs the model, an nn.Module; got a type"),
    ({"model": [nn.Linear(2, 2)]}, "got a list"),
    ({"model": nn.Parameter(torch.zeros(2, 2))}, "got a Parameter"),
    ({"overrides": "adamw"}, "overrides must be a mapping {pattern: decision}, got 'adamw'"),
    ({"overrides": [("*", "adamw")]}, "overrides must be a mapping"),
    ({"overrides": {None: "adamw"}}, "a pattern must be a string or an re.Pattern, got None"),
    ({"overrides": {re.compile(rb"x"): "adamw"}}, "a pattern must be a string or an re.Pattern, got re.compile(b'x')"),
    ({"overrides": {"*.weight": 3}}, "overrides['*.weight'] must be"),
    ({"overrides": {"*.weight": True}}, "overrides['*.weight'] must be"),
    ({"overrides": {"*.weight": ["matrix"]}}, "overrides['*.weight'] must be"),
    ({"qkv": [3]}, "qkv must be a mapping {pattern: blocks}, got [3]"),
    ({"qkv": {"*": 3.0}}, "must be a number of blocks or their sizes (q, k, v), got 3.0"),
    ({"qkv": {"*": ()}}, "must be a number of blocks or their sizes (q, k, v), got ()"),
    ({"qkv": {"*": "qkv"}}, "must be a number of blocks or their sizes (q, k, v), got 'qkv'"),
    ({"heads": {"*": -2}}, "must be a number of heads, an integer >= 1; got -2"),
    ({"heads": {"*": True}}, "must be a number of heads, an integer >= 1; got True"),
    ({"heads": {"*": 2.5}}, "must be a number of heads, an integer >= 1; got 2.5"),
    ({"example": [X]}, "example is a list, which may be one input or several. Give a tuple"),
    ({"example": "batch"}, "example must be one batch"),
    ({"example": 5}, "got 5"),
    ({"example": True}, "got True"),
]


@pytest.mark.parametrize(("arguments", "message"), TYPES, ids=[case[1][:60] for case in TYPES])
def test_arguments_of_a_wrong_type(arguments, message):
    with pytest.raises(TypeError, match=re.escape(message)):
        plan(**{"model": model(), **arguments})


ERRORS = [
    ({"overrides": {"*.k_proj.weight": "adamw"}}, "pattern '*.k_proj.weight' matches no parameter"),
    ({"overrides": {"q_prj.weight": "adamw"}}, "such as ['q_proj.weight'"),
    ({"overrides": {re.compile("q_proj"): "adamw"}}, "pattern 'q_proj' matches no parameter"),
    ({"overrides": {"role:heads": "adamw"}}, "The roles here are ['bias', 'head', 'linear']"),
    ({"overrides": {"role:router": "adamw"}}, "pattern 'role:router' matches no parameter"),
    ({"overrides": {"role:": "adamw"}}, "pattern 'role:' matches no parameter"),
    ({"overrides": {"": "adamw"}}, "pattern '' matches no parameter"),
    ({"qkv": {"role:qkv": 3}}, "pattern 'role:qkv' matches no parameter"),
    ({"heads": {"*.o_proj.weight": 3}}, "pattern '*.o_proj.weight' matches no parameter"),
    ({"overrides": {"mid.weight": "matrx"}}, "got 'matrx', did you mean 'matrix'?"),
    ({"overrides": {"mid.weight": "Adam W"}}, "an override is"),
    ({"overrides": {"mid.weight": ""}}, "an override is"),
    ({"overrides": {"mid.bias": "matrix"}}, "parameter 'mid.bias': shape (12,) has fewer than two axes"),
    (
        {"overrides": {"mid.weight": linear((3, 4))}},
        "the override is a layout for shape (3, 4), the parameter has (12, 12)",
    ),
    ({"overrides": {"mid.weight": lambda shape: None}}, "must return a Layout, but for (12, 12) it returned None"),
    ({"overrides": {"mid.weight": lambda shape: linear(shape).cut(5)}}, "12 rows cannot be cut into 5 equal blocks"),
    ({"overrides": {"head.weight": "matrix"}}, "head.weight has the role 'head'"),
    ({"overrides": {"*.weight": "frozen"}}, "nothing would be orthogonalized"),
    ({"qkv": {"mid.weight": 5}}, "parameter 'mid.weight': 12 rows cannot be cut into 5 equal blocks"),
    ({"qkv": {"mid.weight": (6, 5)}}, "add up to 11"),
    ({"qkv": {"mid.weight": 0}}, "12 rows cannot be cut into 0 equal blocks"),
    ({"qkv": {"mid.weight": (-6, 18)}}, "parameter 'mid.weight'"),
    ({"qkv": {"mid.bias": 3}}, "fewer than two axes"),
    ({"heads": {"q_proj.weight": 5}}, "row blocks of (12,) cannot be cut into heads of one size, 5 in the first"),
    ({"heads": {"q_proj.weight": 13}}, "cannot be cut into heads of one size"),
    ({"frozen": "train"}, "frozen must be one of ('leave', 'keep'), got 'train'"),
    ({"frozen": True}, "frozen must be one of ('leave', 'keep'), got True"),
    ({"allow": "head"}, "allow must be a collection of"),
    ({"allow": ("heads",)}, "allow must be a collection of"),
    ({"allow": 3}, "allow must be a collection of"),
    ({"example": torch.randn(5, 9)}, "Chain could not run on the example: RuntimeError: mat1 and mat2"),
    ({"example": ()}, "Chain could not run on the example: TypeError"),
    ({"example": {"y": X}}, "unexpected keyword argument 'y'"),
    ({"example": (X, X)}, "Chain could not run on the example: TypeError"),
    ({"example": lambda net: net(X).detach()}, "no tensor that depends on a parameter"),
    ({"example": lambda net: 1.0}, "returned a float for the example"),
    ({"example": lambda net: 1 / 0}, "could not run on the example: ZeroDivisionError"),
    ({"example": torch.empty(5, 8, device="meta")}, "Chain could not run on the example"),
]


@pytest.mark.parametrize(("arguments", "message"), ERRORS, ids=[case[1][:60] for case in ERRORS])
def test_values_that_do_not_fit(arguments, message):
    with pytest.raises(PlanError, match=re.escape(message)):
        plan(**{"model": model(), **arguments})


MODELS = [
    (nn.ReLU, "ReLU has no parameters"),
    (lambda: Named(a=nn.LazyLinear(4)), "is lazy and has no shape yet. Run one forward pass, then plan"),
    (lambda: Named(a=Named(mix=nn.Parameter(torch.zeros(4, 6))), b=nn.Linear(6, 6)), "a.mix (4, 6) of Named"),
    (lambda: Named(a=nn.Linear(8, 8).requires_grad_(False)), "nothing would be orthogonalized"),
    (lambda: Named(e=nn.Embedding(9, 4)), "nothing would be orthogonalized"),
]


@pytest.mark.parametrize(("make", "message"), MODELS, ids=[case[1][:50] for case in MODELS])
def test_models_that_cannot_be_planned(make, message):
    with pytest.raises(PlanError, match=re.escape(message)):
        plan(make())


def test_heads_that_lie_apart_are_refused_with_what_to_say():
    net = Named(layers=nn.ModuleList([Named(query_key_value=nn.Linear(8, 24))]), head=nn.Linear(8, 3))
    cut = {"*.query_key_value.weight": lambda shape: linear(shape).cut(3, repeats=2)}
    for overrides in (None, cut):
        with pytest.raises(PlanError, match=r"interleaved by head.*qkv=\{...: 6\}"):
            plan(net, overrides=overrides, heads={"*.query_key_value.weight": 2})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Layout((4, 6), (4, 6), (), 0, ()), "must name each axis"),
        (lambda: Layout((4, 6), (6, 4), (), 0, (1,)), "never merge axes"),
        (lambda: Layout((4, 6), (2, 2, 6), (), 1, (2,), (), (0, 1)), "outer=(0, 1)"),
        (lambda: Layout((4, 6), (4, 6), (), 0, (1,), (3, 3)), "add up to 6"),
        (lambda: linear((4, 6)).cut((5, -1)), "add up to 4"),
        (lambda: linear((12, 6)).cut(2, repeats=5), "cannot be read as 5 repeats"),
        (lambda: linear((12, 6)).cut((2, 2), repeats=2), "add up to 4"),
        (lambda: transposed((6, 12)).cut(3, repeats=2).cut(2, repeats=2), "cannot be read as 2 repeats"),
        (lambda: stack((4, 12, 6)).cut(3, repeats=2).tiled(rows=2), "cannot be tiled"),
        (lambda: linear((12, 6)).tiled(rows=5), "cannot be cut into 5 equal blocks"),
    ],
)
def test_layouts_that_do_not_fit(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


def test_a_name_that_the_plan_lacks_is_told_with_near_ones():
    with pytest.raises(KeyError, match=r"no parameter 'mid\.weigth'; near are \['mid\.weight'"):
        plan(model())["mid.weigth"]


def test_nothing_that_was_passed_is_changed():
    overrides, example = {"mid.weight": "adamw"}, {"x": X.clone()}
    plan(model(), example, overrides=overrides)
    assert overrides == {"mid.weight": "adamw"}
    assert torch.equal(example["x"], X)
    assert not example["x"].requires_grad


def test_experts_of_an_unknown_order_are_marked():
    decided = plan(Named(moe=Named(experts=Experts("in_out")), head=nn.Linear(8, 3)))
    assert {entry.name for entry in decided.looks} == {"moe.experts.up", "moe.experts.down"}
