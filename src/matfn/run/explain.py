"""Explain: print the plan of a call, with the reason for each choice and the predicted work."""

import textwrap
import time
from functools import lru_cache
from numbers import Real
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from ..engines import Coupled, Direct, Gram
from ..engines.cost import Product, computed, products_of
from ..errors import shown
from ..iteration.schedule import PLAIN, Schedule
from ..iteration.target import INV_ROOT, ORTHOGONALIZE, POLAR, TARGETS, Target
from ..kernels import Products
from ..kernels.quickest import Quickest
from ..kernels.trial import Kind, Outcome, lower
from .arguments import DTYPES, check_matrix
from .machine import short
from .plan import Purpose, RunPlan, resolve

__all__ = ["describe", "explain"]

_VERBS = {
    "orthogonalize": (ORTHOGONALIZE, Purpose.FACTOR),
    **{target.verb: (target, Purpose.DIGITS) for target in TARGETS},
    **dict.fromkeys(("muon", "normuon", "adamuon"), (POLAR, Purpose.STEP)),
    "polargrad": (POLAR, Purpose.ORACLE),
    "shampoo": (INV_ROOT, Purpose.STEP),
}
_WIDTH = 100


def explain(
    x: Tensor | tuple[int, int],
    verb: str = "orthogonalize",
    *,
    p: int | None = None,
    ridge: float = 1e-6,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    **options: Any,
) -> RunPlan:
    """Return the `RunPlan` of a verb or an optimizer for matrices of one shape; ``print`` shows it. Computes nothing.

    Args:
        x: (..., m, n), a tensor of which only shape, dtype and device are used, or the shape (m, n).
        verb: A function ("orthogonalize", "polar", "signm", "sqrtm", "inv_sqrtm", "rootm", "inv_rootm", "inv"), or an
            optimizer ("muon", "normuon", "adamuon", "polargrad", or "shampoo" for one of its roots).
        p: The exponent of "rootm", "inv_rootm" and "shampoo", at least 1; 4 by default for "shampoo".
        ridge: For "shampoo", relative to the Frobenius norm.
        dtype: float16 to float64; by default of x, float32 for a shape.
        device: By default of x, the CPU for a shape.
        **options: method, engine, precision, products, as the function takes them.

    Raises:
        ValueError: If `verb` is another word, p is missing, or the shape does not suit the function.
        TypeError: If an option is unknown or of another type.

    Example:
        >>> print(matfn.explain((768, 3072), "muon"))
    """
    if not isinstance(verb, str) or verb.lower() not in _VERBS:
        raise ValueError(f"explain: verb must be one of {', '.join(_VERBS)}, got {shown(verb)}")
    verb = verb.lower()
    unknown = set(options) - {"method", "engine", "precision", "products"}
    if unknown:
        raise TypeError(f"explain takes method, engine, precision and products as options, got {sorted(unknown)}")
    target, purpose = _VERBS[verb]
    target = _exponent(target, verb, p)
    matrix = x if isinstance(x, Tensor) else _meta(x)
    if dtype is not None and dtype not in DTYPES:
        raise TypeError(f"explain: dtype must be one of {', '.join(map(str, DTYPES))}, got {shown(dtype)}")
    _check_factor(matrix, verb)
    check_matrix(matrix, target)
    if isinstance(ridge, bool) or not isinstance(ridge, Real) or not 0 <= ridge < float("inf"):
        raise ValueError(f"explain: ridge must be a finite number of at least 0, got {shown(ridge)}")
    where = _device(device if device is not None else matrix.device if isinstance(x, Tensor) else "cpu")
    shape, method = (matrix.shape[-2], matrix.shape[-1]), options.pop("method", None)
    return resolve(target, method, shape, dtype or matrix.dtype, where, purpose=purpose, ridge=ridge, **options)


def _exponent(target: Target, verb: str, p: int | None) -> Target:
    if target.name not in ("root", "inv_root"):
        if p is not None:
            raise ValueError(f"explain: {verb} has no exponent to choose, got {p=}: leave it out")
        return target
    if p is None and verb != "shampoo":
        raise ValueError(f"explain: {verb} needs its exponent, for example p=4")
    return target.with_exponent(4 if p is None else p)


