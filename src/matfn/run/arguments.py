"""Checks of the arguments of the public functions: what was given, what was wanted, what to do."""

from typing import cast

import torch
from torch import Tensor

from ..errors import SpectrumError
from ..iteration.protocols import Evaluation, Iteration, Method, Scheduled
from ..iteration.schedule import Schedule
from ..iteration.target import Domain, Target

__all__ = [
    "check_definite",
    "check_engine",
    "check_finite",
    "check_matrix",
    "check_method",
    "check_precision",
    "check_products",
    "check_rounding",
    "check_spectrum",
    "symmetric_part",
]

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_matrix(A: Tensor, target: Target) -> None:
    """Refuse what is no matrix of a supported dtype and shape; looks at metadata alone, never at values.

    Raises:
        TypeError: If A is no tensor, or of an integer, complex or quantized dtype.
        ValueError: If A has fewer than two dimensions, or is not square where the function needs it.
    """
    if not isinstance(A, Tensor):
        raise TypeError(f"{target.name} takes a torch.Tensor of shape (..., m, n), got {type(A).__name__}")
    if A.dtype not in DTYPES:
        names = ", ".join(str(d).removeprefix("torch.") for d in DTYPES)
        advice = "complex matrices are not supported" if A.is_complex() else "convert with A.to(torch.float32)"
        raise TypeError(f"{target.name} takes {names}, got {A.dtype}: {advice}")
    if A.layout != torch.strided:
        raise TypeError(f"{target.name} takes dense tensors, got layout {A.layout}: convert with A.to_dense()")
    if A.ndim < 2:
        raise ValueError(f"{target.name} takes matrices of shape (..., m, n), got shape {tuple(A.shape)}")
    if target.domain is not Domain.RECTANGULAR and A.shape[-2] != A.shape[-1]:
        raise ValueError(f"{target.name} takes square matrices (..., n, n), got shape {tuple(A.shape)}")


def check_finite(A: Tensor, target: Target) -> None:
    """Refuse NaN and infinity. It reads one flag from the device.

    Raises:
        ValueError: Naming how many entries are not finite, and where the first is.
    """
    finite = torch.isfinite(A)
    if not bool(finite.all()):
        bad = (~finite).nonzero()
        raise ValueError(
            f"{target.name} takes finite matrices, but {len(bad)} of {A.numel()} entries of the argument are NaN or "
            f"infinite, the first at index {tuple(bad[0].tolist())}"
        )


def check_method(method: object, target: Target) -> Method:
    """The method, if it is one and can do this target.

    Raises:
        TypeError: If it is a class or a string instead of a value, or has neither protocol.
    """
    if isinstance(method, str):
        raise TypeError(f"method must be a method object, got the text {method!r}: write matfn.method({method!r})")
    if isinstance(method, type):
        raise TypeError(f"method must be a value, got the class {method.__name__}: write {method.__name__}()")
    # The last by hand: torch.compile cannot follow isinstance for a protocol with a property.
    if isinstance(method, Scheduled | Evaluation):
        return method
    if not (hasattr(method, "step") and hasattr(method, "steps")):
        raise TypeError(
            f"{method!r} cannot compute {target}: a method has schedule(p), step(k, residual) or evaluate(target, A)"
        )
    return cast(Iteration, method)


def check_precision(precision: object) -> None:
    """Refuse anything but None or one of the supported dtypes.

    Raises:
        TypeError: For an integer, complex or quantized dtype, or no dtype at all.
    """
    if precision is not None and precision not in DTYPES:
        names = ", ".join(str(d) for d in DTYPES)
        raise TypeError(f"precision must be {names}, or None for that of the argument, got {precision!r}")


def check_rounding(iteration: object, precision: torch.dtype) -> None:
    """Refuse a schedule whose coefficients are too large for the dtype it shall run in.

    Raises:
        ValueError: If rounding errors of M reach q(M) as large as its limit, which is 1.
    """
    roundoff = torch.finfo(precision).eps / 2
    if isinstance(iteration, Schedule) and iteration.rounding * roundoff >= 1:
        raise ValueError(
            f"this schedule ({iteration.source}) amplifies rounding errors by {iteration.rounding:.3g}, and those of "
            f"{precision} are {roundoff:.2g}: nothing would be left of the result. Iterate in a wider dtype "
            "(precision=torch.float32), or with lower degrees"
        )


