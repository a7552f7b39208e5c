"""Device roots: inverse roots on a GPU by products alone. The host reads the verdict of each root one step later."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import pi

import torch
from torch import Tensor

from ...certify import balanced_residual
from ...iteration.protocols import Fitted
from ...kernels.products import without_autocast
from ...run.execute import execute
from ...run.plan import RunPlan
from .inverse_roots import NOT_FINITE, RootMethod, chosen, exact_root, ridged, root_plan
from .kronecker import Factor

__all__ = ["Verdict", "device_plan", "device_roots", "probes", "reads_free", "sent"]

_PROBES = 16  # columns
_TURN = pi * (5**0.5 - 1)  # the golden ratio of a full turn, whose multiples come near 0 as late as possible


def reads_free(device: torch.device) -> bool:
    """Whether the host can read a tensor without waiting for the device."""
    return device.type == "cpu"


def device_plan(A: Tensor, p: int, ridge: float, method: RootMethod | None) -> RunPlan | None:
    """The plan for roots without a host read; None if reading is free or the method needs it.

    Decompositions need it: they wait for the device, and raise. So do methods that look at the matrix beforehand.
    """
    if reads_free(A.device):
        return None
    method = chosen(A, p, ridge, method)
    plan = root_plan(A.shape[-1], p, ridge, A.dtype, A.device, method)
    return None if plan.iteration is None or isinstance(method, Fitted) else plan


def device_roots(
    A: Tensor, last: Tensor, ridge: float, plan: RunPlan, tolerance: float, of_zero: float
) -> tuple[Tensor, Tensor]:
    """(A + ridge ||A||_F I)^(-1/p) of each matrix, or its last root, without a decomposition and without a host read.

    The ridge bounds the spectrum from below, so the sum is definite, and no eigenvalue is computed to know it.
    Rounding of A may leave eigenvalues of about -1e-7 ||A||_F. The iteration treats them as positive ones of that size,
    or diverges, which the residual shows. A root is accepted if A is finite, the "balanced" residual (`certify`),
    estimated by 16 random columns in float64, is at most the tolerance, and the diagonal is positive, as for every
    definite matrix.

    Args:
        A: ``(b, n, n)``, symmetric positive semidefinite up to rounding.
        last: ``(b, n, n)``, the last roots, which stay where a new one is not accepted.
        ridge: Relative to ||A||_F.
        plan: From `device_plan`; it has p.
        tolerance: The greatest residual accepted.
        of_zero: The root of zero is this number times I, 0 or 1.

    Returns:
        The roots, and the figures ``(3, b)`` for `Verdict`: the residual, infinite for a root that is not positive;
        whether A is finite; whether A is zero. 1 stands for true.
    """
    p = plan.target.p
    X, scale = ridged(A, ridge)
    finite = torch.linalg.vector_norm(X, dim=(-2, -1)).isfinite()
    X = torch.where(finite[:, None, None], X, torch.eye(X.shape[-1], dtype=X.dtype, device=X.device))
    with without_autocast(X):
        U = execute(plan, X)
        residual = balanced_residual(X, U, p, probes(X.shape[-1], X.device))
    residual = torch.where((U.diagonal(dim1=-2, dim2=-1) > 0).all(-1), residual, torch.inf)
    sound = finite & (residual <= tolerance)
    values = torch.where(sound[:, None, None], scale.undo(U, -1 / p), last)
    zero = (A == 0).all(-1).all(-1)
    if not of_zero:
        values = torch.where(zero[:, None, None], 0.0, values)
    return values, torch.stack([residual, finite.to(residual.dtype), zero.to(residual.dtype)])


def probes(n: int, device: torch.device) -> Tensor:
    """16 columns ``(n, 16)`` in float64 with entries of mean square 1, for `balanced_residual`.

    They are sqrt(2) cos(place^2 turn). They are the same on every device, and take five launches, where a hash takes
    forty. A CUDA graph can hold them. It cannot hold a new random generator.
    """
    place = torch.arange(n * _PROBES, dtype=torch.float64, device=device).view(n, _PROBES)
    return place.square_().mul_(_TURN).cos_().mul_(2**0.5)


def sent(figures: Tensor) -> tuple[Tensor, torch.cuda.Event | None] | None:
    """Begin to copy the figures to pinned host memory: the copy, and the event after it.

    On other devices than CUDA's these are the figures and None. While a CUDA graph is captured the result is None,
    because a replay runs no code on the host, and so nothing would read the copy.
    """
    if figures.device.type != "cuda":
        return figures, None
    if torch.cuda.is_current_stream_capturing():
        return None
    host = figures.to("cpu", non_blocking=True)  # torch takes pinned memory for it, from its cache
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(figures.device))
    return host, event


@dataclass(frozen=True, eq=False)
class Verdict:
    """The figures of `device_roots` for one batch, on their way to the host.

    The factors must not have changed when they are settled.
    """

    due: Sequence[Factor]
    plan: RunPlan
    ridge: float
    tolerance: float
    figures: Tensor  # (3, b)
    arrived: torch.cuda.Event | None

    @property
    def owners(self) -> list[tuple[Factor, int]]:
        """(factors, index in them) for each matrix of the batch."""
        return [(one, i) for one in self.due for i in range(len(one.values))]

    def settle(self) -> tuple[list[tuple[int, str]], list[tuple[int, str]], list[int]]:
        """Wait until the figures have arrived, and compute each refused root again in float64 by `Exact`.

        Returns:
            (index, reason) of roots computed again; (index, reason) of roots that keep their last value; indices of
            zero factors.
        """
        if self.arrived is not None:
            self.arrived.synchronize()
        repeated, failed = [], []
        residuals, finite, zero = self.figures.tolist()
        for k, (one, i) in enumerate(self.owners):
            if not finite[k]:
                failed.append((k, NOT_FINITE))
            elif not residuals[k] <= self.tolerance:
                root, still = self._again(one.values[i : i + 1] / one.weight)
                reason = f"its residual by {self.plan.method!r} is {residuals[k]:.2g}"
                (failed if still else repeated).append((k, still or reason))
                if not still:
                    one.last[i].copy_(root[0])
        return repeated, failed, [k for k, is_zero in enumerate(zero) if is_zero]

    def _again(self, A: Tensor) -> tuple[Tensor, str]:
        p = self.plan.target.p
        X, scale = ridged(A, self.ridge)
        root, still = exact_root(X, p, self.tolerance)
        return scale.undo(root.to(A.dtype), -1 / p), still
