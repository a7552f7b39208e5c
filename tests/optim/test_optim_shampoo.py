"""Shampoo: against a plain float64 implementation, with any method of roots, over grafts, ages and failures."""

import pytest
import torch
from plain import CASES, PlainShampoo, parameter, run

from matfn.optim import Shampoo

EPS32 = torch.finfo(torch.float32).eps
BASE = {
    "lr": 0.02,
    "momentum": 0.9,
    "weight_decay": 0.1,
    "beta2": 0.95,
    "ridge": 1e-6,
    "eps": 1e-8,
    "factor_every": 1,
    "root_every": 1,
    "start": 1,
    "graft": "none",
    "root": {},
}
VARIANTS = {
    "adam": {"graft": "adam"},
    "sgd": {"graft": "sgd"},
    "none": {},
    "seldom": {"graft": "adam", "factor_every": 3, "root_every": 7, "start": 5},
    "seldom sgd": {"graft": "sgd", "factor_every": 2, "root_every": 5, "start": 4},
    "half": {"graft": "adam", "root": {2: 2, 3: 2}},
    "no averages": {"momentum": 0.0, "beta2": 0.0, "ridge": 1e-3},
}


def make(case, dtype=torch.float64, **options):
    layout, cutting, *_ = CASES[case]
    param = parameter(layout, dtype)
    options = {"cutting": cutting, **BASE, **options}
    return Shampoo([{"params": [param], "layout": [layout]}], **options), param


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("case", CASES)
def test_fifty_steps_equal_the_plain_implementation(case, variant):
    optimizer, param = make(case, **VARIANTS[variant])
    plain = PlainShampoo(case, param, **{**BASE, **VARIANTS[variant]})
    expected = plain.run(50)
    assert (run(optimizer, param, 50) - expected).abs().max() <= 1e-10
    assert (expected - parameter(CASES[case][0])).abs().max() > 0.1  # something was there to get wrong
