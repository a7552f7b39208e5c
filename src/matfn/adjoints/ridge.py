"""Ridge: A + ridge I in float64, with the derivatives for A and for the ridge."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .implicit import in_front

__all__ = ["with_ridge"]

Check = Callable[[Tensor, Tensor, Tensor], None]  # takes A, the ridge and their sum; raises for bad values


def with_ridge(A: Tensor, ridge: Tensor, check: Check, *, relative: bool) -> Tensor:
    """Return A + ridge I, (..., n, n), or A + ridge ||A||_F I if `relative`, in float64.

    The sum is in float64, because a ridge near the rounding of A would change if it were rounded to the dtype of A.
    `ridge` has the leading shape of A. `check(A, ridge, B)` raises for bad values of the three, B being the sum. It is
    called inside the autograd function, which sees whole batches under `torch.func.vmap`.
    """
    return Ridged.apply(A, ridge, check, relative)  # pyright: ignore[reportReturnType]


class Ridged(torch.autograd.Function):
    """B = A + ridge I. With G the gradient of B, A has the gradient G and the ridge has tr G.

    If `relative`, B = A + ridge ||A||_F I. Then A has the gradient G + ridge tr(G) A / ||A||_F, and the ridge has
    ||A||_F tr G. Reverse mode only. The backward formula consists of differentiable operations, so derivatives of every
    order exist.
    """

    @staticmethod
    def forward(A: Tensor, ridge: Tensor, check: Check, relative: bool) -> Tensor:
        """Add, and check the values."""
        B = A.to(torch.float64, copy=True)
        shift = ridge * _norm(B) if relative else ridge
        B.diagonal(dim1=-2, dim2=-1).add_(shift.unsqueeze(-1))
        check(A, ridge, B)
        return B

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Save A and the ridge."""
        A, ridge, _, ctx.relative = inputs
        ctx.save_for_backward(A, ridge)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Return the gradients of A and of the ridge."""
        (G,), (A, ridge) = gradients, ctx.saved_tensors
        trace = G.diagonal(dim1=-2, dim2=-1).sum(-1)
        if not ctx.relative:
            return G.to(A.dtype), trace, None, None
        A64 = A.to(torch.float64)
        norm = _norm(A64)
        direction = A64 / torch.where(norm == 0, 1.0, norm)[..., None, None]
        return (G + (ridge * trace)[..., None, None] * direction).to(A.dtype), norm * trace, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
        """Treat the mapped dimension as a batch dimension in front."""
        A, ridge = (in_front(x, dim, info.batch_size) for x, dim in zip(args[:2], in_dims[:2], strict=True))
        return Ridged.apply(A, ridge, *args[2:]), 0  # pyright: ignore[reportReturnType]


def _norm(A: Tensor) -> Tensor:
    """Return ||A||_F of each matrix, (...), without overflow of the squares."""
    peak = A.detach().abs().amax((-2, -1))
    peak = torch.where(peak == 0, 1.0, peak)
    return peak * torch.linalg.vector_norm(A / peak[..., None, None], dim=(-2, -1))
