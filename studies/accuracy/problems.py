"""Problems of the accuracy benchmark: rounded matrices of known spectrum, and the exact function of each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from matfn.iteration.target import INV, INV_ROOT, INV_SQRT, POLAR, SIGN, SQRT, Domain, Target
from studies.accuracy.fixed_point import composed, from_float, orthonormal, to_float
from studies.spectra import SPECTRA

__all__ = ["FUNCTIONS", "SHAPES", "Problem", "problem", "spectrum_names"]

FUNCTIONS: dict[str, Target] = {
    "polar": POLAR,
    "sqrt": SQRT,
    "inv_sqrt": INV_SQRT,
    "inv_root4": INV_ROOT.with_exponent(4),
    "sign": SIGN,
    "inv": INV,
}
SHAPES = {"gaussian": 1, "gaussian tall": 4}  # rows over columns; every other spectrum is square
_TALL = "gaussian tall"
_LOST = 0.1  # condition times unit roundoff above which a first-order step from the known answer is too inaccurate


@dataclass(frozen=True)
class Problem:
    """One matrix and its exact answer.

    Attributes:
        function: A key of `FUNCTIONS`.
        spectrum: A key of `SPECTRA`, or "gaussian tall".
        A: (m, n), in the dtype of the problem: orthogonal factors times the spectrum, rounded. For sign and roots
            symmetric, with the spectrum as eigenvalues (for sign of alternating signs).
        answer: The function of that very A, (m, n) in float64, or None where A is singular to the precision that it is
            computed in (float32 for half precision), so that rounding decides what the function is.
        condition: Largest over smallest of the spectrum, exact zeros left out.
        rank: How many values are not zero.
    """

    function: str
    spectrum: str
    A: Tensor
    answer: Tensor | None
    condition: float
    rank: int

    @property
    def target(self) -> Target:
        """What is to be computed."""
        return FUNCTIONS[self.function]


def spectrum_names(function: str) -> list[str]:
    """The spectra to measure a function on; the tall one only if it takes rectangular matrices."""
    names = list(SPECTRA)
    return [*names[:1], _TALL, *names[1:]] if function == "polar" else names


def problem(function: str, spectrum: str, dtype: torch.dtype, size: int, seed: int = 1) -> Problem:
    """Build the problem; the same arguments give the same bits.

    Args:
        function: A key of `FUNCTIONS`.
        spectrum: One of `spectrum_names(function)`.
        dtype: That A is rounded to.
        size: The short side.
        seed: Of the spectrum and of the factors.
    """
    target = FUNCTIONS[function]
    m = size * SHAPES.get(spectrum, 1)
    values = np.array(SPECTRA[spectrum.removesuffix(" tall")](m, size, seed), dtype=np.float64)
    V = _factor(size, size, seed)
    U = V if target.domain is Domain.SPD or target is SIGN else _factor(m, size, seed + 1000)
    signed = values * np.where(np.arange(size) % 2, -1.0, 1.0) if target is SIGN else values
    exact = composed(U, signed, V)
    if U is V:
        exact = np.tril(exact) + np.tril(exact, -1).T
    A = torch.from_numpy(to_float(exact)).to(dtype)
    rank = int((values > 0).sum())
    condition = float(values[0] / values[rank - 1])
    answer = None
    if rank == size or target in (POLAR, SQRT):
        rounding = to_float(exact - from_float(A.double().numpy()))
        answer = _answer(target, _Factors(U, signed, V), A, rounding, rank)
    return Problem(function, spectrum, A, answer, condition, rank)


@lru_cache(maxsize=16)
def _factor(m: int, n: int, seed: int) -> np.ndarray:
    return orthonormal(m, n, seed)


@dataclass(frozen=True)
class _Factors:
    """U diag(values) V^T, in fixed point; U is V for symmetric matrices."""

    U: np.ndarray
    values: np.ndarray
    V: np.ndarray


def _answer(target: Target, exact: _Factors, A: Tensor, rounding: np.ndarray, rank: int) -> Tensor | None:
    """f(A): in float64 by a first-order step from the known f(A + E), E the rounding; in other dtypes by float64.

    The step leaves (condition |E|)^2, which is 1e-4 of the error to be measured at the worst. E of float32 is larger,
    but there decompositions in float64 are 1e-9 as wrong as what is measured. The square root of a singular matrix has
    no derivative, and a rounded one may have none itself: there f(A + E) is the answer.
    """
    s, f = exact.values, _scalar(target, exact.values)
    singular_root = target is SQRT and rank < len(s)
    if A.dtype != torch.float64 and not singular_root:
        return _by_decomposition(target, A, rank)
    if A.dtype == torch.float64 and np.abs(s).max() / np.abs(s[s != 0]).min() * 2.0**-53 > _LOST:
        return None
    known = composed(exact.U, f, exact.V)
    if not singular_root:
        known = known - from_float(_change(exact, f, target.homogeneity, rounding))
    answer = torch.from_numpy(to_float(known))
    return answer.mT.contiguous() if target is INV else answer


def _change(exact: _Factors, f: np.ndarray, h: float, E: np.ndarray) -> np.ndarray:
    """The derivative of U f(s) V^T in the direction E (Daleckii and Krein), for f a power h or locally constant."""
    U, V, s = to_float(exact.U), to_float(exact.V), exact.values
    K = U.T @ E @ V
    same = s[:, None] == s
    slopes = np.where(same, _quotient(h * f, s), _quotient(f[:, None] - f, np.where(same, 1.0, s[:, None] - s)))
    if exact.U is exact.V:
        return V @ (slopes * K) @ V.T
    # A rectangular U f(s) V^T is an odd function of [[0, A], [A^T, 0]], of eigenvalues s, -s and 0.
    inner = slopes * (K + K.T) / 2 + _quotient(f[:, None] + f, s[:, None] + s) * (K - K.T) / 2
    return (U @ inner + (E @ V - U @ K) * _quotient(f, s)) @ V.T


def _scalar(target: Target, x: np.ndarray) -> np.ndarray:
    """The function at singular values (polar, inv: 0 stays 0) or eigenvalues."""
    if target in (POLAR, SIGN):
        return np.sign(x)
    return _quotient(np.ones_like(x), x ** abs(target.homogeneity)) if target.homogeneity < 0 else x**target.homogeneity


def _quotient(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The quotient a / b, and 0 where b is 0."""
    return np.where(b == 0, 0.0, a / np.where(b == 0, 1.0, b))


def _by_decomposition(target: Target, A: Tensor, rank: int) -> Tensor | None:
    """The function by SVD or eigh in float64, on the `rank` greatest singular values.

    None where a value is within rounding of zero, by the library's own rules: max(m, n) eps for the polar factor, which
    is taken on the range; eps for the others.
    """
    eps = torch.finfo(torch.promote_types(A.dtype, torch.float32)).eps
    floor = max(A.shape) * eps if target is POLAR else eps
    A = A.double()
    if target in (POLAR, INV):
        U, s, Vh = torch.linalg.svd(A, full_matrices=False)
        if s[rank - 1] <= floor * s[0]:
            return None
        live = torch.arange(len(s)) < rank
        return (U * live) @ Vh if target is POLAR else (Vh.mT / s) @ U.mT
    values, V = torch.linalg.eigh(A)
    if (values.abs() if target is SIGN else values).min() <= floor * values.abs().max():
        return None
    return (V * torch.from_numpy(_scalar(target, values.numpy()))) @ V.mT
