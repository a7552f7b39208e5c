"""Fixed point: matrices of whole numbers times 2^-200, to build test matrices that are known to 60 digits."""

from __future__ import annotations

import numpy as np

__all__ = ["composed", "from_float", "orthonormal", "to_float"]

_BITS = 200  # numbers down to 1e-44 keep all 53 bits; an object array of whole numbers needs no further package


def from_float(values: np.ndarray) -> np.ndarray:
    """The same numbers, exact for those above 2^-147 in size."""
    return np.vectorize(lambda x: int(x * 2.0**_BITS), otypes=[object])(np.asarray(values, dtype=np.float64))


def to_float(numbers: np.ndarray) -> np.ndarray:
    """Each rounded once to the nearest float64."""
    return np.vectorize(lambda i: float(i) * 2.0**-_BITS, otypes=[np.float64])(numbers)


def orthonormal(m: int, n: int, seed: int) -> np.ndarray:
    """An m x n matrix with columns orthonormal to 1e-59, n <= m, of a Gaussian matrix."""
    gaussian = np.random.default_rng(seed).standard_normal((m, n))
    Q = from_float(np.linalg.qr(gaussian)[0])
    three = 3 * from_float(np.eye(n))
    for _ in range(2):  # Newton-Schulz squares the error: 1e-16, 1e-32, 1e-60
        Q = _product(Q, three - _product(Q.T, Q)) >> 1
    return Q


def composed(U: np.ndarray, values: np.ndarray, V: np.ndarray) -> np.ndarray:
    """U diag(values) V^T for floats `values`, to about 2^-198 of an entry."""
    return _product((U * from_float(values)) >> _BITS, V.T)


def _product(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    return A.dot(B) >> _BITS
