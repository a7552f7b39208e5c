"""A problem for each target, the public function that solves it, and the rounding error it may have."""

import torch
from torch import Tensor

import matfn
from matfn import Coupled, Direct
from matfn.iteration.protocols import Evaluation
from matfn.iteration.target import INV, POLAR, Domain
from matrices import of_eigenvalues, of_singular_values, spectrum

from .oracle import schedule_on
from .rounding import amplification

NORM = 3.7  # of the test matrices: not 1, so that a forgotten scaling shows


def problem(target, shape=(7, 7), condition=30.0):
    """(A, values, function from the values of the result to the matrix it should be)."""
    if target.domain is Domain.SPD or target.name == "sign":
        values = spectrum(shape[0], condition)
        values = NORM * values / torch.linalg.vector_norm(values)
        if target.name == "sign":
            values = values * torch.tensor([1, -1, -1, 1, 1, -1, 1])[: len(values)]
        A, V = of_eigenvalues(values, seed=3)
        return A, values, lambda f: (V * f) @ V.mT
    values = spectrum(min(shape), condition)
    values = NORM * values / torch.linalg.vector_norm(values)
    A, U, V = of_singular_values(values, *shape, seed=5)
    return A, values, (lambda f: (U * f) @ V.mT) if target.name == "polar" else (lambda f: (V * f) @ U.mT)


def verb(target, A, method, engine=None):
    """The public function that computes the target."""
    match target.name:
        case "polar":
            return matfn.orthogonalize(A, method=method, engine=engine)
        case "sign":
            return matfn.signm(A, method=method)
        case "root" | "inv_root":
            return {"root": matfn.rootm, "inv_root": matfn.inv_rootm}[target.name](A, target.p, method=method)
    return {"sqrt": matfn.sqrtm, "inv_sqrt": matfn.inv_sqrtm, "inv": matfn.inv}[target.name](A, method=method)


def allowance(target, method, engine, A: Tensor, values: Tensor | None = None) -> float:
    """100 eps times the amplification, for one matrix; in the scale of the result, eps of the dtype of A."""
    A, eps = A.double(), torch.finfo(A.dtype).eps
    c = torch.linalg.matrix_norm(A).item()
    if values is None:
        values = torch.linalg.svdvals(A) if target in (POLAR, INV) else torch.linalg.eigvalsh(A)
    schedule = schedule_on(method, target, values, c)
    if engine is None and not isinstance(method, Evaluation):
        engine = Coupled() if target.domain is Domain.SPD else Direct()
    return 100 * eps * amplification(target, schedule, engine, method, values / c) * c**target.homogeneity
