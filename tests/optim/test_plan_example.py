"""An example batch leaves the model as it was, in whatever form it is given, and errors of the model are told."""

import collections
import dataclasses
import random

import numpy
import pytest
import torch
from plan_models import Chain, Denoiser, Named
from torch import nn

from matfn.optim import Muon, PlanError, plan

X = torch.randn(6, 8)


class Busy(nn.Module):
    """Changes all that a forward pass can change: statistics, random numbers, mode, a limited table."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.drop, self.out = nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3)
        self.table = nn.Embedding(4, 8, max_norm=0.1)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.seen += 1
        random.random()
        numpy.random.rand()
        x = x + self.table(torch.tensor([1, 2])).sum(0)
        return self.out(self.drop(torch.relu(self.norm(self.a(x)))))


def snapshot(model):
    state = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [(p.requires_grad, None if p.grad is None else p.grad.clone()) for p in model.parameters()]
    return state, flags, [m.training for m in model.modules()]


def same(before, after):
    assert before[0].keys() == after[0].keys()
    assert all(torch.equal(before[0][key], after[0][key]) for key in before[0])
    for (flag, grad), (flag_2, grad_2) in zip(before[1], after[1], strict=True):
        assert flag == flag_2
        assert (grad is None and grad_2 is None) or torch.equal(grad, grad_2)
    assert before[2] == after[2]


@pytest.mark.parametrize(
    "example", [X, lambda m: m.train()(X).sum(), lambda m: (loss := m(X).sum()).backward() or loss]
)
@pytest.mark.parametrize("fails", ["returns", "raises"])
def test_the_model_is_left_as_it_was(example, fails):
    model = Busy()
    model.a.requires_grad_(False)
    model.norm.eval()
    model.out.weight.grad = torch.full((3, 8), 2.0)
    held, buffer = model.out.weight.grad, model.seen
    if fails == "raises":
        model.out.register_forward_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("stop")))
    before = snapshot(model)
    numbers = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()
    if fails == "raises":
        with pytest.raises(PlanError, match=r"Busy could not run on the example: RuntimeError: stop"):
            plan(model, example)
    else:
        assert plan(model, example, allow=("empty",))["out.weight"].role == "head"
    same(before, snapshot(model))
    assert model.out.weight.grad is held
    assert model.seen is buffer
    assert torch.equal(numbers[0], torch.get_rng_state())
    assert numbers[1] == random.getstate()
    assert numbers[2] == numpy.random.get_state()[1].tolist()


def test_weights_that_serve_in_training_only_are_found_too():
    class Auxiliary(Chain):
        def forward(self, x):
            x = torch.tanh(self.body(x))
            return (self.out(x), self.extra(x)) if self.training else self.out(x)

    decided = plan(Auxiliary(body=nn.Linear(8, 8), extra=nn.Linear(8, 2), out=nn.Linear(8, 3)).eval(), X)
    assert {entry.name for entry in decided if entry.role == "head"} == {"extra.weight", "out.weight"}
    assert not decided.looks


@dataclasses.dataclass
class Output:
    logits: torch.Tensor
    state: list


Pair = collections.namedtuple("Pair", "first second")


@pytest.mark.parametrize(
    "form",
    [
        lambda y, h: y,
        lambda y, h: (y, h),
        lambda y, h: [{"deep": [y]}, h],
        lambda y, h: {"logits": y, "hidden": h},
        lambda y, h: Output(y, [h]),
        lambda y, h: Pair(y, h),
        lambda y, h: {"loss": y.square().mean(), "hidden": h.sum(0)},
    ],
)
def test_outputs_of_any_form_are_read(form):
    model = Chain(a=nn.Linear(8, 8), b=nn.Linear(8, 8), c=nn.Linear(8, 3))

    def forward(x):
        h = torch.tanh(model.b(torch.tanh(model.a(x))))
        return form(model.c(h), h)

    model.forward = forward
    assert [entry.name for entry in plan(model, X) if entry.role == "head"] == ["c.weight"]


def test_the_loss_alone_counts_where_there_is_one():
    model = Chain(a=nn.Linear(8, 8), side=nn.Linear(8, 2), c=nn.Linear(8, 3))

    def forward(x):
        h = torch.tanh(model.a(x))
        return {"loss": model.c(h).square().mean(), "side": model.side(h)}

    model.forward = forward
    decided = plan(model, X)
    assert decided["c.weight"].role == "head"
    assert decided["side.weight"].look  # nothing trains it


@pytest.mark.parametrize(
    "example", [(torch.randn(2, 3, 4, 4), torch.randn(2, 6)), {"x": torch.randn(2, 3, 4, 4), "t": torch.randn(2, 6)}]
)
def test_arguments_by_position_and_by_keyword(example):
    assert plan(Denoiser(), example)["last.weight"].role == "head"


def test_models_on_meta_are_read_without_memory():
    with torch.device("meta"):
        model = Chain(a=nn.Linear(8, 4096), b=nn.Linear(4096, 4096), c=nn.Linear(4096, 3))
    assert plan(model, torch.empty(5, 8, device="meta"))["c.weight"].role == "head"


def test_frozen_weights_are_seen_and_stay_frozen():
    model = Chain(a=nn.Linear(8, 8), b=nn.Linear(8, 8), c=nn.Linear(8, 3))
    model.a.requires_grad_(False)
    model.b.requires_grad_(False)
    left = plan(model, X, allow=("empty",))
    assert [left[f"{x}.weight"].rule for x in "abc"] == ["frozen", "frozen", "adamw"]
    assert 'frozen="keep" keeps it' in left["a.weight"].reason
    kept = plan(model, X, frozen="keep")
    assert [(kept[f"{x}.weight"].role, kept[f"{x}.weight"].rule) for x in "abc"] == [
        ("input", "matrix"),
        ("linear", "matrix"),
        ("head", "adamw"),
    ]
    assert [p.requires_grad for p in model.parameters()] == [False] * 4 + [True] * 2


def test_a_kept_parameter_trains_once_it_is_unfrozen():
    model = Chain(a=nn.Linear(8, 8), b=nn.Linear(8, 8), c=nn.Linear(8, 3))
    model.a.requires_grad_(False)
    optimizer = Muon(plan(model, X, frozen="keep"), lr=0.1, weight_decay=0.1)
    before = model.a.weight.detach().clone()
    for unfrozen in (False, True):
        model.a.requires_grad_(unfrozen)
        optimizer.zero_grad()
        model(X).square().sum().backward()
        optimizer.step()
        assert torch.equal(before, model.a.weight) != unfrozen


def test_under_no_grad_and_inference_mode_the_graph_is_read_all_the_same():
    model = Chain(a=nn.Linear(8, 8), c=nn.Linear(8, 3))
    with torch.no_grad():
        assert plan(model, X)["c.weight"].role == "head"


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda x: x, "returned a tensor of shape \\(6, 8\\) for the example: no tensor that depends on a parameter"),
        (lambda x: None, "returned a NoneType for the example"),
        (lambda x: x @ x, "could not run on the example: RuntimeError: mat1 and mat2"),
        (lambda x, y: x, "could not run on the example: TypeError: .* missing 1 required positional argument: 'y'"),
    ],
)
def test_a_model_that_cannot_be_read_is_told(forward, message):
    model = Named(a=nn.Linear(8, 8), b=nn.Linear(8, 8))
    model.forward = forward
    with pytest.raises(PlanError, match=message):
        plan(model, X)
