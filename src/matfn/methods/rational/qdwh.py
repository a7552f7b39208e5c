"""QDWH: the Halley iteration with the best weights for an interval that holds the singular values."""

from dataclasses import dataclass

from .schedules import Rational

__all__ = ["QDWH"]


@dataclass(frozen=True)
class QDWH(Rational):
    """s q(s^2) = s (a + b s^2) / (1 + c s^2), at every step the best function of type (3, 2) on the current interval.

    Converges cubically and is backward stable: six steps in float64 and float32 for any condition number, fewer if it
    is known. The partial fraction is q(m) = b/c + (a - b/c)/c / (m + 1/c). It is evaluated by a QR factorization of
    [X; I/sqrt(c)] while the condition number of I + c X^T X may exceed 100, later by Cholesky (`PartialFraction`). Half
    precision is computed in float32.

    For p = 2: the polar factor, backward stable for every input; the sign, with an error that grows with the condition
    numbers of A and of its eigenvectors; square roots by the coupled engine, which forms M, with an error that grows
    with the condition number of A. `Gram` forms X X^T and loses singular values below sqrt(eps); `Direct` does not.

    Attributes:
        lower: Lower bound of the singular values divided by the Frobenius norm, in [1e-18, 1); for square roots, of the
            square roots of the eigenvalues divided by the norm. None: the accurate verbs measure the least of the batch
            by one QR factorization; `orthogonalize` reads nothing back and takes 1e-16.
        tolerance: Stop after the first step whose image of [lower, 1] is within this distance of 1. The image is known
            without the matrix, so the test is free. With lower=None the accurate verbs use at least eps/8 of the dtype.

    References:
        Nakatsukasa, Bai, Gygi, "Optimizing Halley's iteration for computing the matrix polar decomposition", SIAM J.
        Matrix Anal. Appl. 31 (2010). Nakatsukasa, Higham, SIAM J. Numer. Anal. 50 (2012), for its stability.
    """

    lower: float | None = None
    tolerance: float = 1e-15

    def __post_init__(self) -> None:
        self._check_bounds()
