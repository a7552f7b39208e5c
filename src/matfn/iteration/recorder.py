"""Recorder: wraps a method and keeps the steps of its last call."""

from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .protocols import Evaluation, Fitted, Iteration, Scheduled
from .residual import Residual, finished
from .schedule import PLAIN, Schedule
from .step import Polynomial, Step
from .target import Target

__all__ = ["Recorder"]


class Recorder:
    """A method that runs another one and keeps the steps of the last call.

    Verbs and engines take it in place of the method and return the same result, bit for bit. Recording reads nothing
    from the device (`schedule_of` does) and computes nothing. Each call replaces the one before; an optimizer calls its
    method once for each bucket of matrices. Under `torch.compile` the graph breaks and the iteration runs as usual;
    `fullgraph=True` is refused.

    Example:
        U, H = polar(A, method=(recorder := Recorder(RitzMinimax(tol=1e-6))))
        recorder.steps_taken, recorder.schedule_of(0).coefficients

    Attributes:
        method: The recorded method.
        norms: ||I - M||_F of each matrix, (b,), before each step and after the last one, if `done` of the method asks
            for it.
    """

    def __new__(cls, method: object = None) -> "Recorder":
        """Choose the class by the protocol of the method, because a runtime check of a protocol looks at the class."""
        if cls is not Recorder or method is None:  # copy and pickle pass no method
            return object.__new__(cls)
        fitted, scheduled = isinstance(method, Fitted), isinstance(method, Scheduled)
        return object.__new__(_FittedRecorder if fitted else _ScheduledRecorder if scheduled else Recorder)

    def __init__(self, method: Scheduled | Iteration) -> None:
        _check(method)
        self.method: Any = method
        self._kept: list[Step | tuple[float | Tensor, ...]] = []
        self.norms: list[Tensor] = []
        self._p: int | None = None
        self._plan: Schedule | None = None

    def __repr__(self) -> str:
        return f"Recorder({self.method!r})"

    @property
    def steps(self) -> int:
        """The largest number of steps of the method."""
        return self.method.steps

    @property
    def steps_taken(self) -> int:
        """Number of steps of the last call; 0 before the first call."""
        return len(self._kept)

    @property
    def taken(self) -> tuple[Step, ...]:
        """The steps of the last call; coefficients are floats, or (b, 1, 1), as the method gave them."""
        # Built here, because torch.compile fails on a frozen dataclass made in a broken graph.
        return tuple(Polynomial(kept) if isinstance(kept, tuple) else kept for kept in self._kept)

    def precision(self, dtype: torch.dtype) -> torch.dtype:
        """As the method, which may have no half-precision form."""
        chosen = getattr(self.method, "precision", None)
        return dtype if chosen is None else chosen(dtype)

    def done(self, k: int, residual: Residual) -> bool:
        """As the method; notes the norm if the method asks for it."""
        self._begin(k, residual.p)
        if k == 0:
            self.norms.clear()
        over = finished(self.method, k, noting := _Noting(residual))
        self.norms += [] if noting.noted is None else [noting.noted]
        return over

    def step(self, k: int, residual: Residual) -> Step:
        """Return and keep the step of the method."""
        self._begin(k, residual.p)
        return self._keep(self.method.step(k, residual))

    def schedule_of(self, index: int = 0, lower: float | None = None) -> Schedule:
        """Return the steps of one matrix as a schedule, to plot, print or run again; waits for the device.

        A second run gives the same result up to rounding: coefficients of a batch multiply in another order than
        floats.

        Args:
            index: Index of the matrix in the batch, its leading axes flattened.
            lower: Lower bound of s for `errors` and `images`. None is the bound of the method, or 1e-3 if it has none.
                The upper bound is 1, or the largest s below 1 up to which all values end at 2 at most.

        Raises:
            RuntimeError: If nothing was run, or the run needed no step.
            IndexError: If the batch has no such matrix.
            TypeError: If `index` is no integer, or a step holds more than numbers, such as the inverse of its matrix
                (`DBNewton`).
            ValueError: If `lower` is no number in (0, 1).
        """
        if isinstance(index, bool) or not isinstance(index, int):
            raise TypeError(f"schedule_of: index must be an integer, the number of a matrix, got {index!r}")
        if lower is not None and (not isinstance(lower, int | float) or not 0 < lower < 1):
            raise ValueError(f"schedule_of: lower must be a number in (0, 1), got {lower!r}: it bounds s from below")
        if self._p is None:
            raise RuntimeError(f"{self!r} has recorded nothing yet: pass it to a function as method= first")
        if not self._kept:
            raise RuntimeError(f"the last call of {self!r} took no step: the matrices were done before it")
        rows = tuple(_member(step, index) for step in self.taken)
        known = 1e-3 if self._plan is None else self._plan.lower
        schedule = Schedule(rows, self._p, known if lower is None else lower, f"{self!r}, matrix {index}")
        preparation = PLAIN if self._plan is None else self._plan.preparation
        return replace(schedule, upper=_reach(schedule), preparation=preparation)

    def _begin(self, k: int, p: int) -> None:
        if torch.compiler.is_compiling():
            raise RuntimeError("a Recorder keeps what a call does and cannot be compiled: compile its method alone")
        del self._kept[k:]  # a new call starts at step 0
        self._p = p

    def _keep(self, step: Step) -> Step:
        self._kept.append(_kept(step))
        return step


