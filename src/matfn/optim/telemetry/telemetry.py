"""Telemetry: measures every few steps what an optimizer does to each matrix, and keeps its own cost under a budget.

It uses the step hooks of torch, and `before_move` of a `MatrixOptimizer`. So optimizers need no code for telemetry, and
a step without measurement costs two calls.
"""

import time
from collections.abc import Callable, Collection, Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from ..matrices.buckets import Bucket, Slot, working_dtype
from ..matrices.shards import is_dtensor, local, placements_of
from ..optimizer import MatrixOptimizer
from .figures import measured
from .history import History
from .sinks import Record

__all__ = ["Telemetry"]

Figures = dict[str, Tensor]

# How the figures of the matrices of one parameter (experts, heads, q, k and v) become one number.
_TOGETHER: dict[str, Callable[[Tensor], Tensor]] = {
    "condition": torch.amax,
    "nuclear_norm": torch.sum,
    "gradient_norm": torch.linalg.vector_norm,
    "nu": torch.amax,
    "orthogonality": torch.amax,
    "direction": torch.amin,
    "ratio": torch.amax,
}


class Telemetry:
    """Measures every `every` steps, and passes a `Record` to each sink.

    Parameters with two axes or more are measured. G is the gradient, D the direction of the update before learning rate
    and scale, W the weight:

    | figure          | definition                              | over several matrices     |
    |-----------------|-----------------------------------------|---------------------------|
    | `condition`     | kappa_2(G), over the range of G         | the greatest              |
    | `nuclear_norm`  | ||G||_*                                 | the sum                   |
    | `gradient_norm` | ||G||_F                                 | of all together           |
    | `nu`            | ||D||_2: PolarGrad's nu, 1 for Muon     | the greatest              |
    | `orthogonality` | ||U^T U - I||_F / sqrt(n), U = D / nu   | the greatest              |
    | `direction`     | <G, U> / ||G||_*, from -1 to 1          | the least                 |
    | `ratio`         | ||lr scale D||_F / ||W||_F              | the greatest              |

    `direction` is 1 for steepest descent under the spectral norm, and less with momentum, which holds older gradients.
    If AdamW or an optimizer of torch moves a matrix, D is the weight before minus the weight after the step, decay
    included, and there is no `nu`. `.grad`, weights, state and random numbers are the same as without telemetry.

    Singular values count as zero below 4 eps of the gradient's dtype (at least float32) and, unless exact, 1e-7,
    relative to the greatest. docs/telemetry.md has the use of each figure, accuracy and cost.

    Args:
        optimizer: Any optimizer of torch. Use one Telemetry for each.
        *sinks: Functions that take a `Record`, such as `JsonLines` and `TensorBoard`.
        every: Steps from one measurement to the next. The first step is measured.
        exact: Whether to compute singular values in float64 at every size. Else they come from the Gram matrix in
            float64, or, if the short side has more than 512 rows, from a sketch that is good to a few per cent.
        budget: The greatest share of the time, in (0, 1]; 1 skips nothing. Measurements that would exceed it are
            skipped and counted, except the first.
        only: Glob patterns of names. A parameter that matches none is not measured.
        names: {parameter: name}, for an optimizer without names.

    Attributes:
        history: The measurements so far, for ``optimizer.report()``; see `History`.

    Raises:
        ValueError: If an argument is out of range, a pattern of `only` matches no parameter, or a matrix to measure is
            sharded.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *sinks: Callable[[Record], object],
        every: int = 100,
        exact: bool = False,
        budget: float = 0.05,
        only: Collection[str] = ("*",),
        names: Mapping[Tensor, str] | None = None,
    ) -> None:
        if every < 1 or not 0 < budget <= 1:
            raise ValueError(f"Telemetry: every must be >= 1 and budget in (0, 1], got every={every}, budget={budget}.")
        self.optimizer, self.sinks, self.every, self.exact, self.budget = optimizer, sinks, every, exact, budget
        self.only, self.names = tuple(only), names
        self.step, self.seconds, self.skipped, self._spent = 0, 0.0, 0, 0.0
        self._chosen()
        self.history = History()
        self._open: dict[str, list[Figures]] | None = None
        self._before_step: dict[Tensor, Tensor] = {}
        self._versions: dict[Tensor, int] = {}
        self._since = time.perf_counter()
        self._hooks = [optimizer.register_step_pre_hook(self._begin), optimizer.register_step_post_hook(self._end)]
        if isinstance(optimizer, MatrixOptimizer):
            optimizer.before_move.append(self._observe)
            optimizer.history = self.history

    @property
    def share(self) -> float:
        """The time of all measurements divided by the time since the beginning."""
        return self.seconds / max(time.perf_counter() - self._since, 1e-9)

    def detach(self) -> None:
        """Remove all hooks from the optimizer, and close the sinks that have `close`."""
        for hook in self._hooks:
            hook.remove()
        if isinstance(self.optimizer, MatrixOptimizer) and self._observe in self.optimizer.before_move:
            self.optimizer.before_move.remove(self._observe)
        for sink in self.sinks:
            getattr(sink, "close", lambda: None)()

    def _begin(self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.step += 1
        self._open = None
        if (self.step - 1) % self.every:
            return
        allowed = self.budget * (time.perf_counter() - self._since)
        if self.budget < 1 and self.seconds and self.seconds + self._spent > allowed:
            self.skipped += 1  # another measurement as long as the last would exceed the budget
            return
        begun = self._clock()
        chosen = self._chosen()
        self._open, self._spent = {}, 0.0
        seen = optimizer.layouts if isinstance(optimizer, MatrixOptimizer) else {}
        self._before_step = {p: p.detach().clone() for p in chosen if p not in seen and p.ndim >= 2}
        # Without a closure `.grad` holds the true gradient and must not change during the step. A closure computes new
        # gradients, so nothing can be compared. torch passes the optimizer as args[0].
        closure = any(argument is not None for argument in args[1:]) or kwargs.get("closure") is not None
        self._versions = {} if closure else {p: p.grad._version for p in chosen if p.grad is not None}
        self._spend(begun)

    def _observe(self, bucket: Bucket, direction: Tensor) -> None:
        if self._open is None:
            return
        begun, chosen = self._clock(), self._chosen()
        slots = [slot for slot in bucket.slots if slot.param in chosen]
        if slots:
            assert isinstance(self.optimizer, MatrixOptimizer)
            groups, (_, m, n) = self.optimizer.param_groups, bucket.shape
            owners = {slot.group: groups[slot.group] for slot in bucket.slots}
            scales = {i: self.optimizer.scale_of(group["rule"], group["scale"])(m, n) for i, group in owners.items()}
            rows = torch.cat([torch.arange(s.start, s.start + s.count, device=bucket.device) for s in slots])
            size = [float(groups[s.group]["lr"]) * scales[s.group] for s in slots for _ in range(s.count)]
            stacks = (bucket.gather(Slot.gradient), direction, bucket.gather(lambda slot: slot.read(slot.param)))
            G, D, W = (stack[rows] for stack in stacks)
            figures = measured(G, D, W, torch.tensor(size, device=bucket.device), exact=self.exact)
            for index, part in enumerate(torch.arange(len(rows)).split([slot.count for slot in slots])):
                block = {name: figure[part[0] : part[-1] + 1] for name, figure in figures.items()}
                self._open.setdefault(chosen[slots[index].param], []).append(block)
        self._spend(begun)

    def _end(self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._open is None:
            return
        begun, chosen = self._clock(), self._chosen()
        self._refuse_touched(chosen)
        for param, before in self._before_step.items():
            if param.grad is not None and not param.grad.is_sparse and param.is_floating_point() and param.numel():
                self._open[chosen[param]] = [self._difference(param, before)]
        self._before_step = {}
        figures = {name: _together(blocks) for name, blocks in self._open.items()}
        self._open = None
        self._spend(begun)
        record = Record(self.step, figures, self._spent, self.share, self.skipped, _rates(optimizer))
        for sink in (self.history, *self.sinks):
            sink(record)

    def _difference(self, param: Tensor, before: Tensor) -> Figures:
        """The figures of a matrix that AdamW or an optimizer of torch moved."""
        assert param.grad is not None
        work = working_dtype(param)
        gradient, weight, after = (x.detach().to(work).flatten(1)[None] for x in (param.grad, before, param))
        figures = measured(gradient, weight - after, weight, weight.new_ones(1), exact=self.exact)
        del figures["nu"]
        return figures

    def _refuse_touched(self, chosen: Mapping[Tensor, str]) -> None:
        for param, version in self._versions.items():
            if param.grad is None or param.grad._version != version:
                raise RuntimeError(
                    f"the optimizer {type(self.optimizer).__name__} wrote into .grad of {chosen[param]!r} during its "
                    "step, so telemetry cannot know the gradient. Call detach(), or use an optimizer that reads it."
                )

    def _chosen(self) -> dict[Tensor, str]:
        """{parameter: name} to measure. It is found anew each time, because groups may be added."""
        found, matched = {}, set()
        for index, group in enumerate(self.optimizer.param_groups):
            numbers = [f"{index}.{position}" for position in range(len(group["params"]))]
            for param, own in zip(group["params"], group.get("param_names", numbers), strict=True):
                name = self.names.get(param, own) if self.names else own
                patterns = [pattern for pattern in self.only if fnmatchcase(name, pattern)]
                matched.update(patterns)
                if patterns:
                    _refuse_part(name, param)
                    found[param] = name
        idle = [pattern for pattern in self.only if pattern not in matched]
        if idle:
            raise ValueError(f"Telemetry: only={idle} matches no parameter of this optimizer.")
        return found

    def _clock(self) -> float:
        """The time, after the devices have finished: queued work must not count as telemetry."""
        for device in {p.device for group in self.optimizer.param_groups for p in group["params"] if p.is_cuda}:
            torch.cuda.synchronize(device)
        return time.perf_counter()

    def _spend(self, begun: float) -> None:
        taken = self._clock() - begun
        self._spent += taken
        self.seconds += taken


def _refuse_part(name: str, param: Tensor) -> None:
    """Refuse a matrix of which this process has a part: singular values of a part are not those of the matrix."""
    if param.ndim < 2 or not is_dtensor(param):
        return
    cuts = zip(placements_of(param), param.device_mesh.shape, strict=True)
    if any(cut is not None and size > 1 for cut, size in cuts):
        raise ValueError(
            f"Telemetry: {name!r} is sharded: this process has a part of shape {tuple(local(param).shape)} of "
            f"{tuple(param.shape)}, and figures of a part are not figures of the matrix. Measure whole parameters by "
            "only=[...], or run one process or DDP with the same seed."
        )


def _together(blocks: list[Figures]) -> dict[str, float]:
    """{figure: one number over all matrices of a parameter}."""
    whole = {name: torch.cat([block[name] for block in blocks]) for name in blocks[0]}
    values = torch.stack([_TOGETHER[name](figure) for name, figure in whole.items()]).tolist()
    return dict(zip(whole, values, strict=True))


def _rates(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """{group: learning rate}; the rule names the group, with a number if several groups have the same rule."""
    rules = [str(group.get("rule", "group")) for group in optimizer.param_groups]
    names = [rule if rules.count(rule) == 1 else f"{rule} {rules[:k].count(rule) + 1}" for k, rule in enumerate(rules)]
    return {name: float(group["lr"]) for name, group in zip(names, optimizer.param_groups, strict=True)}
