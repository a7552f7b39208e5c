"""The oracle: what a function does to a spectrum, from the scalar map alone; no matrix code of the library runs here.

Everything is for a matrix of Frobenius norm c whose singular values (polar, inv) or eigenvalues are `values`.
"""

import torch
from torch import Tensor

from matfn.iteration.protocols import Evaluation, Iteration, Scheduled
from matfn.iteration.residual import Residual
from matfn.iteration.schedule import Schedule
from matfn.iteration.step import Polynomial
from matfn.iteration.target import Target

TRUE = {
    "polar": lambda v, p: torch.ones_like(v),
    "sign": lambda v, p: v.sign(),
    "sqrt": lambda v, p: v.sqrt(),
    "inv_sqrt": lambda v, p: 1 / v.sqrt(),
    "root": lambda v, p: v ** (1 / p),
    "inv_root": lambda v, p: v ** (-1 / p),
    "inv": lambda v, p: 1 / v,
}


def m_of(target: Target, values: Tensor, c: float) -> Tensor:
    """The eigenvalues of the matrix that is driven to I, after division of A by c."""
    return values / c if target.name in ("sqrt", "inv_sqrt", "root", "inv_root") else (values / c) ** 2


def schedule_on(method: object, target: Target, values: Tensor, c: float) -> Schedule | None:
    """The steps that the method takes on a matrix of this spectrum; None if it takes none, or does not say so.

    A method without a schedule whose choices depend on invariants of M alone (it has `invariant = True`) is asked what
    it does to the diagonal matrix of the same spectrum, step by step.
    """
    if isinstance(method, Evaluation):
        return None
    if isinstance(method, Scheduled):
        return method.schedule(target.p)
    assert isinstance(method, Iteration)
    if not getattr(method, "invariant", False):
        return None
    m, rows = m_of(target, values, c), []
    for k in range(method.steps):
        step = method.step(k, Residual(torch.diag(m)[None], target.p))
        rows.append(Polynomial(tuple(float(x) for x in step.coefficients)))
        m = m * rows[-1](m) ** target.p
    return Schedule(tuple(rows), target.p, 1e-3, f"{method!r} on one spectrum")


def expected(target: Target, schedule: Schedule | None, values: Tensor, c: float) -> Tensor:
    """The values of the result: of the scalar map f on s = m^(1/p), or of the true function where there is no map.

    With Q = f(s)/s, the limit of Q is m^(-1/p); what is read off it, and the scaling back, is the table of `Target`.
    """
    if schedule is None:
        return TRUE[target.name](values, target.p)
    p, scaled = target.p, values / c
    s = m_of(target, values, c) ** (1 / p)
    f = schedule(s)
    match target.name:
        case "polar":
            return f
        case "sign":
            return values.sign() * f
        case "inv":
            return f / s * scaled / c
        case "sqrt" | "root":
            return scaled * (f / s) ** (p - 1) * c ** (1 / p)
        case "inv_sqrt" | "inv_root":
            return f / s * c ** (-1 / p)
    raise AssertionError(f"the suite does not know {target}: say here what it does to a spectrum")
