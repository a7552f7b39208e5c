"""Work: steps, matrix products and decompositions of a call, counted in torch's dispatcher."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from matfn.iteration.protocols import Evaluation, Fitted, Iteration, Method, Scheduled
from matfn.iteration.residual import Residual, finished
from matfn.iteration.schedule import Schedule
from matfn.iteration.step import Step
from matfn.iteration.target import Target

__all__ = ["Work", "counted", "steps_of"]

_PRODUCTS = {"mm": 0, "bmm": 0, "addmm": 1, "baddbmm": 1}  # position of the first factor among the arguments
_DECOMPOSITIONS = {"svd", "eigh", "eig", "qr", "cholesky_ex", "lu_factor_ex", "ldl_factor_ex", "solve_ex", "inv_ex"}


@dataclass
class Work:
    """What a call has computed.

    Attributes:
        products: Multiplications in matrix products, in units of (short side)^2 x (long side); skinny ones count for
            the fraction that they are.
        decompositions: SVD, eigh, QR, LU, Cholesky, inverses and solutions from scratch, a batch of k counted k times.
    """

    products: float = 0.0
    decompositions: int = 0


class _Counter(TorchDispatchMode):
    """Sits below all of the library, so that no engine, kernel or method is left out or has to know."""

    def __init__(self, unit: int) -> None:
        super().__init__()
        self.work, self._unit = Work(), unit

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count the operation and do it."""
        name = func.overloadpacket.__name__
        if name in _PRODUCTS:
            left, right = args[_PRODUCTS[name] : _PRODUCTS[name] + 2]
            self.work.products += left.numel() * right.shape[-1] / self._unit
        elif name.lstrip("_").removeprefix("linalg_") in _DECOMPOSITIONS:
            self.work.decompositions += args[0][..., 0, 0].numel()
        return func(*args, **(kwargs or {}))


def counted(call: Callable[[], Tensor], A: Tensor) -> tuple[Tensor, Work]:
    """The result of the call, and the work it took on A, (m, n); work outside torch is not seen."""
    with _Counter(min(A.shape) ** 2 * max(A.shape)) as counter:
        result = call()
    return result, counter.work


class _Stepping:
    """A method that looks before each step, and how many steps were asked of it."""

    def __init__(self, method: Iteration) -> None:
        self.asked, self._method = 0, method

    @property
    def steps(self) -> int:
        return self._method.steps

    def step(self, k: int, residual: Residual) -> Step:
        self.asked += 1
        return self._method.step(k, residual)

    def done(self, k: int, residual: Residual) -> bool:
        return finished(self._method, k, residual)


class _Fitting:
    """A method whose schedule may be fitted to the matrix; `last` is the method after that."""

    def __init__(self, method: Scheduled) -> None:
        self.last = method

    def schedule(self, p: int = 2) -> Schedule:
        return self.last.schedule(p)

    def fitted(self, target: Target, A: Tensor) -> Scheduled:
        if isinstance(self.last, Fitted):
            self.last = self.last.fitted(target, A)
        return self.last


def steps_of(method: Method, target: Target, run: Callable[[Any], object]) -> int | None:
    """The steps of the method: of its schedule, or its `steps` argument; None without either.

    Args:
        method: Of any kind.
        target: What `run` computes.
        run: Computes it with the method that it is given.
    """
    if isinstance(method, Evaluation):
        return None
    if isinstance(method, Scheduled):
        fitting = _Fitting(method)
        run(fitting)
        return fitting.last.schedule(target.p).steps
    stepping = _Stepping(method)
    run(stepping)
    return stepping.asked