def _check_factor(matrix: Tensor, verb: str) -> None:
    rows, columns = matrix.shape[-2:]
    if verb == "shampoo" and rows != columns:
        raise ValueError(
            f"explain: shampoo takes the shape of a factor, which is square, got {rows} x {columns}: a matrix of this "
            f"shape has the factors {rows} x {rows} and {columns} x {columns}"
        )


def _device(device: object) -> torch.device:
    try:
        where = torch.device(device)  # pyright: ignore[reportArgumentType]
    except (RuntimeError, TypeError):
        raise ValueError(
            f'explain: device must be a torch.device or a name such as "cpu" or "cuda:0", got {shown(device)}'
        ) from None
    if where.type == "cuda" and not torch.cuda.is_available():
        return where  # the profile of a GPU that is not there is known
    try:
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError, ImportError):  # NotImplementedError is a RuntimeError
        raise ValueError(
            f"explain: torch cannot use the device {where} here: name one that is here, or cuda, which need not be"
        ) from None
    return where


def _meta(shape: object) -> Tensor:
    sides = list(shape) if isinstance(shape, tuple | list | torch.Size) else []
    if len(sides) < 2 or not all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**31 for n in sides):
        raise ValueError(f"explain takes a tensor or a shape such as (768, 3072), got {shown(shape)}")
    return torch.empty(*sides, device="meta")


def describe(plan: RunPlan) -> str:
    """Write the plan as a table of 100 columns."""
    reasons = dict(plan.reasons)
    m, n = plan.shape
    lines = [f"{plan.target} of {m} x {n} matrices in {short(plan.dtype)} on {plan.device}"]
    rows = [("machine", plan.machine.name, plan.machine.kind), ("method", repr(plan.method), reasons["method"])]
    if isinstance(plan.iteration, Schedule):
        schedule = plan.iteration
        said = f"worst |1 - s| {schedule.error():.2g} for s in [{schedule.lower:.3g}, 1]"
        rows.append(("steps", _steps(schedule), said))
    if plan.preparation != PLAIN:
        rows.append(("preparation", str(plan.preparation), "part of the method"))
    if plan.engine is not None:
        rows.append(("engine", repr(plan.engine), reasons["engine"]))
    rows += _range(plan)
    rows.append(("precision", short(plan.precision), reasons["precision"]))
    if "products" in reasons:
        rows.append(("products", repr(plan.products), reasons["products"]))
    rows += [*_kernels(plan), *_work(plan)]
    for label, value, why in rows:
        wrapped = textwrap.wrap(f"{value}: {why}", _WIDTH - 14, break_long_words=False)
        lines += [f"  {label:<12}{wrapped[0]}", *(f"{'':14}{line}" for line in wrapped[1:])]
    return "\n".join(lines)


def _steps(schedule: Schedule) -> str:
    if schedule.rational:
        return f"{schedule.steps} rational"
    degrees = schedule.degrees
    same = len(set(degrees)) == 1
    return f"{len(degrees)} of degree " + (str(degrees[0]) if same else ", ".join(map(str, degrees)))


def _range(plan: RunPlan) -> list[tuple[str, str, str]]:
    """Say up to which share of the largest singular value the result is zero, if it is put on the range."""
    if not plan.on_range:
        return []
    eps = torch.finfo(torch.promote_types(plan.dtype, torch.float32)).eps
    said = f"singular values up to {max(plan.shape) * eps:.2g} of the largest become zero"
    return [("range", said, f"the steps would lift rounding noise; a method with lower above {eps:.2g} keeps them")]


