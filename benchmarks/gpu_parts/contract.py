"""The core of the contract suite on the device: every method and verb against the CPU's result in float64."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

import matfn
from benchmarks.gpu_parts.case import Bench, Case, Row, Skipped
from benchmarks.gpu_parts.events import Place
from matfn.iteration.protocols import Evaluation, Scheduled
from matfn.iteration.target import INV, INV_ROOT, INV_SQRT, POLAR, ROOT, SIGN, SQRT, Domain, Target

__all__ = ["cases", "on_machine"]

TARGETS = (POLAR, SIGN, SQRT, INV_SQRT, INV, INV_ROOT.with_exponent(4), ROOT.with_exponent(3))
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_DRAWS = 3  # perturbed inputs
# Of the largest change that roundings of the input make on the CPU. Two runs differ by roundings at each of some
# twenty products and norms; each has the effect of one at the input at most, up to the sizes of iterates. In half
# precision a tenth, and half of the result's norm at most: a hundred times would let everything pass.
_TIMES = {torch.float64: 100, torch.float32: 100, torch.float16: 10, torch.bfloat16: 10}
_MOST = 0.5


def cases(place: Place) -> list[Case]:
    """A case for each target, then the edges."""
    return [Case(str(target), partial(_target, target)) for target in TARGETS] + [Case("edges", _edges)]


def _target(target: Target, bench: Bench) -> Iterator[Row]:
    shapes = ((6, 9), (40, 24), (7, 7)) if target == POLAR else ((7, 7), (24, 24))
    for name, kind in matfn.METHODS.items():
        method = kind()
        if isinstance(method, Scheduled) and not _takes(method, target):
            yield {"target": str(target), "method": name, "skipped": f"has no steps for p = {target.p}"}
            continue
        for shape in bench.place.pick(shapes, shapes[:1]):
            for dtype in DTYPES:
                row: Row = {"target": str(target), "method": name, "shape": shape, "dtype": str(dtype)}
                label = f"{name}, {shape}, {dtype}"
                try:
                    yield row | bench.attempt(label, partial(_compared, target, method, shape, dtype, bench.place))
                except Skipped as why:
                    yield row | {"skipped": str(why), "passed": False}


def _takes(method: Any, target: Target) -> bool:
    try:
        method.schedule(target.p)
    except ValueError:
        return False
    return True


def _problem(target: Target, shape: tuple[int, int]) -> Tensor:
    """A matrix of condition number 30 in float64; positive definite for roots, of both signs for the sign."""
    generator = torch.Generator().manual_seed(3)
    n = min(shape)
    values = 3.7 * torch.logspace(0, -1.4771, n, dtype=torch.float64)
    U, V = (torch.linalg.qr(torch.randn(side, n, generator=generator, dtype=torch.float64)).Q for side in shape)
    if target.domain is Domain.SPD or target.name == "sign":
        signs = torch.where(torch.arange(n) % 3 == 1, -1.0, 1.0) if target.name == "sign" else torch.ones(n)
        A = (U * values * signs) @ U.mT
        return (A + A.mT) / 2
    return (U * values) @ V.mT


def _verb(target: Target, A: Tensor, method: Any) -> Tensor:
    """The function that computes the target. Few steps warn that they have not converged, and should."""
    names = {"polar": "orthogonalize", "sign": "signm", "sqrt": "sqrtm", "inv_sqrt": "inv_sqrtm", "inv": "inv"}
    names |= {"root": "rootm", "inv_root": "inv_rootm"}
    exponent = (target.p,) if target.name in ("root", "inv_root") else ()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", matfn.ConvergenceWarning)
        return getattr(matfn, names[target.name])(A, *exponent, method=method)


def _compared(target: Target, method: Any, shape: tuple[int, int], dtype: torch.dtype, place: Place) -> Row:
    """The distance between the device's result in `dtype` and the CPU's in float64, beside the distance allowed.

    Allowed are `_TIMES` the largest change that a relative rounding of each entry of the matrix in `dtype` makes to the
    CPU's result, and as many roundings of the result.
    """
    A = _problem(target, shape).to(dtype)
    exact = A.double()
    want = _verb(target, exact, method)
    generator = torch.Generator().manual_seed(11)
    eps, change = torch.finfo(dtype).eps, 0.0
    for _ in range(_DRAWS):
        noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        noise = (noise + noise.mT) / 2**0.5 if target.domain is Domain.SPD or target.name == "sign" else noise
        change = max(change, _distance(_verb(target, exact + eps * noise * exact.abs().max(), method), want))
    allowed = min(_TIMES[dtype] * (change + eps), _MOST)
    got = _verb(target, A.to(place.device), method)
    error = _distance(got.cpu().double(), want)
    return {"error": error, "allowed": allowed, "passed": error <= allowed and got.dtype == dtype}


def _distance(got: Tensor, want: Tensor) -> float:
    return (torch.linalg.matrix_norm(got - want) / torch.linalg.matrix_norm(want).clamp_min(1e-300)).item()


def _edges(bench: Bench) -> Iterator[Row]:
    """What orthogonalization must do at the edges, for a method of each kind and what an optimizer takes."""
    methods: dict[str, Any] = {name: kind() for name, kind in matfn.METHODS.items()}
    for name, method in methods.items():
        for what, check in EDGES.items():
            try:
                passed = bench.attempt(f"{name}, {what}", partial(check, method, bench.place.device))
            except Skipped as why:
                yield {"method": name, "edge": what, "skipped": str(why), "passed": False}
                continue
            if not passed and not check(method, "cpu"):
                yield {"method": name, "edge": what, "skipped": "the CPU does not do it either"}
                continue
            yield {"method": name, "edge": what, "passed": passed}


def _gaussian(device: str, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(5)).to(device)


def _zero(method: Any, device: str) -> bool:
    A = _gaussian(device, 3, 8, 12)
    A[1] = 0.0
    U = matfn.orthogonalize(A, method=method)
    return not bool(U[1].any()) and bool(U[0].any()) and bool(U.isfinite().all())


def _low_rank(method: Any, device: str) -> bool:
    """Rank 3 of 8: no more than three large singular values, and none above what a schedule reaches."""
    A = _gaussian(device, 8, 3) @ _gaussian(device, 3, 12)
    values = torch.linalg.svdvals(matfn.orthogonalize(A, method=method).double())
    return bool((values[3:] <= 0.5).all()) and bool((values <= 1.3).all())


def _scales(method: Any, device: str) -> bool:
    """A power of two in front changes nothing, from 2^-100 to 2^100, where squares overflow."""
    A = _gaussian(device, 2, 8, 12)
    want = matfn.orthogonalize(A, method=method)
    found = [matfn.orthogonalize(A * 2.0**e, method=method) for e in (-100, -30, 30, 100)]
    return all(bool(((U - want).abs() <= 1e-4).all()) for U in found)


def _alone(method: Any, device: str) -> bool:
    """NaN in one matrix leaves the others alone."""
    if isinstance(method, Evaluation):
        return True  # refuses NaN
    A = _gaussian(device, 3, 8, 12)
    want = matfn.orthogonalize(A, method=method)
    A[1, 0, 0] = float("nan")
    U = matfn.orthogonalize(A, method=method)
    return bool(U[1].isnan().all()) and bool(((U - want)[[0, 2]].abs() <= 1e-4).all())


EDGES: dict[str, Callable[[Any, str], bool]] = {
    "a zero matrix": _zero, "low rank": _low_rank, "scales": _scales, "NaN stays in its matrix": _alone,
}  # fmt: skip


@contextmanager
def on_machine(name: str) -> Iterator[None]:
    """Plans of this profile, whatever the device."""
    before = os.environ.get("MATFN_MACHINE")
    os.environ["MATFN_MACHINE"] = name
    try:
        yield
    finally:
        if before is None:
            del os.environ["MATFN_MACHINE"]
        else:
            os.environ["MATFN_MACHINE"] = before
