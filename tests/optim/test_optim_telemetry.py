"""Telemetry: the figures against SVDs in float64, nothing touched, every optimizer, cost bounded, sinks."""

import json
import sys
import time
import types

import pytest
import torch
from torch import nn

from matfn import Exact, Tuned
from matfn.optim import JsonLines, Muon, PolarGrad, Record, Telemetry, TensorBoard, plan
from matfn.optim.matrices.layout import stack
from matfn.optim.telemetry import figures
from studies.polargrad.telemetry_check import MAKERS, untouched

EPS32 = torch.finfo(torch.float32).eps
SHAPES = [(40, 24), (24, 40), (7, 60)]


def gaussian(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def conditioned(m, n, kappa, seed=0):
    """An m x n matrix of singular values from 1 down to 1 / kappa."""
    left, right = (torch.linalg.qr(gaussian(k, n, seed=seed + k, dtype=torch.float64)).Q for k in (m, n))
    return left * torch.logspace(0, -torch.tensor(float(kappa)).log10(), n, dtype=torch.float64) @ right.T


def measure(optimizer, params, grads, **options):
    """One step with these gradients under telemetry; the record."""
    seen = []
    telemetry = Telemetry(optimizer, seen.append, **{"every": 1, "budget": 1.0, **options})
    for p, g in zip(params, grads, strict=True):
        p.grad = g.clone()
    optimizer.step()
    telemetry.detach()
    [record] = seen
    return record


def oracle(G, D, W, size):
    """The figures from singular values, one matrix at a time."""
    G, D, W = G.double(), D.double(), W.double()
    s, d = torch.linalg.svdvals(G), torch.linalg.svdvals(D)
    U = D / d[0]
    small = U @ U.T if U.shape[0] <= U.shape[1] else U.T @ U
    return {
        "condition": s[0] / s[-1],
        "nuclear_norm": s.sum(),
        "gradient_norm": G.norm(),
        "nu": d[0],
        "orthogonality": (small - torch.eye(len(small))).norm() / len(small) ** 0.5,
        "direction": (G * U).sum() / s.sum(),
        "ratio": size * D.norm() / W.norm(),
    }


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("exact", [False, True])
def test_figures_of_muon_are_those_of_singular_values(shape, exact):
    """The Gram matrix halves the digits of the condition: its relative error is kappa^2 times that of float64."""
    p, G = nn.Parameter(gaussian(*shape)), gaussian(*shape, seed=1)
    W = p.detach().clone()
    optimizer = Muon([("w", p)], lr=0.03, method=Tuned("jordan"), precision=torch.float32, momentum=0.0)
    record = measure(optimizer, [p], [G], exact=exact)
    size = 0.03 * max(1, shape[0] / shape[1]) ** 0.5
    D = (W - p.detach()) / size
    wanted = oracle(G, D, W, size)
    for name, value in wanted.items():
        # D was read off the weights, which rounds it by eps |W| / size
        assert record.figures["w"][name] == pytest.approx(float(value), rel=1e3 * EPS32), name
    assert record.step == 1
    assert set(wanted) == set(record.figures["w"]) == set(figures.FIGURES)


def test_nu_is_polargrads_and_direction_is_one_for_steepest_descent():
    p, G = nn.Parameter(gaussian(30, 20)), gaussian(30, 20, seed=1)
    record = measure(PolarGrad([("w", p)], lr=0.01, variant="vanilla", method=Exact()), [p], [G])
    nuclear = float(torch.linalg.svdvals(G.double()).sum())
    w = record.figures["w"]
    assert w["nu"] == pytest.approx(nuclear, rel=10 * EPS32)
    assert w["nuclear_norm"] == pytest.approx(nuclear, rel=10 * EPS32)
    assert w["direction"] == pytest.approx(1.0, abs=10 * EPS32)
    assert w["orthogonality"] < 10 * EPS32


def test_zero_rows_do_not_count_in_the_condition():
    """The gradient of an embedding: most tokens unused, all the rest of condition 10."""
    G = torch.zeros(50, 8)
    G[:12] = conditioned(12, 8, 10).float()
    p = nn.Parameter(gaussian(50, 8))
    record = measure(Muon([("w", p)], lr=0.1), [p], [G])
    assert record.figures["w"]["condition"] == pytest.approx(10, rel=1e-3)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scale_changes_nothing_but_the_norms(scale):
    G = conditioned(20, 12, 100)
    one = figures.measured(G[None], G[None], G[None], torch.ones(1), exact=False)
    other = figures.measured(scale * G[None], scale * G[None], G[None], torch.ones(1), exact=False)
    for name in ("condition", "orthogonality", "direction"):
        assert other[name].item() == pytest.approx(one[name].item(), rel=1e-9), name
    assert other["nuclear_norm"].item() == pytest.approx(scale * one["nuclear_norm"].item(), rel=1e-9)


@pytest.mark.parametrize("kappa", [1, 30, 1e4])
def test_the_sketch_is_near_and_its_condition_a_lower_bound(kappa, monkeypatch):
    """What is used above 512 rows, here for 60: norms within a tenth."""
    monkeypatch.setattr(figures, "_DENSE", 4)
    G = torch.stack([conditioned(90, 60, kappa, seed) for seed in range(4)])
    D = torch.stack([3 * torch.linalg.qr(g).Q for g in G])
    found = figures.measured(G, D, G, torch.ones(4), exact=False)
    true = figures.measured(G, D, G, torch.ones(4), exact=True)
    for name in ("nuclear_norm", "nu", "direction"):
        assert torch.allclose(found[name], true[name], rtol=0.1, atol=0), name
    assert torch.allclose(found["gradient_norm"], true["gradient_norm"])
    assert (found["condition"] <= true["condition"] * (1 + 1e-6)).all()
    assert (found["condition"] >= min(kappa, 10) * 0.5).all()


def test_what_is_not_finite_or_zero():
    G = torch.zeros(3, 5, 4)
    G[1] = torch.nan
    G[2] = gaussian(5, 4)
    found = figures.measured(G, G, torch.ones_like(G), torch.ones(3), exact=False)
    assert found["nuclear_norm"][0] == 0
    assert found["nuclear_norm"][1].isnan()
    alone = figures.measured(G[2:], G[2:], torch.ones_like(G[2:]), torch.ones(1), exact=False)
    assert all(torch.equal(found[name][2:], alone[name]) for name in found)


def test_gradients_and_weights_are_bit_identical_with_telemetry():
    """C20, for every optimizer of the list, over three steps."""
    assert len(MAKERS) >= 5
    assert untouched() == []


def test_an_optimizer_that_writes_into_grad_is_refused():
    class Rude(torch.optim.Optimizer):
        @torch.no_grad()
        def step(self, closure=None):
            for p in self.param_groups[0]["params"]:
                p.sub_(p.grad.mul_(0.5))

    p = nn.Parameter(gaussian(4, 3))
    with pytest.raises(RuntimeError, match=r"Rude wrote into .grad of '0.0'"):
        measure(Rude([p], {}), [p], [gaussian(4, 3)])


def test_a_closure_makes_the_gradient_that_is_measured():
    p, seen = nn.Parameter(gaussian(6, 4)), []
    optimizer = Muon([("w", p)], lr=0.1)
    Telemetry(optimizer, seen.append, every=1, budget=1.0)

    def closure():
        optimizer.zero_grad()
        loss = (p**2).sum() / 2
        loss.backward()
        return loss.item()

    W = p.detach().clone()
    optimizer.step(closure)
    assert seen[0].figures["w"]["gradient_norm"] == pytest.approx(float(W.norm()), rel=10 * EPS32)


def model():
    torch.manual_seed(0)
    parts = [nn.Embedding(11, 6), nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 11)]
    return nn.Sequential(*parts)


