"""Arguments: checks of what the public functions take; errors say what was given, what was wanted, what to do."""

import math
from numbers import Real
from typing import cast

import torch
from torch import Generator, Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from ..errors import shown, which
from ..iteration.protocols import Evaluation, Iteration, Method, Scheduled
from ..iteration.schedule import Schedule
from ..iteration.target import Domain, Target
from ..methods import RitzMinimax

__all__ = ["check_finite", "check_generator", "check_matrix", "check_method", "check_options", "check_ridge"]
__all__ += ["check_readable", "check_result", "check_rounding", "check_sum", "sketch_key"]

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_NAMES = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)


def check_matrix(A: Tensor, target: Target) -> None:
    """Refuse another type, dtype, layout or shape than the function takes; looks at metadata, never at values."""
    verb = target.verb
    if not isinstance(A, Tensor):
        raise TypeError(
            f"{verb} takes a torch.Tensor of shape (..., m, n), got {type(A).__name__}: convert with torch.as_tensor"
        )
    if A.is_nested:
        raise TypeError(f"{verb} takes matrices of one shape, got a nested tensor: pass the tensors of A.unbind()")
    if type(A).__name__ == "DTensor":
        raise TypeError(
            f"{verb} takes a tensor of this process, got a DTensor: pass A.full_tensor(), "
            "or A.to_local() if each process holds whole matrices"
        )
    if type(A).__name__ == "FakeTensor" and not _get_current_dispatch_mode_stack():
        raise TypeError(
            f"{verb} takes a fake tensor within its mode alone: call it within the FakeTensorMode that made it, "
            "or pass a tensor with data"
        )
    if A.dtype not in DTYPES:
        advice = "complex matrices are not supported" if A.is_complex() else "convert with A.to(torch.float32)"
        advice = "convert with A.dequantize()" if A.is_quantized else advice
        raise TypeError(f"{verb} takes {_NAMES}, got {A.dtype}: {advice}")
    if A.layout != torch.strided:
        raise TypeError(f"{verb} takes dense tensors, got layout {A.layout}: convert with A.to_dense()")
    if A.ndim < 2:
        raise ValueError(
            f"{verb} takes matrices of shape (..., m, n), got shape {tuple(A.shape)}: give a vector a second axis, "
            "for example A.unsqueeze(0)"
        )
    if target.domain is not Domain.RECTANGULAR and A.shape[-2] != A.shape[-1]:
        raise ValueError(
            f"{verb} takes square matrices (..., n, n), got shape {tuple(A.shape)}: rectangular ones are for "
            "polar and orthogonalize"
        )


def check_readable(A: Tensor, verb: str) -> None:
    """Refuse tensors without values, for functions that look at values."""
    if A.is_meta or type(A).__name__ in ("FakeTensor", "FunctionalTensor"):
        raise TypeError(
            f"{verb} looks at the values of its argument, and a {'meta' if A.is_meta else 'fake'} tensor has none: "
            "pass a tensor with data; orthogonalize and explain need the shape alone"
        )


def check_finite(A: Tensor, verb: str) -> None:
    """Refuse NaN and infinity; reads one flag from the device."""
    finite = torch.isfinite(A)
    if not bool(finite.all()):
        bad = (~finite).nonzero()
        raise ValueError(
            f"{verb} takes finite matrices, but {len(bad)} of {A.numel()} entries of the argument are NaN or "
            f"infinite, the first at index {tuple(bad[0].tolist())}: mend or leave out this matrix"
        )


