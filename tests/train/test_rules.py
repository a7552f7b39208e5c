"""The optimizers of a recipe: each kind trains and resumes, keys reach their optimizer, embeddings by PolarGrad."""

import pytest
import torch

from matfn.optim import minimax
from matfn.train import TrainError, optimizers
from matfn.train import recipe as recipes
from matfn.train.data import load_corpus
from matfn.train.loop import Trainer
from matfn.train.model import make_model
from matfn.train.optimizers import CLASSES
from matfn.train.recipe import MATFN

PAPER = {"lr": 1.0, "momentum": 0.5}
ARMS = {
    "normuon": {"kind": "normuon", "lr": 0.02, "beta2": 0.9},
    "adamuon": {"kind": "adamuon", "lr": 1e-3, "beta2": 0.9},
    "polargrad": {"kind": "polargrad", "lr": 1.0, "scale": "rank", "method": "exact"},
    "vanilla": {"kind": "polargrad", "lr": 0.1, "variant": "vanilla", "power": 0.5, "growth": 5.0},
    "shampoo": {"kind": "shampoo", "lr": 0.01, "root_every": 3, "block": 8, "method": "minimax", "ridge": 1e-4},
    "shampoo, exact": {"kind": "shampoo", "lr": 0.01, "graft": "sgd", "root": 2, "start": 2, "method": "exact"},
    "soap": {"kind": "soap", "lr": 0.01, "beta2": 0.9, "basis_every": 2, "nesterov": True},
    "muon and polargrad": {"kind": "muon", "lr": 0.02, "embeddings": PAPER},
    "polargrad for all": {"kind": "polargrad", "lr": 1.0, "scale": "rank", "embeddings": {**PAPER, "scale": "rank"}},
    "adamw and polargrad": {"kind": "adamw", "lr": 0.01, "embeddings": PAPER},
}


def with_arm(table, arm):
    return recipes.from_table({**table, "arms": [{"name": "it", **arm}]})


def made(recipe):
    model = make_model(recipe.model, 11, context=recipe.data.context, seed=0)
    return model, optimizers.make_optimizers(recipe.arms[0], model, recipe.train).members


def test_every_kind_of_the_recipe_has_its_class():
    assert tuple(CLASSES) == MATFN


@pytest.mark.parametrize("arm", ARMS.values(), ids=ARMS.keys())
def test_each_trains_and_resumes_with_the_same_bits(table, tmp_path, watcher, arm):
    recipe = with_arm(table, arm)
    optimizers.check(recipe.arms[0], "arms.0", torch.device("cpu"))

    def trainer(place):
        return Trainer(recipe, recipe.arms[0], load_corpus(recipe.data), seed=0, directory=tmp_path / place)

    whole, first = trainer("whole"), trainer("parts")
    start = {name: p.detach().clone() for name, p in whole.model.named_parameters()}
    whole.advance(8, watcher)
    first.advance(4, watcher)
    first.save()
    second = trainer("parts")
    second.advance(8, watcher)
    for name, value in whole.model.named_parameters():
        assert torch.isfinite(value).all()
        assert not torch.equal(value, start[name]), f"{name} was moved by nobody"
        assert torch.equal(value, second.model.get_parameter(name)), name


def test_keys_reach_the_optimizer(table):
    arm = {**ARMS["vanilla"], "weight_decay": 0.3, "rest": {"lr": 0.5, "beta1": 0.7}}
    model, [optimizer] = made(with_arm(table, arm))
    matrices, rest = optimizer.param_groups[:2]
    expected = {"variant": "vanilla", "power": 0.5, "growth": 5.0, "scale": "unit", "momentum": 0.0}
    assert {key: matrices[key] for key in expected} == expected
    assert (matrices["initial_lr"], matrices["weight_decay"]) == (0.1, 0.3)
    assert (rest["initial_lr"], rest["betas"]) == (0.5, (0.7, 0.95))
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))


def test_keys_of_shampoo_and_soap_reach_them(table):
    _, [optimizer] = made(with_arm(table, ARMS["shampoo"]))
    matrices = optimizer.param_groups[0]
    assert {key: matrices[key] for key in ("root_every", "ridge", "nesterov", "momentum")} == {
        "root_every": 3,
        "ridge": 1e-4,
        "nesterov": False,
        "momentum": 0.95,
    }
    roots = optimizer.chain[1]
    assert (roots.cutting.block, roots.method) == (8, minimax)
    _, [optimizer] = made(with_arm(table, ARMS["shampoo, exact"]))
    assert (optimizer.chain[1].graft, optimizer.chain[1].root, optimizer.param_groups[0]["start"]) == ("sgd", 2, 2)
    _, [optimizer] = made(with_arm(table, ARMS["soap"]))
    assert {key: optimizer.param_groups[0][key] for key in ("beta2", "basis_every", "nesterov")} == {
        "beta2": 0.9,
        "basis_every": 2,
        "nesterov": True,
    }


def test_embeddings_and_head_go_to_polargrad_and_nothing_is_moved_twice(table):
    model, [hidden, tables] = made(with_arm(table, ARMS["muon and polargrad"]))
    [group] = tables.param_groups
    vocabulary = {name for name, p in model.named_parameters() if p.ndim == 2 and 11 in p.shape}
    assert vocabulary <= set(group["param_names"])
    assert (group["momentum"], group["initial_lr"], group["variant"]) == (0.5, 1.0, "momentum-first")
    names = [name for g in (*hidden.param_groups, group) for name in g["param_names"]]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ({"kind": "muon", "variant": "vanilla"}, r"arms\.0\.variant belongs to kind = \"polargrad\"; 'muon' has none"),
        ({"kind": "polargrad", "beta2": 0.9}, r'beta2 belongs to kind = "normuon", "adamuon"'),
        ({"kind": "adamw", "scale": "jordan"}, r'scale belongs to kind = "torch-muon", "muon"'),
        ({"kind": "polargrad", "variant": "nesterov"}, "variant must be one of"),
        ({"kind": "muon", "embeddings": {}}, r"lacks 'arms\.0\.embeddings\.lr'"),
    ],
)
def test_keys_of_other_kinds_are_refused(table, arm, message):
    with pytest.raises(TrainError, match=message):
        with_arm(table, arm)


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ({"kind": "muon", "scale": "rank"}, r"^arms\.0: .*scale must be one of"),
        ({"kind": "muon", "embeddings": {"lr": 1.0, "method": "newton"}}, r"^arms\.0\.embeddings\.method = 'newton'"),
        ({"kind": "polargrad", "growth": 1.0}, r"^arms\.0: .*growth must be > 1"),
    ],
)
def test_what_the_optimizer_refuses_is_known_before_the_run(table, arm, message):
    with pytest.raises(TrainError, match=message):
        optimizers.check(with_arm(table, arm).arms[0], "arms.0", torch.device("cpu"))


def test_a_torch_without_muon_is_told(table, monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(TrainError, match=r'arms\.1\.kind = "torch-muon" needs torch 2\.9'):
        optimizers.check(recipes.from_table(table).arms[1], "arms.1", torch.device("cpu"))
