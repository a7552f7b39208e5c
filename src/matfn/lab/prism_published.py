"""The step counts that `reproduce prism` is held against: tables 6.1, 6.3 and 6.5 of the specification of PRISM.

A number is a count, or the mean over sketches; None means that it did not converge within the limit.
"""

from __future__ import annotations

__all__ = ["DENSE", "POLAR", "ROOTS", "Numbers"]

Numbers = tuple[float | None, ...]

POLAR_HEADS = (
    "NS 3", "NS 5", "PRISM 3", "PRISM 3, 8 columns", "PRISM 5", "PRISM 5, 8 columns", "PRISM 5, 8 columns, warm 3",
    "Polar Express 1e-3", "Polar Express, true lower",
)  # fmt: skip
POLAR: dict[str, Numbers] = {
    "gaussian 512x512": (29, 19, 19, 19.0, 12, 11.9, 11.8, 13, 9),
    "gaussian 1024x256": (12, 8, 8, 8.0, 6, 6.0, 6.0, 8, 5),
    "log-uniform 1e-3": (25, 16, 16, 16.0, 11, 10.7, 11.0, 11, 8),
    "log-uniform 1e-6": (42, 27, 26, 26.0, 17, 17.0, 17.0, 21, 13),
    "i^-1": (20, 13, 13, 13.0, 8, 8.0, 8.0, 8, 7),
    "i^-2": (35, 23, 21, 21.0, 14, 14.0, 14.0, 17, 11),
    "htmp 100": (14, 9, 10, 10.0, 6, 6.0, 6.0, 8, 5),
    "htmp 5": (17, 11, 11, 11.0, 7, 7.0, 7.1, 8, 6),
    "htmp 0.5": (42, 27, 26, 26.0, 17, 16.9, 17.0, 21, 13),
    "htmp 0.1": (None,) * 9,
}

DENSE_HEADS = ("NS 3", "NS 5", "PRISM 3", "PRISM 3, 8 columns", "PRISM 5", "PRISM 5, 8 columns", "floor of PRISM 5")
DENSE: dict[str, Numbers] = {
    "gaussian 512x512, float64": (27, 17, 17, 17.0, 11, 11.0, 4.0e-16),
    "gaussian 512x512, float32": (26, 17, 17, 17.0, 11, 11.0, 2.1e-7),
    "gaussian 1024x256, float64": (12, 8, 8, 8.0, 6, 6.0, 2.2e-16),
    "gaussian 1024x256, float32": (12, 8, 8, 8.0, 5, 5.3, 8.5e-8),
    "log-uniform 1e-3, float64": (25, 16, 16, 16.0, 11, 10.7, 3.1e-16),
    "log-uniform 1e-3, float32": (25, 16, 16, 16.0, 10, 10.0, 1.4e-7),
}

ROOTS_HEADS = (
    "NS 3", "NS 5", "PRISM 3", "PRISM 3, 8 columns", "PRISM 5", "PRISM 5, 8 columns",
    "Newton, p = 4", "PRISM, p = 4", "PRISM, p = 4, 8 columns", "PRISM, p = 4, u = 3/8",
)  # fmt: skip
ROOTS: dict[str, Numbers] = {
    "wishart 1/2": (10, 7, 7, 7, 5, 5, 10, 7, 7, 7),
    "wishart 1 + 1e-6": (22, 14, 14, 14, 9, 9, 20, 13, 13, 14),
    "log-uniform 1e-3": (14, 9, 9, 9.4, 6, 6, 13, 9, 9, 10),
    "log-uniform 1e-6": (22, 14, 14, 14, 9, 9, 20, 13, 13, 15),
    "i^-2": (18, 12, 11, 11, 8, 8, 16, 10, 10, 12),
    "htmp 0.5 + 1e-6": (22, 14, 14, 14, 9, 9, 20, 13, 13, 14),
}
