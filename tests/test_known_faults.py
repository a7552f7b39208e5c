"""Faults that users met, a test each, by public names alone, so that the file runs on older versions, too.

The tests of each part hold the kinds; this file holds the instances, for a quick answer to "is it mended?".
"""

import copy
import math
import warnings

import pytest
import torch
from torch import nn

import matfn
from matfn.kernels import Blocked
from matfn.optim import SOAP, Muon, plan


def orthogonal(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=generator))[0]


def gen(n, kappa, seed=0):
    """Random singular vectors, log-spaced values from 1 to 1 / kappa."""
    return orthogonal(n, seed) * torch.logspace(0, -math.log10(kappa), n, dtype=torch.float64) @ orthogonal(n, seed + 1)


def distance(found, right):
    return float((found.double() - right).norm() / right.norm())


# A. Numbers.


@pytest.mark.parametrize("method", [matfn.PolarExpress((9,) * 4, norm="schatten4"), matfn.PolarExpress()], ids=str)
@pytest.mark.parametrize(("m", "n", "rank"), [(192, 768, 1), (192, 768, 2), (192, 768, 20), (256, 1024, 4)])
@pytest.mark.parametrize("products", [None, Blocked()], ids=["chosen", "mirrored"])
def test_low_rank_in_float32(m, n, rank, method, products):
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(m, rank, generator=generator) @ torch.randn(rank, n, generator=generator)
    right = matfn.orthogonalize(A.double(), method=method, engine=matfn.Direct())
    assert distance(matfn.orthogonalize(A, method=method, products=products), right) < 1e-3


def test_a_gradient_of_rank_one_moves_within_the_schedule():
    weight = nn.Parameter(torch.zeros(192, 768))
    method = matfn.PolarExpress((9,) * 4, norm="schatten4")
    options = dict(method=method, precision=torch.float32, products=Blocked(), scale=lambda m, n: 1.0)
    optimizer = Muon([weight], lr=1.0, weight_decay=0.0, **options)
    generator = torch.Generator().manual_seed(0)
    weight.grad = torch.randn(192, 1, generator=generator) @ torch.randn(1, 768, generator=generator)
    optimizer.step()
    right = matfn.orthogonalize(weight.grad.double(), method=method, engine=matfn.Direct())
    assert distance(-weight.detach(), right) < 1e-3


@pytest.mark.parametrize("c", [1.0, 10.0, 30.0, 100.0, 1000.0])
def test_the_second_step_of_soap_is_bounded(c):
    generator = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.zeros(8, 6))
    optimizer, sizes = SOAP([weight], lr=1e-3), []
    for step in range(8):
        weight.grad = torch.randn(8, 6, generator=generator) * (c if step == 0 else 1)
        before = weight.detach().clone()
        optimizer.step()
        sizes.append(float((weight.detach() - before).abs().max()) / 1e-3)
    assert max(sizes) < 5


@pytest.mark.parametrize("ridge", [1e-6, 5e-7, 1e-9])
def test_a_ridge_is_added_in_the_precision_of_the_method(ridge):
    found = torch.linalg.eigvalsh(matfn.inv_rootm(torch.ones(4, 4), 4, ridge=ridge).double())
    assert float(found.max()) == pytest.approx(ridge**-0.25, rel=1e-4)


def test_value_and_gradient_of_a_ridge_are_of_one_matrix():
    """The derivative of tr (A + r I)^(-1/4) is -1/4 (A + r I)^(-5/4); the eigenvalues of A are 4 and 0."""
    A = torch.ones(4, 4, requires_grad=True)
    matfn.inv_rootm(A, 4, ridge=1e-6).trace().backward()
    eye, ones = torch.eye(4, dtype=torch.float64), torch.ones(4, 4, dtype=torch.float64) / 4
    right = -0.25 * ((eye - ones) * 1e-6**-1.25 + ones * 4**-1.25)
    assert A.grad is not None
    assert distance(A.grad, right) < 1e-3


@pytest.mark.parametrize("ridge", [1e39, float("inf"), float("nan"), -1.0])
def test_a_ridge_that_overflows_is_refused(ridge):
    with pytest.raises(ValueError, match="sqrtm"):
        matfn.sqrtm(torch.eye(2), ridge=ridge)


def test_the_direction_of_a_certificate_is_a_cosine():
    A = gen(8, 1e8)
    W, _, Vh = torch.linalg.svd(A)
    for flipped in range(8):
        signs = torch.ones(8, dtype=torch.float64)
        signs[flipped] = -1
        U = W * signs @ Vh
        right = float((A * U).sum() / torch.linalg.svdvals(A).sum())
        assert float(matfn.certify(A, U).direction) == pytest.approx(right, abs=0.05)


def test_a_polar_factor_that_is_turned_is_warned_of():
    A = gen(17, 1e8)
    with pytest.warns(matfn.ConvergenceWarning, match="polar"):
        matfn.polar(A, method=matfn.DBNewton())