def _kernels(plan: RunPlan) -> list[tuple[str, str, str]]:
    """List the kernel that was the quickest for each symmetric product of the plan, as far as this device was timed."""
    if not isinstance(plan.products, Quickest):
        return []
    if torch.are_deterministic_algorithms_enabled():
        return [("kernels", "torch's full products", "torch.use_deterministic_algorithms(True)")]
    known = [
        (kind, outcome)
        for text, outcome in plan.products.outcomes(torch.device(plan.device)).items()
        if (kind := Kind.read(text)) is not None and kind.dtype == short(plan.precision)
    ]
    told = []
    for name, rows, inner in _symmetric(plan):
        sizes = (name, lower(rows, 2), lower(inner, 1))
        timed = [_timed(kind, outcome) for kind, outcome in known if (kind.product, kind.rows, kind.inner) == sizes]
        why = "; ".join(timed) or "not measured yet: measured at the first product of this size"
        told.append(("kernel", f"{name} {rows} x {inner}", why))
    return told


def _symmetric(plan: RunPlan) -> list[tuple[str, int, int]]:
    """Return name, rows and inner dimension of the symmetric products that the plan can make, each once."""
    n, m = min(plan.shape), max(plan.shape)
    listed = _listed(plan)
    if listed is None:
        return [("syrk", n, m), ("sym_mm", n, n), ("sym_addmm", n, n)]
    return list(dict.fromkeys((product.name, product.rows, product.inner) for product in listed if product.symmetric))


def _timed(kind: Kind, outcome: Outcome) -> str:
    most, (called, replayed) = 2 * kind.batch - 1, outcome.winners
    matrices = "1 matrix" if most == 1 else f"{kind.batch} to {most} matrices"
    weights = f" (weights: {kind.weights})" if kind.weights else ""
    graph = "" if replayed == called else f", in a CUDA graph {replayed}"
    times = ", ".join(
        f"{name} {times.called * 1e3:.3g} ms and {times.replayed * 1e3:.3g}"
        for name, times in sorted(outcome.seconds.items(), key=itemgetter(1))
    )
    left = "".join(f", {name} is left out: {why}" for name, why in outcome.left_out.items())
    return f"{matrices}{weights} take {called}{graph}: called and replayed, {times}{left}"


def _listed(plan: RunPlan) -> tuple[Product, ...] | None:
    """Return the products of one matrix, None if they are not known before the run."""
    if not isinstance(plan.iteration, Schedule) or plan.iteration.rational or not min(plan.shape):
        return None
    if not isinstance(plan.engine, Direct | Gram | Coupled):  # an engine of the caller
        return None
    engine = plan.engine.planned(plan.iteration, plan.precision) if isinstance(plan.engine, Gram) else plan.engine
    return products_of(plan.iteration, engine, plan.shape, plan.target)


def _work(plan: RunPlan) -> list[tuple[str, str, str]]:
    """Predict the products of one matrix and their time."""
    if (listed := _listed(plan)) is None:
        return []
    flops = 2 * sum(computed(product, plan.products) for product in listed)
    said = f"{len(listed)} products, {flops / 1e9:.3g} GFLOP a matrix"
    # Nothing is run on an accelerator to explain a plan, and the rate of this CPU says nothing about another profile's.
    if plan.device != "cpu" or plan.machine.name.startswith(("cuda", "gpu")):
        return [("work", said, "counted before the run")]
    rows = min(512, max(16, min(plan.shape)))
    rate = _rate(plan.products, plan.precision, rows, torch.get_num_threads())
    why = f"at {rate / 1e9:.3g} GFLOP/s, timed on one product of {rows} rows; passes over memory come on top"
    return [("work", f"{said}, about {flops / rate * 1e3:.2g} ms", why)]


@lru_cache(maxsize=64)
def _rate(products: Products, dtype: torch.dtype, rows: int, threads: int) -> float:
    """Time one square product: floating-point operations per second, the best run within 20 ms."""
    A = torch.ones(1, rows, rows, dtype=dtype)
    products.mm(A, A)
    seconds: list[float] = []
    while len(seconds) < 3 or (sum(seconds) < 0.02 and len(seconds) < 200):
        begun = time.perf_counter()
        products.mm(A, A)
        seconds.append(time.perf_counter() - begun)
    return 2 * rows**3 / max(min(seconds), 1e-9)
