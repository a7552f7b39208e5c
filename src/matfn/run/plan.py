"""Plan: what will run for one function, shape, dtype and device, and the reason for each choice.

`resolve` looks at the arguments and at the machine's profile, never at a matrix. Verbs make one plan per call, an
optimizer one per shape. `matfn.explain` prints a plan.
"""

import os
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache
from typing import Any, NamedTuple

import torch

from ..engines import Coupled, Direct, Engine, Gram, gram_error
from ..engines.cost import engine_cost
from ..engines.restarts import fewest_restarts
from ..iteration.protocols import Evaluation, Fitted, Iteration, Method, Scheduled
from ..iteration.recorder import Recorder
from ..iteration.schedule import PLAIN, Preparation, Schedule
from ..iteration.target import POLAR, Domain, Target
from ..kernels import EAGER, Products
from ..methods import QDWH, Exact, PolarExpress, RitzMinimax
from ..methods.resolvents import Resolvents, resolvents
from .arguments import check_method, check_options, check_rounding
from .machine import Machine, machine
from .products import products_for
from .root_method import few_products

__all__ = ["DEFLATED", "LIFTED", "THINLY", "TOLERATED", "Purpose", "RunPlan", "lower_bound", "resolve"]


class Purpose(Enum):
    """What the result is for; it decides the default method, precision and engine."""

    FACTOR = "the polar factor within the error of its schedule (orthogonalize)"
    ORACLE = "the polar factor and the nuclear norm at every condition number (PolarGrad)"
    DIGITS = "all digits of the dtype (polar and the other verbs)"
    STEP = "the step of an optimizer"


# Three quintics for the spectrum after deflation. The cushion keeps the largest singular values above the rounding
# errors of Gram's Q. `python -m studies.tune` shows the errors of all candidates.
DEFLATED = PolarExpress((5, 5, 5), lower=1.4e-2, cushion=0.06, norm="schatten4", deflation=1 / 16)
THINLY = replace(DEFLATED, deflation=1 / 32)  # for wide networks, which have a smaller share of large singular values
# Five steps without deflation, for small matrices and for devices on which the sketch is slow.
LIFTED = PolarExpress((5, 5, 5, 5, 3), lower=2e-3, cushion=0.07, norm="schatten4")
# Deflation allows gentle slopes, for which Gram needs no restart. The slopes of LIFTED would lift the negative
# eigenvalues of M, which are rounding errors, after two steps.
_ENGINES: dict[Method, Engine] = {DEFLATED: Gram(()), THINLY: Gram(()), LIFTED: Gram((2, 4))}
# In float16, the fewest restarts with which this search finds no singular value above 1.25, docs/numerics.md:
# `python -m studies.gram_safety --preset float16`.
_FLOAT16_ENGINES: dict[Method, Engine] = {DEFLATED: Gram(()), THINLY: Gram(()), LIFTED: Gram((2,))}

TOLERATED = 0.01  # largest rounding error for which `orthogonalize` chooses Gram
# A smaller ridge is lost in the rounding of a float32 factor, and Cholesky's factorization breaks down.
_RIDGE = 4 * torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class RunPlan:
    """How one function of matrices of one shape is computed; see `resolve` for the fields that are not listed here.

    Attributes:
        device: Type of the device.
        iteration: The steps of the method, or the method itself if it looks before each step; None for an evaluation.
        preparation: What precedes the first step.
        engine: None for an evaluation.
        wide: The products of the preparation, in float32 at least.
        on_range: Whether to put the result on the range of the matrix, because the steps lift rounding noise.
        parts: Number of entries of a stack to take at a time; None takes the stack whole.
        thin: Half-precision dtype of a deflation's thin products; None is float32 at least.
        machine: The profile that decided.
        reasons: One clause for each decision.
    """

    target: Target
    shape: tuple[int, int]
    dtype: torch.dtype
    device: str
    method: Method
    preparation: Preparation
    precision: torch.dtype
    products: Products
    wide: Products
    machine: Machine
    reasons: tuple[tuple[str, str], ...]
    iteration: Iteration | None = None
    engine: Engine | None = None
    on_range: bool = False
    parts: int | None = None
    thin: torch.dtype | None = None

    def __str__(self) -> str:
        from .explain import describe  # late, because `explain` imports this module

        return describe(self)


