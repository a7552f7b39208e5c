"""Solvers of the accuracy benchmark: every method of the library, scipy, and torch's decompositions."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

import matfn
from matfn.iteration.protocols import Evaluation, Scheduled
from matfn.iteration.target import Domain, Target
from matfn.train import TrainError
from studies.accuracy.problems import FUNCTIONS, Problem

__all__ = ["Solver", "converged", "peers", "solvers", "verb"]

# "converged" instances are made for a least singular value (roots: eigenvalue) of this share of the Frobenius norm.
_LEAST = 1e-7
_MOST_STEPS = 60


@dataclass(frozen=True)
class Solver:
    """A column of the benchmark.

    Attributes:
        name: As shown.
        solve: The function of one matrix of `Problem.A`, in its dtype; raises where it refuses.
        method: The method for a problem, None for other libraries.
    """

    name: str
    solve: Callable[[Problem], Tensor]
    method: Callable[[Target], Any] | None = None


def solvers(specs: list[str] | None = None) -> list[Solver]:
    """Every method with its defaults and, if it has steps, with enough to converge; or only the methods of `specs`."""
    if specs:
        return [_at(spec, method_of(spec)) for spec in specs]
    found = []
    for name, kind in matfn.METHODS.items():
        found.append(_at(name, kind()))
        if any(converged(kind(), target) for target in FUNCTIONS.values()):
            found.append(_of_method(f"{name}, converged", partial(converged, kind())))
    return found


def method_of(spec: str) -> Any:
    """The method as text.

    Raises:
        TrainError: If it is none.
    """
    try:
        return matfn.method(spec)
    except (TypeError, ValueError) as error:
        raise TrainError(f"--methods: {error}") from None


def _at(name: str, method: Any) -> Solver:
    return _of_method(name, lambda target: method)


def _of_method(name: str, method: Callable[[Target], Any]) -> Solver:
    def solve(problem: Problem) -> Tensor:
        made = method(problem.target)
        if made is None:
            raise ValueError(f"{name} does not converge to {problem.target}")
        return verb(problem.target, problem.A, made)

    return Solver(name, solve, method)


def verb(target: Target, A: Tensor, method: Any) -> Tensor:
    """The public function that computes the target: `polar`, in half precision `orthogonalize`, which stays in it.

    Its warning of steps that were too few is left out: the error that they leave is what is measured.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", matfn.ConvergenceWarning)
        return _verb(target, A, method)


def _verb(target: Target, A: Tensor, method: Any) -> Tensor:
    match target.name:
        case "polar":
            half = A.dtype in (torch.float16, torch.bfloat16)
            return matfn.orthogonalize(A, method=method) if half else matfn.polar(A, method=method).U
        case "inv_root":
            return matfn.inv_rootm(A, target.p, method=method)
    named = {"sign": matfn.signm, "sqrt": matfn.sqrtm, "inv_sqrt": matfn.inv_sqrtm, "inv": matfn.inv}
    return named[target.name](A, method=method)


@lru_cache(maxsize=256)
def converged(method: Any, target: Target) -> Any:
    """The method with enough steps to converge from `_LEAST`; None if no number of steps does.

    A method with a schedule gets the fewest steps that bring the scalar map to rounding, and that lower bound where it
    takes one; a method that looks at the matrix gets the fewest that solve a diagonal matrix of that condition.
    """
    options = {f.name for f in fields(method)} if is_dataclass(method) else set()
    if isinstance(method, Evaluation) or "steps" not in options:
        return None
    if not isinstance(method, Scheduled):
        count = _steps_on_a_diagonal(method, target)
        return None if count is None or count <= _longer(method).steps else _longer(method, steps=count)
    share = 1.0 if target.domain is Domain.SPD else 2.0  # the eigenvalues of M_0 are this power of the spectrum
    least = _LEAST ** (share / target.p)
    bound = {"lower": least} if "lower" in options else {}
    try:
        schedule = _longer(method, steps=_MOST_STEPS, **bound).schedule(target.p)
    except ValueError:  # a published table of so many rows, or for another p
        return None
    s = np.logspace(np.log10(least), 0, 200)
    errors = [np.abs(1 - after).max() for after in schedule.trace(s)]
    done = next((count for count, error in enumerate(errors, 1) if error < 1e-14), None)
    return None if done is None else _longer(method, steps=done + 1, **bound)


def _steps_on_a_diagonal(method: Any, target: Target) -> int | None:
    x = torch.logspace(float(np.log10(_LEAST)), 0, 24, dtype=torch.float64)
    for steps in range(4, _MOST_STEPS, 2):
        f = verb(target, torch.diag(x), _longer(method, steps=steps)).diagonal()
        if (f / x**target.homogeneity - 1).abs().max() < 1e-6:  # the next step brings it to rounding
            return steps + 2
    return None


def _longer(method: Any, **options: Any) -> Any:
    return replace(method, **options)


def peers() -> list[Solver]:
    """SciPy and torch's decompositions, in the dtype of the input.

    Raises:
        TrainError: If scipy is not installed.
    """
    try:
        import scipy.linalg
    except ImportError:
        raise TrainError("the comparison needs scipy: pip install scipy, or name the methods with --methods") from None
    linalg = scipy.linalg

    def with_scipy(problem: Problem) -> Tensor:
        if problem.A.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"scipy has no {problem.A.dtype}")
        A = problem.A.numpy()
        functions: dict[str, Callable[[], Any]] = {
            "polar": lambda: linalg.polar(A)[0],
            "sqrt": lambda: linalg.sqrtm(A),
            "inv_sqrt": lambda: linalg.inv(linalg.sqrtm(A)),
            "inv_root4": lambda: linalg.fractional_matrix_power(A, -0.25),
            "sign": lambda: linalg.signm(A),
            "inv": lambda: linalg.inv(A),
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # singular and inaccurate results are measured, not warned of
            B: np.ndarray = np.asarray(functions[problem.function]())
        if np.iscomplexobj(B) and np.abs(np.imag(B)).max() > 1e-3 * np.abs(np.real(B)).max():
            raise ValueError("scipy gives a complex matrix")
        return torch.from_numpy(np.ascontiguousarray(np.real(B))).to(problem.A.dtype)

    return [Solver("scipy", with_scipy), Solver("torch svd/eigh", _with_torch)]


def _with_torch(problem: Problem) -> Tensor:
    """The decomposition as written by hand, without checks or cutoffs."""
    A, target = problem.A, problem.target
    if target.name == "inv":
        return torch.linalg.inv(A)
    if target.name == "polar":
        U, _, Vh = torch.linalg.svd(A, full_matrices=False)
        return U @ Vh
    values, V = torch.linalg.eigh(A)
    f = values.sign() if target.name == "sign" else values**target.homogeneity
    return (V * f) @ V.mT
