"""A schedule for reading: interval, coefficients and error of each step; and the list of methods."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields

import numpy as np

import matfn
from matfn import PartialFraction, Polynomial
from matfn.train import TrainError
from matfn.train.settings import brief

LONGEST = 1000  # characters of a method; the longest with every argument has 150


@dataclass(frozen=True)
class StepLine:
    """One step: s in `interval` goes to s q(s^p); `error`: the worst |1 - s| after it.

    q(m) is the polynomial with `coefficients` in ascending powers, plus w / (m + t) for each (w, t) of `terms`.
    """

    number: int
    interval: tuple[float, float]
    coefficients: tuple[float, ...]
    error: float
    terms: tuple[tuple[float, float], ...] = ()

    @property
    def text(self) -> str:
        """The numbers and partial fractions of q(m) in full precision, one a line."""
        fractions = [f"{w:+.17g} / (m {t:+.17g})" for w, t in self.terms]
        return "\n".join([*(f"{c:+.17g}" for c in self.coefficients), *fractions])


@dataclass(frozen=True)
class ScheduleTable:
    """A method's schedule for one p, as plain numbers."""

    spec: str
    p: int
    lower: float
    source: str
    steps: tuple[StepLine, ...]

    def after(self, s: np.ndarray, count: int) -> np.ndarray:
        """The image of s after the first `count` steps; same shape."""
        for step in self.steps[:count]:
            m = s**self.p
            q = np.polynomial.polynomial.polyval(m, step.coefficients)
            s = s * sum((w / (m + t) for w, t in step.terms), q)
        return s


def schedule_table(spec: str, p: int = 2) -> ScheduleTable:
    """Parse `spec`, such as "polar-express:steps=6,lower=1e-4", and compute its schedule for p-th roots.

    Raises:
        TrainError: No such method or argument, or a method without a schedule.
    """
    if len(spec) > LONGEST:
        raise TrainError(f"a method is written in at most {LONGEST} characters, got {brief(spec)}")
    try:
        method = matfn.method(spec)
        plan = getattr(method, "schedule", None)
        if plan is None:
            raise TrainError(
                f"{brief(spec)} has no schedule: its steps depend on the matrix, or it takes none; see `matfn methods`"
            )
        schedule = plan(p)
    except (ValueError, TypeError) as error:
        raise TrainError(str(error)) from None
    except ArithmeticError as error:
        told = f"{brief(spec)} with p = {p} is beyond what the solver can compute ({error})"
        raise TrainError(f"{told}: lower p or degree, or raise lower") from None
    # Taylor and tuned schedules have no intervals: show the images of [lower, 1].
    intervals = schedule.intervals or ((schedule.lower, 1.0), *schedule.images()[:-1])
    steps = zip(intervals, schedule.rows, schedule.errors(), strict=True)
    lines = []
    for number, ((low, high), row, error) in enumerate(steps, start=1):
        match row:
            case Polynomial():
                coefficients, terms = tuple(map(float, row.coefficients)), ()
            case PartialFraction():
                coefficients = (float(row.constant),)
                terms = tuple(zip(map(float, row.weights), map(float, row.shifts), strict=True))
            case _:
                raise TrainError(f"there is no table for steps like {row!r}")
        lines.append(StepLine(number, (float(low), float(high)), coefficients, float(error), terms))
    return ScheduleTable(matfn.spec(method), schedule.p, float(schedule.lower), schedule.source, tuple(lines))


def method_lines() -> list[tuple[str, str, str]]:
    """Name, arguments with their defaults, and summary of every method."""
    lines = []
    for name, cls in matfn.METHODS.items():
        shown = ((field.name, field.default) for field in fields(cls) if field.init)
        arguments = ",".join(name if value is MISSING else f"{name}={value}" for name, value in shown)
        lines.append((name, arguments, (cls.__doc__ or "").strip().partition("\n")[0]))
    return lines
