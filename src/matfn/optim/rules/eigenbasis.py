"""Eigenbases for SOAP: found once by eigh, then kept up to date by one step of orthogonal iteration at a time."""

import torch
from torch import Tensor

__all__ = ["first_bases", "refined"]


def first_bases(A: Tensor) -> Tensor:
    """Eigenvectors ``(b, n, n)`` of each symmetric A ``(b, n, n)``, in columns, of descending eigenvalues; by float64.

    The norm is divided out, so that small gradients have as good a basis as others.
    """
    wide = A.to(torch.float64)
    wide = wide / 2 + wide.mT / 2
    peak = wide.abs().amax((-2, -1), keepdim=True)
    _, vectors = torch.linalg.eigh(wide / torch.where(peak > 0, peak, 1.0))
    return vectors.flip(-1).to(A.dtype)


def refined(A: Tensor, Q: Tensor) -> tuple[Tensor, Tensor]:
    """One step of orthogonal iteration: the columns sorted by q^T A q, multiplied by A, orthonormalized by QR.

    Args:
        A: ``(b, n, n)``, symmetric positive semidefinite.
        Q: ``(b, n, n)``, orthogonal.

    Returns:
        The new basis, and the order: the new i-th column comes from the old one number ``order[:, i]``. What is kept in
        the coordinates of the basis must be put into that order, too.
    """
    AQ = A @ Q
    order = (AQ * Q).sum(-2).argsort(dim=-1, descending=True, stable=True)
    # Householder's QR gives an orthonormal basis of a singular matrix, too.
    basis, _ = torch.linalg.qr(AQ.gather(-1, order.unsqueeze(-2).expand_as(AQ)))
    return basis, order
