"""SOAP: against a plain float64 implementation, the first step, order of the basis, one side, dtypes and failures."""

import copy

import pytest
import torch
from matfn.optim.bases import first_bases, refined
from plain import CASES, PlainSOAP, gradient, parameter
from torch import nn

from matfn.optim import SOAP, Cutting, soap
from matfn.optim.matrices.layout import linear

BASE = {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.1, "beta2": 0.95, "eps": 1e-8, "basis_every": 1}


def make(case, dtype=torch.float64, largest=None, **options):
    layout, cutting, *_ = CASES[case]
    param = parameter(layout, dtype)
    cutting = Cutting(cutting.block, cutting.merge, largest)
    return SOAP([{"params": [param], "layout": [layout]}], cutting=cutting, **{**BASE, **options}), param


def chosen(optimizer, param):
    """The eigenbasis of a that the optimizer found, whatever it did with the null space."""

    def first(a, order):
        candidates = optimizer.state[param][f"bases_{order}x{len(a)}"]
        off = [q.T @ a @ q - torch.diag((q.T @ a @ q).diagonal()) for q in candidates]
        best = min(range(len(off)), key=lambda i: float(off[i].norm()))
        q = candidates[best].clone()
        assert off[best].norm() <= 1e-13 * a.norm()
        assert (q.T @ q - torch.eye(len(a))).norm() <= 1e-13
        assert ((q.T @ a @ q).diagonal().diff() <= 1e-13 * a.norm()).all()
        return q

    return first


# A basis is determined where the factors are regular: their rank grows by that of the gradient at each step.
REGULAR = ["blocks", "fused", "experts", "conv, order 3", "conv, order 4", "groups"]


@pytest.mark.parametrize(
    ("case", "every", "largest"),
    [(case, every, None) for case in REGULAR for every in (1, 3)]
    + [(case, 10, None) for case in CASES]
    + [(case, 2, 4) for case in CASES]
    + [("matrix", 4, 1)],
)
def test_fifty_steps_equal_the_plain_implementation(case, every, largest):
    optimizer, param = make(case, largest=largest, basis_every=every)
    first = chosen(optimizer, param)
    plain = PlainSOAP(case, param, **{**BASE, "basis_every": every, "largest": largest or 10000, "first": first})
    for t in range(1, 51):
        param.grad = gradient(param.detach(), t)
        optimizer.step()
        expected = plain.run(1)
    assert (param.detach() - expected).abs().max() <= 1e-10
    assert (expected - parameter(CASES[case][0])).abs().max() > 0.1  # something was there to get wrong


def test_it_turns_with_the_matrix_once_it_has_a_basis():
    P, Q = (torch.linalg.qr(gradient(torch.zeros(n, n), n))[0] for n in (6, 5))
    x = parameter(linear((6, 5)))
    y = nn.Parameter(P @ x.detach() @ Q)
    optimizers = [SOAP([w], lr=0.1, basis_every=2) for w in (x, y)]
    for t in range(1, 8):
        g = gradient(torch.zeros(6, 5), t)
        for w, grad, optimizer in zip((x, y), (g, P @ g @ Q), optimizers, strict=True):
            w.grad = grad
            optimizer.param_groups[0]["lr"] = 0.1 if t > 1 else 0.0  # the first step is Adam's, which does not turn
            optimizer.step()
    assert torch.allclose(P @ x @ Q, y, rtol=0, atol=1e-10)
    assert (x - parameter(linear((6, 5)))).abs().max() > 0.1


def test_the_first_step_is_adams():
    param = parameter(linear((6, 5)))
    start, g = param.detach().clone(), gradient(torch.zeros(6, 5), 1)
    param.grad = g
    SOAP([param], lr=0.1).step()
    assert torch.allclose(start - param, 0.1 * g / (g.abs() + 1e-8), rtol=0, atol=1e-15)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_first_basis_is_an_eigenbasis_at_any_scale(scale):
    G = gradient(torch.zeros(7, 9), 1).float()
    A = torch.stack([G @ G.T, torch.zeros(7, 7), G[:, :2] @ G[:, :2].T]) * scale
    Q = first_bases(A)
    assert Q.dtype == torch.float32
    assert torch.allclose(Q.mT @ Q, torch.eye(7), rtol=0, atol=1e-6)
    D = Q.mT.double() @ A.double() @ Q.double() / scale
    assert (D - torch.diag_embed(D.diagonal(dim1=1, dim2=2))).norm() <= 1e-6 * D.norm()
    assert (D.diagonal(dim1=1, dim2=2).diff() <= 1e-5 * D.norm()).all()


