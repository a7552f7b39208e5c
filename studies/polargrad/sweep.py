"""The edge of stability: the objective after so many steps over a grid of rates, instead of one lucky curve."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from studies.polargrad.problems import Completion, Quadratic
from studies.polargrad.runs import Arm, follow

__all__ = ["SWEEPS", "Sweep", "Sweeping", "sweep"]


@dataclass(frozen=True)
class Sweeping:
    """A grid: an arm, and the rates that replace its own."""

    problem: str
    arm: Arm
    rates: tuple[float, ...]


@dataclass(frozen=True)
class Sweep:
    """The objective after 100, 200 and 300 steps for each rate; infinite if the run diverged.

    Attributes:
        edge: The greatest rate that was not lost and the least that was, above all that were not; None if none was.
        best: The rate of the least value at the end.
        wide: The least and the greatest of the rates about the best that end within a factor of ten of it.
    """

    problem: str
    label: str
    rates: tuple[float, ...]
    steps: tuple[int, ...]
    values: tuple[tuple[float, ...], ...]

    @property
    def edge(self) -> tuple[float, float] | None:
        """See the class."""
        kept = [rate for rate, row in zip(self.rates, self.values, strict=True) if math.isfinite(row[-1])]
        lost = [rate for rate in self.rates if rate > max(kept, default=0.0)]
        return (max(kept, default=0.0), min(lost)) if lost else None

    @property
    def best(self) -> float:
        """See the class."""
        return min(zip((row[-1] for row in self.values), self.rates, strict=True))[1]

    @property
    def wide(self) -> tuple[float, float]:
        """See the class."""
        ends = dict(zip(self.rates, (row[-1] for row in self.values), strict=True))
        far = [rate for rate, end in ends.items() if not end <= 10 * ends[self.best]]
        low = max((rate for rate in far if rate < self.best), default=0.0)
        high = min((rate for rate in far if rate > self.best), default=math.inf)
        near = [rate for rate in self.rates if low < rate < high]
        return min(near), max(near)


def _grid(unit: float, *multiples: float) -> tuple[float, ...]:
    return tuple(float(f"{unit * x:.6g}") for x in multiples)


SWEEPS = (
    Sweeping(
        "quadratic",
        Arm("polargrad", 0, 300, "exact", double=True),
        _grid(1e-8, 0.523, 1, 2, 2.5, 2.8, 3, 3.1, 3.2, 3.3, 3.4, 3.5, 4),
    ),
    Sweeping("quadratic", Arm("polargrad", 0, 300, "QDWH@2"), _grid(1e-8, 0.5, 1, 2, 3, 4, 4.25, 4.5, 4.75, 5, 6)),
    Sweeping(
        "quadratic",
        Arm("momentum-first", 0, 300, "exact", 0.9, double=True),
        _grid(1e-7, 0.25, 0.5, 1, 1.5, 2, 2.5, 3, 4, 5, 7),
    ),
    Sweeping(
        "quadratic",
        Arm("polar-first", 0, 300, "exact", 0.95, double=True),
        _grid(1e-7, 0.5, 1, 2, 3, 4, 5, 6, 8, 11, 15),
    ),
    Sweeping("quadratic", Arm("muon", 0, 300, "exact", 0.95, double=True), (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)),
    Sweeping("completion", Arm("polargrad", 0, 300, "exact"), _grid(1.0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50)),
    Sweeping("completion", Arm("muon", 0, 300, "exact", 0.95), (0.02, 0.05, 0.1, 0.25, 0.5, 1.0)),
)


def sweep(wanted: Sweeping, notice: Callable[[str], None], *, steps: tuple[int, ...] = (100, 200, 300)) -> Sweep:
    """Run the arm once for each rate, always from the same start."""
    kinds: dict[str, Callable[..., Quadratic | Completion]] = {"quadratic": Quadratic, "completion": Completion}
    values = []
    for rate in wanted.rates:
        arm = replace(wanted.arm, lr=rate, steps=steps[-1])
        notice(f"sweep  {wanted.problem}, {arm.label}")
        trace = follow(kinds[wanted.problem](arm.dtype), arm, lambda k: k in steps or k % 20 == 0)
        values.append(tuple(trace.at(k) for k in steps))
    label = wanted.arm.label.replace(", lr 0", "")
    return Sweep(wanted.problem, label, wanted.rates, steps, tuple(values))
