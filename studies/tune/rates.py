"""Rates: the time of each kernel for each product that a plan of this shape may need."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from benchmarks.kernels import kernels
from benchmarks.timing import Pace, Timing, interleaved
from matfn.engines.cost import Product, computed
from matfn.iteration.target import POLAR
from matfn.kernels import EAGER, ONEDNN, Eager, OneDNN, Products
from matfn.linalg.norms import prescale
from matfn.run.plan import RunPlan, resolve
from matfn.run.preparation import deflated
from studies.tune.plan import Aside
from studies.tune.plans import LOWERS, Lowers

__all__ = ["Rate", "Request", "candidates", "measured_rates", "product_works", "seconds_of", "stack", "synchronised"]


@dataclass(frozen=True)
class Request:
    """The work to tune for.

    Attributes:
        shape: (rows, columns) of each matrix.
        dtype: Of the matrices and of the iteration.
        batch: Matrices in a stack.
        device: "cpu" or "cuda".
        lowers: Least singular values to make schedules for, without and with deflation, see `PolarExpress.lower`.
        rows: So many plans of the predicted front are measured, beside the library's own choices on every kernel.
        pace: How long.
    """

    shape: tuple[int, int]
    dtype: torch.dtype
    batch: int = 1
    device: str = "cpu"
    lowers: Lowers = LOWERS
    rows: int = 12
    pace: Pace = field(default_factory=lambda: Pace(rounds=7))


@dataclass(frozen=True)
class Rate:
    """One kernel on one product of the stack.

    Attributes:
        kernel: Name.
        product: What is multiplied.
        seconds, spread: Of the quickest call, which others on the machine move least; quartile range by median.
        rate: Floating-point operations a second, of those really done.
    """

    kernel: str
    product: Product
    seconds: float
    spread: float
    rate: float


Rates = tuple[tuple[Rate, ...], Aside]


def plan_for(request: Request) -> RunPlan:
    """The run plan of `orthogonalize` for the shape and dtype of the request."""
    return resolve(POLAR, None, request.shape, request.dtype, torch.device(request.device), precision=request.dtype)


def candidates(request: Request) -> tuple[dict[str, Products], Products, dict[str, str]]:
    """The kernels that run here, the default one, and those that do not run, with the reason."""
    chosen, absent = plan_for(request).products, dict[str, str]()
    found: dict[str, Products] = kernels(request.shape, request.dtype) if request.device == "cpu" else {"eager": EAGER}
    if request.device == "cpu":
        absent["triton"] = "needs a CUDA device; not yet measured on a GPU"
    if chosen not in found.values():
        found[type(chosen).__name__.lower()] = chosen
    return found, chosen, absent


def synchronised(work: Callable[[], object], device: str) -> Callable[[], object]:
    """Do the work and, on a GPU, wait for its end."""
    if device == "cpu":
        return work

    def waited() -> None:
        work()
        torch.cuda.synchronize()

    return waited


def measured_rates(
    request: Request, found: dict[str, Products], products: Sequence[Product], shares: Sequence[float]
) -> Rates:
    """Every product on every kernel with its own form of it, and deflation by every share.

    A kernel without an own way leaves a product to full ones. Deflation has products of its own, in float32, which are
    the library's choice whatever the kernel: it is timed as a whole, with the scaling and rounding around it.
    """
    works, read = product_works(request, found, products, shares)
    return read(interleaved(works, "sum", request.pace))


def product_works(
    request: Request, found: dict[str, Products], products: Sequence[Product], shares: Sequence[float]
) -> tuple[dict[str, Callable[[], object]], Callable[[Mapping[str, Timing]], Rates]]:
    """The works to time, each called once already, and the function from times to rates."""
    _settle()
    works: dict[str, Callable[[], object]] = {}
    keys: dict[str, tuple[str, Product]] = {}
    for name, kernel in found.items():
        for product in products:
            if product.symmetric or isinstance(kernel, Eager | OneDNN):
                key = f"{name} {product}"
                works[key], keys[key] = _work(request, kernel, product), (name, product)
    X, n = stack(request, *request.shape, request.dtype), min(request.shape)
    M = stack(request, n, n, request.dtype)
    once = {share: f"around, {share:g} deflated" for share in shares}
    works |= {name: partial(_around, X, share, request.dtype, plan_for(request).wide) for share, name in once.items()}
    works["sum"] = lambda: torch.add(M, M, alpha=0.5)
    timed = {name: synchronised(work, request.device) for name, work in works.items()}
    for work in timed.values():
        work()

    def read(timings: Mapping[str, Timing]) -> Rates:
        rates = tuple(
            Rate(
                name,
                product,
                timings[key].least,
                timings[key].spread,
                2 * request.batch * computed(product, found[name]) / timings[key].least,
            )
            for key, (name, product) in keys.items()
        )
        return rates, Aside({share: timings[at].least for share, at in once.items()}, timings["sum"].least / n**2)

    return timed, read


def seconds_of(rates: Sequence[Rate], kernel: Products, name: str) -> dict[Product, float]:
    """The rate of each product by a kernel; without a form of its own, the rate of its full products."""
    plain = "onednn" if kernel == ONEDNN or getattr(kernel, "plain", None) == ONEDNN else "eager"
    below = {rate.product: rate.seconds for rate in rates if rate.kernel == plain}
    return below | {rate.product: rate.seconds for rate in rates if rate.kernel == name}


def stack(request: Request, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    """Gaussian matrices of spectral norm below 2."""
    generator = torch.Generator().manual_seed(5)
    X = torch.randn(request.batch, rows, columns, generator=generator) / max(rows, columns)
    return X.to(dtype).to(request.device)


def _settle() -> None:
    """Let the process keep freed memory, as after a longer run.

    The C library of Linux hands freed memory back to the system, and every page of it faults when it is asked for
    again, beyond a bound that grows with the largest block that was ever freed, up to 32 MB. Before that the same call
    takes one time or several, by what was called before it: scaling 768 x 3072 1.4 ms or 9.6.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)  # freed at once


def _around(X: Tensor, share: float, dtype: torch.dtype, wide: Products) -> Tensor:
    """The work of `matfn.run.execute` before the engine."""
    scaled = prescale(X)[0]
    return deflated(scaled, share, dtype, wide) if share else scaled.to(dtype)


def _work(request: Request, kernel: Products, product: Product) -> Callable[[], object]:
    A = stack(request, product.rows, product.inner, request.dtype)
    B = stack(request, product.inner, product.columns, request.dtype)
    C = stack(request, product.rows, product.columns, request.dtype)
    match product.name:
        case "syrk":
            return partial(kernel.syrk, A)
        case "sym_mm":
            return partial(kernel.sym_mm, A, A)
        case "sym_addmm":
            return partial(kernel.sym_addmm, C, A, A, alpha=0.5, beta=0.5)
        case "mm":
            return partial(kernel.mm, A, B)
    return partial(kernel.addmm, C, A, B, alpha=1.0, beta=0.5)