class _ScheduledRecorder(Recorder):
    """Recorder of a method with a schedule: the schedule that it returns records."""

    def schedule(self, p: int = 2) -> Schedule:
        """As the method, step by step the same."""
        return _recording(self.method.schedule(p), self)

    @property
    def steps(self) -> int:
        """Number of steps for p = 2."""
        return self.schedule().steps

    def step(self, k: int, residual: Residual) -> Step:
        """For engines that are called without a verb, which would ask for the schedule."""
        return self.schedule(residual.p).step(k, residual)

    def planned(self, k: int, plan: Schedule, residual: Residual) -> Step:
        """Return and keep a step of the schedule."""
        self._begin(k, residual.p)
        self._plan = plan
        return self._keep(plan.schedule(residual.p).rows[k])


class _FittedRecorder(_ScheduledRecorder):
    """Recorder of a scheduled method that looks at the matrix first."""

    def fitted(self, target: Target, A: Tensor) -> Scheduled:
        """Return the schedule that the method chooses for A."""
        return _recording(self.method.fitted(target, A).schedule(target.p), self)


@dataclass(frozen=True)
class _RecordedSchedule(Schedule):
    """A schedule that tells its recorder each step."""

    recorder: _ScheduledRecorder | None = field(default=None, repr=False)

    def step(self, k: int, residual: Residual) -> Step:
        assert self.recorder is not None
        return self.recorder.planned(k, self, residual)


def _recording(plan: Schedule, recorder: _ScheduledRecorder) -> Schedule:
    return _RecordedSchedule(**{f.name: getattr(plan, f.name) for f in fields(Schedule)}, recorder=recorder)


class _Noting(Residual):
    """A residual that keeps the norm (b,) it was asked for; it shares all computed values with the other one."""

    __slots__ = ("_of", "noted")  # its dictionary is that of the other residual

    def __init__(self, of: Residual) -> None:
        self.__dict__ = of.__dict__
        self._of = of
        self.noted: Tensor | None = None

    def norm(self) -> Tensor:
        """See `Residual.norm`."""
        norm = self._of.norm()
        self.noted = norm.detach()
        return norm


def _kept(step: Step) -> Step | tuple[float | Tensor, ...]:
    """Keep only the coefficients of a polynomial, without powers of the matrix and without a graph of derivatives."""
    coefficients = getattr(step, "coefficients", None)
    return step if coefficients is None else tuple([c.detach() if isinstance(c, Tensor) else c for c in coefficients])


def _member(step: Step, index: int) -> Step:
    """Return the step of one matrix of the batch, with floats for all numbers."""

    def number(value: object) -> object:
        if isinstance(value, tuple):
            return tuple(number(one) for one in value)
        if not isinstance(value, Tensor):
            return value
        if value.ndim != 3 or value.shape[1:] != (1, 1):
            raise TypeError(
                f"a {type(step).__name__} step holds a tensor of shape {tuple(value.shape)}, which is good for its own "
                "matrix alone, so there is no schedule of it: `taken` has the steps as they were"
            )
        if not -len(value) <= index < len(value):
            raise IndexError(f"the last call had {len(value)} matrices, got index={index}")
        return float(value[index])

    return replace(step, **{f.name: number(getattr(step, f.name)) for f in fields(step)})  # pyright: ignore


def _reach(schedule: Schedule) -> float:
    """Find the end of (0, 1], to 1 part in 10,000, up to which the schedule maps all s to 2 at most."""
    s = np.linspace(0, 1, 10_001)[1:]
    with np.errstate(over="ignore", invalid="ignore"):
        beyond = np.flatnonzero(~(abs(1 - schedule(s)) <= 1))  # NaN is beyond, too
    return float(s[beyond[0] - 1]) if len(beyond) and beyond[0] else 1.0


def _check(method: object) -> None:
    if isinstance(method, str):
        raise TypeError(f"a Recorder takes a method object, got the text {method!r}: write matfn.method({method!r})")
    if isinstance(method, type):
        raise TypeError(f"a Recorder takes a value, got the class {method.__name__}: write {method.__name__}()")
    if isinstance(method, Evaluation):
        raise TypeError(f"{method!r} evaluates the function outright and takes no steps to record: give an iteration")
    if not isinstance(method, Scheduled | Iteration):
        raise TypeError(f"a Recorder takes a method with schedule(p) or step(k, residual), got {method!r}")
