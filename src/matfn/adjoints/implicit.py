"""Implicit: a value that is computed without a graph, with a derivative that is given as a formula."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..linalg.autocast import without_autocast

__all__ = ["Compute", "Gradients", "Implicit", "Pullback", "in_front"]

Gradients = tuple[Any, ...]  # tensors, and None for an output that has no gradient
Compute = Callable[[Tensor], tuple[Tensor, ...]]
Pullback = Callable[[Tensor, tuple[Tensor, ...], Gradients], Tensor]


class Implicit(torch.autograd.Function):
    """(outputs) = compute(A), and grad A = pullback(A, outputs, gradients of the outputs).

    The pullback is written in differentiable operations of A and the outputs, among them `Implicit` itself and
    `RootEquation`. Both are saved as they are in the graph, so derivatives of every order follow from the one formula.
    Only reverse mode: jvp says so.
    """

    @staticmethod
    def forward(A: Tensor, compute: Compute, pullback: Pullback, constants: int | None) -> tuple[Tensor, ...]:
        """The outputs; autograd is off in here.

        Args:
            A: (..., m, n).
            compute: From A to the outputs, for any leading shape.
            pullback: From A, the outputs and their gradients (None where there is none) to the gradient of A.
            constants: How many outputs at the end are no functions of A to autograd (a spectrum handed on); None if
                the pullback looks at no output, which may then be freed or overwritten.
        """
        # A view (the batch flattened and restored) could not be written to in place by who gets it.
        return tuple(x.detach() for x in compute(A))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keep A, and the outputs if they are wanted."""
        A, _, ctx.pullback, constants = inputs
        ctx.save_for_backward(A, *(() if constants is None else output))
        ctx.mark_non_differentiable(*output[len(output) - (constants or 0) :])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None, None, None]:
        """The pullback, with a graph if one is asked for."""
        A, *outputs = ctx.saved_tensors
        if all(g is None for g in gradients):
            return None, None, None, None
        with without_autocast(A):
            return ctx.pullback(A, tuple(outputs), gradients), None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        """Refused: there is no forward mode."""
        raise NotImplementedError(
            "matfn has derivatives in reverse mode alone, of every order: take torch.func.jacrev for jacfwd, and "
            "jacrev(jacrev(f)) for hessian(f)"
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        """A mapped dimension is one more batch dimension, in front."""
        result = Implicit.apply(in_front(args[0], in_dims[0], info.batch_size), *args[1:])
        return result, (0,) * len(result)


def in_front(A: Tensor, dim: int | None, size: int) -> Tensor:
    """A with its mapped dimension first, or with a new one of that size if it has none."""
    return A.expand(size, *A.shape) if dim is None else A.movedim(dim, 0)