def resolve(
    target: Target,
    method: Method | None,
    shape: tuple[int, int],
    dtype: torch.dtype,
    device: torch.device,
    *,
    purpose: Purpose = Purpose.FACTOR,
    engine: Engine | None = None,
    precision: torch.dtype | None = None,
    products: Products | None = None,
    ridge: float = 0.0,
    differentiated: bool = False,
) -> RunPlan:
    """Return the plan for one function, from a cache if possible.

    Args:
        target: What is computed.
        method: None is the default for the purpose.
        shape: (rows, columns) of each matrix.
        dtype: Of the argument, float16 to float64.
        device: Of the argument.
        purpose: What the result is for.
        engine: How M is carried; None is a choice by counted products and predicted rounding.
        precision: The dtype of the iteration; None is a choice by purpose, method and machine.
        products: The products for every large product; None is a choice by machine, dtype and size.
        ridge: For the roots of an optimizer: the ridge relative to the Frobenius norm, which bounds the spectrum.
        differentiated: Whether autograd follows the products, which only plain products allow.

    Raises:
        TypeError: If an option is of another type, or `method` is no method.
        ValueError: If an option has no use for the method, or does not go with the target or the precision.
    """
    asked = _Asked(
        target, method, shape, dtype, device.type, purpose, engine, precision, products, ridge, differentiated
    )
    if torch.compiler.is_compiling() or isinstance(method, Recorder) or not _hashable(asked):
        return _resolve(machine(device), asked)
    named = os.environ.get("MATFN_MACHINE"), os.environ.get("MATFN_PRODUCTS")
    return _cached(device, named, torch.get_num_threads(), target.verb, asked)


class _Asked(NamedTuple):
    """The arguments of `resolve`."""

    target: Target
    method: Method | None
    shape: tuple[int, int]
    dtype: torch.dtype
    device: str
    purpose: Purpose
    engine: Engine | None
    precision: torch.dtype | None
    products: Products | None
    ridge: float
    differentiated: bool


def _hashable(asked: _Asked) -> bool:
    try:
        hash(asked)
    except TypeError:  # a method or products of the caller that is not a frozen value
        return False
    return True


@lru_cache(maxsize=512)
def _cached(device: torch.device, named: tuple[str | None, ...], threads: int, verb: str, asked: _Asked) -> RunPlan:
    """Cache by all that decides the profile and the error messages."""
    return _resolve(machine(device), asked)


def _resolve(profile: Machine, asked: _Asked) -> RunPlan:
    check_options(asked.engine, asked.precision, asked.products, asked.target.verb)
    chosen, why = (asked.method, "as given") if asked.method is not None else _default(profile, asked)
    chosen = check_method(chosen, asked.target.verb)
    direction = asked.target == POLAR and asked.purpose in (Purpose.STEP, Purpose.ORACLE)
    if isinstance(chosen, RitzMinimax) and not direction:
        chosen.refuse_every(asked.target.verb)
    if isinstance(chosen, Evaluation):
        return _evaluating(profile, asked, chosen, why)
    return _iterating(profile, asked, chosen, why)


def _evaluating(profile: Machine, asked: _Asked, method: Evaluation, why: str) -> RunPlan:
    """Plan a decomposition, or resolvents, which multiply."""
    given = {"engine": asked.engine, "precision": asked.precision, "products": asked.products}
    idle = [f"{name}={value}" for name, value in given.items() if value is not None and not hasattr(method, name)]
    if idle:
        raise ValueError(
            f"{asked.target.verb}: {method!r} evaluates the function outright and has no use for {', '.join(idle)}: "
            "leave them out, or choose a method that iterates"
        )
    wide = torch.promote_types(asked.dtype, torch.float32)
    products, how = _products(profile, asked, wide, mirrored=False)
    reasons = [("method", why), ("precision", "a decomposition works in float32 at least")]
    if isinstance(method, Resolvents):
        method = replace(method, products=products)
        reasons.append(("products", how))
    return RunPlan(
        **_shared(profile, asked),
        method=method,
        preparation=PLAIN,
        precision=wide,
        products=products,
        wide=products,
        reasons=tuple(reasons),
    )


def _shared(profile: Machine, asked: _Asked) -> dict[str, Any]:
    """Return the fields of a plan that need no decision."""
    fields = {"target": asked.target, "shape": asked.shape, "dtype": asked.dtype, "device": asked.device}
    return {**fields, "machine": profile}


