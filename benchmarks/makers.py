"""Optimizers of matfn, torch and other packages for the benchmark of a step, each on the same matrices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import matfn
from benchmarks import peers
from benchmarks.errors import deviation, direction
from benchmarks.peers import LR, Named
from matfn.optim import Muon, jordan
from matfn.optim.matrices.layout import linear

BASELINE = "torch.optim.Muon"
FLOAT32 = "torch.optim.Muon's iteration, float32"


@dataclass(frozen=True)
class Maker:
    """Builds an optimizer of named parameters, and says how its update reads.

    Attributes:
        build: The optimizer.
        scale: By what the direction of a matrix (m, n) is multiplied besides lr.
        cut: Into how many pieces qkv is cut.
        choice: See `Contender`.
        compiles: Whether its time is foretold from a single matrix, before it is given the model.
    """

    build: Callable[[Named], Any]
    scale: Callable[[int, int], float] = jordan
    cut: int = 1
    choice: bool = False
    compiles: bool = False


@dataclass(frozen=True)
class Family:
    """Contenders that have the dtypes of weights and of the iteration in common, and so can be compared.

    Attributes:
        name: Added to the model's.
        dtype: Of the weights and gradients.
        makers: By name; the first is the baseline.
    """

    name: str
    dtype: torch.dtype
    makers: dict[str, Maker]


def _ours(cut: int = 1, **options: Any) -> Maker:
    def build(named: Named) -> Any:
        layouts = [linear(w.shape).cut(cut if "qkv" in name else 1) for name, w in named]
        return Muon([{"params": list(named), "layout": layouts}], lr=LR, **options)

    return Maker(build, cut=cut, choice=not options and cut == 1)


def families(compiled: bool) -> tuple[tuple[Family, ...], dict[str, str]]:
    """All contenders, and the absent ones with the reason; `compiled` adds those whose first step compiles."""
    found, absent = peers.installed(peers.STEP)
    absent |= {p.name: "compiles first: measured by the full preset" for p in found if p.compiles and not compiled}
    theirs = {p.name: Maker(make, p.scale, compiles=p.compiles) for p, make in found.items()}
    theirs = {name: maker for name, maker in theirs.items() if compiled or not maker.compiles}
    express, jordans, direct = matfn.PolarExpress(), matfn.Tuned("jordan"), matfn.Direct()
    half, full = torch.bfloat16, torch.float32
    ours = {
        "matfn": _ours(),
        "matfn, accurate": _ours(method=express, engine=direct, precision=half),
        "matfn, jordan": _ours(method=jordans, precision=half),
        "matfn, q k v apart": _ours(3),
    }
    floats = {
        FLOAT32: Maker(float32_muon),
        "matfn, float32": _ours(precision=full),
        "matfn, float32, accurate": _ours(method=express, engine=direct, precision=full),
        "matfn, float32, jordan": _ours(method=jordans, precision=full),
    }
    usual = {name: maker for name, maker in theirs.items() if name == BASELINE}
    families = (
        Family("bfloat16 weights", half, usual | {"matfn": _ours()}),
        Family("float32 iteration", full, floats),
        Family("bfloat16 iteration", full, usual | ours | theirs),
    )
    return families, absent


def weights_of(sides: dict[str, tuple[int, int, int]], dtype: torch.dtype) -> list[tuple[str, nn.Parameter]]:
    """Zeros, named after their kind of matrix (rows, columns, number)."""
    return [
        (f"{name}.{i}", nn.Parameter(torch.zeros(m, n, dtype=dtype)))
        for name, (m, n, count) in sides.items()
        for i in range(count)
    ]


def give(named: Named, given: dict[str, Tensor]) -> None:
    """Copies of the gradients of each kind."""
    for name, weight in named:
        source = given[name.partition(".")[0]]
        if weight.grad is None:
            weight.grad = source.clone()
        else:
            weight.grad.copy_(source)


def errors_of(named: Named, given: dict[str, Tensor], maker: Maker) -> dict[str, float]:
    """Of the first update of each kind of matrix: rms over all singular values, and the least direction."""
    squares, count, least = 0.0, 0, float("inf")
    for name, G in given.items():
        weight = next(w for other, w in named if other.startswith(f"{name}."))
        pieces = maker.cut if "qkv" in name else 1
        for g, w in zip(G.chunk(pieces), weight.detach().chunk(pieces), strict=True):
            U = -w.float() / (LR * maker.scale(*w.shape))
            squares += min(w.shape) * deviation(U) ** 2
            count += min(w.shape)
            least = min(least, direction(g.float(), U))
    return {"rms": (squares / count) ** 0.5, "direction": least}


def float32_muon(named: Named) -> torch.optim.Optimizer:
    """Muon of torch, with its steps in float32."""
    from matfn.train.float32_muon import Float32Muon  # torch 2.8 has no Muon to derive from

    return Float32Muon([weight for _, weight in named], lr=LR, weight_decay=0.0)
