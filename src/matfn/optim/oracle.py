"""PolarOptimizer: what the optimizers share whose direction begins with a polar factor, by any method."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..checks import check_precision
from ..functions import orthogonalize
from ..method import Evaluation, Iteration, Method, Scheduled
from ..methods import PolarExpress
from .base import MatrixOptimizer

__all__ = ["PolarOptimizer"]


class PolarOptimizer(MatrixOptimizer):
    """Base of Muon, NorMuon and PolarGrad: holds the oracle.

    Args:
        params: see `MatrixOptimizer`.
        defaults: see `MatrixOptimizer`.
        method: a value of `matfn.METHODS`, None for `PolarExpress()`.
        precision: dtype in which the iteration runs, None for `usual_precision`.
        rest: see `MatrixOptimizer`.

    Raises:
        ValueError: `precision` was given with a method that does not iterate; and see `MatrixOptimizer`.
        TypeError: `method` is no method object, `precision` no dtype; and see `MatrixOptimizer`.
    """

    kept = (*MatrixOptimizer.kept, "method", "precision")

    def __init__(
        self,
        params: Any,
        defaults: dict[str, Any],
        *,
        method: Method | None,
        precision: torch.dtype | None,
        rest: Mapping[str, Any] | None,
    ) -> None:
        who = type(self).__name__
        known = method is None or isinstance(method, Scheduled | Iteration | Evaluation)
        if not known or isinstance(method, type):
            raise TypeError(f"{who}: method must be a value such as PolarExpress(), got {method!r}; see matfn.method.")
        check_precision(precision)
        if isinstance(method, Evaluation) and precision is not None:
            raise ValueError(f"{who}: {method!r} does not iterate, so precision={precision} has no use; leave it out.")
        self.method = method
        self.precision = precision
        super().__init__(params, defaults, rest=rest)

    def factor(self, stack: Tensor) -> Tensor:
        """The polar factor of each matrix of the stack ``(b, m, n)``, contiguous, in its dtype."""
        if isinstance(self.method, Evaluation):
            return orthogonalize(stack, method=self.method)
        return orthogonalize(stack, method=self.method, precision=self.precision or self.usual_precision(stack.dtype))

    def usual_precision(self, dtype: torch.dtype) -> torch.dtype | None:
        """bfloat16, where momentum is float32 and the method has a half-precision form (products alone)."""
        method = PolarExpress() if self.method is None else self.method
        iteration = method.schedule(2) if isinstance(method, Scheduled) else method
        form = getattr(iteration, "precision", lambda half: half)(torch.bfloat16)
        return torch.bfloat16 if dtype is torch.float32 and form is torch.bfloat16 else None
