"""CPU and GPU take the same steps: the profile of a GPU, forced on the CPU, beside the profiles of CPUs."""

from functools import lru_cache

import numpy as np
import pytest
import torch
from torch import nn

from matfn.iteration.target import ORTHOGONALIZE
from matfn.optim import SOAP, AdaMuon, Muon, NorMuon, PolarGrad, Shampoo
from matfn.run.plan import Purpose, resolve
from matrices import generator, orthogonal

OPTIMIZERS = {
    "muon": (Muon, {}),
    "normuon": (NorMuon, {}),
    "adamuon": (AdaMuon, {}),
    "polargrad": (PolarGrad, {}),
    "shampoo": (Shampoo, {"root_every": 2}),
    "soap": (SOAP, {"basis_every": 2}),
}
SHAPES = [(144, 130), (128, 320), (32, 96)]  # Direct and Gram with deflation, Gram without


@lru_cache(maxsize=1)
def gradients(steps=20):
    """One direction that stays and one that changes, with singular values i^-0.75, as momenta have."""
    found = []
    for j, (m, n) in enumerate(SHAPES):
        r = min(m, n)
        s = torch.arange(1, r + 1).double() ** -0.75
        A = (orthogonal(m, seed=j)[:, :r] * s) @ orthogonal(n, seed=j + 9)[:, :r].mT
        draw = generator(j)
        noise = 0.3 * A.norm() / (m * n) ** 0.5
        found.append([(A + noise * torch.randn(m, n, generator=draw, dtype=A.dtype)).float() for _ in range(steps)])
    return list(zip(*found, strict=True))


def trained(name, profile, monkeypatch):
    """The weights after all steps, from zero, so that they are the way that was gone."""
    monkeypatch.setenv("MATFN_MACHINE", profile)
    make, options = OPTIMIZERS[name]
    weights = [nn.Parameter(torch.zeros(shape)) for shape in SHAPES]
    optimizer = make(weights, lr=0.1, weight_decay=0.0, **options)
    for given in gradients():
        for weight, gradient in zip(weights, given, strict=True):
            weight.grad = gradient.clone()
        optimizer.step()
    return [weight.detach().double() for weight in weights]


def rounding(shape, profile, monkeypatch):
    """A bound of ||U - exact U|| / ||U|| for the polar factor of a step, from the plan of a profile.

    A step multiplies the relative error of M, a rounding u, by `Schedule.rounding`. A restart divides X by its margin.
    This moves the singular values relative to the polynomials that follow, the more the steeper those are.
    """
    monkeypatch.setenv("MATFN_MACHINE", profile)
    plan = resolve(ORTHOGONALIZE, None, shape, torch.float32, torch.device("cpu"), purpose=Purpose.STEP)
    schedule, engine = plan.iteration, plan.engine
    bound = torch.finfo(plan.precision).eps / 2 * schedule.rounding
    s = np.geomspace(schedule.lower, 1, 10001)
    images = [s, *schedule.trace(s)]
    for after, margin in zip(getattr(engine, "restarts", ()), getattr(engine, "room", ()), strict=True):
        x = images[after]
        moved = x / margin
        for row in schedule.rows[after:]:
            moved = moved * row(moved**2)
        bound += np.abs(moved - images[-1]).max()
    return bound


@pytest.mark.parametrize("profile", ["x86-avx2", "amd-avx512-bf16"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weights_after_twenty_steps(name, profile, monkeypatch):
    """As far apart as the roundings of both profiles allow, relative to the way that was gone.

    The gradients are given, so errors do not grow from step to step. NorMuon and AdaMuon divide an update by a root of
    its mean square, which has the same relative error. PolarGrad and SOAP work in float32 everywhere. Shampoo's two
    roots have errors of 1 % each on a CPU, where they are sums of resolvents, and grafting divides by their norm.
    """
    pairs = zip(SHAPES, trained(name, profile, monkeypatch), trained(name, "cuda-sm90", monkeypatch), strict=True)
    for shape, here, there in pairs:
        both = rounding(shape, profile, monkeypatch) + rounding(shape, "cuda-sm90", monkeypatch)
        bound = {
            "muon": both,
            "normuon": 2 * both,
            "adamuon": 2 * both,
            "polargrad": 64 * torch.finfo(torch.float32).eps,
            "soap": 64 * torch.finfo(torch.float32).eps,
            "shampoo": 4 * 0.01,
        }[name]
        assert torch.linalg.matrix_norm(here - there) <= bound * torch.linalg.matrix_norm(here), shape
        assert bound < 0.5  # otherwise it says nothing


def test_the_profiles_differ_in_precision_and_take_the_same_polynomials(monkeypatch):
    for shape in SHAPES:
        plans = []
        for profile in ("amd-avx512-bf16", "cuda-sm90"):
            monkeypatch.setenv("MATFN_MACHINE", profile)
            plans.append(resolve(ORTHOGONALIZE, None, shape, torch.float32, torch.device("cpu"), purpose=Purpose.STEP))
        assert plans[0].iteration == plans[1].iteration
        assert plans[1].precision == plans[1].thin == torch.float16
        assert plans[0].precision != torch.float16
        assert plans[0].thin is None
