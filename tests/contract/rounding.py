"""How much a rounding error is amplified: first-order bounds from the spectrum, for each way to carry the matrices.

The bounds are in units of eps, for a matrix of Frobenius norm 1. They follow one scheme. All exact iterates are
functions of one matrix, so a perturbation E of an iterate is a matrix in their common basis, and the map F from there
to the result multiplies E_ij by a divided difference F[x_i, x_j] (Daleckii-Krein). Each step adds fresh errors: of a
product A B at most n eps ||A|| ||B||. Hence

    error <= eps * sum over steps (fresh error of the step) * (largest multiplier of the map that remains).

The factor n of the products and the sqrt(n) from the Frobenius norm are covered by the constant 100 of the suite, for
the n <= 10 it uses (10^1.5 = 32).
"""

from itertools import pairwise

import torch
from torch import Tensor

from matfn.engines import Coupled, Gram
from matfn.engines.restarts import restarts_for
from matfn.iteration.partial_fraction import PartialFraction
from matfn.iteration.protocols import Iteration
from matfn.iteration.schedule import Schedule
from matfn.iteration.step import Polynomial
from matfn.iteration.target import Target

from .oracle import TRUE


def divided(F, x: Tensor) -> Tensor:
    """F[x_i, x_j] for all pairs; where two points nearly agree, the derivative between them."""
    x = x.double()
    middle = ((x[:, None] + x[None, :]) / 2).requires_grad_()
    (slope,) = torch.autograd.grad(F(middle).sum(), middle)
    gap = x[:, None] - x[None, :]
    near = gap.abs() <= 1e-5 * x.abs().max()
    return torch.where(near, slope, (F(x)[:, None] - F(x)[None, :]) / torch.where(near, 1.0, gap))


def largest(x: Tensor) -> float:
    """The largest magnitude."""
    return x.abs().max().item()


def evaluating(row: Polynomial | PartialFraction, m: Tensor) -> float:
    """Fresh error of q(M) for an M with the eigenvalues m, itself rounded.

    Of a polynomial: the j-th power takes j products, and M came from one. Of a partial fraction: an inverse is wrong by
    its norm times the condition number of M + t I, from which no sign of a computed eigenvalue can be told near zero.
    """
    norm = largest(m)
    if isinstance(row, PartialFraction):
        terms = zip(row.weights, row.shifts, strict=True)
        least = m.abs().min().item()
        return row.constant + sum(w / (least + t) * (2 + (norm + t) / (least + t)) for w, t in terms)
    return sum((j + 1) * abs(float(c)) * norm**j for j, c in enumerate(row.coefficients))


def applying(row: Polynomial | PartialFraction, s: Tensor) -> float:
    """Fresh error of X q(M) for an X with the singular values s, or eigenvalues of both signs.

    A partial fraction is not evaluated at M: of [X; sqrt(t) I] = [Q_1; Q_2] R the product Q_1 Q_2^T / sqrt(t) is taken,
    or the real part of (X + i sqrt(t) I)^-1, whose condition number is that of X. The factorization perturbs X and
    sqrt(t) by eps times the norm of X; the term multiplies that by its slope in X, below 1/(s^2 + t), and in sqrt(t).
    """
    u = largest(s)
    if isinstance(row, PartialFraction):
        least = s.abs().min().item()
        terms = zip(row.weights, row.shifts, strict=True)
        return row.constant * u + sum(w * 4 * (u + t**0.5) / (least**2 + t) for w, t in terms)
    return 2 * u * evaluating(row, s**2)


def compose(rows, p: int):
    """The scalar map s -> s q(s^p) over several rows."""

    def F(s):
        for row in rows:
            s = s * row(s**p)
        return s

    return F


def product_of(rows, p: int):
    """H(m) = q_1(m_1) q_2(m_2) ..., with m <- m q(m)^p."""

    def H(m):
        Q = torch.ones_like(m)
        for row in rows:
            z = row(m)
            m, Q = m * z**p, Q * z
        return Q

    return H


def of_direct(schedule: Schedule, values: Tensor) -> float:
    """polar and sign: X -> X q(X^2) of singular values, or of eigenvalues of both signs."""
    s, fresh, total = values, 1.0, 0.0  # A itself is rounded
    for k, row in enumerate(schedule.rows):
        total += fresh * _slope(schedule.rows[k:], s)
        fresh = applying(row, s)  # the product with X, and M in q
        s = s * row(s**2)
    return total + fresh


def of_inverse(schedule: Schedule, sigma: Tensor) -> float:
    """inv: X -> q(XA) X. With E = XA - M the result's error is (g[m_i, m_j] E_ij) A^-1 for g(m) = m H(m)."""
    condition = largest(sigma) / sigma.min().item()
    m, x = sigma**2, sigma
    H = product_of(schedule.rows, 1)
    # A is rounded where it starts the iteration, and where it makes M: the result is H(X_0 A) X_0.
    total = largest(sigma[:, None] * divided(H, m) * sigma) + largest(H(m))
    for k, row in enumerate(schedule.rows):
        fresh = evaluating(row, m) * largest(x)
        q = row(m)
        m, x = m * q, x * q
        total += fresh * condition * largest(divided(compose(schedule.rows[k + 1 :], 1), m))
    return total


