"""Definite: the symmetric part of a matrix, and the test whether its spectrum allows a root or an inverse root."""

import torch
from torch import Tensor

from ..errors import SpectrumError, which

__all__ = ["check_definite", "check_spectrum", "check_symmetric", "symmetric_part"]

_NONSYMMETRIC = (
    "functions of nonsymmetric matrices, except inv and signm, are not supported. A product of symmetric positive "
    "definite A and B is similar to a symmetric matrix: f(A B) = A^(1/2) f(A^(1/2) B A^(1/2)) A^(-1/2)"
)


def symmetric_part(A: Tensor) -> Tensor:
    """Return (A + A^T)/2 for A (..., n, n)."""
    return A / 2 + A.mT / 2  # not (A + A.mT) / 2, which overflows for entries near the largest number


def check_symmetric(A: Tensor, verb: str, eps: float) -> None:
    """Refuse an A (..., n, n) that differs from A^T by more than 4 n eps of its largest entry.

    A is in float32 or float64; eps is of the dtype that the caller gave, perhaps narrower.

    Raises:
        ValueError: If a matrix is not symmetric; the error names the first one.
    """
    peak = A.abs().amax((-2, -1))
    asymmetry = (A / 2 - A.mT / 2).abs().amax((-2, -1))  # halves: the difference of large entries may overflow
    bad = asymmetry > 2 * A.shape[-1] * eps * peak
    if bool(bad.any()):
        given = (2 * asymmetry / peak)[bad][0].item()  # a zero matrix is symmetric, so the peak is not 0
        advice = "pass (A + A.mT) / 2" if given <= eps**0.5 else _NONSYMMETRIC
        raise ValueError(
            f"{verb} takes symmetric matrices, but {which(bad)} differs from its transpose by {given:.2g} of the "
            f"largest entry: {advice}"
        )


def check_spectrum(values: Tensor, what: str, zero: float | None, negative: float) -> None:
    """Refuse a spectrum with eigenvalues of which a real power does not exist; the error names the smallest eigenvalue.

    Args:
        values: (..., n), ascending.
        what: The function, for the message.
        zero: For an inverse, the share of the largest eigenvalue up to which an eigenvalue counts as zero; None for a
            power that exists at zero.
        negative: Share of the largest eigenvalue by which rounding may make an eigenvalue negative.
    """
    size = values.abs().amax(-1)
    relative = torch.where(size == 0, 0.0, values[..., 0] / size).reshape(-1)
    worst = int(relative.argmin())
    matrix = f" of matrix {worst} of {len(relative)}" if len(relative) > 1 else ""
    given = f"the smallest eigenvalue{matrix} is {relative[worst].item():.3g} of the largest"
    if zero is not None and bool((relative <= zero).any()):
        advice = "add ridge=..., or a larger one" + ("" if zero < 1e-12 else ", or use float64")
        raise SpectrumError(
            f"{what} needs a positive definite matrix, but {given}, which is zero or negative to working precision: "
            f"{advice}"
        )
    if bool((relative < -negative).any()):
        raise SpectrumError(
            f"{what} needs a positive semidefinite matrix, but {given}: add ridge=..., or a larger one, to shift it"
        )


@torch.no_grad()
def check_definite(A: Tensor, what: str, inverse: bool) -> None:
    """Run `check_spectrum` on A (..., n, n), by one Cholesky factorization if every matrix is safely definite.

    An iteration does not see the spectrum, and returns numbers for an indefinite matrix. It drives every negative
    eigenvalue to minus infinity, so only values that eigvalsh cannot tell from zero pass. `inverse` tells whether the
    function `what` needs nonzero eigenvalues.
    """
    n, eps = A.shape[-1], torch.finfo(A.dtype).eps
    peak = A.abs().amax((-2, -1), keepdim=True)
    scaled = A / torch.where(peak == 0, 1.0, peak)
    # The factorization of a matrix with entries up to 1 may err by n eps times its norm, which is at most n.
    shift = 2.0 * n * n * eps * torch.eye(n, dtype=A.dtype, device=A.device)
    _, info = torch.linalg.cholesky_ex(scaled - shift)
    if bool((info != 0).any()):
        values = torch.linalg.eigvalsh(scaled.to(torch.float64))
        check_spectrum(values, what, eps if inverse else None, n * torch.finfo(values.dtype).eps)