def test_refining_converges_to_the_eigenbasis_and_says_where_columns_went():
    V = torch.linalg.qr(gradient(torch.zeros(6, 6), 1))[0]
    A = (V * torch.tensor([1.0, 0.5, 0.2, 0.05, 0.02, 0.001], dtype=torch.float64)) @ V.T
    Q = V[:, [3, 0, 5, 1, 4, 2]].clone()  # the right columns in the wrong order: one step sorts them
    basis, order = refined(A[None], Q[None])
    assert order.tolist() == [[1, 3, 5, 0, 4, 2]]
    assert torch.allclose(basis[0].abs(), Q[:, order[0]].abs(), rtol=0, atol=1e-12)
    Q = torch.eye(6, dtype=torch.float64)[None]
    for _ in range(60):
        Q, order = refined(A[None], Q)
    assert order.tolist() == [list(range(6))]
    assert torch.allclose((Q[0].T @ V).abs(), torch.eye(6, dtype=torch.float64), rtol=0, atol=1e-10)


def test_parameters_of_any_age_and_group_move_as_they_would_alone():
    late = {"a": 1, "b": 4, "c": 1, "d": 6}

    def groups(params):
        return [
            {"params": [(n, params[n]) for n in "ab"], "beta2": 0.9, "lr": 0.1},
            {"params": [(n, params[n]) for n in "cd"], "momentum": 0.5, "basis_every": 2, "eps": 1e-3},
        ]

    together = {n: parameter(linear((5, 5))) for n in late}
    optimizer = SOAP(groups(together), basis_every=3)
    for t in range(1, 12):
        for n, p in together.items():
            p.grad = gradient(p.detach(), t) if t >= late[n] else None
        optimizer.step()
        if t == 7:
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for i, pair in enumerate(("ab", "cd")):
        for n in pair:
            alone = {m: parameter(linear((5, 5))) for m in late}
            single = SOAP([{**groups(alone)[i], "params": [alone[n]]}], basis_every=3)
            for t in range(late[n], 12):
                alone[n].grad = gradient(alone[n].detach(), t)
                single.step()
            assert torch.allclose(alone[n], together[n], rtol=0, atol=1e-10)


def test_bases_of_one_size_are_one_batch_whatever_they_belong_to(monkeypatch):
    params = [parameter(linear(shape), torch.float32) for shape in ((6, 4), (4, 6), (6, 6))]
    optimizer = SOAP(params, basis_every=2)
    sizes = []
    monkeypatch.setattr(soap, "refined", lambda A, Q: sizes.append(tuple(A.shape)) or refined(A, Q))
    for t in range(1, 6):
        for p in params:
            p.grad = gradient(p.detach(), t).float()
        optimizer.step()
    assert sorted(sizes) == [(2, 4, 4), (4, 6, 6)]


@pytest.mark.parametrize("bad", [torch.inf, 1e25])
def test_a_gradient_that_cannot_be_squared_does_not_reach_the_bases(bad):
    param = parameter(linear((6, 5)), torch.float32)
    optimizer = SOAP([param], basis_every=1)
    for t in range(1, 5):
        param.grad = gradient(param.detach(), t).float()
        if t == 2:
            param.grad[0, 0] = bad
        optimizer.step()
    held = optimizer.state[param]
    assert all(torch.isfinite(value).all() for key, value in held.items() if key.startswith(("factors", "bases")))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_shows_in_the_weights(bad):
    """As for torch's optimizers: an update of zero would stop the matrix for ever without a word."""
    param = parameter(linear((6, 5)), torch.float32)
    optimizer = SOAP([param], basis_every=1)
    for t in range(1, 5):
        param.grad = gradient(torch.zeros(6, 5), t).float()
        if t == 3:
            param.grad[0, 0] = bad
        optimizer.step()
        assert bool(torch.isfinite(param).all()) == (t < 3)


def test_a_square_that_overflows_stops_no_more_than_its_entries():
    """One row and column of G' see the entry; what remains moves on, and V has no NaN, as in Adam."""
    param = parameter(linear((6, 5)), torch.float32)
    optimizer = SOAP([param], basis_every=1000)
    for t in range(1, 9):
        param.grad = torch.diag(torch.arange(5.0, 0, -1)).repeat(2, 1)[:6] * (1 + 0.1 * t)
        if t == 4:
            param.grad[0, 0] = 1e25
        before = param.detach().clone()
        optimizer.step()
    squares = optimizer.state[param]["exp_avg_sq"]
    assert squares.isinf().any()
    assert not squares.isnan().any()
    assert torch.isfinite(param).all()
    assert (param.detach() - before).norm() > 0


def test_a_long_side_has_no_factor():
    param = parameter(linear((40, 5)))
    optimizer = SOAP([("w", param)], cutting=Cutting(block=None, largest=8))
    param.grad = gradient(param.detach(), 1)
    optimizer.step()
    assert {key for key in optimizer.state[param] if key.startswith("factors")} == {"factors_2x5"}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"basis_every": 0}, ValueError, "basis_every must be at least 1"),
        ({"basis_every": "often"}, TypeError, "basis_every must be a whole number"),
        ({"beta2": -0.1}, ValueError, r"beta2 must be in \[0, 1\)"),
        ({"momentum": 1.0}, ValueError, r"momentum must be in \[0, 1\)"),
    ],
)
def test_what_makes_no_sense_is_refused_when_it_is_said(options, error, message):
    with pytest.raises(error, match=message):
        SOAP([parameter(linear((6, 5)))], **options)
