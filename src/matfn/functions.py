"""The verbs: check the argument, then compute; all but `orthogonalize` have a closed-form derivative (`adjoints`)."""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from .adjoints import adjoint, attach, polar_adjoint, with_ridge
from .engines import Engine
from .iteration.protocols import Evaluation, Method
from .iteration.target import INV, INV_ROOT, INV_SQRT, ORTHOGONALIZE, POLAR, ROOT, SIGN, SQRT, Domain, Target
from .kernels import Products
from .kernels.products import without_autocast
from .linalg.definite import check_symmetric, symmetric_part
from .linalg.norms import prescale
from .run.arguments import check_finite, check_matrix, check_readable, check_result, check_ridge, check_sum, sketch_key
from .run.convergence import check_converged
from .run.execute import accurate, evaluated_sum, execute, polar_factor
from .run.plan import resolve

__all__ = ["Polar", "inv", "inv_rootm", "inv_sqrtm", "orthogonalize", "polar", "rootm", "signm", "sqrtm"]


class Polar(NamedTuple):
    """A polar decomposition: A = U H (side "right") or A = H U (side "left")."""

    U: Tensor
    H: Tensor


def orthogonalize(
    X: Tensor,
    *,
    method: Method | None = None,
    engine: Engine | None = None,
    precision: torch.dtype | None = None,
    generator: Generator | None = None,
    products: Products | None = None,
) -> Tensor:
    """The orthogonal polar factor U V^T of X = U S V^T; the hot path of an optimizer.

    Nothing is read back from the device, so NaN and infinity are not refused: they make their own matrix NaN and leave
    the rest of the batch alone. A zero matrix gives zero; zero rows and columns stay exactly zero. The result does not
    depend on the scale of X. Autograd differentiates the steps of an iteration, so it gives the gradient of the
    approximation; `polar` has the gradient of the exact factor.

    A schedule for singular values of eps and less, such as those of `QDWH()` and `ZoloPD()`, would lift rounding noise.
    So its result is put on the range, as in `polar`: singular values up to max(m, n) eps sigma_1 become zero. In
    float32 this is 5e-4 of the largest for 4096 rows and .006 for 50,000. `QDWH(lower=1e-5)` makes all singular values
    above 1e-5 of ||X||_F one instead, and lifts rounding noise (to .16 for a 4096 x 128 matrix of rank 8 in float32).

    Args:
        X: (..., m, n), float16, bfloat16, float32 or float64.
        method: Default `PolarExpress()`, five quintic steps, worst spectral error 0.154 for singular values above 1e-3
            of ||X||_F. `certify` measures the error.
        engine: `Direct()`, or `Gram()`, which needs fewer products if m and n differ much. None is Gram in float32 if
            its predicted rounding stays below the error of the steps, else Direct.
        precision: The dtype to iterate in. None is the dtype of X, but float32 for half precision on a machine without
            arithmetic for it. bfloat16 is several times faster on most hardware.
        generator: Draws the sketches of methods that use any; None is a fixed, counter-based sketch, the same on every
            device and call, and usable under `torch.compile(fullgraph=True)`.
        products: A value of `matfn.kernels` such as `EAGER` or `Blocked(96)`, used for every large product; None is a
            choice by machine, dtype and size. `matfn.explain` shows the choices and their reasons.

    Returns:
        (..., m, n), contiguous, in the dtype of X.

    Raises:
        TypeError: For a dtype, layout or method that is not supported.
        ValueError: If X has fewer than two dimensions, `engine`, `precision` or `products` has no use for the method
            (`Exact`), or the steps amplify rounding errors beyond the precision (`Schedule.rounding`).

    References:
        Amsel et al., "The Polar Express", arXiv 2505.16932, Sections 3 and 4.
    """
    check_matrix(X, ORTHOGONALIZE)
    key, shape = sketch_key(generator, "orthogonalize"), (X.shape[-2], X.shape[-1])
    options: dict[str, Any] = {"engine": engine, "precision": precision, "products": products}
    differentiated = torch.is_grad_enabled() and X.requires_grad
    plan = resolve(ORTHOGONALIZE, method, shape, X.dtype, X.device, **options, differentiated=differentiated)
    if isinstance(plan.method, Evaluation):  # a decomposition's own derivative divides by gaps between values
        return attach(X, lambda X: (execute(plan, X, key),), polar_adjoint("right"))[0]
    with without_autocast(X):
        return execute(plan, X, key)