def test_a_whole_model_by_plan_with_names_and_patterns():
    """Matrices by the observer, embedding and head by the difference of their weights, vectors not at all."""
    net = model()
    optimizer = Muon(plan(net), lr=0.1, rest={"lr": 0.01, "weight_decay": 0.0})
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    net(torch.arange(5)).square().mean().backward()
    seen = []
    telemetry = Telemetry(optimizer, seen.append, every=1, budget=1.0)
    optimizer.step()
    assert set(seen[0].figures) == {"0.weight", "1.weight", "3.weight", "4.weight"}
    assert [name for name in sorted(seen[0].figures) if "nu" in seen[0].figures[name]] == ["1.weight", "3.weight"]
    for name, figures_ in seen[0].figures.items():
        moved = (before[name] - dict(net.named_parameters())[name].detach()).norm() / before[name].norm()
        assert figures_["ratio"] == pytest.approx(float(moved), rel=1e3 * EPS32)
    telemetry.detach()
    optimizer.step()
    assert len(seen) == 1
    Telemetry(optimizer, seen.append, every=1, budget=1.0, only=("3.*",))
    optimizer.step()
    assert set(seen[1].figures) == {"3.weight"}


def test_blocks_of_a_parameter_become_one_number():
    """A stack of experts: the sum of nuclear norms, the greatest condition."""
    p, G = nn.Parameter(gaussian(3, 6, 4)), gaussian(3, 6, 4, seed=2)
    optimizer = Muon([{"params": [("w", p)], "layout": stack}], lr=0.1)
    w = measure(optimizer, [p], [G]).figures["w"]
    s = torch.linalg.svdvals(G.double())
    assert w["nuclear_norm"] == pytest.approx(float(s.sum()), rel=10 * EPS32)
    assert w["condition"] == pytest.approx(float((s[:, 0] / s[:, -1]).max()), rel=1e-4)
    assert w["gradient_norm"] == pytest.approx(float(G.norm()), rel=10 * EPS32)


