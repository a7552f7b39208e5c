"""Products: the share of the device's matmul rate that each kind reaches, counting half of a symmetric result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_parts.case import Bench, Case, Row, Skipped
from benchmarks.gpu_parts.events import Place, Work, in_turns
from benchmarks.gpu_parts.variants import KINDS, PLANNED, products
from matfn.iteration.target import POLAR
from matfn.kernels import Products
from matfn.run.plan import Purpose, resolve

__all__ = ["SIZES", "cases", "matmul_rate"]

# (b, n, k) of X X^T; squares of n for the other two: so many that the device is full.
SIZES = ((8, 2048, 8192), (2, 4096, 11008), (12, 768, 3072), (24, 1024, 4096), (1, 8192, 8192), (16, 1536, 6144))
KIND_OF: dict[str, Callable[[Any, Tensor, Tensor], Tensor]] = {
    "syrk": lambda p, X, M: p.syrk(X),
    "sym_mm": lambda p, X, M: p.sym_mm(M, M),
    "sym_addmm": lambda p, X, M: p.sym_addmm(M, M, M, alpha=2.0, beta=-4.8),
}


def cases(place: Place) -> list[Case]:
    """A case for each size in float16, then in bfloat16 the first two."""
    sizes = place.pick(SIZES, ((2, 48, 80),))
    every = [(torch.float16, size) for size in sizes] + [(torch.bfloat16, size) for size in sizes[:2]]
    found = [Case(f"{dtype}, {size}", partial(_rows, dtype, size)) for dtype, size in every]
    return [*found, Case("what the plan found to be the quickest", _chosen)]


def _planned(n: int, k: int, place: Place) -> Products:
    """The products of an optimizer's plan; on a GPU the quickest of some, found by a trial."""
    return resolve(POLAR, None, (n, k), torch.float32, torch.device(place.device), purpose=Purpose.STEP).products


def _chosen(bench: Bench) -> Iterator[Row]:
    """The outcomes of the trials by which the plan chooses products, of all parts that ran alone before."""
    try:
        from matfn.run.products import MEASURED  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        yield {"skipped": f"not there ({error})"}
        return
    if not bench.place.cuda:
        yield {"skipped": "products are chosen by time on a GPU alone"}
        return
    for kind, outcome in MEASURED.outcomes(torch.device(bench.place.device)).items():
        yield {"kind": str(kind), "outcome": str(outcome)}


def matmul_rate(place: Place, dtype: torch.dtype) -> float:
    """Floating-point operations a second of one large product of random matrices, by torch."""
    n = place.pick(8192, 128)
    A, B = (torch.randn(n, n, device=place.device).to(dtype) for _ in range(2))
    return 2 * n**3 / in_turns({"": lambda: A @ B}, place, rounds=7)[""].median


def _rows(dtype: torch.dtype, size: tuple[int, int, int], bench: Bench) -> Iterator[Row]:
    place, (b, n, k) = bench.place, size
    rate = matmul_rate(place, dtype)
    X = torch.randn(b, n, k, device=place.device).to(dtype)
    M = (X @ X.mT / k).contiguous()
    works: dict[tuple[str, str], Work] = {}
    for kind in KINDS:
        for product, call in KIND_OF.items():
            try:
                given = _planned(n, k, place) if kind == PLANNED else products(kind, place)
                work = partial(call, given, X, M)
                bench.attempt(f"{kind}, {product}", work)
                works[kind, product] = work
            except Skipped as why:
                yield {"kernel": kind, "product": product, "size": size, "skipped": str(why)}
    for product in KIND_OF:
        graphs: dict[str, Work] = {}
        for (kind, name), work in works.items():
            if name != product:
                continue
            try:
                graphs[kind] = bench.graph(f"{kind}, {product}", work)
            except Skipped:
                graphs[kind] = work
        flops = b * n * (n + 1) * (k if product == "syrk" else n)
        for kind, times in in_turns(graphs, place, seconds=1.0).items():
            yield {
                "kernel": kind, "product": product, "size": size, "dtype": str(dtype).removeprefix("torch."),
                **times.row("seconds"), "share_of_matmul_rate": flops / times.median / rate, "matmul_rate": rate,
            }  # fmt: skip
