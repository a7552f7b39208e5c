"""SOAP: against a plain float64 implementation, the first step, order of the basis, one side, dtypes and failures."""

import pytest
import torch
from plain import CASES, PlainSOAP, gradient, parameter

from matfn.optim import SOAP, Cutting

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