def polar(
    A: Tensor,
    side: str = "right",
    *,
    factor: str = "range",
    method: Method | None = None,
    generator: Generator | None = None,
) -> Polar:
    """The polar decomposition: U with orthonormal rows or columns, H symmetric positive semidefinite.

    Args:
        A: (..., m, n).
        side: "right" for A = U H with H = (A^T A)^(1/2), (..., n, n); "left" for A = H U with H = (A A^T)^(1/2),
            (..., m, m); as `scipy.linalg.polar`.
        factor: What U does to the null space of a rank-deficient A. "range": U is zero there, ||U||_F^2 = rank, and
            rows and columns of zeros stay exactly zero; "complete": U is orthonormal, one choice of many. Singular
            values up to max(m, n) eps sigma_1 count as zero, for every method, with the eps of float32 at least.
        method: Default `Exact()`, accurate to the dtype. Half precision is computed in float32.
        generator: As in `orthogonalize`.

    Returns:
        The named tuple (U, H).

    Raises:
        ValueError: If A has NaN or infinite entries, `side` or `factor` is another word, or H overflows the dtype of A.

    Warns:
        ConvergenceWarning: If the steps of `method` left singular values that are neither 1 nor 0, or if U is
            orthogonal but not the polar factor: H is then not symmetric or has negative eigenvalues.
    """
    if factor not in ("range", "complete"):
        raise ValueError(
            f'polar: factor must be "range" or "complete", got {factor!r}: it says what U does to the null space'
        )
    if side not in ("right", "left"):
        raise ValueError(f'polar: side must be "right" (A = U H) or "left" (A = H U), got {side!r}')
    check_matrix(A, POLAR)
    check_readable(A, "polar")
    value = partial(_polar, side, factor, method, sketch_key(generator, "polar"))
    return Polar(*attach(A, value, polar_adjoint(side)))


def _polar(side: str, factor: str, method: Method | None, key: int | Tensor, A: Tensor) -> tuple[Tensor, Tensor]:
    check_finite(A, "polar")
    work = torch.promote_types(A.dtype, torch.float32)
    U = polar_factor(A.to(work), factor, method, key)
    check_converged(POLAR, A.to(work), U, method, A.dtype)
    n = A.shape[-1] if side == "right" else A.shape[-2]
    if A.numel() == 0:
        return U.to(A.dtype), A.new_zeros(*A.shape[:-2], n, n)
    scaled, scale = prescale(A.reshape(-1, *A.shape[-2:]))
    flat = U.reshape(scaled.shape)
    H = flat.mT @ scaled if side == "right" else scaled @ flat.mT
    H = scale.undo((H + H.mT) / 2, 1.0).reshape(*A.shape[:-2], n, n)
    return U.to(A.dtype), check_result(H, A.dtype, "polar")


def signm(A: Tensor, *, method: Method | None = None, generator: Generator | None = None) -> Tensor:
    """The matrix sign: the eigenvectors of A with the signs of the real parts of its eigenvalues.

    Args:
        A: (..., n, n). `Exact` takes any spectrum off the imaginary axis; an iteration needs real eigenvalues off zero.
            `QDWH` and `ZoloPD` keep each half plane, so values that they do not bring to +1 or -1 are seen. Polynomials
            move complex eigenvalues, some to the wrong sign; the verb then raises an error.
        method: Default `Exact()`.
        generator: As in `orthogonalize`.

    Raises:
        SpectrumError: If an eigenvalue lies on the imaginary axis, to working precision. An iteration raises it also if
            S S is further from I than real eigenvalues explain, or if S A has an eigenvalue in the left half-plane.

    Warns:
        ConvergenceWarning: If the steps of `method` were too few, or if S is an involution but not the sign.
    """
    return _accurate(SIGN, A, method, 0.0, generator, relative=False)


