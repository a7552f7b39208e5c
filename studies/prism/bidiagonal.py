"""Singular values of a bidiagonal matrix by dqds, which finds each to high relative accuracy in O(n^2) and O(n) memory.

SciPy has the LAPACK routine dlasq1 for Cython code alone; a C function pointer calls it from here.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np
from scipy.linalg import cython_lapack  # pyright: ignore[reportAttributeAccessIssue] -- compiled

from studies.spectra import bidiagonal

__all__ = ["ensemble", "singular_values"]


def singular_values(diagonal: np.ndarray, above: np.ndarray) -> np.ndarray:
    """The singular values, descending, of the upper bidiagonal matrix with these entries.

    Raises:
        ValueError: `above` is not one shorter than `diagonal`.
        ArithmeticError: LAPACK did not converge.
    """
    if len(above) != len(diagonal) - 1:
        raise ValueError(f"singular_values: {len(diagonal)} diagonal entries want one less above, got {len(above)}")
    count, info = ctypes.c_int(len(diagonal)), ctypes.c_int(0)
    values = np.array(diagonal, dtype=np.float64)
    rest = np.append(np.asarray(above, dtype=np.float64), 0.0)
    work = np.zeros(4 * len(diagonal))
    pointers = (a.ctypes.data for a in (values, rest, work))
    _dlasq1()(ctypes.byref(count), *pointers, ctypes.byref(info))
    if info.value:
        raise ArithmeticError(f"singular_values: LAPACK's dlasq1 returned {info.value}; the entries may not be finite")
    return values


def ensemble(long: int, short: int, beta: float, seed: int) -> np.ndarray:
    """Singular values of the beta-Laguerre ensemble, the greatest 1; the numbers of `studies.spectra.laguerre`."""
    values = singular_values(*bidiagonal(long, short, beta, seed))
    return values / values[0]


def _dlasq1() -> Callable[..., None]:
    capsule = cython_lapack.__pyx_capi__["dlasq1"]
    python = ctypes.pythonapi
    name, pointer = python.PyCapsule_GetName, python.PyCapsule_GetPointer
    name.restype, name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 5)(pointer(capsule, name(capsule)))
