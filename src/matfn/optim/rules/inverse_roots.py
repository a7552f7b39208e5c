"""InverseRoots: Shampoo's rule, the momentum between inverse roots of the factors."""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...iteration.protocols import Scheduled
from ..matrices import foreach
from ..matrices.buckets import Kind, Run
from .blocks import Cutting, blocks_of
from .kronecker import Blocks, Factor, Kronecker, along, gathered, gradients_of, portions
from .roots import RootMethod, check_roots, inverse_roots

__all__ = ["InverseRoots", "compute_roots"]

ROOTS = "roots"
SQUARES = "exp_avg_sq"
GRAFTS = ("none", "sgd", "adam")
_SHOWN = 3
_LOST = "the gradients are not zero, but their squares are zero or infinite"


class InverseRoots(Kronecker):
    """D = B multiplied by the root R_j of factor A_j along each side j, with the norm of the graft; see `Shampoo`.

    Args are as in `Shampoo`. Options: those of `Kronecker`, and ridge, eps, factor_every, root_every and start.

    Raises:
        ValueError: If `graft` is another word, or a number is out of range.
        TypeError: If `method` or `tolerance` has a wrong type.
    """

    second = ROOTS
    counts = ("factor_every", "root_every", "start")

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
                compute_roots(some, p, ridge, self.method, self.tolerance)

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
        if step < options["start"] or (step - options["start"]) % options["root_every"]:
            return
        weight = 1 - float(options["beta2"]) ** ((step - 1) // options["factor_every"] + 1)
        for one in self.factors(blocks, weight):
            A = one.values
            yield (self.p(len(blocks.shape)), float(options["ridge"]), A.shape[-1], A.dtype, A.device), one


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


def compute_roots(due: Sequence[Factor], p: int, ridge: float, method: RootMethod | None, tolerance: float) -> None:
    """Overwrite the roots of factors of one size, in one batch; see `inverse_roots`. If that fails, a root stays."""
    A = torch.cat([one.values / one.weight for one in due])
    found = inverse_roots(A, p, ridge, method, tolerance)
    values, owners = found.values, [(one, i) for one in due for i in range(len(one.values))]
    for index, _ in found.failed:
        one, i = owners[index]
        values[index] = one.last[i]
    foreach.copy_([one.last for one in due], list(values.split([len(one.values) for one in due])))
    lost = [(k, _LOST) for k in found.zero if bool(owners[k][0].momentum()[owners[k][1]].any())]
    helps = f"A larger ridge (now {ridge:g}) or another method helps."
    for what, which, advice in (
        ("was computed again in float64", found.repeated, helps),
        ("keeps its last value", found.failed, helps),
        ("is the identity", lost, "Scale the loss, or keep the weights in float64."),
    ):
        if which:
            shown = [f"the root of {owners[k][0].describe(owners[k][1])} {what}: {why}" for k, why in which[:_SHOWN]]
            more = f"; and {len(which) - _SHOWN} more" if len(which) > _SHOWN else ""
            warnings.warn(
                f"Shampoo: of {len(A)} inverse roots (p = {p}, {A.shape[-1]} rows), {'; '.join(shown)}{more}. {advice}",
                RuntimeWarning,
                stacklevel=2,
            )