def sqrtm(
    A: Tensor,
    *,
    ridge: float | Tensor = 0.0,
    relative: bool = False,
    method: Method | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """The symmetric positive semidefinite R with R R = A + ridge I.

    Args:
        A: (..., n, n), symmetric positive semidefinite (definite, for an iteration).
        ridge: Added to the diagonal first: a number of at least 0, or a tensor that broadcasts to the leading shape of
            A, with one number for each matrix. It has a gradient. The sum is in float64. `Exact` takes it as it is; an
            iteration rounds it to its own precision, in which a ridge below eps ||A|| is lost.
        relative: Whether the ridge is a multiple of ||A||_F, as in `Shampoo`: no eigenvalue is needed, and the
            condition number of A + ridge ||A||_F I is at most 1 + 1/ridge. The gradient includes ||A||_F.
        method: Default `Exact()`.
        generator: As in `orthogonalize`.

    Raises:
        TypeError: If A is no dense real tensor with values, or another argument has a wrong type.
        SpectrumError: If A + ridge I has a negative eigenvalue, whatever the method.
        ValueError: If A is not symmetric or not finite, or ridge is negative, not finite, or so large that A + ridge I
            overflows the dtype of A (float32 for half precision); or if the result overflows the dtype of A.

    Warns:
        ConvergenceWarning: If the steps of `method` were too few.
    """
    return _accurate(SQRT, A, method, ridge, generator, relative=relative)


def inv_sqrtm(
    A: Tensor,
    *,
    ridge: float | Tensor = 0.0,
    relative: bool = False,
    method: Method | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """The symmetric positive definite B with B (A + ridge I) B = I; otherwise as `sqrtm`.

    Raises:
        SpectrumError: If A + ridge I is singular or indefinite, whatever the method.
    """
    return _accurate(INV_SQRT, A, method, ridge, generator, relative=relative)


def inv_rootm(
    A: Tensor,
    p: int,
    *,
    ridge: float | Tensor = 0.0,
    relative: bool = False,
    method: Method | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """The symmetric positive definite (A + ridge I)^(-1/p) for an integer p of at least 1; otherwise as `inv_sqrtm`.

    p = 1 is the inverse, p = 4 the root of Shampoo.
    """
    return _accurate(INV_ROOT.with_exponent(p), A, method, ridge, generator, relative=relative)


def rootm(
    A: Tensor,
    p: int,
    *,
    ridge: float | Tensor = 0.0,
    relative: bool = False,
    method: Method | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """The symmetric positive semidefinite (A + ridge I)^(1/p) for an integer p of at least 1; otherwise as `sqrtm`."""
    return _accurate(ROOT.with_exponent(p), A, method, ridge, generator, relative=relative)


def inv(
    A: Tensor,
    *,
    ridge: float | Tensor = 0.0,
    relative: bool = False,
    method: Method | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """The inverse of a nonsingular A + ridge I.

    Args:
        A: (..., n, n). An iteration sees the squares of its singular values: `lower` bounds (sigma_n / ||A||_F)^2.
        ridge: As in `sqrtm`.
        relative: As in `sqrtm`; the bound of the condition number holds for positive semidefinite A.
        method: Default `Exact()` (LU).
        generator: As in `orthogonalize`.

    Raises:
        SpectrumError: If the matrix is singular (`Exact`; an iteration tends to the pseudo-inverse).

    Warns:
        ConvergenceWarning: If B A is not near I: the steps of `method` were too few, or the matrix is singular.
    """
    return _accurate(INV, A, method, ridge, generator, relative=relative)


def _accurate(
    target: Target,
    A: Tensor,
    method: Method | None,
    ridge: float | Tensor,
    generator: Generator | None,
    *,
    relative: bool,
) -> Tensor:
    """Compute one of the square functions, with its closed-form derivative."""
    check_matrix(A, target)
    check_readable(A, target.verb)
    key, added = sketch_key(generator, target.verb), check_ridge(ridge, A, target.verb, relative=relative)
    B = A
    if added is not None and A.numel():
        B = with_ridge(A, added, partial(_check_sum, target), relative=relative)
    return attach(B, partial(_value, target, method, key, A.dtype), adjoint(target))[0]


def _check_sum(target: Target, A: Tensor, ridge: Tensor, B: Tensor) -> None:
    """Check the values of A, of the ridge and of their sum B."""
    _check_values(target, A, A.dtype)
    check_sum(ridge, B, A.dtype, target.verb)


def _check_values(target: Target, A: Tensor, dtype: torch.dtype) -> None:
    check_finite(A, target.verb)
    if target.domain is Domain.SPD and A.numel():
        check_symmetric(A.to(torch.promote_types(A.dtype, torch.float32)), target.verb, torch.finfo(dtype).eps)


def _value(target: Target, method: Method | None, key: int | Tensor, dtype: torch.dtype, A: Tensor) -> tuple[Tensor]:
    """Compute the function of A; return it in `dtype`, the dtype of A before a ridge, if any, was added in float64."""
    _check_values(target, A, dtype)
    wide = torch.promote_types(dtype, torch.float32)
    A = A.to(torch.promote_types(A.dtype, wide))
    if target.domain is Domain.SPD:
        A = symmetric_part(A)
    result = evaluated_sum(target, A, method, torch.finfo(dtype).eps) if A.dtype != wide else None
    if result is not None:
        return (check_result(result, dtype, target.verb),)
    A = A.to(wide)
    result = accurate(target, A, method, key)
    narrow = check_result(result, dtype, target.verb)
    check_converged(target, A, result, method, dtype)
    return (narrow,)