@pytest.mark.parametrize("function", [matfn.inv, lambda A: matfn.inv_rootm(A, 1)], ids=["inv", "inv_rootm"])
def test_a_result_that_overflows_is_refused(function):
    with pytest.raises(ValueError, match="float16"):
        function(torch.eye(2).half() * 1e-5)


# B. Plans.


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.dense, self.out_proj = nn.Linear(8, 8), nn.Linear(8, 3)


def with_body(**heads):
    model = nn.Module()
    model.layers = nn.ModuleList([nn.Linear(8, 8) for _ in range(2)])
    for name, head in heads.items():
        setattr(model, name, head)
    return model


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (with_body(classifier=Classifier()), "classifier.out_proj.weight"),
        (with_body(classification_head=Classifier()), "classification_head.out_proj.weight"),
        (with_body(qa_outputs=nn.Linear(8, 2)), "qa_outputs.weight"),
        (with_body(class_embed=nn.ModuleList([nn.Linear(8, 5)])), "class_embed.0.weight"),
        (with_body(conv_out=nn.Conv2d(8, 3, 1)), "conv_out.weight"),
        (with_body(head=nn.ModuleDict(dict(norm=nn.LayerNorm(8), fc=nn.Linear(8, 3)))), "head.fc.weight"),
        (nn.Sequential(nn.Embedding(256, 64), nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 256)), "3.weight"),
    ],
    ids=["classifier", "classification_head", "qa_outputs", "class_embed", "conv_out", "head", "README"],
)
def test_heads_go_to_adamw(model, name):
    assert plan(model)[name].rule == "adamw"


def test_gate_and_up_in_one_are_cut_or_marked():
    block = nn.Module()
    block.gate_up_proj, block.down_proj = nn.Linear(8, 32), nn.Linear(16, 8)
    entry = plan(nn.ModuleDict({"layers": nn.ModuleList([block])}))["layers.0.gate_up_proj.weight"]
    assert entry.layout is not None
    assert entry.layout.cuts == (16, 16)


def test_positions_of_the_shape_of_a_layer_make_no_head():
    model = with_body(position_embedding=nn.Embedding(16, 8), mixing=nn.Linear(8, 16), back=nn.Linear(16, 8))
    assert plan(model)["mixing.weight"].rule == "matrix"


@pytest.mark.parametrize("shape", [(8, 1, 1), (1, 1, 8), (2, 1, 1), (1, 8)])
def test_vectors_by_shape_are_planned_and_do_not_decay(shape):
    model = with_body()
    model.scale_of_it = nn.Parameter(torch.ones(shape))
    [group] = [g for g in plan(model).groups() if any(name == "scale_of_it" for name, _ in g["params"])]
    assert (group["rule"], group["weight_decay"]) == ("adamw", 0.0)


def test_flags_of_other_muons_are_translated_or_refused():
    table = nn.Parameter(torch.randn(50, 8))
    assert Muon([dict(params=[table], use_muon=False)]).param_groups[0]["rule"] == "adamw"
    assert Muon([dict(params=[table], algorithm="adamw")]).param_groups[0]["rule"] == "adamw"
    for flag in (dict(ns_steps=5), dict(adjust_lr_fn="original")):
        with pytest.raises((TypeError, ValueError), match=next(iter(flag))):
            Muon([dict(params=[table], **flag)])
    with pytest.raises(TypeError, match="method="):
        Muon([table], ns_steps=5)  # pyright: ignore[reportCallIssue]


def test_frozen_parameters_can_be_kept():
    model = with_body()
    model.layers[0].requires_grad_(False)
    assert plan(model, frozen="keep")["layers.0.weight"].rule == "matrix"


def test_a_replaced_tensor_is_named():
    weight = nn.Parameter(torch.randn(4, 4))
    optimizer = Muon([("body.weight", weight)])
    optimizer.param_groups[0]["params"][0] = other = nn.Parameter(torch.randn(4, 4))
    other.grad = torch.ones(4, 4)
    with pytest.raises((RuntimeError, ValueError), match=r"body\.weight"):
        optimizer.step()


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon came with torch 2.9")
def test_a_checkpoint_of_torch_goes_on():
    weight = nn.Parameter(torch.randn(8, 4))
    theirs, ours = torch.optim.Muon([weight]), Muon([weight])
    weight.grad = torch.randn(8, 4)
    theirs.step()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    assert torch.equal(ours.state[weight]["momentum_buffer"], theirs.state[weight]["momentum_buffer"].float())


# C. State.


