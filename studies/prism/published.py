"""The published step counts that `studies.prism` compares with: tables 6.1, 6.3 and 6.5 of the specification of PRISM.

A number is a count, or the mean over sketches; None means that it did not converge within the limit. The first column
of POLAR and ROOTS is the least value over the Frobenius norm.
"""

from __future__ import annotations

__all__ = ["DENSE", "POLAR", "ROOTS", "Numbers"]

Numbers = tuple[float | None, ...]

POLAR_HEADS = ("least", "NS3", "NS5", "PR3", "PR3 s8", "PR5", "PR5 s8", "PR5 s8 w3", "PE", "PE told")
POLAR: dict[str, Numbers] = {
    "gaussian 512x512": (3.3e-5, 29, 19, 19, 19.0, 12, 11.9, 11.8, 13, 9),
    "gaussian 1024x256": (3.1e-2, 12, 8, 8, 8.0, 6, 6.0, 6.0, 8, 5),
    "log-uniform 1e-3": (1.6e-4, 25, 16, 16, 16.0, 11, 10.7, 11.0, 11, 8),
    "log-uniform 1e-6": (2.0e-7, 42, 27, 26, 26.0, 17, 17.0, 17.0, 21, 13),
    "i^-1": (1.5e-3, 20, 13, 13, 13.0, 8, 8.0, 8.0, 8, 7),
    "i^-2": (3.7e-6, 35, 23, 21, 21.0, 14, 14.0, 14.0, 17, 11),
    "htmp 100": (1.3e-2, 14, 9, 10, 10.0, 6, 6.0, 6.0, 8, 5),
    "htmp 5": (4.8e-3, 17, 11, 11, 11.0, 7, 7.0, 7.1, 8, 6),
    "htmp 0.5": (2.1e-7, 42, 27, 26, 26.0, 17, 16.9, 17.0, 21, 13),
    "htmp 0.1": (4.6e-51, *(None,) * 9),
}

# By how much a step lifts a small singular value, at least: a draw whose least value differs takes other counts.
POLAR_GROWTH = (1.5, 1.875, 2, 2, 2.95, 2.95, 2.95, 1.875, 2.95)

DENSE_HEADS = ("NS3", "NS5", "PR3", "PR3 s8", "PR5", "PR5 s8", "PR5 floor")
DENSE: dict[str, Numbers] = {
    "gaussian 512x512, float64": (27, 17, 17, 17.0, 11, 11.0, 4.0e-16),
    "gaussian 512x512, float32": (26, 17, 17, 17.0, 11, 11.0, 2.1e-7),
    "gaussian 1024x256, float64": (12, 8, 8, 8.0, 6, 6.0, 2.2e-16),
    "gaussian 1024x256, float32": (12, 8, 8, 8.0, 5, 5.3, 8.5e-8),
    "log-uniform 1e-3, float64": (25, 16, 16, 16.0, 11, 10.7, 3.1e-16),
    "log-uniform 1e-3, float32": (25, 16, 16, 16.0, 10, 10.0, 1.4e-7),
}

# 6.3 lists no least values; that of a square Gaussian matrix varies by 3.5 and more from draw to draw.
DENSE_GROWTH = POLAR_GROWTH[:6]
DENSE_RATIO = 3.5

ROOTS_HEADS = (
    "least", "NS3", "NS5", "PR3", "PR3 s8", "PR5", "PR5 s8", "4 NS3", "4 PR3", "4 PR3 s8", "4 PR3 3/8",
)  # fmt: skip
ROOTS: dict[str, Numbers] = {
    "wishart 1/2": (4.6e-3, 10, 7, 7, 7, 5, 5, 10, 7, 7, 7),
    "wishart 1 + 1e-6": (4.9e-7, 22, 14, 14, 14, 9, 9, 20, 13, 13, 14),
    "log-uniform 1e-3": (2.3e-4, 14, 9, 9, 9.4, 6, 6, 13, 9, 9, 10),
    "log-uniform 1e-6": (3.3e-7, 22, 14, 14, 14, 9, 9, 20, 13, 13, 15),
    "i^-2": (1.5e-5, 18, 12, 11, 11, 8, 8, 16, 10, 10, 12),
    "htmp 0.5 + 1e-6": (4.1e-7, 22, 14, 14, 14, 9, 9, 20, 13, 13, 14),
}
# Likewise, of a small eigenvalue.
ROOTS_GROWTH = (1.5**2, 1.875**2, 4, 4, 2.95**2, 2.95**2, 1.25**4, 1.5**4, 1.5**4, 1.375**4)
