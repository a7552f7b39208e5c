"""Spectra to test a method on: singular values drawn from the laws that papers and training runs show."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

__all__ = ["SPECTRA", "Spectrum", "bidiagonal", "drawn", "htmp", "laguerre"]

Spectrum = Callable[[int, int, int], np.ndarray]  # (m, n, seed) -> min(m, n) singular values, descending, greatest 1


def laguerre(m: int, n: int, beta: float, seed: int) -> np.ndarray:
    """Singular values of the beta-Laguerre ensemble; beta = 1 is the law of an m x n Gaussian matrix."""
    diagonal, above = bidiagonal(max(m, n), min(m, n), beta, seed)
    # Householder reflections leave a bidiagonal matrix alone, and LAPACK then finds each singular value to high
    # relative accuracy, 1e-50 beside 1 as well as any other: from B^T B nothing below 1e-8 would survive.
    return _scaled(np.linalg.svd(np.diag(diagonal) + np.diag(above, 1), compute_uv=False))


def bidiagonal(long: int, short: int, beta: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Diagonal chi_{beta (long - i)} and superdiagonal chi_{beta (short - 1 - i)}, i = 0, 1, ..., of that ensemble."""
    rng = np.random.default_rng(seed)
    i = np.arange(short)
    return _chi(beta * (long - i), rng), _chi(beta * (short - 1 - i[:-1]), rng)


def htmp(kappa: float) -> Spectrum:
    """High-temperature Marchenko-Pastur: beta = kappa / short side; heavy-tailed for small kappa, Gaussian for large.

    References:
        Hodgkinson, Wang, Mahoney, arXiv 2506.03470, Algorithm 2, by the bidiagonal factor instead of its square.
    """
    return lambda m, n, seed: laguerre(m, n, kappa / min(m, n), seed)


def drawn(m: int, n: int, seed: int) -> np.ndarray:
    """Singular values from a law that is itself drawn at random.

    Their decimal logarithm is a random monotone function of a uniform variable, linear between one to four knots, and
    falls by 0.3 to 8 in all. A third of the laws have up to three values lifted by up to 100; a fifth end in zeros.
    """
    rng = np.random.default_rng((seed, 1))
    count, depth = int(rng.integers(1, 5)), rng.uniform(0.3, 8.0)
    places, falls = np.sort(rng.random(count)), np.sort(rng.random(count)) * depth
    u = np.sort(rng.random(min(m, n)))
    values = 10 ** -np.interp(u, [0.0, *places, 1.0], [0.0, *falls, depth])
    if rng.random() < 1 / 3:
        values[: int(rng.integers(1, 4))] *= 10 ** rng.uniform(0.0, 2.0)
    if rng.random() < 1 / 5:
        values[len(values) - int(rng.integers(1, len(values) // 2 + 1)) :] = 0.0
    return _scaled(values)


def _chi(freedom: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Chi variates drawn by their logarithm: for 1e-3 degrees of freedom a plain draw underflows to zero."""
    gamma = np.log(rng.standard_gamma(freedom / 2 + 1))
    return np.exp((np.log(2.0) + gamma + np.log(rng.random(len(freedom))) * 2 / freedom) / 2)


def _scaled(values: np.ndarray) -> np.ndarray:
    values = np.sort(values)[::-1]
    return values / values[0]


def _gaussian(m: int, n: int, seed: int) -> np.ndarray:
    return laguerre(m, n, 1.0, seed)


def _log_uniform(lower: float) -> Spectrum:
    def draw(m: int, n: int, seed: int) -> np.ndarray:
        inner = lower ** np.random.default_rng(seed).random(min(m, n))
        return np.sort(np.concatenate([[1.0, lower], inner])[: max(min(m, n), 1)])[::-1]

    return draw


def _power(exponent: float) -> Spectrum:
    return lambda m, n, seed: np.arange(1.0, min(m, n) + 1) ** -exponent


def _outlier(m: int, n: int, seed: int) -> np.ndarray:
    values = _gaussian(m, n, seed)
    return _scaled(np.concatenate([[100.0], values[1:]]))


def _clustered(m: int, n: int, seed: int) -> np.ndarray:
    k = min(m, n)
    centres = np.where(np.arange(k) < (k + 1) // 2, 1.0, 1e-2)
    return _scaled(centres * (1 + 1e-3 * np.random.default_rng(seed).standard_normal(k)))


def _rank_deficient(m: int, n: int, seed: int) -> np.ndarray:
    values = _gaussian(m, n, seed)
    values[len(values) - len(values) // 4 :] = 0.0
    return values


SPECTRA: dict[str, Spectrum] = {
    "gaussian": _gaussian,
    "log-uniform 1e-3": _log_uniform(1e-3),
    "log-uniform 1e-6": _log_uniform(1e-6),
    "i^-1": _power(1.0),
    "i^-2": _power(2.0),
    "htmp 100": htmp(100.0),
    "htmp 5": htmp(5.0),
    "htmp 0.5": htmp(0.5),
    "htmp 0.1": htmp(0.1),
    "outlier x100": _outlier,
    "clustered": _clustered,
    "rank-deficient": _rank_deficient,
}
