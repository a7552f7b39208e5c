"""Compute: a target of each matrix of a batch, by any kind of method: flatten, evaluate or iterate, scale back."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor

from ..engines import Engine, choose
from ..errors import SpectrumError
from ..iteration.protocols import Evaluation, Fitted, Iteration, Method, Scheduled
from ..iteration.schedule import Schedule
from ..iteration.target import POLAR, Domain, Target
from ..kernels import Products, products_for
from ..linalg.autocast import without_autocast
from ..linalg.rank import completed, on_the_range, on_the_range_if_deficient
from ..linalg.scaling import Scale, prescale, prescale_
from .arguments import (
    check_definite,
    check_engine,
    check_matrix,
    check_method,
    check_precision,
    check_products,
    check_rounding,
)
from .deflation import deflated, share_of

__all__ = ["accurate", "compute", "factor_in_place", "orthogonal_factor", "polar_factor"]

_CACHED = 2**20  # entries: 2 MB of each iterate in bfloat16, of which three are alive


def compute(
    target: Target,
    A: Tensor,
    method: Method,
    engine: Engine | None = None,
    precision: torch.dtype | None = None,
    generator: Generator | None = None,
    products: Products | None = None,
) -> Tensor:
    """The function of each matrix: flatten the batch, evaluate or iterate."""
    check_matrix(A, target)
    check_precision(precision)
    method = check_method(method, target)
    if A.numel() == 0:
        return A.clone()
    m, n = A.shape[-2:]
    flat = A.reshape(-1, m, n)
    if isinstance(method, Evaluation):
        if engine is not None or precision is not None or products is not None:
            raise ValueError(
                f"{method!r} evaluates {target.name} outright and has no use for {engine=}, {precision=}, {products=}: "
                "leave them out, or choose a method that iterates"
            )
        result = method.evaluate(target, flat.to(torch.promote_types(A.dtype, torch.float32)))
        if not isinstance(result, Tensor) or result.shape != flat.shape:
            got = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
            raise ValueError(f"{method!r}.evaluate must return shape {tuple(flat.shape)}, got {got}")
    else:
        result = _iterate(target, flat, method, engine, precision, _key(generator), products)
    return result.to(A.dtype).reshape(A.shape).contiguous()


def _iterate(
    target: Target,
    A: Tensor,
    method: Scheduled | Iteration,
    engine: Engine | None,
    precision: torch.dtype | None,
    key: int | Tensor,
    products: Products | None,
    scale: Callable[[Tensor], tuple[Tensor, Scale]] = prescale,
) -> Tensor:
    """Scale to norm 1, run the engine in `precision`, scale back in float32 at least, if there is anything to scale."""
    iteration = _schedule(method, target) if isinstance(method, Scheduled) else method
    if precision is None:
        # A method may have no half-precision form.
        chosen = getattr(iteration, "precision", None)
        precision = A.dtype if chosen is None else torch.promote_types(A.dtype, chosen(A.dtype))
    rows, columns = A.shape[-2:]
    engine = choose(target, iteration, (rows, columns), precision) if engine is None else engine
    check_engine(engine)
    if target.name not in engine.targets:
        raise ValueError(f"{engine!r} computes {', '.join(sorted(engine.targets))}, not {target.name}")
    if not torch.compiler.is_compiling():  # the bound needs numpy, which torch.compile cannot follow
        check_rounding(iteration, precision)
    scaled, divisor = scale(A)
    share = _share(iteration, target)
    wide, first = scaled.dtype, [deflated(scaled, share, precision) if share else scaled.to(precision)]
    del scaled  # of the size of the argument, and not looked at again
    if products is None:
        products = products_for(first[0], mirrored=target.domain is Domain.RECTANGULAR)
    check_products(products)
    # Handed over, not lent: the engine drops the first iterate when it has the second.
    result = engine.run(target, first.pop(), iteration, products, key)
    return result if target.homogeneity == 0 else divisor.undo(result.to(wide), target.homogeneity)


def _share(method: Iteration, target: Target) -> float:
    """The share of the singular values to deflate."""
    share = share_of(method)
    if share and target.domain is not Domain.RECTANGULAR:
        raise ValueError(f"deflation is of singular values, and {target} has none: leave it out of {method!r}")
    return share


def _schedule(method: Scheduled, target: Target) -> Schedule:
    schedule = method.schedule(target.p)
    if not isinstance(schedule, Schedule):
        raise TypeError(f"{method!r}.schedule must return a Schedule, got {schedule!r}")
    return schedule


def accurate(target: Target, A: Tensor, method: Method, generator: Generator | None = None) -> Tensor:
    """`compute` for the verbs that may wait for the device: the method looks at A, and A at what is defined.

    Args:
        target: Any.
        A: (..., m, n), finite, float32 or float64; symmetric for a root.
        method: Any that can do the target.
        generator: Draws the sketches.

    Raises:
        ValueError: The method deflates, and so promises no digits.
        SpectrumError: For a root of an indefinite matrix, or an inverse root of a singular one, whatever the method.
    """
    method = _fitted(target, A, method)
    if share_of(method):
        raise ValueError(
            "deflation turns the result by up to some percent, for it sketches: that is for orthogonalize and the "
            f"optimizers; here, leave deflation out of {method!r}"
        )
    if target.domain is Domain.SPD and A.numel() and not isinstance(method, Evaluation):
        check_definite(A, target)
    # The planner may trade digits for products; these verbs ask for digits.
    engine = None if isinstance(method, Evaluation) else choose(target)
    result = compute(target, A, method, engine, generator=generator)
    if not isinstance(method, Evaluation) and not bool(torch.isfinite(result).all()):
        raise SpectrumError(
            f"{target} by {method!r} diverged: an iteration needs a real spectrum off zero; method=Exact() takes every "
            "matrix for which the function is defined"
        )
    return result


def polar_factor(A: Tensor, factor: str, method: Method, generator: Generator | None = None) -> Tensor:
    """The polar factor on the range, or completed: see `polar`."""
    U = accurate(POLAR, A, method, generator)
    if A.numel() == 0:
        return U
    scaled, _ = prescale(A.reshape(-1, *A.shape[-2:]))
    flat = U.reshape(scaled.shape)
    if factor == "complete":
        flat = completed(flat, scaled)
    elif not isinstance(method, Evaluation):  # which knows the singular values, and has cut them off
        flat = on_the_range_if_deficient(flat, scaled)
    return flat.reshape(A.shape)


def orthogonal_factor(
    X: Tensor,
    method: Method,
    engine: Engine | None,
    precision: torch.dtype | None,
    generator: Generator | None,
    products: Products | None,
) -> Tensor:
    """The polar factor, on the range where the method would show rounding errors; nothing is read back."""
    check_matrix(X, POLAR)
    wide = torch.promote_types(X.dtype, torch.float32)
    if X.numel() == 0 or not _lifts_rounding(check_method(method, POLAR), wide):
        return _part_by_part(X, method, engine, precision, generator, products)
    U = compute(POLAR, X.to(wide), method, engine, precision, generator, products)
    scaled, _ = prescale(X.reshape(-1, *X.shape[-2:]))
    return on_the_range(U.reshape(scaled.shape), scaled).reshape(X.shape).to(X.dtype)


def parts(stack: Tensor) -> tuple[Tensor, ...]:
    """The stack (b, m, n) in parts whose iterates stay in a CPU's cache, and in memory that the process has already.

    That is quicker, and bounds what an iteration holds beside it. A GPU takes all at once.
    """
    if stack.device.type != "cpu":
        return (stack,)
    return stack.split(max(1, _CACHED // (stack.shape[-2] * stack.shape[-1])))


def _part_by_part(X: Tensor, method: Method, *how: Any) -> Tensor:
    """`compute`, one of the `parts` after the other if the method looks at no matrix: without graph or derivative."""
    stacked = parts(X.reshape(-1, *X.shape[-2:])) if X.numel() else (X,)
    alone = isinstance(method, Scheduled) and not isinstance(method, Fitted) and not torch.compiler.is_compiling()
    if len(stacked) == 1 or not alone or (torch.is_grad_enabled() and X.requires_grad):
        return compute(POLAR, X, method, *how)
    U = torch.empty_like(X, memory_format=torch.contiguous_format)
    for part, into in zip(stacked, parts(U.view(-1, *X.shape[-2:])), strict=True):
        into.copy_(compute(POLAR, part, method, *how))
    return U


def factor_in_place(
    X: Tensor, method: Scheduled, engine: Engine | None, precision: torch.dtype | None, products: Products | None
) -> None:
    """X <- its polar factor, as `orthogonal_factor` gives it; X serves as memory on the way.

    Memory of this size is new to a process each time it is asked for, and the first pass over it takes several times as
    long as the next: a step of an optimizer has the room already.

    Args:
        X: (b, m, n), float32 or float64, not empty, without derivatives.
        method: A schedule or what has one.
        engine: As `compute`.
        precision: As `compute`.
        products: As `compute`.
    """
    if _lifts_rounding(method, X.dtype):
        X.copy_(orthogonal_factor(X, method, engine, precision, None, products))
    else:
        with without_autocast(X):
            for part in parts(X):
                part.copy_(_iterate(POLAR, part, method, engine, precision, 0, products, prescale_))


def _lifts_rounding(method: Method, dtype: torch.dtype) -> bool:
    """Whether singular values that are nothing but rounding in `dtype` show in the polar factor by this method.

    A schedule made for singular values of eps and less lifts those too that a rank-deficient matrix has in place of
    zeros. One made for larger ones leaves them small, and its result need not be put on the range.
    """
    return isinstance(method, Scheduled) and _schedule(method, POLAR).lower <= torch.finfo(dtype).eps


def _fitted(target: Target, A: Tensor, method: Method) -> Method:
    """The method after a look at the matrices (..., m, n), if it wants one; it may wait for the device."""
    method = check_method(method, target)
    if not isinstance(method, Fitted) or A.numel() == 0:
        return method
    scaled, _ = prescale(A.reshape(-1, *A.shape[-2:]))
    return method.fitted(target, scaled)


def _key(generator: Generator | None) -> int | Tensor:
    """The key of all sketches of one call: one number, drawn where the generator lives and never read."""
    if generator is not None and not isinstance(generator, Generator):
        raise TypeError(
            f"generator must be a torch.Generator or None, got {generator!r}: torch.Generator().manual_seed(0)"
        )
    return 0 if generator is None else torch.randint(2**32, (), generator=generator, device=generator.device)