def _iterating(profile: Machine, asked: _Asked, method: Scheduled | Iteration, why: str) -> RunPlan:
    iteration = _iteration(method, asked.target)
    preparation = _preparation(iteration, asked)
    wide = torch.promote_types(asked.dtype, torch.float32)
    lifts = isinstance(iteration, Schedule) and iteration.lower <= torch.finfo(wide).eps
    on_range = lifts and asked.target.mirrored and asked.purpose is not Purpose.DIGITS
    precision, because = _precision(profile, asked, iteration, wide if on_range else asked.dtype)
    usual = _FLOAT16_ENGINES if precision == torch.float16 else _ENGINES
    engine, carried = _engine(asked, iteration, precision, usual.get(method) if asked.method is None else None)
    if not torch.compiler.is_compiling():  # both models use numpy, which torch.compile cannot follow
        check_rounding(asked.target, iteration, precision)
        engine = engine.planned(iteration, precision) if type(engine) is Gram else engine
    products, how = _products(profile, asked, precision, mirrored=asked.target.mirrored)
    full, _ = _products(profile, asked, wide, mirrored=False)
    alone = isinstance(method, Scheduled) and not isinstance(method, Fitted) and not on_range
    return RunPlan(
        **_shared(profile, asked),
        method=method,
        iteration=iteration,
        preparation=preparation,
        engine=engine,
        precision=precision,
        products=products,
        wide=full,
        on_range=on_range,
        parts=profile.part_entries if alone else None,
        thin=profile.thin(precision),
        reasons=(("method", why), ("engine", carried), ("precision", because), ("products", how)),
    )


def _default(profile: Machine, asked: _Asked) -> tuple[Method, str]:
    """Choose the method if the caller names none."""
    if asked.purpose is Purpose.DIGITS:
        return Exact(), "default: accurate to the dtype"
    if asked.purpose is Purpose.FACTOR:
        return PolarExpress(), "default: five quintic minimax steps"
    if asked.purpose is Purpose.ORACLE:
        return QDWH(), "default: accurate at every condition number"
    if asked.target.domain is Domain.SPD:
        return _root(profile, asked)
    rows, known = min(asked.shape), profile.deflated_rows
    if known.value is None:
        return LIFTED, f"default without deflation: {known.where}"
    if rows < known.value:
        return LIFTED, f"default below {known.value} rows, where the sketch of a deflation does not pay"
    if rows < profile.thinly_rows.value:
        return DEFLATED, f"default from {known.value} rows on: {known.where}"
    return THINLY, f"default from {profile.thinly_rows.value} rows on: {profile.thinly_rows.where}"


def _root(profile: Machine, asked: _Asked) -> tuple[Method, str]:
    """Choose the method for inverse p-th roots of n x n factors with a ridge relative to the Frobenius norm."""
    n, p, ridge, dtype, known = asked.shape[0], asked.target.p, asked.ridge, asked.dtype, profile.resolvent_rows
    if known.value is None and not profile.product_roots.value:
        return Exact(), f"resolvents are {known.where}"
    if dtype != torch.float32:
        return Exact(), f"factors in {dtype} are kept for exact roots"
    if ridge < _RIDGE:
        return Exact(), f"a ridge of {ridge:g} is below {_RIDGE:.1g}, so float32 does not bound the spectrum"
    if known.value is None:
        return few_products(p, lower_bound(p, ridge, n)), f"products alone: {profile.product_roots.where}"
    if n < known.value:
        return Exact(), f"{n} rows are below the {known.value} from which a sum of resolvents is quicker"
    method = resolvents(p, lower_bound(p, ridge, n))
    terms = len(method.terms().shifts)
    return method, f"{terms} resolvents are quicker from {known.value} rows on, and within {method.error:g}"


def lower_bound(p: int, ridge: float, n: int) -> float:
    """Bound s = m^(1/p) from below by the ridge, for n x n matrices divided by their Frobenius norm."""
    return (ridge / (1 + ridge * n**0.5)) ** (1 / p)


def _iteration(method: Scheduled | Iteration, target: Target) -> Iteration:
    if not isinstance(method, Scheduled):
        return method
    schedule = method.schedule(target.p)
    if not isinstance(schedule, Schedule):
        raise TypeError(f"{method!r}.schedule must return a Schedule, got {schedule!r}")
    return schedule


def _preparation(iteration: Iteration, asked: _Asked) -> Preparation:
    preparation = getattr(iteration, "preparation", PLAIN)
    target = asked.target
    if preparation.deflation and not target.mirrored:
        raise ValueError(
            f"{target}: deflation shrinks singular values, and {target} has none: leave deflation out of the method"
        )
    if preparation.deflation and asked.purpose is Purpose.DIGITS:
        raise ValueError(
            f"{target}: deflation turns the result by up to some percent, because it sketches. It is for orthogonalize "
            "and the optimizers; leave deflation out of the method here"
        )
    return preparation


