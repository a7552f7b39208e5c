"""Implicit: a value computed without a graph, with its derivative given as a formula."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..kernels.products import without_autocast

__all__ = ["Compute", "Gradients", "Implicit", "Pullback", "attach", "in_front", "symmetrised"]

Gradients = tuple[Any, ...]  # tensors, or None for an output without a gradient
Compute = Callable[[Tensor], tuple[Tensor, ...]]
Pullback = Callable[[Tensor, tuple[Tensor, ...], Gradients], Tensor]


def attach(A: Tensor, compute: Compute, pullback: Pullback) -> tuple[Tensor, ...]:
    """Return compute(A), A (..., m, n), computed without a graph, with `pullback` as its derivative."""
    with without_autocast(A):
        return Implicit.apply(A, compute, pullback, None) if A.numel() else compute(A)


class Implicit(torch.autograd.Function):
    """Evaluate outputs = compute(A), with grad A = pullback(A, outputs, gradients of the outputs).

    The pullback uses differentiable operations of A and the outputs, such as `Implicit` and `RootEquation`. A and the
    outputs are saved with their graph, so one formula gives derivatives of every order. Reverse mode only.
    """

    @staticmethod
    def forward(A: Tensor, compute: Compute, pullback: Pullback, constants: int | None) -> tuple[Tensor, ...]:
        """Compute the outputs for A (..., m, n); autograd is off here.

        The last `constants` outputs (a spectrum) are constants to autograd. None: the pullback uses no output, so the
        outputs may be freed or overwritten. `compute` takes any leading shape.
        """
        # Detach: torch refuses in-place changes of a view that a custom function returned.
        return tuple(x.detach() for x in compute(A))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Save A, and the outputs if the pullback uses them."""
        A, _, ctx.pullback, constants = inputs
        ctx.save_for_backward(A, *(() if constants is None else output))
        ctx.mark_non_differentiable(*output[len(output) - (constants or 0) :])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None, None, None]:
        """Apply the pullback, with a graph for higher derivatives if autograd builds one."""
        A, *outputs = ctx.saved_tensors
        if all(g is None for g in gradients):
            return None, None, None, None
        with without_autocast(A):
            return ctx.pullback(A, tuple(outputs), gradients), None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        """Refuse forward mode."""
        raise NotImplementedError(
            "matfn has derivatives of every order, but only in reverse mode: use torch.func.jacrev instead of jacfwd, "
            "and jacrev(jacrev(f)) instead of hessian(f)"
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        """Treat the mapped dimension as a batch dimension in front."""
        result = Implicit.apply(in_front(args[0], in_dims[0], info.batch_size), *args[1:])
        return result, (0,) * len(result)


def in_front(A: Tensor, dim: int | None, size: int) -> Tensor:
    """Move the mapped dimension of A to the front, or add a new one of the given size."""
    return A.expand(size, *A.shape) if dim is None else A.movedim(dim, 0)


def symmetrised(A: Tensor) -> Tensor:
    """Return the symmetric part; halving first avoids overflow."""
    return A / 2 + A.mT / 2
