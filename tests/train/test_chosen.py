"""The precision of each arm on forced profiles: what runs, what the table says, and torch's Muon in float32."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from typer.testing import CliRunner

from matfn import cli
from matfn.run.machine import PROFILES, Fact, _machine, machine
from matfn.run.plan import _cached
from matfn.train import compare, optimizers, provenance, report
from matfn.train import recipe as recipes
from matfn.train.data import load_corpus
from matfn.train.float32_muon import Float32Muon
from matfn.train.loop import Trainer
from matfn.train.model import make_model

CPU = torch.device("cpu")
SLOW, QUICK = "x86-avx2", "amd-avx512-bf16"


class Products(TorchDispatchMode):
    """Remembers the dtype of every matrix product."""

    def __init__(self):
        super().__init__()
        self.dtypes = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm, torch.ops.aten.baddbmm):
            self.dtypes.add(args[0].dtype)
        return func(*args, **(kwargs or {}))


@pytest.fixture(params=[SLOW, QUICK])
def profile(request, monkeypatch):
    """A machine, whose half precision holds at every size: the matrices here are small."""
    monkeypatch.setenv("MATFN_MACHINE", request.param)
    small = replace(PROFILES[request.param], half_rows=Fact(0, "a test on small matrices"))
    monkeypatch.setitem(PROFILES, request.param, small)
    _machine.cache_clear(), _cached.cache_clear()
    yield request.param
    monkeypatch.undo()
    _machine.cache_clear(), _cached.cache_clear()


@pytest.mark.parametrize("arm", ["torch Muon", "matfn Muon"])
def test_an_arm_iterates_where_its_choice_says(recipe, tmp_path, profile, arm):
    trainer = Trainer(recipe, recipe.arm(arm), load_corpus(recipe.data), seed=0, directory=tmp_path)
    for parameter in trainer.model.parameters():
        parameter.grad = torch.randn_like(parameter)
    with Products() as seen:
        trainer.optimizers.step()
    wanted = torch.float32 if profile == SLOW else torch.bfloat16
    assert seen.dtypes == {wanted}
    choice = provenance.choice_of(recipe.arm(arm), trainer.optimizers.members, CPU)
    assert f"torch.{choice.precision}" == str(wanted)
    assert isinstance(trainer.optimizers.members[0], Float32Muon) == (profile == SLOW and arm == "torch Muon")


def test_arms_without_an_iteration_have_no_choice(recipe, profile):
    model = make_model(recipe.model, 11, context=16, seed=0)
    table = recipe.arm("AdamW")
    members = optimizers.make_optimizers(table, model, recipe.train).members
    assert provenance.choice_of(table, members, CPU) is None


@pytest.mark.parametrize("kind", ["normuon", "adamuon", "polargrad", "shampoo"])
def test_others_are_asked_for_their_plans(table, profile, kind):
    """NorMuon and AdaMuon have Muon's factor; PolarGrad's needs its digits; roots of 16 rows are decompositions."""
    recipe = recipes.from_table({**table, "arms": [{"name": "it", "kind": kind, "lr": 0.02}]})
    model = make_model(recipe.model, 11, context=16, seed=0)
    members = optimizers.make_optimizers(recipe.arms[0], model, recipe.train).members
    choice = provenance.choice_of(recipe.arms[0], members, CPU)
    found = None if choice is None else choice.precision
    narrow = "float32" if profile == SLOW else "bfloat16"
    assert found == {"normuon": narrow, "adamuon": narrow, "polargrad": "float32", "shampoo": None}[kind]


def test_table_and_page_say_it(recipe, tmp_path, watcher, profile):
    result = compare.run(recipe, tmp_path, watcher)
    names = [report.cells(row, result)[0] for row in result.rows]
    assert names == ["AdamW", "torch Muon, in float32" if profile == SLOW else "torch Muon", "matfn Muon"]
    assert [choice.arm for choice in result.choices] == ["torch Muon", "matfn Muon"]
    page = report.write(result, tmp_path).read_text()
    assert ("torch Muon, in float32" in page) == (profile == SLOW)
    assert f"{profile} ({machine(CPU).kind})" in page
    assert all(str(choice) in report.summary(result) for choice in result.choices)
    recorded = json.loads((tmp_path / "result.json").read_text())
    assert [choice["precision"] for choice in recorded["choices"]] == ["float32" if profile == SLOW else "bfloat16"] * 2


def test_the_command_names_the_machine_first(recipe, tmp_path, monkeypatch, profile):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.toml").write_text(recipes.text(recipe))
    output = CliRunner().invoke(cli.app, ["compare", "recipe.toml", "--out", "run"]).stdout
    assert output.startswith(f"machine  {profile} ({machine(CPU).kind})")
    assert ("torch Muon, in float32" in output) == (profile == SLOW)
    assert output.count("iterates in") == 2


OPTIONS = [
    {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.95, "nesterov": True},
    {"lr": 0.3, "weight_decay": 0.0, "momentum": 0.5, "nesterov": False},
    {"lr": 0.02, "weight_decay": 0.5, "momentum": 0.9, "nesterov": True, "adjust_lr_fn": "match_rms_adamw"},
]


def by_hand(weight, gradients, lr, weight_decay, momentum, nesterov, adjust_lr_fn="original"):
    """Muon as Jordan and torch write it, on one matrix in float64."""
    W, B = weight.double().numpy().copy(), 0.0
    m, n = W.shape
    for G in (g.double().numpy() for g in gradients):
        B = momentum * B + (1 - momentum) * G
        X = momentum * B + (1 - momentum) * G if nesterov else B
        X = X / np.linalg.norm(X)
        for _ in range(5):
            M = X @ X.T
            X = 3.4445 * X + (-4.7750 * M + 2.0315 * M @ M) @ X
        scale = 0.2 * max(m, n) ** 0.5 if adjust_lr_fn == "match_rms_adamw" else max(1, m / n) ** 0.5
        W = (1 - lr * weight_decay) * W - lr * scale * X
    return torch.from_numpy(W)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("shape", [(24, 16), (16, 24), (16, 16)])
def test_float32_muon_is_torchs_but_for_rounding(shape, options):
    """In float64 by hand to float32's rounding, which five steps grow; torch's own to bfloat16's."""
    generator = torch.Generator().manual_seed(0)
    start, *gradients = (torch.randn(shape, generator=generator) for _ in range(4))
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    one, two = Float32Muon([ours], **options), torch.optim.Muon([theirs], **options)
    for gradient in gradients:
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        one.step()
        two.step()
        assert torch.equal(ours.grad, gradient)
    moved = by_hand(start, gradients, **options) - start
    assert (ours.detach() - start - moved).norm() < 2e-5 * moved.norm()
    assert (ours.detach() - theirs.detach()).norm() < 10 * 2**-8 * moved.norm()
    assert ours.dtype == torch.float32


def test_float32_muon_takes_and_gives_torchs_state():
    weight = torch.nn.Parameter(torch.ones(4, 6))
    idle = torch.nn.Parameter(torch.ones(4, 6))
    theirs, ours = torch.optim.Muon([weight, idle], lr=0.1), Float32Muon([weight, idle])
    weight.grad = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    theirs.step()
    ours.load_state_dict(theirs.state_dict())
    assert ours.param_groups[0]["lr"] == 0.1
    assert ours.step(lambda: 3.0) == 3.0
    assert torch.equal(idle, torch.ones(4, 6)), "a weight without a gradient moved"
    again = torch.optim.Muon([weight, idle])
    again.load_state_dict(ours.state_dict())
    assert torch.equal(again.state[weight]["momentum_buffer"], ours.state[weight]["momentum_buffer"])