def _precision(profile: Machine, asked: _Asked, iteration: Iteration, dtype: torch.dtype) -> tuple[torch.dtype, str]:
    """Choose the dtype of the iteration: half precision only if the machine multiplies it as fast as float32."""
    if asked.precision is not None:
        return asked.precision, "as given"
    form = getattr(iteration, "precision", lambda dtype: dtype)
    half, root = profile.half_dtype, asked.target.domain is Domain.SPD  # factors of optimizers are ill-conditioned
    step = asked.purpose is Purpose.STEP and not root
    if step and dtype == torch.float32 and form(half.value) == half.value:
        if min(asked.shape) < profile.half_rows.value and profile.narrow != torch.float32:
            return torch.float32, f"matrices below {profile.half_rows.value} rows: {profile.half_rows.where}"
        return profile.narrow, f"an optimizer's step on {profile.name}: {profile.half and profile.half.where}"
    chosen = torch.promote_types(profile.working(dtype), form(dtype))
    if chosen == dtype:
        return chosen, "the dtype of the argument"
    if form(dtype) != dtype:
        return chosen, "the steps of this method need it"
    return chosen, f"products in {dtype} are slow on {profile.name}: {profile.half and profile.half.where}"


def _engine(asked: _Asked, iteration: Iteration, precision: torch.dtype, usual: Engine | None) -> tuple[Engine, str]:
    """Choose the engine; `usual` is the engine of a default method on oblong matrices."""
    target, shape = asked.target, asked.shape
    if asked.engine is not None:
        if target.name not in asked.engine.targets:
            raise ValueError(f"{asked.engine!r} computes {', '.join(sorted(asked.engine.targets))}, not {target.name}")
        return asked.engine, "as given"
    if target.domain is Domain.SPD:
        return Coupled(), "roots need the pair of a root and its inverse"
    if not target.mirrored:
        return Direct(), f"the only engine for {target}"
    if asked.purpose is Purpose.DIGITS:
        return Direct(), "self-correcting: this verb promises digits"
    if usual is not None:
        if 2 * max(shape) >= 3 * min(shape):
            return usual, "fewer products from 2 : 3 on"
        return Direct(), "Gram saves no products on matrices this square"
    if not isinstance(iteration, Schedule):
        return Direct(), "the method looks at each M, so the rounding of a carried M cannot be foretold"
    if torch.compiler.is_compiling():
        return Direct(), "torch.compile cannot follow the model of Gram's rounding"
    if precision == torch.float64:
        return Direct(), "float64 is asked for its digits"
    return _gram_or_direct(iteration, shape, precision)


def _gram_or_direct(schedule: Schedule, shape: tuple[int, int], dtype: torch.dtype) -> tuple[Engine, str]:
    """Choose Gram if it needs fewer products and its rounding stays below the schedule's error and below 1 %."""
    if min(shape) == max(shape):
        return Direct(), "Gram saves no products on square matrices"
    if schedule.rational:
        return Direct(), "Gram squares the condition number that rational steps are made for"
    tolerated = min(schedule.error(), TOLERATED)
    gram = Gram(fewest_restarts(schedule, dtype, tolerated))
    lost = gram_error(schedule, gram.restarts or (), dtype)
    if not lost <= tolerated:
        return Direct(), f"Gram would lose {lost:.2g} to rounding in {dtype}, more than {tolerated:.2g}"
    costs = {engine: engine_cost(schedule, engine, shape) for engine in (Direct(), gram)}
    if costs[gram] >= costs[Direct()]:
        return Direct(), "Gram needs as many products with the restarts that rounding asks for"
    saved = 1 - costs[gram] / costs[Direct()]
    return gram, f"{saved:.0%} fewer multiply-adds than Direct, at {lost:.1g} of rounding"


def _products(profile: Machine, asked: _Asked, dtype: torch.dtype, *, mirrored: bool) -> tuple[Products, str]:
    """Choose the products; they mirror half of a symmetric result if the iteration allows it and it pays."""
    if asked.products is not None:
        return asked.products, "as given"
    if torch.compiler.is_compiling():
        return EAGER, "torch.compile follows plain products alone"
    if asked.differentiated:
        return EAGER, "only plain products have derivatives"
    return products_for(profile, asked.device, min(asked.shape), dtype, mirrored=mirrored)
