"""The rule for everything that is not a matrix: torch's own AdamW, run on this optimizer's groups and state.

An inner `torch.optim.AdamW` is relinked before each step: its `param_groups` are the very dicts of the outer optimizer
and its `state` is the outer state. So there is one optimizer to schedulers, scalers and checkpoints, and no second
implementation of AdamW to keep equal to torch's.
"""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from .options import check_options, check_values

__all__ = ["OPTIONS", "RestRule", "StateLike"]

StateLike = dict[str, tuple[tuple[int, ...], torch.dtype | None]]
OPTIONS = tuple(
    name for name in inspect.signature(torch.optim.AdamW.__init__).parameters if name not in ("self", "params")
)


class RestRule:
    """AdamW for the groups whose rule is "adamw".

    Args:
        options: arguments of torch.optim.AdamW (lr, betas, eps, weight_decay, amsgrad, foreach, fused, ...). What is
            left out has torch's default: lr 1e-3, betas (0.9, 0.999), eps 1e-8, weight_decay 1e-2.

    Raises:
        ValueError: an option AdamW does not have, or a value it refuses.
        TypeError: `options` is no mapping, or a value of another type.
    """

    def __init__(self, options: Mapping[str, Any] | None) -> None:
        if options is not None and not isinstance(options, Mapping):
            raise TypeError(f"rest must be a mapping of AdamW options such as dict(lr=3e-4), got {options!r}.")
        options = dict(options or {})
        unknown = set(options) - set(OPTIONS)
        if unknown:
            check_options(options, OPTIONS, (), "rest")
            raise ValueError(
                f"rest has options {sorted(unknown)} which torch.optim.AdamW lacks; it has {list(OPTIONS)}."
            )
        check_values(options, "rest", scales={})
        self.options = options
        # AdamW refuses an empty list, so it is made around a scalar which the first relinking drops.
        self._adamw = torch.optim.AdamW([torch.zeros(())], **options)
        self.defaults: dict[str, Any] = dict(self._adamw.defaults)

    def __reduce__(self) -> tuple[type["RestRule"], tuple[dict[str, Any]]]:
        # The inner AdamW only borrows groups and state; a copy must borrow from the copied optimizer, not from this
        # one.
        return (RestRule, (self.options,))

    def step(self, groups: list[dict[str, Any]], state: Any) -> None:
        """One AdamW step on `groups`, in place, with per-parameter `state` kept by the caller."""
        if groups:
            self._adamw.param_groups = groups
            self._adamw.state = state
            self._adamw.step()

    @staticmethod
    def adopt_momentum(groups: Iterable[dict[str, Any]]) -> None:
        """Make the "momentum" that a cyclic scheduler wrote into AdamW groups their beta1, and drop the key.

        torch's OneCycleLR and CyclicLR cycle either "momentum" or beta1 and choose by the optimizer's defaults, which
        here are those of the matrices; they write into all groups, and only ever write. For AdamW momentum is beta1:
        this is what they do to an optimizer that is AdamW alone.

        Raises:
            ValueError: somebody else wrote "momentum" into an AdamW group, where it means nothing.
        """
        for index, group in enumerate(groups):
            if group["rule"] != "adamw" or "momentum" not in group:
                continue
            if "base_momentum" not in group:
                raise ValueError(
                    f'group {index} has rule "adamw" and was given "momentum", which AdamW lacks: set its "betas", and '
                    '"momentum" only in groups of rule "matrix".'
                )
            group["betas"] = (group.pop("momentum"), group["betas"][1])

    @staticmethod
    def state_like(param: Tensor, group: Mapping[str, Any]) -> StateLike:
        """Shape and dtype (None: as it was saved) of each state tensor of `param`: what a checkpoint has to hold."""
        moments = ["exp_avg", "exp_avg_sq"] + (["max_exp_avg_sq"] if group.get("amsgrad") else [])
        shapes = {name: (tuple(param.shape), param.dtype) for name in moments}
        return {"step": ((), None), **shapes}
