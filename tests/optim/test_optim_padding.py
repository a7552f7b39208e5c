"""Padding: nearly equal small matrices in one padded stack move as they do apart."""

import pytest
import torch

import matfn
from matfn.optim import Muon, NorMuon, PolarGrad
from matfn.optim.matrices.buckets import ENTRIES, Bucket
from matfn.optim.matrices.layout import linear
from matfn.optim.matrices.padding import SAVED, joined, padded_shape, parts
from matfn.optim.rules.ema import Ema
from matfn.optim.rules.polar import Polar
from matfn.optim.rules.rule import Rule
from matfn.run.machine import machine
from matfn.run.plan import DEFLATED, Purpose

SHAPES = [(24, 16), (24, 16), (20, 16), (16, 24), (17, 13), (3, 1), (24, 15)]


def parameters(seed=0):
    generator = torch.Generator().manual_seed(seed)
    found = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]
    for p in found:
        p.grad = torch.randn(p.shape, generator=generator)
    return found


def bucket(b, m, n, dtype=torch.float32):
    return Bucket((), (b, m, n), dtype, torch.device("cpu"))


def apart(params, **options):
    """Muon with each bucket for itself."""

    class Apart(Polar):
        padded_below = 0

    optimizer = Muon(params, **options)
    polar = optimizer.chain[1]
    optimizer.chain = (Ema(), Apart(polar.method, **polar.options))
    return optimizer


def padded_below(optimizer):
    return min(rule.padded_below for rule in optimizer.chain[1:])


@pytest.mark.parametrize("method", [None, matfn.PolarExpress(), matfn.NewtonSchulz(), matfn.Tuned("jordan")], ids=str)
def test_together_is_apart_to_rounding(method):
    ours, theirs, seen = parameters(), parameters(), []
    options = {"method": method, "engine": matfn.Direct(), "precision": torch.float64, "weight_decay": 0.1}
    one, two = Muon(ours, **options), apart(theirs, **options)
    one.before_move.append(
        lambda bucket, direction: seen.append((bucket.shape, tuple(direction.shape), direction.clone()))
    )
    for _ in range(3):
        one.step()
        two.step()
    assert len(one.together) == 1
    assert len(two.together) == len(two.buckets) == len(set(SHAPES))
    # In float64 but for the sum with the weight, in float32: once for each decay and each move.
    bound = 6 * torch.finfo(torch.float32).eps
    assert all((p - q).abs().max() <= bound * (1 + q.abs().max()) for p, q in zip(ours, theirs, strict=True))
    assert all(shape == direction for shape, direction, _ in seen)  # hooks get each bucket in its own shape


def test_layouts_dtypes_and_groups_may_be_mixed():
    ours, theirs = parameters(), parameters()
    ours[1], theirs[1] = (torch.nn.Parameter(x[1].detach().double()) for x in (ours, theirs))
    for x in (ours, theirs):
        x[1].grad = torch.ones_like(x[1])
    made = []
    for kind, p in ((Muon, ours), (apart, theirs)):
        groups = [
            {"params": p[:4], "lr": 0.1, "layout": [linear(w.shape).cut(2) for w in p[:4]]},
            {"params": p[4:], "lr": 0.3, "scale": "moonlight"},
        ]
        made.append(kind(groups, method=matfn.PolarExpress(), precision=torch.float64))
        made[-1].step()
    assert len(made[0].together) == 2  # one for each dtype
    assert all(torch.allclose(p, q, rtol=1e-6, atol=1e-6) for p, q in zip(ours, theirs, strict=True))


def test_only_what_bears_zeros_is_padded():
    params = parameters()
    assert padded_below(Muon(params))
    assert not padded_below(Muon(params, method=matfn.RitzMinimax()))  # it would fit the zeros
    assert not padded_below(Muon(params, method=matfn.Prism()))
    assert not padded_below(Muon(params, method=matfn.Exact()))
    assert not padded_below(NorMuon(params))  # means over rows
    assert not padded_below(PolarGrad(params, lr=0.1))
    assert not Polar(purpose=Purpose.ORACLE).padded_below  # QDWH measures the spectrum

    class Mine(Rule):
        def update(self, stack, runs):
            return stack

    assert not Mine().padded_below  # a rule of one's own says so where it bears zeros


def test_zeros_must_cost_less_than_they_save():
    def sizes(*shapes):
        return sorted(len(together) for together in joined([bucket(*shape) for shape in shapes], padded_below=1000))

    assert sizes((1, 64, 64), (1, 64, 60)) == [2]
    assert sizes((1, 768, 768), (1, 768, 700)) == [1, 1]
    edge = int(SAVED / (15 * 64**2 * 4))  # so many matrices of 64 x 60 can be padded to 64 x 64, roughly
    assert sizes((1, 64, 64), (edge // 8, 64, 60)) == [2]
    assert sizes((1, 64, 64), (edge * 8, 64, 60)) == [1, 1]
    assert sizes((ENTRIES // 4096, 64, 64), (1, 64, 63)) == [1, 1]  # the stack would be too large
    assert len(joined([bucket(1, 8, 8), bucket(1, 8, 8, torch.float64)], padded_below=1000)) == 2
    assert sizes() == []


def test_a_padded_stack_holds_each_bucket():
    [together] = joined([bucket(2, 8, 5), bucket(1, 6, 7), bucket(3, 8, 8)], padded_below=1000)
    assert padded_shape(together) == (6, 8, 8)
    stack = torch.arange(6 * 64.0).view(6, 8, 8)
    views = list(parts(together, stack))
    assert all(tuple(part.shape) == one.shape for one, part in views)
    assert sorted(int(part[0, 0, 0]) // 64 for _, part in views) == [0, 3, 5]


def test_what_is_deflated_is_not_padded():
    """A sketch sees zeros; and a matrix below the rows from which the default deflates stays below beside a larger."""
    edge = machine(torch.device("cpu")).deflated_rows.value
    gradients = [torch.randn(edge - 1, edge + 2), torch.randn(edge, edge + 2)]
    moved = []
    for chosen in ([0], [0, 1]):
        params = [torch.nn.Parameter(torch.zeros_like(gradients[i])) for i in chosen]
        for p, i in zip(params, chosen, strict=True):
            p.grad = gradients[i]
        Muon(params, lr=1.0, precision=torch.float32).step()
        moved.append(params[0].detach())
    assert torch.equal(*moved)
    assert padded_below(Muon(params, method=DEFLATED)) == 0
