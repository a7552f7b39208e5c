"""Inverse roots of Shampoo's second moments, by products and by decompositions: time and worst error."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

import matfn
from benchmarks.gpu_parts.case import Bench, Case, Row, Skipped
from benchmarks.gpu_parts.events import Place, Work, in_turns
from matfn.optim.rules.roots import inverse_roots, minimax, ridged
from matfn.run.plan import lower_bound

__all__ = ["RIDGE", "SIZES", "cases"]

RIDGE = 1e-6
SIZES = ((64, 256, 4), (16, 1024, 4), (64, 256, 2), (16, 1024, 2))


def cases(place: Place) -> list[Case]:
    """A case for each stack and exponent."""
    return [Case(f"{b} x {n}, p = {p}", partial(_rows, b, n, p)) for b, n, p in place.pick(SIZES, ((2, 16, 4),))]


def _second_moments(b: int, n: int, device: str) -> Tensor:
    """Averages of G G^T for gradients whose rows fall off as i^-0.75, in random bases."""
    generator = torch.Generator(device=device).manual_seed(0)
    G = torch.randn(b, n, 2 * n, generator=generator, device=device)
    G = (torch.arange(1, n + 1, device=device) ** -0.75)[:, None] * G
    Q = torch.linalg.qr(torch.randn(b, n, n, generator=generator, device=device)).Q
    return Q @ (G @ G.mT) @ Q.mT / (2 * n)


def _rows(b: int, n: int, p: int, bench: Bench) -> Iterator[Row]:
    """The error is ||R - R*||_F / ||R*||_F against an eigendecomposition in float64.

    "as Shampoo runs it" has the check of every root; "on the device" the host does not wait for it.
    """
    A = _second_moments(b, n, bench.place.device)
    X, scale = ridged(A, RIDGE)
    want = scale.undo(_decomposed(X.double(), p), -1 / p)
    products = minimax(p, lower_bound(p, RIDGE, n))
    ways: dict[str, Work] = {
        "on the device, as Shampoo runs it": partial(_on_the_device, A, p),
        "default, as Shampoo runs it": lambda: inverse_roots(A, p, RIDGE, None, 0.05).values,
        "minimax, as Shampoo runs it": lambda: inverse_roots(A, p, RIDGE, minimax, 0.05).values,
        "minimax, products alone": lambda: scale.undo(matfn.inv_rootm(X, p, method=products), -1 / p),
        "Exact (float64)": lambda: scale.undo(matfn.inv_rootm(X, p, method=matfn.Exact()), -1 / p),
        "eigh in float32, batched": lambda: scale.undo(_decomposed(X, p), -1 / p),
    }
    works, found = {}, {}
    for name, work in ways.items():
        row: Row = {"batch": b, "n": n, "p": p, "name": name}
        try:
            R = bench.attempt(name, work).double()
        except Skipped as why:
            yield row | {"skipped": str(why)}
            continue
        error = torch.linalg.matrix_norm(R - want) / torch.linalg.matrix_norm(want)
        works[name], found[name] = work, row | {"error": error.max().item()}
    for name, times in in_turns(works, bench.place, seconds=2.0, rounds=7).items():
        yield found[name] | times.row("seconds")


def _on_the_device(A: Tensor, p: int) -> Tensor:
    """Without a host read, where this version can."""
    try:
        from matfn.optim.rules.device_roots import device_plan, device_roots  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise Skipped(f"not there ({error})") from error
    plan = device_plan(A, p, RIDGE, None)
    if plan is None:
        raise Skipped("this device reads tensors without waiting, so it checks as it goes")
    return device_roots(A, torch.zeros_like(A), RIDGE, plan, 0.2, 1.0)[0]


def _decomposed(X: Tensor, p: int) -> Tensor:
    values, vectors = torch.linalg.eigh(X)
    values = torch.maximum(values, values[..., -1:] * torch.finfo(X.dtype).eps)
    return (vectors * values.pow(-1 / p).unsqueeze(-2)) @ vectors.mT