def test_every_k_steps_and_parameters_without_gradients():
    p, q, seen = nn.Parameter(gaussian(6, 4)), nn.Parameter(gaussian(6, 4)), []
    optimizer = Muon([("p", p), ("q", q)], lr=0.1)
    Telemetry(optimizer, seen.append, every=3, budget=1.0)
    for _ in range(7):
        p.grad = gaussian(6, 4)
        optimizer.step()
    assert [record.step for record in seen] == [1, 4, 7]
    assert all(set(record.figures) == {"p"} for record in seen)


def test_the_cost_is_told_and_bounded(monkeypatch):
    """A clock that ticks a second whenever it is read, and a hundred between steps."""
    now = [0.0]

    def clock():
        now[0] += 1
        return now[0]

    monkeypatch.setattr(time, "perf_counter", clock)
    p, seen = nn.Parameter(gaussian(6, 4)), []
    optimizer = Muon([("p", p)], lr=0.1)
    telemetry = Telemetry(optimizer, seen.append, every=1, budget=0.01)
    for _ in range(40):
        now[0] += 100
        p.grad = gaussian(6, 4)
        optimizer.step()
    assert 1 < len(seen) < 20
    assert seen[-1].skipped > 20
    assert all(record.share <= 0.01 for record in seen[1:])
    assert telemetry.seconds == pytest.approx(sum(record.seconds for record in seen))


def test_bad_arguments():
    optimizer = Muon([("p", nn.Parameter(gaussian(3, 3)))], lr=0.1)
    for options in ({"every": 0}, {"budget": 0.0}, {"budget": 2.0}):
        with pytest.raises(ValueError, match="every must be >= 1 and budget"):
            Telemetry(optimizer, **options)
    with pytest.raises(ValueError, match=r"only=\['head.\*'\] matches no parameter"):
        Telemetry(optimizer, only=("head.*",))
    assert optimizer.before_move == []


RECORD = Record(7, {"w": {"condition": 3.0, "direction": float("nan")}}, 0.5, 0.02, 1)


def test_json_lines_append(tmp_path):
    for _ in range(2):
        sink = JsonLines(tmp_path / "new" / "log.jsonl")
        sink(RECORD)
        sink.close()
    lines = [json.loads(line) for line in (tmp_path / "new" / "log.jsonl").read_text().splitlines()]
    assert lines[0] == {"step": 7, "parameter": "w", "condition": 3.0, "direction": None}
    assert lines[1] == {"step": 7, "telemetry_seconds": 0.5, "telemetry_share": 0.02, "telemetry_skipped": 1}
    assert lines[2:] == lines[:2]


def test_tensorboard_is_optional(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match="pip install tensorboard"):
        TensorBoard(tmp_path)


def test_tensorboard_scalars(monkeypatch, tmp_path):
    class Writer:
        def __init__(self, folder):
            self.folder, self.scalars = folder, {}

        def add_scalar(self, tag, value, step):
            self.scalars[tag] = (value, step)

        def flush(self):
            pass

        def close(self):
            pass

    fake = types.ModuleType("torch.utils.tensorboard")
    fake.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    sink = TensorBoard(tmp_path)
    sink(RECORD)
    assert sink._writer.scalars == {
        "condition/w": (3.0, 7),
        "telemetry/seconds": (0.5, 7),
        "telemetry/share": (0.02, 7),
        "telemetry/skipped": (1, 7),
    }
    sink.close()
