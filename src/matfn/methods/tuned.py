"""Tuned: published coefficients found by search, for comparison; the only literal tables in the library."""

from dataclasses import dataclass

from ..errors import shown
from ..iteration.schedule import Schedule
from ..iteration.step import Polynomial
from .checks import MOST_STEPS, check_count, check_exponent

__all__ = ["TUNINGS", "Tuned"]


@dataclass(frozen=True)
class Tuning:
    """One published set: (a, b, c) of a x + b x^3 + c x^5 for each step; one row that `repeats`, or all steps."""

    rows: tuple[tuple[float, float, float], ...]
    source: str
    repeats: bool = False


_YOU6 = (
    (3955, -8306, 5008),
    (3735, -6681, 3463),
    (3799, -6499, 3211),
    (4019, -6385, 2906),
    (2677, -3029, 1162),
    (2172, -1833, 682),
)

TUNINGS: dict[str, Tuning] = {
    "jordan": Tuning(
        ((3.4445, -4.7750, 2.0315),), "Jordan et al., Muon (2024), kellerjordan.github.io/posts/muon", True
    ),
    "you": Tuning(
        (
            (4.0848, -6.8946, 2.9270),
            (3.9505, -6.3029, 2.6377),
            (3.7418, -5.5913, 2.3037),
            (2.8769, -3.1427, 1.2046),
            (2.8366, -3.0525, 1.2012),
        ),
        "You Jiacheng, five-step set, NanoGPT speedrun (2025)",
    ),
    "you6": Tuning(
        tuple((a / 1024, b / 1024, c / 1024) for a, b, c in _YOU6), "You Jiacheng, six-step set, Muon discussion (2024)"
    ),
}


@dataclass(frozen=True)
class Tuned:
    """A published set of quintic steps for the polar factor (p = 2).

    No set converges: after any number of Jordan's steps the singular values stay in about [0.68, 1.13].

    Attributes:
        name: "jordan" (one row, repeated), "you" (five steps) or "you6" (six steps).
        steps: Any number for "jordan", by default 5; the other sets have a fixed number of steps.
    """

    name: str = "jordan"
    steps: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or self.name not in TUNINGS:
            raise ValueError(f"unknown tuning {shown(self.name)}: known are {', '.join(TUNINGS)}")
        tuning = TUNINGS[self.name]
        settled = (5 if tuning.repeats else len(tuning.rows)) if self.steps is None else self.steps
        check_count("steps", settled, 1, MOST_STEPS)
        if not tuning.repeats and settled != len(tuning.rows):
            raise ValueError(f"tuning {self.name!r} has {len(tuning.rows)} steps, got steps={self.steps}: leave it out")
        object.__setattr__(self, "steps", settled)

    def schedule(self, p: int = 2) -> Schedule:
        """Return the published rows; p must be 2."""
        check_exponent(p)
        if p != 2:
            raise ValueError(
                f"Tuned({self.name!r}) has rows for p = 2 alone (polar factor, sign, square roots), not p = {p}: "
                "use PolarExpress or NewtonSchulz"
            )
        tuning = TUNINGS[self.name]
        assert self.steps is not None
        rows = tuple(Polynomial(row) for row in tuning.rows) * (self.steps if tuning.repeats else 1)
        return Schedule(rows, 2, 1e-3, tuning.source)