def check_result(result: Tensor, dtype: torch.dtype, verb: str) -> Tensor:
    """Return a result (..., m, n) in `dtype`; refuse NaN, and entries that are too large for `dtype`."""
    # An overflow leaves infinities, and often NaN beside them.
    nan = torch.isnan(result).any(-1).any(-1) & ~torch.isinf(result).any(-1).any(-1)
    if bool(nan.any()):
        raise ValueError(f"{verb}: the method returned NaN for {which(nan)}, so it failed there: take method=Exact()")
    narrow = result.to(dtype)
    finite = torch.isfinite(narrow).all(-1).all(-1)
    if not bool(finite.all()):
        peak = result.abs().nan_to_num(nan=math.inf, posinf=math.inf).max().item()
        size = f" with entries up to {peak:.3g}" if math.isfinite(peak) else ""
        advice = "scale A" if dtype == torch.float64 else "pass A.to(torch.float64), or scale A"
        raise ValueError(
            f"{verb}: the result of {which(~finite)} overflows {dtype}{size}: the largest number is "
            f"{torch.finfo(dtype).max:.3g}; {advice}"
        )
    return narrow


def check_ridge(ridge: object, A: Tensor, verb: str, *, relative: object) -> Tensor | None:
    """Return the ridge of each matrix of A (..., n, n) as a float64 tensor (...); None for the number 0.

    The values of a tensor are checked by `check_sum`.
    """
    batch, most = A.shape[:-2], _most(A.dtype)
    if not isinstance(relative, bool):
        raise TypeError(
            f"{verb}: relative must be True (the ridge is a multiple of ||A||_F) or False, got {relative!r}"
        )
    if isinstance(ridge, Tensor):
        if ridge.is_nested or ridge.is_meta or type(ridge).__name__ in ("DTensor", "FakeTensor"):
            kind = "nested" if ridge.is_nested else "meta" if ridge.is_meta else type(ridge).__name__
            raise ValueError(
                f"{verb}: ridge must be a finite number, or a dense real tensor with values, got a {kind} one"
            )
        fits = len(ridge.shape) <= len(batch) and all(
            r in (1, b) for r, b in zip(reversed(ridge.shape), reversed(batch), strict=False)
        )
        if not fits or ridge.dtype == torch.bool or ridge.is_complex() or ridge.layout != torch.strided:
            raise ValueError(
                f"{verb}: ridge must be a finite number, or a dense real tensor with one for each matrix of A, which "
                f"broadcasts to {tuple(batch)}, got {ridge.dtype}, {ridge.layout}, shape {tuple(ridge.shape)}"
            )
        return ridge.to(A.device, torch.float64).expand(batch)
    # `ridge <= most` before float(): a long integer has no float.
    if isinstance(ridge, bool) or not isinstance(ridge, Real) or not 0 <= cast(float, ridge) <= most:
        raise ValueError(
            f"{verb}: ridge must be a finite number from 0 to {most:.3g}, the largest of "
            f"{_wide(A.dtype)}, or a tensor with one for each matrix, got {shown(ridge)}: it is added to the diagonal"
        )
    return None if ridge == 0 else torch.full(batch, float(ridge), dtype=torch.float64, device=A.device)


def check_sum(ridge: Tensor, B: Tensor, dtype: torch.dtype, verb: str) -> None:
    """Refuse a ridge (...) with bad values, or a sum B = A + ridge I, (..., n, n), too large for the dtype of A."""
    most = _most(dtype)
    bad = ~((ridge >= 0) & (ridge <= most))
    if bool(bad.any()):
        index = int(bad.reshape(-1).nonzero()[0])
        raise ValueError(
            f"{verb}: ridge must be a finite number from 0 to {most:.3g}, got "
            f"{ridge.reshape(-1)[index].item():.6g} for {which(bad)}: it is added to the diagonal"
        )
    peak = B.abs().max().item()
    if not peak <= most:
        raise ValueError(
            f"{verb}: A + ridge I overflows {_wide(dtype)}: entries up to {peak:.3g}, and the largest number is "
            f"{most:.3g}: pass a smaller ridge, or " + ("scale A" if math.isinf(peak) else "A.to(torch.float64)")
        )


