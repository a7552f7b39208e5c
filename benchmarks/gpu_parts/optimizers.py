"""Optimizers: whole steps of Muon on the matrices of GPT-2 small and medium, and the roots of Shampoo's shapes."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

import matfn
from benchmarks.timing import Place, captured, timed
from matfn.optim import Muon, minimax
from matfn.optim.rules.roots import inverse_roots, ridged
from matfn.run.plan import DEFLATED, lower_bound

Row = dict[str, Any]
Build = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
FOUR: Any = matfn.RitzMinimax(steps=4)
EXPRESS: Any = matfn.PolarExpress()
JORDAN: Any = matfn.Tuned("jordan")


def _rate(weights: list[nn.Parameter]) -> Tensor:
    """The rate as a tensor: a captured graph would fix a number, and no scheduler could change it."""
    return torch.tensor(0.02, device=weights[0].device)


MUONS: dict[str, Build] = {
    "torch.optim.Muon": lambda w: torch.optim.Muon(w, lr=0.02, weight_decay=0.0),
    "matfn Muon": lambda w: Muon(w, lr=_rate(w)),
    "matfn Muon, polar-express": lambda w: Muon(w, lr=_rate(w), method=EXPRESS),
    "matfn Muon, ritz-minimax, 4 steps": lambda w: Muon(w, lr=_rate(w), method=FOUR),
    # What a CPU does by default: its eigh looks at the device, which no graph can hold, and its products are float32.
    "matfn Muon, deflated": lambda w: Muon(w, lr=_rate(w), method=DEFLATED, engine=matfn.Gram(())),
    "matfn Muon, jordan": lambda w: Muon(w, lr=_rate(w), method=JORDAN),
}
P, RIDGE = 4, 1e-6


def steps(place: Place) -> Iterator[Row]:
    """Time of a step, eager and as a CUDA graph, and the memory it takes beyond weights, gradients and state.

    First what a captured step must do: follow gradients and a learning rate that change in place.
    """
    for name, build in MUONS.items():
        if name.startswith("matfn"):
            yield {"model": "captured", "optimizer": name, **_replayed(build, place)}
    models = place.pick({"GPT-2 small": (12, 768), "GPT-2 medium": (24, 1024)}, {"tiny": (1, 32)})
    for model, (layers, width) in models.items():
        shapes = [(width, width)] * 4 + [(4 * width, width), (width, 4 * width)]
        for name, build in MUONS.items():
            weights = [nn.Parameter(torch.randn(shape, device=place.device) / 50) for shape in shapes * layers]
            for weight in weights:
                weight.grad = torch.randn_like(weight)
            optimizer = build(weights)
            optimizer.step()
            yield {"model": model, "optimizer": name, **_peak(optimizer, place), **timed(optimizer.step, place)}
            del optimizer, weights


def _replayed(build: Build, place: Place) -> Row:
    """How far three replays of a captured step are from three eager ones, relative to how far these moved."""
    if not place.cuda:
        return {"graph_note": "CUDA graphs need a GPU"}
    both = [[nn.Parameter(torch.randn(256, 512, device=place.device)) for _ in range(2)] for _ in range(2)]
    for eager, graph in zip(*both, strict=True):
        graph.data.copy_(eager.data)
        eager.grad, graph.grad = torch.zeros_like(eager), torch.zeros_like(eager)
    one, two = (build(weights) for weights in both)
    try:
        replay = captured(two.step)  # gradients are still zero: nothing has moved
    except Exception as error:  # says why in the report, and the times stand
        torch.cuda.synchronize()
        return {"graph_error": None, "graph_note": " ".join(str(error).split())[:200]}
    start = [weight.detach().clone() for weight in both[0]]
    for k in range(3):
        for eager, graph in zip(*both, strict=True):
            assert eager.grad is not None
            assert graph.grad is not None
            graph.grad.copy_(eager.grad.normal_())
        for optimizer in (one, two):
            optimizer.param_groups[0]["lr"].fill_(0.02 / (k + 1))
        one.step()
        replay()
    moved = sum(float((w - s).square().sum()) for w, s in zip(both[0], start, strict=True))
    apart = sum(float((w - g).square().sum()) for w, g in zip(*both, strict=True))
    return {"graph_error": (apart / moved) ** 0.5}


def _peak(optimizer: torch.optim.Optimizer, place: Place) -> Row:
    if not place.cuda:
        return {}
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    optimizer.step()
    torch.cuda.synchronize()
    return {"extra_bytes": torch.cuda.max_memory_allocated() - before}


def roots(place: Place) -> Iterator[Row]:
    """Inverse fourth roots of second moments, ridge 1e-6, by decompositions and by products: time and worst error.

    The error is ||R - R*||_F / ||R*||_F against an eigendecomposition in float64. "As Shampoo runs it" has the check
    of every root, which waits for the device.
    """
    for b, n in place.pick([(64, 256), (16, 1024)], [(2, 16)]):
        yield from _roots(b, n, place)


def _roots(b: int, n: int, place: Place) -> Iterator[Row]:
    generator = torch.Generator(device=place.device).manual_seed(0)
    G = torch.randn(b, n, 2 * n, generator=generator, device=place.device)
    G = (torch.arange(1, n + 1, device=place.device) ** -0.75)[:, None] * G
    Q = torch.linalg.qr(torch.randn(b, n, n, generator=generator, device=place.device)).Q
    A = Q @ (G @ G.mT) @ Q.mT / (2 * n)
    X, scale = ridged(A, RIDGE)
    want = scale.undo(_decomposed(X.double()), -1 / P)
    products = minimax(P, lower_bound(P, RIDGE, n))
    ways: dict[str, Callable[[], Tensor]] = {
        "minimax, as Shampoo runs it": lambda: inverse_roots(A, P, RIDGE, minimax, 0.05).values,
        "Exact (float64)": lambda: scale.undo(matfn.inv_rootm(X, P, method=matfn.Exact()), -1 / P),
        "minimax, products alone": lambda: scale.undo(matfn.inv_rootm(X, P, method=products), -1 / P),
        "eigh in float32, batched": lambda: scale.undo(_decomposed(X), -1 / P),
        "eigh in float32, one by one": lambda: scale.undo(torch.cat([_decomposed(x[None]) for x in X]), -1 / P),
    }
    for name, work in ways.items():
        error = torch.linalg.matrix_norm(work() - want) / torch.linalg.matrix_norm(want)
        yield {"batch": b, "n": n, "roots": name, "error": error.max().item(), **timed(work, place, graph=False)}


def _decomposed(X: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(X)
    values = torch.maximum(values, values[..., -1:] * torch.finfo(X.dtype).eps)
    return (vectors * values.pow(-1 / P).unsqueeze(-2)) @ vectors.mT