def of_gram(schedule: Schedule, sigma: Tensor, restarts: tuple[int, ...]) -> float:
    """polar from one Gram matrix: between restarts (M, Q) is carried, and the result of the segment is H(M) X."""
    x, total, error = sigma, 0.0, 1.0  # A itself is rounded
    for start, end in pairwise((0, *sorted(restarts), schedule.steps)):
        total += error * _slope(schedule.rows[start:], x)
        error, x = _segment(schedule.rows[start:end], x)
    return total + error


def _slope(rows, x: Tensor) -> float:
    """By how much an error of X grows: the odd function on the singular values and their mirror image.

    The pair (x, -x) gives F(x)/x, the multiplier of what leaves the row space of a rectangular matrix. The pair (0, 0)
    occurs if 0 is one of the values, for a rank-deficient matrix alone.
    """
    return largest(divided(compose(rows, 2), torch.cat([x, -x])))


def _segment(rows, x: Tensor) -> tuple[float, Tensor]:
    """The error of the X that leaves a segment, and its singular values."""
    m, Q, total = x**2, torch.ones_like(x), 0.0
    error_M, error_Q = largest(m), 0.0
    for k, row in enumerate(rows):
        H = product_of(rows[k:], 2)
        total += error_M * largest(Q[:, None] * divided(H, m) * x)
        total += error_Q * largest(H(m) * x)
        z, norm, normz = row(m), largest(m), largest(row(m))
        rounding = evaluating(row, m)
        error_Q = largest(Q) * (normz + rounding)
        error_M = norm * normz * (3 * normz + 2 * rounding)
        m, Q = m * z**2, Q * z
    return total + error_Q * largest(x) + largest(Q) * largest(x), x * Q


def of_coupled(target: Target, schedule: Schedule, m: Tensor) -> float:
    """Roots from (Y, Z), M = Z Y: dM_ij = dZ_ij y_j + z_i dY_ij, then for each pair a 2 x 2 map of (dY, dZ)_ij."""
    p, n, y, z = schedule.p, len(m), m, torch.ones_like(m)
    jacobians, fresh = [], []
    for row in schedule.rows:
        M = y * z
        q = row(M)
        power = divided(lambda x, row=row: row(x) ** (p - 1) + 0 * x, M)
        from_M = torch.stack([y[:, None] * power, divided(row, M) * z], -1)  # dM -> (dY, dZ)
        to_M = torch.stack([z[:, None].expand(n, n), y.expand(n, n)], -1)  # (dY, dZ) -> dM
        kept = torch.stack([(q ** (p - 1)).expand(n, n), q[:, None].expand(n, n)], -1)
        jacobians.append(from_M[..., :, None] * to_M[..., None, :] + torch.diag_embed(kept))
        rounding, Q, Y, Z = evaluating(row, M), largest(q), largest(y), largest(z)
        of_Z = Z * (Q + rounding)
        of_Y = Y * (p * Q ** (p - 1) + (p - 1) * rounding * Q ** max(p - 2, 0))
        fresh.append(Y * Z * largest(from_M) + of_Y + of_Z)
        y, z = y * q ** (p - 1), z * q
    remaining = torch.eye(2, dtype=m.dtype)[0 if target.name in ("sqrt", "root") else 1].expand(n, n, 1, 2)
    total = 0.0
    for jacobian, error in zip(reversed(jacobians), reversed(fresh), strict=True):
        total += error * torch.linalg.vector_norm(remaining, dim=(-2, -1)).max().item()
        remaining = remaining @ jacobian
    return total + torch.linalg.vector_norm(remaining, dim=(-2, -1)).max().item()  # A itself is rounded


def of_function(target: Target, values: Tensor) -> float:
    """A backward stable decomposition: the condition number of the function, and the size of its values."""
    if target.name in ("polar", "sign"):
        return 2 / values.abs().min().item()
    F = TRUE[target.name]
    return largest(divided(lambda x: F(x, target.p), values.abs())) + largest(F(values, target.p))


def amplification(target: Target, schedule: Schedule | None, engine: object, method: object, scaled: Tensor) -> float:
    """Of what the suite compares with the oracle; `scaled` are the values of A / ||A||_F.

    A method without a schedule leaves the Gram engine to restart where it pleases: it is asked with the method.
    """
    if schedule is None:
        return of_function(target, scaled)
    if isinstance(engine, Coupled):
        return of_coupled(target, schedule, scaled)
    if isinstance(engine, Gram):
        restarts = (
            restarts_for(method if isinstance(method, Iteration) else schedule, torch.float64)
            if engine.restarts is None
            else engine.restarts
        )
        return of_gram(schedule, scaled, restarts)
    return of_inverse(schedule, scaled) if target.name == "inv" else of_direct(schedule, scaled)
