"""The rule for parameters that are no matrices: torch's own AdamW, on the groups and state of the matrix optimizer.

Before each step an inner `torch.optim.AdamW` gets the outer optimizer's `param_groups` and `state` themselves. So
schedulers, scalers and checkpoints see one optimizer, and AdamW is not implemented a second time.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .matrices.rounding import COMPENSATION, half, narrowed_, noise_key, widened
from .matrices.shards import is_dtensor, like_shard, local, local_gradient, offset
from .options import check_options, check_values

__all__ = ["OPTIONS", "RestRule", "StateLike"]

StateLike = dict[str, tuple[tuple[int, ...], torch.dtype | None]]
Capturable = Callable[[dict[str, Any]], dict[str, Any]]
OPTIONS = tuple(
    name for name in inspect.signature(torch.optim.AdamW.__init__).parameters if name not in ("self", "params")
)


class RestRule:
    """AdamW for the groups whose rule is "adamw".

    Args:
        options: Arguments of torch.optim.AdamW. Others have torch's defaults: lr 1e-3, betas (0.9, 0.999), eps 1e-8,
            weight_decay 1e-2.
        where: The owner of the options, for messages.

    Raises:
        ValueError: If AdamW has no such option, or refuses its value.
        TypeError: If `options` is no mapping, or a value has a wrong type.
    """

    def __init__(self, options: Mapping[str, Any] | None, where: str = "rest") -> None:
        if options is not None and not isinstance(options, Mapping):
            raise TypeError(f"{where} must be a mapping of AdamW options such as dict(lr=3e-4), got {options!r}.")
        options = dict(options or {})
        unknown = set(options) - set(OPTIONS)
        if unknown:
            check_options(options, OPTIONS, (), where)
            raise ValueError(f"{where} has {sorted(unknown)} which torch.optim.AdamW lacks; its options are {OPTIONS}.")
        check_values(options, where, scales={})
        self.options, self.where = options, where
        # AdamW refuses an empty list. The first step replaces this scalar.
        self._adamw = torch.optim.AdamW([torch.zeros(())], **options)
        self.defaults: dict[str, Any] = dict(self._adamw.defaults)

    def __reduce__(self) -> tuple[type["RestRule"], tuple[dict[str, Any], str]]:
        return (RestRule, (self.options, self.where))  # without groups and state, which belong to the optimizer

    def step(self, groups: list[dict[str, Any]], state: Any, capturable: Capturable | None = None) -> None:
        """One AdamW step on `groups`, with the caller's `state`, both in place.

        `capturable` gives the groups of a step that may be captured as a CUDA graph; counters then lie on the device.

        A DTensor is moved as its local shard. If a group's rounding is not "nearest", its half-precision weights are
        moved as float32 copies, with moments in float32, and then rounded. AdamW itself would round to nearest.

        Raises:
            Exception: Whatever torch's AdamW raises, with a note that no matrix has moved.
        """
        if not groups:
            return
        stands: list[StandIn] = []
        if capturable is not None:
            groups = [capturable(group) for group in groups]
            _move_counters(groups, state)
            self._adamw._warned_capturable_if_run_uncaptured = True  # pyright: ignore -- its first steps are not
        try:
            self._adamw.param_groups = [_with_stand_ins(group, state, stands) for group in groups]
            self._adamw.state = state
            self._adamw.step()
        except Exception as error:
            error.add_note(f"This was in torch's AdamW ({self.where}). No matrix has moved.")
            raise
        finally:
            moments = [state.pop(stand.tensor, {}) for stand in stands]
        for stand, found in zip(stands, moments, strict=True):
            stand.finish(state[stand.param], found)

    def adopt_momentum(self, groups: Iterable[dict[str, Any]]) -> None:
        """Turn the "momentum" that a cyclic scheduler wrote into AdamW groups into beta1.

        torch's OneCycleLR and CyclicLR choose between "momentum" and beta1 by the optimizer's defaults, which here are
        those of matrix groups, and write to all groups. With AdamW alone they would cycle beta1.

        Raises:
            ValueError: If an AdamW group has "momentum" without a cyclic scheduler.
        """
        given = [(i, group) for i, group in enumerate(groups) if group.get("rule") == "adamw" and "momentum" in group]
        for index, group in given:
            if "base_momentum" not in group:
                owner = self.where.removesuffix(": rest")
                raise ValueError(f'{owner}: group {index} has rule "adamw" and was given "momentum": set its "betas".')
        for _, group in given:
            group["betas"] = (group.pop("momentum"), group["betas"][1])

    @staticmethod
    def state_like(param: Tensor, group: Mapping[str, Any], dtype: torch.dtype) -> StateLike:
        """Shape and dtype (None: as saved) of each state tensor of a parameter, whose moments are in `dtype`."""
        moments = ["exp_avg", "exp_avg_sq"] + (["max_exp_avg_sq"] if group.get("amsgrad") else [])
        shapes = {name: (tuple(param.shape), dtype) for name in moments}
        return {"step": ((), None), **shapes}


@dataclass(frozen=True, eq=False)
class StandIn:
    """A plain tensor that AdamW moves in place of a parameter: the local shard, or a float32 copy of it."""

    tensor: Tensor
    param: Tensor
    name: str
    group: dict[str, Any]

    @property
    def rounded(self) -> bool:
        """Whether the tensor is a copy that is rounded into the parameter after the step."""
        return self.group["rounding"] != "nearest" and half(self.param)

    def start(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """The local part of the state of the parameter, in the same memory."""
        return {key: local(value) for key, value in state.items() if key != COMPENSATION}

    def finish(self, state: dict[str, Any], moments: Mapping[str, Any]) -> None:
        """Keep new state of a step in `state`, placed as the parameter is, and round a copy into the parameter."""
        for key, value in moments.items():
            if key not in state:
                state[key] = value if key == "step" else like_shard(value, self.param)
        if not self.rounded:
            return
        rounding, weight = self.group["rounding"], local(self.param)
        if rounding == "compensated" and COMPENSATION not in state:
            state[COMPENSATION] = like_shard(torch.zeros_like(weight), self.param)
        count = int(state["step"]) if rounding == "stochastic" else 0  # the other rounding has no noise
        key = noise_key(self.group["seed"], self.name, 0, count, offset(self.param))
        rest = state.get(COMPENSATION)
        narrowed_(weight, self.tensor, rounding, key, None if rest is None else local(rest))


def _with_stand_ins(group: dict[str, Any], state: Any, stands: list[StandIn]) -> dict[str, Any]:
    """The group, with stand-ins for DTensors and for weights that its rounding concerns; `stands` gets them.

    With local shards AdamW may use its foreach and fused kernels, and mix sharded with plain parameters.
    """
    params = []
    for name, param in zip(group["param_names"], group["params"], strict=True):
        wide = group["rounding"] != "nearest" and half(param)
        ordinary = type(param) in (Tensor, nn.Parameter) and not wide
        gradient = None if ordinary or not (wide or is_dtensor(param)) else local_gradient(param)
        if gradient is None:  # an ordinary parameter, or one that AdamW leaves out
            params.append(param)
            continue
        held, tensor = state.get(param, {}), local(param).detach()
        if wide:
            rest = held.get(COMPENSATION) if group["rounding"] == "compensated" else None
            tensor = widened(tensor, None if rest is None else local(rest))
        tensor.grad = gradient.to(tensor.dtype)
        stand = StandIn(tensor, param, name, group)
        state[tensor] = stand.start(held)
        stands.append(stand)
        params.append(tensor)
    return {**group, "params": params}


def _move_counters(groups: Iterable[Mapping[str, Any]], state: Any) -> None:
    """Move the counters of earlier steps to the devices of their parameters."""
    for param in (param for group in groups for param in group["params"]):
        held = state.get(param, {})
        if "step" in held and held["step"].device != param.device:
            held["step"] = held["step"].to(param.device)
