"""Roots: Shampoo's rule, the momentum between inverse roots of the factors.

Roots are computed by any method, with a relative ridge. Each root is checked, and repeated if that fails: at once where
the host reads for free (`inverse_roots`), at the start of the next step on a GPU (`device_roots`).
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...iteration.protocols import Evaluation, Iteration, Scheduled
from ...methods import RitzMinimax
from ..matrices import foreach
from ..matrices.buckets import Kind, Run
from ..options import check_number
from .blocks import Cutting, blocks_of
from .device_roots import Verdict, device_plan, device_roots, reads_free, sent
from .inverse_roots import RootMethod, Roots, inverse_roots, minimax, ridged, root_plan
from .kronecker import Blocks, Factor, Kronecker, along, gathered, gradients_of, portions

__all__ = ["InverseRoots", "RootMethod", "Roots", "inverse_roots", "minimax", "ridged", "root_plan"]

ROOTS = "roots"
SQUARES = "exp_avg_sq"
GRAFTS = ("none", "sgd", "adam")
_SHOWN = 3
_LOST = "the gradients are not zero, but their squares are zero or infinite"


class InverseRoots(Kronecker):
    """D = B multiplied by the root R_j of factor A_j along each side j, with the norm of the graft; see `Shampoo`.

    Args are as in `Shampoo`. Options: as for `Kronecker`, and ridge, eps, factor_every, root_every and start.

    Raises:
        ValueError: If `graft` is another word, or a number is out of range.
        TypeError: If `method` or `tolerance` has a wrong type.
    """

    second = ROOTS
    device_portion = 2**24  # 64 MB in float32, 16 x 1024: a GPU needs large batches, and has the memory
    _open: tuple[Verdict, ...] = ()  # of the last step, not yet read
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
        self.settle()  # before the factors change
        due: dict[tuple[Any, ...], list[Factor]] = {}
        for runs in stacks:
            batches = self.batches(runs)
            self._take_in_all(runs, batches)
            for blocks in batches:
                for key, one in self._due(blocks):
                    due.setdefault(key, []).append(one)
        for (p, ridge, *_, device), found in due.items():
            for some in portions(found, self.portion if reads_free(device) else self.device_portion):
                verdict = compute_roots(some, p, ridge, self.method, self.tolerance, self._of_zero)
                if verdict is not None:
                    self._open = (*self._open, verdict)
        if self._open and any(one.run.step == one.run.options["start"] for v in self._open for one in v.due):
            self.settle()  # a first root that fails has no last value to keep

    @property
    def _of_zero(self) -> float:
        """The root of a zero factor is this number times I.

        With a graft this is I, and the graft sets the size of the step. Without a graft it is 0, the pseudo-inverse: I
        would move the weights by the gradient itself until the next roots.
        """
        return float(self.graft != "none")

    def settle(self) -> None:
        """See `Link`. Read the verdicts of the last step, and compute again the roots that were refused.

        Raises:
            RuntimeError: While a CUDA graph is captured, because waiting for a verdict would break the capture.
        """
        if any(verdict.arrived is not None for verdict in self._open) and torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                "Shampoo: the roots of the last step are not checked, and cannot be while a CUDA graph is captured: "
                "call optimizer.state_dict() before the capture, which checks them"
            )
        verdicts, self._open = self._open, ()
        for verdict in verdicts:
            repeated, failed, zero = verdict.settle()
            _warn(verdict.due, verdict.plan.target.p, verdict.ridge, repeated, failed, zero, self._of_zero)

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
) -> Verdict | None:
    """Overwrite the roots of factors of one size, in one batch. A root that cannot be computed keeps its last value.

    Where the host reads for free, all is settled on return (`inverse_roots`). Else the result is the verdict to settle
    before the factors change (`device_roots`), or None while a CUDA graph is captured: then nothing can be read, and a
    root that is refused keeps its last value without a warning.
    """
    A, sizes = _averages(due), [len(one.values) for one in due]
    plan = device_plan(A, p, ridge, method)
    if plan is not None:
        last = torch.cat([one.last for one in due])
        values, figures = device_roots(A, last, ridge, plan, tolerance, of_zero)
        foreach.copy_([one.last for one in due], list(values.split(sizes)))
        sending = sent(figures)
        return None if sending is None else Verdict(due, plan, ridge, tolerance, *sending)
    found = inverse_roots(A, p, ridge, method, tolerance)
    values, owners = found.values, [(one, i) for one in due for i in range(len(one.values))]
    for index, _ in found.failed:
        one, i = owners[index]
        values[index] = one.last[i]
    if found.zero and not of_zero:
        values[list(found.zero)] = 0.0
    foreach.copy_([one.last for one in due], list(values.split(sizes)))
    _warn(due, p, ridge, found.repeated, found.failed, found.zero, of_zero)
    return None


def _averages(due: Sequence[Factor]) -> Tensor:
    """The factors divided by the sums of their weights, ``(b, n, n)``, in new memory."""
    if len({one.weight for one in due}) == 1:  # one division for all
        return torch.cat([one.values for one in due]).div_(due[0].weight)
    return torch.cat([one.values / one.weight for one in due])


def _warn(
    due: Sequence[Factor],
    p: int,
    ridge: float,
    repeated: Sequence[tuple[int, str]],
    failed: Sequence[tuple[int, str]],
    zero: Sequence[int],
    of_zero: float,
) -> None:
    """Warn of roots that were computed again or kept, and of zero factors whose momentum is not zero."""
    owners = [(one, i) for one in due for i in range(len(one.values))]
    lost = [(k, _LOST) for k in zero if bool(owners[k][0].momentum()[owners[k][1]].any())]
    helps = f"A larger ridge (now {ridge:g}) or another method helps."
    for what, which, advice in (
        ("was computed again in float64", repeated, helps),
        ("keeps its last value", failed, helps),
        ("is the identity" if of_zero else "is zero", lost, "Scale the loss, or keep the weights in float64."),
    ):
        if which:
            shown = [f"the root of {owners[k][0].describe(owners[k][1])} {what}: {why}" for k, why in which[:_SHOWN]]
            more = f"; and {len(which) - _SHOWN} more" if len(which) > _SHOWN else ""
            warnings.warn(
                f"Shampoo: of {len(owners)} inverse roots (p = {p}, {due[0].values.shape[-1]} rows), "
                f"{'; '.join(shown)}{more}. {advice}",
                RuntimeWarning,
                stacklevel=3,
            )


def check_roots(root: Any, method: Any, tolerance: Any) -> None:
    """Refuse wrong values of Shampoo's `root`, `method` and `tolerance`."""
    numbers = [*root, *root.values()] if isinstance(root, Mapping) else [1 if root is None else root]
    if not all(isinstance(number, int) and not isinstance(number, bool) and number >= 1 for number in numbers):
        raise ValueError(f"Shampoo: root must be p of the inverse p-th root, >= 1, or map orders to p; got {root!r}.")
    known = method is None or isinstance(method, Scheduled | Iteration | Evaluation) or callable(method)
    if isinstance(method, RitzMinimax):
        method.refuse_every("Shampoo")
    if not known or (isinstance(method, type)):
        raise TypeError(f"Shampoo: method must be a value such as Prism() or a function of (p, lower), got {method!r}.")
    if not check_number(tolerance, "Shampoo: tolerance") > 0:
        raise ValueError(f"Shampoo: tolerance must be positive, got {tolerance}.")
