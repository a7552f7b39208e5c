"""Predictions: times from counted products, bytes and launches, with the rates that a card has shown.

Assumptions, each from one H200 (2026-11-26, torch 2.11, quack-kernels 0.5.0), float16:

- A product takes the share of the matmul rate that the nearest measured size took (`FULL`, `HALF`); a symmetric one the
  quicker of cuBLAS's full product and quack's half.
- Passes run at `STREAMED` of the memory's bandwidth. Bytes for each entry: peak and norm in one read of float32 4,
  division and cast 6, the result to float32 6, for deflation a product into a sketch, one out of it and the sum 8.
- A node of a CUDA graph takes `LAUNCH`, whatever is in it, and is added to the products and passes.

Checked against what was measured there, model / measured in ms, five steps of `PolarExpress()` with one restart, quack:
12 x 768 x 3072 1.12 / 1.04, 8 x 2048 x 8192 6.96 / 6.41, 8 x 2048 x 2048 3.28 / 3.02, 2 x 4096 x 11008 8.95 / 8.39.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matfn
from benchmarks.gpu_parts.roots import RIDGE
from benchmarks.gpu_parts.steps import Model
from benchmarks.gpu_parts.variants import FOUR
from matfn.engines.cost import Product, products_of
from matfn.iteration.target import INV_ROOT
from matfn.optim.rules.roots import minimax
from matfn.run.plan import lower_bound

__all__ = ["CARDS", "H200", "Card", "best", "compiled_step", "orthogonalization", "root", "step", "their_step"]


@dataclass(frozen=True)
class Card:
    """What counts are divided by: floating-point operations and bytes a second."""

    name: str
    matmul: float
    bandwidth: float


H200 = Card("H200", 788e12, 4.8e12)
# The same chip with slower memory; its matmul rate is taken to be the H200's.
CARDS = {"H200": H200, "H100": Card("H100 SXM", 788e12, 3.35e12)}
# (rows, inner dimension, share of the matmul rate): of all operations for full products by cuBLAS, of half for quack's.
FULL = ((768, 768, 0.45), (768, 3072, 0.82), (2048, 2048, 0.66), (2048, 8192, 0.99), (4096, 4096, 0.78))
HALF = ((768, 768, 0.26), (768, 3072, 0.39), (2048, 2048, 0.56), (2048, 8192, 0.79), (4096, 4096, 0.63),
        (4096, 11008, 0.81))  # fmt: skip
STREAMED = 0.8
LAUNCH = 2.5e-6
PREPARED, RETURNED, DEFLATED = 10, 6, 8  # bytes for each entry
_THIN = 0.4  # share of the matmul rate of products with a sketch, where bytes do not decide
_SMALL = 6  # launches on matrices of k x k and for the sketch
_MOVED = 28  # bytes for each parameter around the orthogonalization
_THEIR_PASSES = 16  # bytes for each entry: gram-newton-schulz normalizes without a peak and casts in one pass
_THEIRS = {"oblong": 0.98, "square": 0.86}  # measured by model
_FLOAT32 = 50e12  # operations a second in float32 without tensor cores: three quarters of what the data sheet says


def _share(table: Sequence[tuple[int, int, float]], rows: int, inner: int) -> float:
    return min(table, key=lambda known: abs(math.log(known[0] / rows)) + abs(math.log(known[1] / inner)))[2]


def _product(product: Product, b: int, card: Card) -> float:
    """Seconds of one product for b matrices."""
    flops = 2.0 * b * product.multiply_adds
    small = min(product.rows, product.columns)
    full = flops / (_share(FULL, small, product.inner) * card.matmul)
    half = flops / 2 / (_share(HALF, small, product.inner) * card.matmul)
    return min(full, half) if product.symmetric else full


def orthogonalization(
    stack: tuple[int, int, int], method: Any, engine: Any, card: Card = H200, *, prepared: float = PREPARED
) -> float:
    """Seconds of one call as a CUDA graph; `prepared` are the bytes of the preparation for each entry."""
    b, m, n = stack
    schedule = method.schedule(2)
    products = products_of(schedule, engine, (m, n))
    entries, k = b * m * n, int(schedule.preparation.deflation * min(m, n))
    seconds = sum(_product(product, b, card) for product in products)
    launches, width = len(products) + 5, prepared + RETURNED
    if k:
        width += DEFLATED
        seconds += 6.0 * entries * k / (_THIN * card.matmul)
        launches += _SMALL + 3
    return seconds + entries * width / (STREAMED * card.bandwidth) + launches * LAUNCH


def best(stack: tuple[int, int, int], card: Card = H200) -> float:
    """Seconds of our quicker method with at most gram-newton-schulz's error: deflation and four steps, or five."""
    square = stack[1] == stack[2]
    ways = ((FOUR, matfn.Gram(())), (matfn.PolarExpress(), matfn.Gram((2,))))
    return min(orthogonalization(stack, method, matfn.Direct() if square else g, card) for method, g in ways)


def step(model: Model, method: Any, card: Card = H200) -> float:
    """Seconds of a whole step of ours as one graph."""
    return sum(
        orthogonalization(stack, method, _gram_on_oblong(stack, ()), card) for stack in model.stacks()
    ) + _moving(model, card)


def their_step(model: Model, card: Card = H200) -> float:
    """As `step`, of gram-newton-schulz's Muon: five steps of Polar Express, one restart, the same passes around.

    Its products are as quick as ours by quack, on squares quicker: the model is set to what was measured there.
    """
    total = 0.0
    for stack in model.stacks():
        own = _THEIRS["square" if stack[1] == stack[2] else "oblong"]
        total += own * orthogonalization(
            stack, matfn.PolarExpress(), _gram_on_oblong(stack, (2,)), card, prepared=_THEIR_PASSES
        )
    return total + _moving(model, card)


def compiled_step(model: Model, card: Card = H200) -> float:
    """As `step`, of torch's Muon with its iteration compiled: full products, matrix by matrix; a lower bound."""
    seconds = 0.0
    for b, m, n in model.stacks():
        schedule = matfn.PolarExpress().schedule(2)  # five quintic steps, like Jordan's
        found = products_of(schedule, matfn.Direct(), (m, n))
        small = (min(m, n), max(m, n))
        seconds += sum(2.0 * b * p.multiply_adds / (_share(FULL, small[0], p.inner) * card.matmul) for p in found)
        seconds += 5 * b * m * n * 6 / (STREAMED * card.bandwidth)  # a X + B X: one pass more a step
    return seconds + _moving(model, card)


def root(b: int, n: int, p: int, card: Card = H200) -> float:
    """Seconds of b inverse p-th roots of n x n by coupled products in float32, and twelve passes."""
    schedule = minimax(p, lower_bound(p, RIDGE, n)).schedule(p)
    products = products_of(schedule, matfn.Coupled(), (n, n), INV_ROOT.with_exponent(p))
    flops = sum(2.0 * b * product.multiply_adds for product in products)
    return flops / _FLOAT32 + 12 * 4.0 * b * n * n / (STREAMED * card.bandwidth) + 2 * len(products) * LAUNCH


def _gram_on_oblong(stack: tuple[int, int, int], restarts: tuple[int, ...]) -> Any:
    return matfn.Direct() if stack[1] == stack[2] else matfn.Gram(restarts)


def _moving(model: Model, card: Card) -> float:
    """Momentum and move of the weights: gradient, momentum and weights read, two of them written, the stack both."""
    return model.parameters * _MOVED / (STREAMED * card.bandwidth)