def check_engine(engine: object) -> None:
    """Refuse what is no engine.

    Raises:
        TypeError: If it is a class or a text instead of a value.
    """
    if isinstance(engine, str | type) or not hasattr(engine, "run"):
        name = engine.__name__ if isinstance(engine, type) else str(engine).capitalize()
        raise TypeError(f"engine must be a value such as Direct(), Gram() or Coupled(), got {engine!r}: write {name}()")


def check_products(products: object) -> None:
    """Refuse what does not multiply.

    Raises:
        TypeError: If it is a class or a text instead of a value.
    """
    if isinstance(products, str | type) or not hasattr(products, "sym_addmm"):
        raise TypeError(
            "products must be a value of matfn.kernels such as EAGER or Blocked(96), or None for the choice by device, "
            f"dtype and size, got {products!r}"
        )


def symmetric_part(A: Tensor, target: Target, eps: float) -> Tensor:
    """(A + A^T)/2, for a matrix that is symmetric up to rounding.

    Args:
        A: (..., n, n), in float32 at least: the sum overflows no sooner than its entries.
        target: Named in the message.
        eps: Of the dtype that A was given in.

    Raises:
        ValueError: If A differs from its transpose by more than 4 n eps of its largest entry.
    """
    asymmetry = (A - A.mT).abs().amax((-2, -1))
    allowed = 4 * A.shape[-1] * eps * A.abs().amax((-2, -1))
    if bool((asymmetry > allowed).any()):
        worst = (asymmetry / A.abs().amax((-2, -1))).max().item()
        raise ValueError(
            f"{target.name} takes symmetric matrices, but A and A.mT differ by {worst:.2g} of the largest entry: "
            "pass (A + A.mT) / 2 if that is what you mean"
        )
    return A / 2 + A.mT / 2  # not (A + A.mT) / 2, which overflows for entries near the largest number


def check_spectrum(values: Tensor, target: Target, zero: float, negative: float) -> None:
    """Refuse eigenvalues of which a real power does not exist.

    Args:
        values: (..., n), ascending.
        target: A power of a symmetric matrix.
        zero: Up to this share of the largest an eigenvalue counts as zero, of which there is no inverse.
        negative: As far below zero it may be rounding.

    Raises:
        SpectrumError: If an eigenvalue is negative, or zero and the power too. It names the smallest one.
    """
    size = values.abs().amax(-1)
    relative = torch.where(size == 0, 0.0, values[..., 0] / size).reshape(-1)
    worst = int(relative.argmin())
    which = "the smallest eigenvalue" + (f" of matrix {worst} of {len(relative)}" if len(relative) > 1 else "")
    given = f"{which} is {relative[worst].item():.3g} of the largest"
    if target.homogeneity < 0 and bool((relative <= zero).any()):
        raise SpectrumError(
            f"{target} needs a positive definite matrix, but {given}, which is zero or negative to working precision: "
            "add ridge=..., or use float64"
        )
    if bool((relative < -negative).any()):
        raise SpectrumError(
            f"{target} needs a positive semidefinite matrix, but {given}: add ridge=... to shift the spectrum"
        )


@torch.no_grad()
def check_definite(A: Tensor, target: Target) -> None:
    """`check_spectrum` at the price of one Cholesky factorization, where every matrix is safely definite.

    It is for methods that cannot see the spectrum: from an indefinite matrix an iteration would return numbers. A
    negative eigenvalue is driven to -inf however small it is, so only what eigvalsh cannot tell from zero is let pass.

    Args:
        A: (..., n, n), symmetric, float32 or float64.
        target: A power of a symmetric matrix.
    """
    n, eps = A.shape[-1], torch.finfo(A.dtype).eps
    peak = A.abs().amax((-2, -1), keepdim=True)
    scaled = A / torch.where(peak == 0, 1.0, peak)
    # The factorization of a matrix with entries up to 1 may err by n eps times its norm, which is at most n.
    shift = 2.0 * n * n * eps * torch.eye(n, dtype=A.dtype, device=A.device)
    _, info = torch.linalg.cholesky_ex(scaled - shift)
    if bool((info != 0).any()):
        values = torch.linalg.eigvalsh(scaled.to(torch.float64))
        check_spectrum(values, target, eps, n * torch.finfo(values.dtype).eps)
