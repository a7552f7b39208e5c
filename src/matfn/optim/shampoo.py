"""Shampoo: the gradient between the inverse roots of its own second moments, one for each side of each block."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..iteration.protocols import Scheduled
from .blocks import Batch, Cutting, blocks_of
from .due import Due, compute_roots, portions
from .kronecker import KroneckerOptimizer, Work, along
from .matrices import foreach
from .matrices.buckets import Bucket, Slot, working_dtype
from .options import check_number
from .rest import StateLike
from .root_choice import RootChoice, root_choice
from .roots import RootMethod, check_roots

__all__ = ["Shampoo"]

ROOTS = "roots"
SQUARES = "exp_avg_sq"
GRAFTS = ("none", "sgd", "adam")


class Shampoo(KroneckerOptimizer):
    r"""Shampoo for the matrices, torch's AdamW for the rest, in one torch optimizer.

    For a block G (`cutting`) of the gradient of a matrix, of order k (2, or more for a convolution), unfolded along its
    sides to G_1, ..., G_k, with momentum mu, EMA factor beta2 and decay wd::

        B   <- mu B + (1 - mu) G                                     float32 (float64 for float64 weights)
        A_j <- beta2 A_j + (1 - beta2) G_j G_j^T                     at every `factor_every`-th step
        R_j  = (A_j / c + ridge ||A_j / c||_F I)^(-1/p)              at every `root_every`-th step, from `start` on
        D    = (B / c') multiplied by R_j along each side j          for a matrix R_1 (B / c') R_2
        W   <- (1 - lr wd) W - lr (size of the graft / ||D||_F) D    D as it is for graft "none"

    with p = 2 k (1/4 on each side of a matrix) and c, c' the bias corrections. Momentum is that of the gradient, as in
    Distributed Shampoo, not of the preconditioned update. Without averages, D is the polar factor of G, as for Muon.

    The graft lends its size to the direction of each whole matrix (not of each block): "sgd" the norm of B / c',
    "adam" that of Adam's step from B and a second moment with the same beta2. Before `start` it lends its direction.

    The factors are second moments: gradients with entries within 1e-18 and 1e18 in float32 (as for Adam). One that is
    not finite, or too large to be squared, is left out of the factors of its block; but NaN and infinity pass through
    the momentum to the weights, and an infinite square stops its entry of the graft "adam", both as for Adam. A
    RuntimeWarning names a block all of whose squares are lost: its root is the identity.

    A root is checked (`certify`) at the steps at which it is computed, which is where the host waits for the device,
    and nowhere else. What fails is computed again in float64 by `Exact`; what fails again, and a factor that is not
    finite, keeps its last root (the identity, if it never had one). Either way a RuntimeWarning says which parameter
    and block. No method of this library can start from the last roots: they do not commute with the new factor, and
    the coupled iteration is unstable from a start that does not. They are not used, then.

    Args:
        params: as for `Muon`.
        lr: learning rate, >= 0. Under the graft "adam" the one tuned for AdamW.
        momentum: in [0, 1).
        nesterov: mix the gradient into the momentum once more.
        weight_decay: decoupled, >= 0.
        cautious: decay only entries on which update and weight agree in sign.
        beta2: of the factors and of the graft "adam", in [0, 1). With `factor_every` k it spans k times as many steps.
        ridge: relative to ||A||_F, which is at least the largest eigenvalue of A, at most sqrt(n) times it, and close
            to it where a ridge matters; so it bounds the condition number by 1 + 1/ridge without an eigenvalue being
            computed. 1e-6 is usual, and about as low as float32 can see. 0 needs ``Exact(singular="pseudo-inverse")``.
        eps: of the graft "adam", as for AdamW.
        factor_every: steps from one update of the factors to the next.
        root_every: steps from one computation of the roots to the next. 10 to 100 is usual.
        start: step of the first roots, from 1.
        graft: "adam", "sgd" or "none".
        root: p of the inverse p-th roots: None for 2 k at order k, one number for every order (2 for 1/2 on each
            side), or a mapping from some orders to p.
        method: how a root is computed: a value of `matfn.METHODS`, or a function of p and of the bound that the ridge
            gives, such as `matfn.optim.resolvents` or `minimax`. None is `root_choice`: in float32 on a CPU, from 96
            rows on, a sum of `Resolvents` within 1e-2, which is below what rounding and the age of the roots change, in
            two thirds to a third of the time; else `Exact()`. `root_choices` shows it. On a GPU try `minimax`.
        tolerance: of the "balanced" residual of a root (`certify`), about p times its relative error. An eigenvalue
            that was not lifted at all counts as 1; rounding in float32 leaves 0.1 at most at ridge 1e-6.
        cutting: block size, merging of small dimensions.
        rest: as for `Muon`.

    Raises:
        ValueError: an option out of range, misspelt or unused; a matrix parameter that is no matrix.
        TypeError: as for `Muon`.

    References:
        Gupta, Koren, Singer, "Shampoo: Preconditioned stochastic tensor optimization", arXiv:1802.09568.
        Anil et al., "Scalable second order optimization for deep learning", arXiv:2002.09018 (blocks, delays).
        Agarwal et al., "Disentangling adaptive gradient methods from learning rates", arXiv:2002.11803 (grafting).
        Shi et al., "A distributed data-parallel PyTorch implementation of Distributed Shampoo", arXiv:2309.06497.
    """

    kept = (*KroneckerOptimizer.kept, "graft", "root", "method", "tolerance")
    second = ROOTS
    counts = ("factor_every", "root_every", "start")

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        *,
        momentum: float = 0.9,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        cautious: bool = False,
        beta2: float = 0.99,
        ridge: float = 1e-6,
        eps: float = 1e-8,
        factor_every: int = 1,
        root_every: int = 10,
        start: int = 1,
        graft: str = "adam",
        root: int | Mapping[int, int] | None = None,
        method: RootMethod | None = None,
        tolerance: float = 0.2,
        cutting: Cutting | None = None,
        rest: Mapping[str, Any] | None = None,
    ) -> None:
        self.graft, self.root, self.tolerance = graft, root, tolerance
        self.method: RootMethod | None = method
        if graft not in GRAFTS:
            raise ValueError(f"Shampoo: graft must be one of {GRAFTS}, got {graft!r}.")
        check_roots(root, self.method, tolerance)
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
            "cautious": cautious,
            "scale": "unit",
            **{"beta2": beta2, "ridge": ridge, "eps": eps},
            **{"factor_every": factor_every, "root_every": root_every, "start": start},
        }
        super().__init__(params, defaults, cutting=Cutting() if cutting is None else cutting, rest=rest)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """See the base. A method that has no schedule for an exponent is refused here, not at the first roots."""
        super().add_param_group(param_group)
        blocks = [block for layout in self.layouts.values() for block in blocks_of(layout, self.cutting)]
        for p in sorted({self._p(len(block.shape)) for block in blocks}):
            if isinstance(self.method, Scheduled):
                self.method.schedule(p)

    def root_choices(self) -> dict[tuple[int, int, float], RootChoice]:
        """How roots are computed without a `method`, and why, by rows, p and ridge; empty with a `method`."""
        found: dict[tuple[int, int, float], RootChoice] = {}
        for group in self.param_groups if self.method is None else ():
            for param in group["params"] if group["rule"] == "matrix" else ():
                for block in blocks_of(self.layouts[param], self.cutting):
                    for n in (n for n, home in zip(block.shape, block.homes, strict=True) if home is not None):
                        key = n, self._p(len(block.shape)), float(group["ridge"])
                        found[key] = root_choice(*key, working_dtype(param), param.device)
        return found

    def renew(self, works: tuple[Work, ...]) -> None:
        """Second moments of all buckets, then the roots that are due, equal sizes together."""
        due: dict[tuple[Any, ...], list[Due]] = {}
        for work in works:
            self._take_in_all(work)
            for batch in work.batches:
                for key, one in self._roots_due(batch):
                    due.setdefault(key, []).append(one)
        for (p, ridge, *_), found in due.items():
            for some in portions(found, self.portion):
                compute_roots(some, p, ridge, self.method, self.tolerance, self.param_groups, self.momentum_of)

    def direction(self, bucket: Bucket, stack: Tensor) -> Tensor:
        """The preconditioned momentum, as long as the graft says."""
        work = self.work(bucket)
        lent = self._adam(work, stack) if self.graft == "adam" else stack
        size = _norms(lent)
        for batch in work.batches:
            if self.age(batch) >= self.param_groups[batch.group]["start"]:
                blocks = batch.gather(stack)
                for side in range(len(batch.shape)):
                    blocks = along(blocks, torch.cat(self.homes(batch, side, ROOTS)), side)
                batch.scatter(blocks, stack)
            elif lent is not stack:
                batch.scatter(batch.gather(lent), stack)
        if self.graft == "none":
            return stack
        norms = _norms(stack)
        return stack.mul_(torch.where(norms == 0, 0.0, size / norms))  # NaN is no zero: it shows in the weights

    def state_like(self, param: Tensor, group: Mapping[str, Any]) -> StateLike:
        """Roots beside the factors, and Adam's second moment if it is grafted."""
        found = super().state_like(param, group)
        if group["rule"] == "matrix" and self.graft == "adam":
            found[SQUARES] = (tuple(param.shape), working_dtype(param))
        return found

    def check_group(self, group: Mapping[str, Any], where: str) -> None:
        """See the base; the ridge is at least 0, and without a graft there is nothing to start with but roots."""
        super().check_group(group, where)
        if "ridge" in group and not check_number(group["ridge"], f"{where}: ridge") >= 0:
            raise ValueError(f"{where}: ridge must be >= 0, got {group['ridge']}.")
        if self.graft == "none" and group.get("start", 1) != 1:
            raise ValueError(
                f'{where}: start={group["start"]} needs a graft, which moves the weights before: graft "sgd" or "adam".'
            )

    def _take_in_all(self, work: Work) -> None:
        """The gradients of a bucket into its factors, where those are due, and into Adam's second moment."""
        batches = [b for b in work.batches if (self.age(b) - 1) % self.param_groups[b.group]["factor_every"] == 0]
        if not batches and self.graft != "adam":
            return
        gradients = work.bucket.gather(Slot.gradient)
        for batch in batches:
            self.take_in(batch, gradients)
        if self.graft == "adam":
            for index, slots in work.bucket.by_group().items():
                held = [slot.read(self.state_of(slot, SQUARES)) for slot in slots]
                new = [slot.place(gradients) for slot in slots]
                foreach.average_squares_(held, new, float(self.param_groups[index]["beta2"]))

    def _roots_due(self, batch: Batch) -> Iterator[tuple[tuple[Any, ...], Due]]:
        """The roots of a batch that are due now, with what they must share to be computed together."""
        group, age = self.param_groups[batch.group], self.age(batch)
        if age == 1:
            for one in self.due(batch):
                one.last.diagonal(dim1=-2, dim2=-1).fill_(1.0)
        if age < group["start"] or (age - group["start"]) % group["root_every"]:
            return
        weight = 1 - float(group["beta2"]) ** ((age - 1) // group["factor_every"] + 1)
        for one in self.due(batch, weight):
            A = one.factors
            yield (self._p(len(batch.shape)), float(group["ridge"]), A.shape[-1], A.dtype, A.device), one

    def _adam(self, work: Work, stack: Tensor) -> Tensor:
        """Adam's step ``(b, m, n)`` from the momentum."""
        step = work.bucket.gather(lambda slot: slot.read(self.state_of(slot, SQUARES)))
        for team in work.teams:
            share = 1 - float(self.param_groups[team[0].group]["beta2"]) ** self.age(team[0])
            foreach.mul_([slot.place(step) for slot in team], 1 / share)
        step.sqrt_()
        for index, slots in work.bucket.by_group().items():
            foreach.shift_([slot.place(step) for slot in slots], float(self.param_groups[index]["eps"]))
        return torch.where(step == 0, 0.0, stack / step)

    def _p(self, order: int) -> int:
        if isinstance(self.root, int):
            return self.root
        return (self.root or {}).get(order, 2 * order)


def _norms(stack: Tensor) -> Tensor:
    """The Frobenius norm of each matrix, ``(b, 1, 1)``."""
    return torch.linalg.vector_norm(stack, dim=(-2, -1), keepdim=True)
