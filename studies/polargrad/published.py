"""The published runs that `studies.polargrad` compares with: algorithms, learning rates and results.

The numbers are those of section 4 of the specification: the authors' classes at the authors' rates, on these data, in
float32 (the exact oracle in float64). Each row is an arm and the objective after so many steps; `inf` diverged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from studies.polargrad.runs import Arm

__all__ = ["PUBLISHED", "Row", "Section"]

Values = dict[int, float]


@dataclass(frozen=True)
class Row:
    """An arm and its published objectives; `condition` is the gradient's at the end, if it was printed."""

    arm: Arm
    values: Values
    condition: float | None = None


@dataclass(frozen=True)
class Section:
    """One problem.

    Attributes:
        objective: What the numbers are.
        start: The objective at the start.
        at: The columns.
        tolerance: The factor within which a number counts as the published one. Of a float32 run that oscillates (Adam
            and Muon at a constant rate) only the level means anything.
        floor: Below this everything is rounding, and equal.
    """

    number: str
    title: str
    objective: str
    start: float
    at: tuple[int, ...]
    rows: tuple[Row, ...]
    tolerance: float
    floor: float


def _quadratic(*values: float) -> Values:
    return dict(zip((10, 100, 500, 1000, 2000, 4000), values, strict=False))


def _logistic(*values: float) -> Values:
    return dict(zip((100, 250, 500, 1000, 1500), values, strict=False))


def _completion(**values: float) -> Values:
    return {int(k[1:]): v for k, v in values.items()}


_N, _FAST, _INF = 4000, 1000, math.inf

QUADRATIC = Section(
    "4.1",
    "Matrix quadratic regression",
    "f - f*",
    2.142041e9,
    (10, 100, 500, 1000, 2000, 4000),
    (
        Row(
            Arm("polargrad", 3e-8, _N, "exact", double=True),
            _quadratic(3.268e6, 4.079e3, 94.48, 12.83, 0.7199, 3.365e-3),
            136.5,
        ),
        Row(Arm("polargrad", 4e-8, _N, "exact", double=True), _quadratic(8.8e10, _INF)),
        Row(Arm("polargrad", 4e-8, _N, "QDWH@2"), _quadratic(1.80e6, 7.75e3, 198, 24.5, 1.149, 5.50e-3), 150),
        Row(
            Arm("polargrad", 4.75e-8, _N, "QDWH@2", decay=0.99),
            _quadratic(2.06e9, 40.4, 6e-9, 4.1e-9, 3.1e-9, 3.4e-9),
            4.2,
        ),
        Row(Arm("polargrad", 4e-8, _N, "NS@5"), _quadratic(2.86e6, 1.33e4, 120, 6.92, 0.285, 7.0e-4), 278),
        Row(
            Arm("polar-first", 4e-7, _N, "QDWH@2", 0.95),
            _quadratic(2.20e8, 4.99e4, 2.7e-8, 2.7e-8, 2.7e-8, 2.8e-8),
            8.9,
        ),
        Row(
            Arm("polar-first", 5e-7, _N, "QDWH@2", 0.95, 0.99),
            _quadratic(2.09e8, 5.95e4, 2.8e-8, 2.3e-8, 1.6e-8, 9.6e-9),
            8.0,
        ),
        Row(
            Arm("momentum-first", 2e-7, _N, "QDWH@2", 0.9),
            _quadratic(4.37e8, 3.79e4, 1.2e-8, 1.1e-8, 1.2e-8, 1.1e-8),
            8.4,
        ),
        Row(
            Arm("momentum-first", 2.5e-7, _N, "QDWH@2", 0.9, 0.99),
            _quadratic(4.75e8, 5.11e4, 1.1e-8, 9.4e-9, 8.1e-9, 5.1e-9),
            6.5,
        ),
        Row(Arm("momentum-first", 1e-7, _FAST, "exact", 0.9, double=True), {}),
        Row(Arm("polar-first", 2e-7, _FAST, "exact", 0.95, double=True), {}),
        Row(Arm("heavy-ball", 2e-8, _FAST, "QDWH@2", 0.9), {}),
        Row(Arm("muon", 0.1, _N, "QDWH@2", 0.95), _quadratic(1.82e9, 2.68e8, 7.86e4, 7.64e4, 7.81e4, 7.58e4), 40.5),
        Row(Arm("muon", 0.05, _N, "QDWH@2", 0.95, 0.99), _quadratic(1.98e9, 8.67e8, 2.88e6, 8.89e3, 3.85e3, 800), 36.4),
        Row(Arm("muon", 0.1, _N, "NS@5", 0.95), _quadratic(1.83e9, 3.00e8, 8.00e4, 7.62e4, 7.17e4, 7.86e4), 54.4),
        Row(Arm("adam", 0.05, _N), _quadratic(3.21e8, 3.61e5, 13.0, 66.2, 935, 3.79e4), 2448),
        Row(Arm("adam", 0.05, _N, decay=0.99), _quadratic(3.21e8, 3.80e5, 7.75, 22.9, 5.13, 0.933), 268),
        Row(Arm("newton", 0.25, _FAST), _quadratic(6.79e6, 3.2e-9, 2.8e-9, 3.3e-9), 7.0),
    ),
    tolerance=1.6,
    floor=1e-7,
)