def test_nan_in_one_gradient_is_named_and_nothing_moves():
    weights = [nn.Parameter(torch.randn(4, 4 + k)) for k in range(3)]
    optimizer = Muon([(f"w{k}", w) for k, w in enumerate(weights)], method=matfn.Exact())
    before = [w.detach().clone() for w in weights]
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    weights[1].grad[0, 0] = float("nan")
    with pytest.raises(ValueError, match="w1"):
        optimizer.step()
    assert all(torch.equal(old, new) for old, new in zip(before, weights, strict=True))
    weights[1].grad = torch.randn(4, 5)
    optimizer.step()
    assert all(bool(w.isfinite().all()) for w in weights)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda saved: saved["state"][0].update(momentum_buffer=torch.ones(4, 4, dtype=torch.int64)),
        lambda saved: saved["state"][0].update(momentum_buffer=torch.full((4, 4), float("nan"))),
        lambda saved: saved["state"][0].update(momentum_buffer=torch.ones(4, 4, dtype=torch.complex64)),
        lambda saved: saved["state"][0].update(momentum_buffer=torch.ones(4, 4, device="meta")),
        lambda saved: saved["state"][0].update(momentum_buffer=torch.eye(4).to_sparse()),
        lambda saved: saved["param_groups"][0].update(lr="0.1"),
        lambda saved: saved["param_groups"][0].update(lr=float("inf")),
    ],
    ids=["integer", "nan", "complex", "meta", "sparse", "text lr", "infinite lr"],
)
def test_a_state_dict_that_does_not_fit_changes_nothing(spoil):
    weight = nn.Parameter(torch.randn(4, 4))
    optimizer = Muon([weight])
    weight.grad = torch.randn(4, 4)
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    kept = copy.deepcopy(saved)
    spoil(saved)
    with pytest.raises((TypeError, ValueError)):
        optimizer.load_state_dict(saved)
    now = optimizer.state_dict()
    assert now["param_groups"] == kept["param_groups"]
    assert torch.equal(now["state"][0]["momentum_buffer"], kept["state"][0]["momentum_buffer"])


# D. Words.


@pytest.mark.parametrize("verb", ["orthogonalize", "polar", "signm", "sqrtm", "inv_sqrtm", "inv"])
def test_errors_name_the_verb(verb):
    with pytest.raises((TypeError, ValueError), match=f"^{verb} "):
        getattr(matfn, verb)(torch.ones(3))


def test_the_sign_of_an_exactly_symmetric_matrix():
    """A value of size 1e-6 has its sign in float32 up to eps 1e6 = 0.1 at worst."""
    Q = orthogonal(17)
    values = torch.logspace(0, -6, 17, dtype=torch.float64) * (-1.0) ** torch.arange(17)
    A = (Q * values) @ Q.T
    found = matfn.signm(((A + A.T) / 2).float(), method=matfn.RitzMinimax(tol=1e-6))
    assert float((found.double() - (Q * values.sign()) @ Q.T).norm()) < 0.1


def test_the_first_root_does_not_cry_at_its_rounding_error():
    """Its residual grows with the condition number, 1e4; the error is 4e-5."""
    Q = orthogonal(16)
    S = ((Q * torch.logspace(0, -4, 16, dtype=torch.float64)) @ Q.T).float()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        matfn.inv_rootm((S + S.T) / 2, 1, method=matfn.PolarExpress(steps=12, lower=1e-4, cushion=0.0))


@pytest.mark.parametrize("verb", ["inv", "signm", "inv_sqrtm"])
def test_the_singular_matrix_of_a_batch_is_named(verb):
    batch = torch.eye(3).repeat(5, 1, 1)
    batch[3, 0, 0] = 0.0
    with pytest.raises(matfn.SpectrumError, match="matrix 3 of 5"):
        getattr(matfn, verb)(batch)


def test_a_nonsymmetric_product_is_not_told_to_be_symmetrized():
    A, B = gen(4, 10.0), gen(4, 10.0, 5)
    with pytest.raises(ValueError, match="sqrtm") as caught:
        matfn.sqrtm(A @ A.mT @ B @ B.mT)
    assert "A^" in str(caught.value)


@pytest.mark.parametrize("kind", ["meta", "nested"])
def test_tensors_without_plain_values_are_refused_by_the_verb(kind):
    A = torch.ones(3, 3, device="meta") if kind == "meta" else torch.nested.nested_tensor([torch.eye(2), torch.eye(3)])
    with pytest.raises((TypeError, ValueError), match="polar"):
        matfn.polar(A)


# E. Weights in half precision.


@pytest.mark.parametrize("rounding", ["stochastic", "compensated"])
@pytest.mark.parametrize("rule", ["matrix", "adamw"])
def test_decay_in_bfloat16_is_not_lost(rounding, rule):
    weight = nn.Parameter(torch.ones(64, 64, dtype=torch.bfloat16))
    options = dict(lr=0.02, weight_decay=0.01)
    optimizer = Muon([dict(params=[weight], rule=rule, **options)], rounding=rounding)
    for _ in range(500):
        weight.grad = torch.zeros_like(weight)
        optimizer.step()
    assert float(weight.detach().double().mean()) == pytest.approx((1 - 2e-4) ** 500, rel=0.01)
