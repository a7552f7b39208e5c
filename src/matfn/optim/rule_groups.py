"""Groups by rule: which chain, options, scales and state the rule of a group stands for."""

from collections.abc import Iterable, Mapping
from typing import Any, Self

import torch
from torch import Tensor

from .matrices.buckets import Kind
from .matrices.layout import Layout
from .matrices.rounding import COMPENSATION, half
from .options import check_values
from .rest import RestRule, StateLike
from .rules.rule import Elementwise, Rule
from .scale import Scale
from .state import COUNTER, described, kinds_of
from .words import refuse_flags

__all__ = ["RuleGroups"]


class RuleGroups(torch.optim.Optimizer):
    """The part of `MatrixOptimizer` that knows the rules of groups. It does not step.

    Attributes:
        layouts: How each matrix parameter is read as matrices.
        scales: {name: scale} for the groups of this optimizer's own rule, "matrix".
        chain: The rules of these groups.
        others: {rule: the optimizer that gives its groups a chain, default options and scales}.
        rest: AdamW, for the groups with the rule "adamw".
    """

    layouts: dict[Tensor, Layout]
    scales: dict[str, Scale]
    chain: tuple[Elementwise, *tuple[Rule, ...]]
    others: dict[str, Any]
    rest: RestRule

    def lender(self, rule: str) -> Self:
        """The optimizer that gives groups of a matrix rule their chain, default options and scales."""
        return self if rule == "matrix" else self.others[rule]

    def own_options(self, rule: str) -> dict[str, Any]:
        """The options of groups of a rule, with defaults. An optimizer in `rules` may have its own rounding."""
        own = self.rest.defaults if rule == "adamw" else self.lender(rule).defaults
        rounding = {key: self.defaults[key] for key in ("rounding", "seed")}
        return {**own, **rounding} if own.get("rounding", "nearest") == "nearest" else dict(own)

    def scale_of(self, rule: str, name: str) -> Scale:
        """The scale of this name for groups of a matrix rule."""
        return self.lender(rule).scales[name]

    def kinds(self, shape: tuple[int, ...], options: Mapping[str, Any]) -> dict[str, Kind]:
        """The state of a group's chain for matrices of a shape; see `Rule.state`."""
        return kinds_of(self.lender(options["rule"]).chain, shape, options)

    def state_like(self, param: Tensor, group: Mapping[str, Any]) -> StateLike:
        """Shape and dtype of each state tensor of a parameter. Checkpoints are compared with it."""
        rounded = half(param) and group["rounding"] != "nearest"
        if group["rule"] == "adamw":
            found = self.rest.state_like(param, group, torch.float32 if rounded else param.dtype)
        else:
            found = described(param, self.layouts[param], lambda shape: self.kinds(shape, group))
        if rounded and group["rounding"] == "compensated":
            found[COMPENSATION] = (tuple(param.shape), param.dtype)
        elif rounded:
            found[COUNTER] = ((), None)  # the noise depends on the number of the step
        return found

    def check_group(self, group: Mapping[str, Any], where: str, shapes: Iterable[tuple[int, ...]] = ()) -> None:
        """Refuse option values of a group that are out of range; see `Rule.check`. Options may be left out."""
        refuse_flags(group, set(self.own_options(group["rule"])), where)
        if group["rule"] == "adamw":
            check_values(group, where, scales=())
            return
        lender = self.lender(group["rule"])
        check_values(group, where, scales=lender.scales)
        for rule in lender.chain:
            if all(key in group for key in rule.reads):
                rule.check(group, where, shapes)

    def wanted(self, rule: str) -> tuple[str, tuple[str, ...]]:
        """The names of the rules behind the rule of a group, and the options that they read."""
        if rule == "adamw":
            return "AdamW", ("lr", "betas", "eps", "weight_decay")
        chain = self.lender(rule).chain
        names = ", ".join(type(link).__name__ for link in chain)
        return names, ("lr", "weight_decay", *dict.fromkeys(key for link in chain for key in link.reads))
