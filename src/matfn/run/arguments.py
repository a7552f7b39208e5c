"""Arguments: checks of what the public functions take; errors say what was given, what was wanted, what to do."""

from typing import cast

import torch
from torch import Generator, Tensor

from ..iteration.protocols import Evaluation, Iteration, Method, Scheduled
from ..iteration.schedule import Schedule
from ..iteration.target import Domain, Target

__all__ = ["check_finite", "check_matrix", "check_method", "check_options", "check_rounding", "sketch_key"]

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_NAMES = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)


def check_matrix(A: Tensor, target: Target) -> None:
    """Refuse another type, dtype, layout or shape than the function takes; looks at metadata, never at values."""
    verb = target.verb
    if not isinstance(A, Tensor):
        raise TypeError(f"{verb} takes a torch.Tensor of shape (..., m, n), got {type(A).__name__}")
    if A.dtype not in DTYPES:
        advice = "complex matrices are not supported" if A.is_complex() else "convert with A.to(torch.float32)"
        raise TypeError(f"{verb} takes {_NAMES}, got {A.dtype}: {advice}")
    if A.layout != torch.strided:
        raise TypeError(f"{verb} takes dense tensors, got layout {A.layout}: convert with A.to_dense()")
    if A.ndim < 2:
        raise ValueError(f"{verb} takes matrices of shape (..., m, n), got shape {tuple(A.shape)}")
    if target.domain is not Domain.RECTANGULAR and A.shape[-2] != A.shape[-1]:
        raise ValueError(f"{verb} takes square matrices (..., n, n), got shape {tuple(A.shape)}")


def check_finite(A: Tensor, verb: str) -> None:
    """Refuse NaN and infinity; reads one flag from the device."""
    finite = torch.isfinite(A)
    if not bool(finite.all()):
        bad = (~finite).nonzero()
        raise ValueError(
            f"{verb} takes finite matrices, but {len(bad)} of {A.numel()} entries of the argument are NaN or "
            f"infinite, the first at index {tuple(bad[0].tolist())}"
        )


def check_method(method: object, target: Target) -> Method:
    """Return the method; refuse a class, a string, or an object with none of the protocols."""
    if isinstance(method, str):
        raise TypeError(f"method must be a method object, got the text {method!r}: write matfn.method({method!r})")
    if isinstance(method, type):
        raise TypeError(f"method must be a value, got the class {method.__name__}: write {method.__name__}()")
    # `Iteration` is checked by hand: torch.compile cannot follow isinstance for a protocol with a property.
    if isinstance(method, Scheduled | Evaluation):
        return method
    if not (hasattr(method, "step") and hasattr(method, "steps")):
        raise TypeError(
            f"{method!r} cannot compute {target}: a method has schedule(p), step(k, residual) or evaluate(target, A)"
        )
    return cast(Iteration, method)


def check_options(engine: object, precision: object, products: object) -> None:
    """Refuse an engine, a precision or products of another type; None is always allowed."""
    if engine is not None and (isinstance(engine, str | type) or not hasattr(engine, "run")):
        name = engine.__name__ if isinstance(engine, type) else str(engine).capitalize()
        raise TypeError(f"engine must be a value such as Direct(), Gram() or Coupled(), got {engine!r}: write {name}()")
    if precision is not None and precision not in DTYPES:
        names = ", ".join(str(dtype) for dtype in DTYPES)
        raise TypeError(f"precision must be {names}, or None for the choice by machine and method, got {precision!r}")
    if products is not None and (isinstance(products, str | type) or not hasattr(products, "sym_addmm")):
        raise TypeError(
            "products must be a value of matfn.kernels such as EAGER or Blocked(96), or None for the choice by device, "
            f"dtype and size, got {products!r}"
        )


def check_rounding(iteration: object, precision: torch.dtype) -> None:
    """Refuse a schedule whose coefficients lift rounding errors of M to the size of q(M) in this dtype."""
    roundoff = torch.finfo(precision).eps / 2
    if isinstance(iteration, Schedule) and iteration.rounding * roundoff >= 1:
        raise ValueError(
            f"this schedule ({iteration.source}) amplifies rounding errors by {iteration.rounding:.3g}, and those of "
            f"{precision} are {roundoff:.2g}: nothing would be left of the result. Iterate in a wider dtype "
            "(precision=torch.float32), or with lower degrees"
        )


def sketch_key(generator: Generator | None) -> int | Tensor:
    """Return the key of all sketches of one call, drawn on the device of the generator and never read."""
    if generator is not None and not isinstance(generator, Generator):
        raise TypeError(
            f"generator must be a torch.Generator or None, got {generator!r}: torch.Generator().manual_seed(0)"
        )
    return 0 if generator is None else torch.randint(2**32, (), generator=generator, device=generator.device)
