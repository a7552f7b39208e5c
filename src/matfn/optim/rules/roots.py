"""Inverse roots: Shampoo's rule, the momentum between inverse roots of the factors, and how the roots are computed.

Roots are computed by any method, with a relative ridge. Each root is checked, and repeated if that fails. The check is
the only place where an optimizer waits for the device, at the steps at which roots are due.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ...certify import balanced_residual
from ...errors import SpectrumError
from ...iteration.protocols import Evaluation, Iteration, Method, Scheduled
from ...iteration.target import INV_ROOT
from ...kernels.products import without_autocast
from ...linalg.norms import Scale, prescale
from ...methods import Exact, PolarExpress
from ...methods.resolvents.resolvents import Resolvents
from ...run.execute import accurate
from ...run.plan import Purpose, RunPlan, lower_bound, resolve
from ..matrices import foreach
from ..matrices.buckets import Kind, Run
from ..options import check_number
from .blocks import Cutting, blocks_of
from .kronecker import Blocks, Factor, Kronecker, along, gathered, gradients_of, portions

__all__ = ["InverseRoots", "RootMethod", "Roots", "inverse_roots", "minimax", "ridged", "root_plan"]

RootMethod = Method | Callable[[int, float], Method]

ROOTS = "roots"
SQUARES = "exp_avg_sq"
GRAFTS = ("none", "sgd", "adam")
_SHOWN = 3
_LOST = "the gradients are not zero, but their squares are zero or infinite"
_EXACT = Exact()
LinAlgError = torch.linalg.LinAlgError  # pyright: ignore[reportPrivateImportUsage]


class InverseRoots(Kronecker):
    """D = B multiplied by the root R_j of factor A_j along each side j, with the norm of the graft; see `Shampoo`.

    Args are as in `Shampoo`. Options: as for `Kronecker`, and ridge, eps, factor_every, root_every and start.

    Raises:
        ValueError: If `graft` is another word, or a number is out of range.
        TypeError: If `method` or `tolerance` has a wrong type.
    """

    second = ROOTS
    counts = ("factor_every", "root_every", "start")
    reads = (*Kronecker.reads, *counts, "ridge", "eps")

    def __init__(
        self,
        cutting: Cutting,
        graft: str,
        root: int | Mapping[int, int] | None,
        method: RootMethod | None,
        tolerance: float,
    ) -> None:
        super().__init__(cutting)
        if graft not in GRAFTS:
            raise ValueError(f"Shampoo: graft must be one of {GRAFTS}, got {graft!r}.")
        check_roots(root, method, tolerance)
        self.graft, self.root, self.method, self.tolerance = graft, root, method, tolerance

    def check(self, options: Mapping[str, Any], where: str, shapes: Iterable[tuple[int, ...]] = ()) -> None:
        """See `Rule`. A method without a schedule for an exponent is refused here, before the first roots."""
        super().check(options, where, shapes)
        if self.graft == "none" and options["start"] != 1:
            raise ValueError(
                f'{where}: start={options["start"]} needs a graft, "sgd" or "adam", to move the weights until then.'
            )
        if isinstance(self.method, Scheduled):
            for p in sorted({self.p(len(block.shape)) for shape in shapes for block in blocks_of(shape, self.cutting)}):
                self.method.schedule(p)

    def state(self, shape: tuple[int, ...], options: Mapping[str, Any]) -> dict[str, Kind]:
        """Roots beside the factors, and Adam's second moment for the graft "adam"."""
        found = super().state(shape, options)
        if self.graft == "adam":
            found[SQUARES] = "element"
        return found

    def p(self, order: int) -> int:
        """The p of the exponent -1/p for blocks with `order` sides."""
        if isinstance(self.root, int):
            return self.root
        return (self.root or {}).get(order, 2 * order)

    def prepare(self, stacks: Sequence[Sequence[Run]]) -> None:
        """Update the factors of all stacks, then compute the roots that are due, equal sizes together."""
        due: dict[tuple[Any, ...], list[Factor]] = {}
        for runs in stacks:
            batches = self.batches(runs)
            self._take_in_all(runs, batches)
            for blocks in batches:
                for key, one in self._due(blocks):
                    due.setdefault(key, []).append(one)
        for (p, ridge, *_), found in due.items():
            for some in portions(found, self.portion):
                compute_roots(some, p, ridge, self.method, self.tolerance, of_zero=float(self.graft != "none"))

    def update(self, stack: Tensor, runs: Sequence[Run]) -> Tensor:
        """The preconditioned momentum, with the norm of the graft."""
        self.correct(stack, runs)
        lent = _adam(stack, runs) if self.graft == "adam" else stack
        size = _norms(lent)
        for blocks in self.batches(runs):
            if blocks.step >= blocks.options["start"]:
                own = blocks.gather(stack)
                for side in range(len(blocks.shape)):
                    own = along(own, torch.cat(blocks.state(side, ROOTS)), side) if side in blocks.sides else own
                blocks.scatter(own, stack)
            elif lent is not stack:
                blocks.scatter(blocks.gather(lent), stack)
        if self.graft == "none":
            return stack
        norms = _norms(stack)
        return stack.mul_(torch.where(norms == 0, 0.0, size / norms))  # NaN is not zero, so it reaches the weights

    def _take_in_all(self, runs: Sequence[Run], batches: Sequence[Blocks]) -> None:
        """Average the gradients of a stack into the factors that are due, and into Adam's second moment."""
        batches = [blocks for blocks in batches if (blocks.step - 1) % blocks.options["factor_every"] == 0]
        if not batches and self.graft != "adam":
            return
        gradients = gradients_of(runs)
        for blocks in batches:
            self.take_in(blocks, gradients)
        for run in runs if self.graft == "adam" else ():
            foreach.average_squares_(run.views(SQUARES), run.places(gradients), float(run.options["beta2"]))

    def _due(self, blocks: Blocks) -> Iterator[tuple[tuple[Any, ...], Factor]]:
        """The roots of a batch that are due now, as (key, factor). Factors of equal keys can share a batch."""
        options, step = blocks.options, blocks.step
        if step == 1:
            for one in self.factors(blocks):
                one.last.diagonal(dim1=-2, dim2=-1).fill_(1.0)
        if not self._falls_due(step - options["start"], options["root_every"]):
            return
        weight = 1 - float(options["beta2"]) ** ((step - 1) // options["factor_every"] + 1)
        for one in self.factors(blocks, weight):
            A = one.values
            yield (self.p(len(blocks.shape)), float(options["ridge"]), A.shape[-1], A.dtype, A.device), one

    def _falls_due(self, age: int, every: int) -> bool:
        """Whether roots are due `age` steps after the first ones.

        In the first steps the factors change by as much as their own size. Without a graft the roots set the size of
        the step, and old roots would make it wrong. So roots are also computed at the ages 1, 2, 4, ... below `every`.
        """
        early = self.graft == "none" and 0 < age < every and age & (age - 1) == 0
        return age >= 0 and (early or age % every == 0)


def _adam(stack: Tensor, runs: Sequence[Run]) -> Tensor:
    """Adam's step ``(b, m, n)`` from the corrected momentum."""
    step = gathered(runs, SQUARES)
    for run in runs:
        step[run.where].mul_(1 / (1 - float(run.options["beta2"]) ** run.step))
    step.sqrt_()
    for run in runs:
        step[run.where].add_(float(run.options["eps"]))
    return torch.where(step == 0, 0.0, stack / step)


def _norms(stack: Tensor) -> Tensor:
    """The Frobenius norm of each matrix, ``(b, 1, 1)``."""
    return torch.linalg.vector_norm(stack, dim=(-2, -1), keepdim=True)


def compute_roots(
    due: Sequence[Factor], p: int, ridge: float, method: RootMethod | None, tolerance: float, of_zero: float
) -> None:
    """Overwrite the roots of factors of one size, in one batch; see `inverse_roots`.

    A root that cannot be computed keeps its last value.
    The root of a zero factor is `of_zero` times I. With a graft this is I, and the graft sets the size of the step.
    Without a graft it is 0, the pseudo-inverse: I would move the weights by the gradient itself until the next roots.
    """
    A = torch.cat([one.values / one.weight for one in due])
    found = inverse_roots(A, p, ridge, method, tolerance)
    values, owners = found.values, [(one, i) for one in due for i in range(len(one.values))]
    for index, _ in found.failed:
        one, i = owners[index]
        values[index] = one.last[i]
    if found.zero and not of_zero:
        values[list(found.zero)] = 0.0
    foreach.copy_([one.last for one in due], list(values.split([len(one.values) for one in due])))
    lost = [(k, _LOST) for k in found.zero if bool(owners[k][0].momentum()[owners[k][1]].any())]
    helps = f"A larger ridge (now {ridge:g}) or another method helps."
    for what, which, advice in (
        ("was computed again in float64", found.repeated, helps),
        ("keeps its last value", found.failed, helps),
        ("is the identity" if of_zero else "is zero", lost, "Scale the loss, or keep the weights in float64."),
    ):
        if which:
            shown = [f"the root of {owners[k][0].describe(owners[k][1])} {what}: {why}" for k, why in which[:_SHOWN]]
            more = f"; and {len(which) - _SHOWN} more" if len(which) > _SHOWN else ""
            warnings.warn(
                f"Shampoo: of {len(A)} inverse roots (p = {p}, {A.shape[-1]} rows), {'; '.join(shown)}{more}. {advice}",
                RuntimeWarning,
                stacklevel=2,
            )


@dataclass(frozen=True)
class Roots:
    """The result of `inverse_roots`."""

    values: Tensor  # (b, n, n); without meaning for matrices in `failed`
    repeated: tuple[tuple[int, str], ...]  # (index, reason) where a second computation succeeded
    failed: tuple[tuple[int, str], ...]  # (index, reason) where it failed, too
    zero: tuple[int, ...]  # indices of zero matrices, which count as the identity


@lru_cache(maxsize=64)
def minimax(p: int, lower: float) -> PolarExpress:
    """The shortest minimax composition of quintic steps with a worst error below 1e-3 for roots of known bound.

    A ridge gives the exact bound of the spectrum, so few steps suffice: for a ridge of 1e-6 six for p = 4 and seven for
    p = 2. They are products only, for devices on which decompositions are slow.

    Args:
        p: The order of the inverse p-th root.
        lower: Lower bound of s = m^(1/p), in (0, 1).

    Raises:
        ValueError: If the bound is not in (0, 1), as without a ridge.
    """
    # Products in float32 overshoot by about 1e-6, so a safety of 1e-4 is enough. 1e-2 would cost accuracy.
    candidates = (PolarExpress(steps=steps, lower=lower, cushion=0.0, safety=1.0001) for steps in range(2, 60))
    return next(method for method in candidates if method.schedule(p).error() < 1e-3)


def ridged(A: Tensor, ridge: float) -> tuple[Tensor, Scale]:
    """The symmetric part of A ``(b, n, n)`` divided by ||A||_F, plus ridge I; and the divisor. Zero gives the identity.

    ||A||_F is at least the largest eigenvalue and at most sqrt(n) times it, and close to it for a spectrum that decays,
    where a ridge matters. So the condition number of the sum is at most 1 + 1/ridge without computing an eigenvalue.
    """
    scaled, scale = prescale(A)
    X = torch.add(scaled, scaled.mT).mul_(0.5)
    zero = torch.linalg.vector_norm(scaled, dim=(-2, -1)) == 0
    # `where` makes float32 of two Python numbers, and a ridge rounded to float32 is wrong in float64.
    X.diagonal(dim1=-2, dim2=-1).add_(torch.where(zero, torch.ones_like(X[:, 0, 0]), ridge)[:, None])
    return X, scale


def inverse_roots(A: Tensor, p: int, ridge: float, method: RootMethod | None, tolerance: float) -> Roots:
    """(A + ridge ||A||_F I)^(-1/p) of each matrix.

    `certify` estimates the "balanced" residual ||U^a A U^b - I||_F / sqrt(n), a + b = p, of each root that an iteration
    or `Resolvents` computed. A decomposition is accurate or raises. If a residual is above `tolerance` or not finite,
    or a method refuses a matrix, the root is computed again in float64 by `Exact`.

    Args:
        A: ``(b, n, n)``, float32 or float64, symmetric positive semidefinite up to rounding.
        p: At least 1.
        ridge: Relative to ||A||_F, at least 0.
        method: A method, or a function of p and of the lower bound of s = m^(1/p) that returns one. None is the
            method of the run plan.
        tolerance: The greatest residual accepted.
    """
    X, scale = ridged(A, ridge)
    finite = torch.linalg.vector_norm(X, dim=(-2, -1)).isfinite()
    if not bool(finite.all()):
        X = torch.where(finite[:, None, None], X, torch.eye(X.shape[-1], dtype=X.dtype, device=X.device))
    U, reasons = _roots(X, p, _chosen(X, p, ridge, method), tolerance)
    repeated, failed = [], []
    for i, sound in enumerate(finite.tolist()):
        if not sound:
            failed.append((i, "the factor is not finite"))
        elif reasons[i]:
            again, still = _roots(X[i : i + 1].double(), p, _EXACT, tolerance)
            (failed if still[0] else repeated).append((i, still[0] or reasons[i]))
            U[i] = again[0]
    # The scale of a zero matrix is 1 by convention. Few other matrices have it, which saves a pass over all of them.
    unit = ((scale.peak == 1) & (scale.norm == 1)).flatten().tolist()
    zero = tuple(i for i, candidate in enumerate(unit) if candidate and not bool(A[i].any()))
    return Roots(scale.undo(U, -1 / p), tuple(repeated), tuple(failed), zero)


def _chosen(X: Tensor, p: int, ridge: float, method: RootMethod | None) -> Method:
    """The method itself; for None and `Resolvents` the run plan's method, with the products of the machine."""
    if not (method is None or isinstance(method, Scheduled | Iteration | Evaluation)):  # some methods are callable, too
        method = method(p, lower_bound(p, ridge, X.shape[-1]))
    if method is None or isinstance(method, Resolvents):
        return root_plan(X.shape[-1], p, ridge, X.dtype, X.device, method).method
    return method


def root_plan(
    n: int, p: int, ridge: float, dtype: torch.dtype, device: torch.device, method: Method | None = None
) -> RunPlan:
    """The run plan of inverse p-th roots of n x n factors with a relative ridge. None is the default method."""
    target = INV_ROOT.with_exponent(p)
    return resolve(target, method, (n, n), dtype, device, purpose=Purpose.STEP, ridge=ridge)


def _roots(X: Tensor, p: int, method: Method, tolerance: float) -> tuple[Tensor, list[str]]:
    """The roots, and for each the reason why it is refused, or ""."""
    short = isinstance(method, Resolvents)
    try:
        # `inv_rootm` would check X once more, which takes a third of the time of the resolvents.
        target = INV_ROOT.with_exponent(p)
        with without_autocast(X):
            U = method.evaluate(target, X) if short else accurate(target, X, method)
    except (SpectrumError, LinAlgError) as error:
        if len(X) == 1:
            return torch.zeros_like(X), [" ".join(str(error).split())]
        single = [_roots(X[i : i + 1], p, method, tolerance) for i in range(len(X))]  # one of them spoils the batch
        return torch.cat([U for U, _ in single]), [reason for _, (reason,) in single]
    finite = torch.linalg.vector_norm(U, dim=(-2, -1)).isfinite()
    if not bool(finite.all()):
        U = torch.where(finite[:, None, None], U, 0.0)
    residuals = torch.where(finite, 0.0, math.inf)
    if short or not isinstance(method, Evaluation):
        measured = balanced_residual(X, U, p)
        # An even power hides negative eigenvalues of a root, which a Cholesky factorization finds. Sums of resolvents
        # are positive definite: they add K^T K and a line that is positive on the spectrum.
        sound = finite if short else finite & (torch.linalg.cholesky_ex(U / 2 + U.mT / 2).info == 0)
        residuals = torch.where(sound, measured, math.inf)
    return U, ["" if r <= tolerance else f"its residual by {method!r} is {r:.2g}" for r in residuals.tolist()]


def check_roots(root: Any, method: Any, tolerance: Any) -> None:
    """Refuse wrong values of Shampoo's `root`, `method` and `tolerance`."""
    numbers = [*root, *root.values()] if isinstance(root, Mapping) else [1 if root is None else root]
    if not all(isinstance(number, int) and not isinstance(number, bool) and number >= 1 for number in numbers):
        raise ValueError(f"Shampoo: root must be p of the inverse p-th root, >= 1, or map orders to p; got {root!r}.")
    known = method is None or isinstance(method, Scheduled | Iteration | Evaluation) or callable(method)
    if not known or (isinstance(method, type)):
        raise TypeError(f"Shampoo: method must be a value such as Prism() or a function of (p, lower), got {method!r}.")
    if not check_number(tolerance, "Shampoo: tolerance") > 0:
        raise ValueError(f"Shampoo: tolerance must be positive, got {tolerance}.")