LOGISTIC = Section(
    "4.2",
    "Matrix logistic regression",
    "loss over all rows / 10",
    2.913e7,
    (100, 250, 500, 1000, 1500),
    (
        Row(Arm("polargrad", 1.5e-7, 1500, "QDWH@2"), _logistic(3.99e6, 4.11e5, 4.10e5, 4.08e5, 4.066e5), 8.5),
        Row(
            Arm("polargrad", 2.5e-7, 1500, "QDWH@2", decay=0.95),
            _logistic(6.96e5, 4.26e5, 3.21e5, 2.81e5, 2.746e5),
            10.6,
        ),
        Row(Arm("polargrad", 1.5e-7, 500, "exact"), _logistic(1.32e6, 4.75e5, 4.77e5)),
        Row(Arm("polargrad", 1e-7, 1500, "exact"), _logistic(6.38e6, 3.55e5, 3.56e5)),
        Row(Arm("polar-first", 2.5e-7, 1500, "QDWH@2", 0.95), {}),
        Row(Arm("momentum-first", 2.5e-7, 1500, "QDWH@2", 0.9), {}),
        Row(Arm("muon", 0.1, 1500, "QDWH@2", 0.95), _logistic(1.53e7, 2.11e6, 3.92e5, 3.89e5, 3.900e5), 8.3),
        Row(Arm("muon", 0.2, 1500, "QDWH@2", 0.95, 0.95), _logistic(6.28e6, 4.53e5, 3.59e5, 3.00e5, 2.828e5), 9.9),
        Row(Arm("muon", 0.1, 500, "exact", 0.95), _logistic(1.39e7, 7.87e5, 3.99e5)),
        Row(Arm("adam", 0.005, 1500), _logistic(1.45e7, 1.42e6, 3.13e5, 3.19e5, 3.213e5), 15.2),
        Row(Arm("adam", 0.01, 1500, decay=0.95), _logistic(5.83e6, 3.29e5, 2.99e5, 2.80e5, 2.751e5), 11.3),
    ),
    tolerance=1.02,
    floor=0.0,
)

COMPLETION = Section(
    "4.3",
    "Low-rank matrix completion",
    "loss over what is seen",
    5.3146,
    (10, 50, 100, 200, 500, 1000),
    (
        Row(
            Arm("polargrad", 50, 1000, "QDWH@2"),
            _completion(k10=2.66e-3, k50=3.3e-14, k100=2.3e-14, k200=2.3e-14, k1000=2.3e-14),
        ),
        Row(
            Arm("polargrad", 15, 500, "exact"),
            _completion(k10=0.241, k50=2.5e-5, k100=7.0e-8, k200=6.2e-12, k500=6.3e-14),
        ),
        Row(
            Arm("polargrad", 30, 500, "exact"),
            _completion(k10=2.66e-3, k50=1.7e-12, k100=2.2e-14, k200=2.2e-14, k500=2.2e-14),
        ),
        Row(Arm("polargrad", 50, 500, "exact"), _completion(k10=13.1, k50=_INF, k100=_INF)),
        Row(
            Arm("polar-first", 100, 200, "QDWH@2", 0.5),
            _completion(k10=4.6e-3, k50=2.5e-14, k100=2.4e-14, k200=2.4e-14),
        ),
        Row(
            Arm("momentum-first", 50, 200, "QDWH@2", 0.5),
            _completion(k10=4.2e-2, k50=6.4e-14, k100=2.4e-14, k200=2.4e-14),
        ),
        Row(
            Arm("muon", 0.25, 1000, "QDWH@2", 0.95),
            _completion(k10=4.87, k50=3.14, k100=0.573, k200=2.2e-3, k1000=6.0e-4),
        ),
        Row(Arm("muon", 0.25, 1000, "QDWH@2", 0.95, 0.95), _completion(k100=0.807, k200=5.6e-3, k1000=1.07e-5)),
        Row(Arm("muon", 0.25, 1000, "NS@5", 0.95), _completion(k100=0.157, k200=8.5e-4, k1000=1.45e-3)),
        Row(Arm("adam", 0.05, 1000), _completion(k10=3.98, k50=0.100, k100=5.9e-4, k200=2.2e-8, k1000=7.4e-8)),
        Row(
            Arm("adam", 0.05, 1000, decay=0.95),
            _completion(k10=3.98, k50=0.109, k100=6.3e-4, k200=1.9e-8, k1000=1.8e-13),
        ),
        Row(Arm("alternating", 50, 1000), _completion(k10=1.29, k50=4.5e-6, k100=1.6e-10, k200=1.4e-13, k1000=1.4e-13)),
    ),
    tolerance=2.0,
    floor=1e-12,
)

PUBLISHED = {"quadratic": QUADRATIC, "logistic": LOGISTIC, "completion": COMPLETION}
