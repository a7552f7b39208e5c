"""Record: a method that does what another one does, and keeps the steps it took."""

from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .polynomial import Polynomial
from .preparation import PLAIN
from .protocols import Evaluation, Fitted, Iteration, Scheduled
from .residual import Residual, finished
from .schedule import Schedule
from .step import Step
from .target import Target

__all__ = ["Recorder"]


class Recorder:
    """The method it is given, with a memory: what the last call did, step by step and matrix by matrix.

    Verbs and engines take it wherever they take the method, and return the same, bit for bit. It reads nothing from the
    device (`schedule_of` does) and computes nothing: a norm is noted only if `done` of the method asks for one. Each
    call forgets the one before; an optimizer calls its method once for every bucket of matrices. Under `torch.compile`
    the graph breaks, and the iteration runs as usual; with `fullgraph=True` it is refused.

    Example:
        U, H = polar(A, method=(recorder := Recorder(RitzMinimax(tol=1e-6))))
        recorder.steps_taken, recorder.schedule_of(0).coefficients

    Attributes:
        method: What is recorded.
        norms: ||I - M||_F of each matrix, (b,), wherever `done` of the method asked for it: before each step and after
            the last one.
    """

    def __new__(cls, method: object = None) -> "Recorder":
        """One that has the protocol of the method: a runtime check sees which methods an object has."""
        if cls is not Recorder or method is None:  # so copies are made
            return object.__new__(cls)
        fitted, scheduled = isinstance(method, Fitted), isinstance(method, Scheduled)
        return object.__new__(_FittedRecorder if fitted else _ScheduledRecorder if scheduled else Recorder)

    def __init__(self, method: Scheduled | Iteration) -> None:
        """Args: any method that takes steps."""
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
        """The most steps that the method takes."""
        return self.method.steps

    @property
    def steps_taken(self) -> int:
        """Of the last call; 0 before the first one."""
        return len(self._kept)

    @property
    def taken(self) -> tuple[Step, ...]:
        """The steps; coefficients as the method gave them, floats or (b, 1, 1) for all matrices."""
        # Not before: torch.compile trips over a frozen dataclass made in a broken graph.
        return tuple(Polynomial(kept) if isinstance(kept, tuple) else kept for kept in self._kept)

    def precision(self, dtype: torch.dtype) -> torch.dtype:
        """That of the method, which may have no half-precision form."""
        chosen = getattr(self.method, "precision", None)
        return dtype if chosen is None else chosen(dtype)

    def done(self, k: int, residual: Residual) -> bool:
        """What the method says, by a residual that notes the norm if the method asks for it."""
        self._begin(k, residual.p)
        if k == 0:
            self.norms.clear()
        over = finished(self.method, k, noting := _Noting(residual))
        self.norms += [] if noting.noted is None else [noting.noted]
        return over

    def step(self, k: int, residual: Residual) -> Step:
        """The step of the method."""
        self._begin(k, residual.p)
        return self._keep(self.method.step(k, residual))

    def schedule_of(self, index: int = 0, lower: float | None = None) -> Schedule:
        """The steps that one matrix went through, to be plotted, printed or taken again; it waits for the device.

        Taken again they give the same up to rounding: coefficients of a batch multiply in another order than floats.

        Args:
            index: Which matrix of the batch, its leading axes flattened.
            lower: Of s, for `errors` and `images`. None is the bound that the method was made for, and 1e-3 if it was
                made for none. The upper end is 1, or, where the steps were made for a matrix with less, as far as all
                values end at no more than 2.

        Raises:
            RuntimeError: If nothing was run, or the run needed no step.
            IndexError: If the batch has no such matrix.
            TypeError: If a step holds more than numbers, such as the inverse of its matrix (`DBNewton`).
        """
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
        """Forget all from step k on: a call starts at 0."""
        if torch.compiler.is_compiling():
            raise RuntimeError("a Recorder keeps what a call does and cannot be compiled: compile its method alone")
        del self._kept[k:]
        self._p = p

    def _keep(self, step: Step) -> Step:
        self._kept.append(_kept(step))
        return step


class _ScheduledRecorder(Recorder):
    """Of a method whose schedule is known beforehand: the schedule it gives records."""

    def schedule(self, p: int = 2) -> Schedule:
        """The method's, step by step the same."""
        return _recording(self.method.schedule(p), self)

    @property
    def steps(self) -> int:
        """Of the schedule for p = 2."""
        return self.schedule().steps

    def step(self, k: int, residual: Residual) -> Step:
        """For engines that are called without a verb, which would ask for the schedule."""
        return self.schedule(residual.p).step(k, residual)

    def planned(self, k: int, plan: Schedule, residual: Residual) -> Step:
        """Keep and return a step of the schedule."""
        self._begin(k, residual.p)
        self._plan = plan
        return self._keep(plan.schedule(residual.p).rows[k])


class _FittedRecorder(_ScheduledRecorder):
    """Of a scheduled method that looks at the matrix once before."""

    def fitted(self, target: Target, A: Tensor) -> Scheduled:
        """The schedule that the method settles for."""
        return _recording(self.method.fitted(target, A).schedule(target.p), self)


@dataclass(frozen=True)
class _RecordedSchedule(Schedule):
    """A schedule that tells its recorder which step was asked for."""

    recorder: _ScheduledRecorder | None = field(default=None, repr=False)

    def step(self, k: int, residual: Residual) -> Step:
        assert self.recorder is not None
        return self.recorder.planned(k, self, residual)


def _recording(plan: Schedule, recorder: _ScheduledRecorder) -> Schedule:
    return _RecordedSchedule(**{f.name: getattr(plan, f.name) for f in fields(Schedule)}, recorder=recorder)


class _Noting(Residual):
    """A residual that remembers the norm (b,) it was asked for; whatever is computed it shares with the other one."""

    __slots__ = ("_of", "noted")  # beside the dictionary, which is the other one's

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
    """Of a polynomial the coefficients alone: no products of the very matrix, no graph of derivatives."""
    coefficients = getattr(step, "coefficients", None)
    return step if coefficients is None else tuple([c.detach() if isinstance(c, Tensor) else c for c in coefficients])


def _member(step: Step, index: int) -> Step:
    """The step of one matrix of the batch, all its numbers floats."""

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
    """Up to where in (0, 1] the schedule maps all s to 2 at most, to 1 part in 10,000."""
    s = np.linspace(0, 1, 10_001)[1:]
    with np.errstate(over="ignore", invalid="ignore"):
        beyond = np.flatnonzero(~(abs(1 - schedule(s)) <= 1))  # NaN is beyond, too
    return float(s[beyond[0] - 1]) if len(beyond) and beyond[0] else 1.0


def _check(method: object) -> None:
    """Refuse what takes no steps.

    Raises:
        TypeError: If it is a class, a text, a decomposition or no method at all.
    """
    if isinstance(method, str):
        raise TypeError(f"a Recorder takes a method object, got the text {method!r}: write matfn.method({method!r})")
    if isinstance(method, type):
        raise TypeError(f"a Recorder takes a value, got the class {method.__name__}: write {method.__name__}()")
    if isinstance(method, Evaluation):
        raise TypeError(f"{method!r} evaluates the function outright and takes no steps to record: give an iteration")
    if not isinstance(method, Scheduled | Iteration):
        raise TypeError(f"a Recorder takes a method with schedule(p) or step(k, residual), got {method!r}")