def _wide(dtype: torch.dtype) -> torch.dtype:
    """Return the narrowest dtype in which functions of matrices of `dtype` are computed: at least float32."""
    return torch.promote_types(dtype, torch.float32)


def _most(dtype: torch.dtype) -> float:
    """Return the largest number of that dtype."""
    return torch.finfo(_wide(dtype)).max


def check_method(method: object, verb: str) -> Method:
    """Return the method; refuse a class, a string, or an object with none of the protocols."""
    if isinstance(method, str):
        raise TypeError(
            f"{verb}: method must be a method object, got the text {method!r}: write matfn.method({method!r})"
        )
    if isinstance(method, type):
        name = method.__name__
        raise TypeError(f"{verb}: method must be a value, got the class {name}: write {name}()")
    # `Iteration` is checked by hand: torch.compile cannot follow isinstance for a protocol with a property.
    if isinstance(method, Scheduled | Evaluation):
        return method
    if not (hasattr(method, "step") and hasattr(method, "steps")):
        raise TypeError(
            f"{verb}: {method!r} is no method: one has schedule(p), step(k, residual) or evaluate(target, A)"
        )
    return cast(Iteration, method)


def check_options(engine: object, precision: object, products: object, verb: str) -> None:
    """Refuse an engine, a precision or products of another type; None is always allowed."""
    if engine is not None and (isinstance(engine, str | type) or not hasattr(engine, "run")):
        name = engine.__name__ if isinstance(engine, type) else str(engine).capitalize()
        raise TypeError(
            f"{verb}: engine must be a value such as Direct(), Gram() or Coupled(), got {engine!r}: write {name}()"
        )
    if precision is not None and precision not in DTYPES:
        names = ", ".join(str(dtype) for dtype in DTYPES)
        raise TypeError(
            f"{verb}: precision must be {names}, or None for the choice by machine and method, got {precision!r}"
        )
    if products is not None and (isinstance(products, str | type) or not hasattr(products, "sym_addmm")):
        raise TypeError(
            f"{verb}: products must be a value of matfn.kernels such as EAGER or Blocked(96), or None for the choice "
            f"by device, dtype and size, got {products!r}"
        )


def check_rounding(target: Target, iteration: object, precision: torch.dtype) -> None:
    """Refuse a schedule that lifts rounding errors of M to the size of q(M), or a `tol` up to the unit roundoff."""
    roundoff = torch.finfo(precision).eps / 2
    if isinstance(iteration, RitzMinimax) and iteration.tol is not None and iteration.tol <= roundoff:
        raise ValueError(
            f"{target}: tol={iteration.tol:g} is out of reach in {precision}, whose unit roundoff is {roundoff:.2g}: "
            "give a larger tol, steps=... instead of tol" + ("" if precision == torch.float64 else ", or float64")
        )
    advice = {torch.float32: "Pass A.to(torch.float64), a wider dtype, or take ", torch.float64: "Take "}
    wider = advice.get(precision, "Iterate in a wider dtype (precision=torch.float32), or with ")
    if isinstance(iteration, Schedule) and iteration.rounding * roundoff >= 1:
        raise ValueError(
            f"{target}: this schedule ({iteration.source}) amplifies rounding errors by {iteration.rounding:.3g}, and "
            f"those of {precision} are {roundoff:.2g}: nothing would be left of the result. {wider}lower degrees"
        )


def sketch_key(generator: Generator | None, verb: str) -> int | Tensor:
    """Return the key of all sketches of one call, drawn on the device of the generator and never read."""
    check_generator(generator, verb)
    return 0 if generator is None else torch.randint(2**32, (), generator=generator, device=generator.device)


def check_generator(generator: object, verb: str) -> None:
    """Refuse anything but a generator or None."""
    if generator is not None and not isinstance(generator, Generator):
        raise TypeError(
            f"{verb}: generator must be a torch.Generator or None, got {generator!r}: torch.Generator().manual_seed(0)"
        )
