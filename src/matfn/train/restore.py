"""Restore: the fields of a checkpoint, checked against the run, the log and each other before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from matfn.optim.matrices.shards import local
from matfn.train import TrainError
from matfn.train import recipe as recipes
from matfn.train.checkpoint import damaged
from matfn.train.optimizers import Optimizers
from matfn.train.parallel import sharded_like
from matfn.train.recipe import OptimizerTable, Recipe
from matfn.train.settings import build

_FIELDS = ("recipe", "optimizer", "seed", "data", "step", "model", "optimizers", "batches", "rng")
# The keys of the state of torch's own optimizers, which do not check what they load. Torch 2.8 has no Muon.
_TORCHS: list[tuple[type, set[str]]] = [(torch.optim.AdamW, {"step", "exp_avg", "exp_avg_sq"})]
if hasattr(torch.optim, "Muon"):
    _TORCHS.append((torch.optim.Muon, {"momentum_buffer"}))


def check_run(
    path: Path, state: dict[str, Any], recipe: Recipe, table: OptimizerTable, identity: Mapping[str, Any]
) -> None:
    """Check that a checkpoint belongs to the run that resumes it.

    Args:
        path: The checkpoint, for messages.
        state: Its content.
        recipe: The recipe of the run. Keys that the checkpoint's version did not have yet count as their defaults.
        table: The optimizer of the run.
        identity: The other values that both must share.

    Raises:
        TrainError: A field is missing, or the run has another recipe, optimizer, seed or text.
    """
    if missing := [key for key in _FIELDS if key not in state]:
        raise damaged(path, f"it lacks {', '.join(missing)}")
    # A checkpoint of an earlier version does not know the order of the documents.
    other = [key for key, value in identity.items() if state.get(key, value if key == "order" else None) != value]
    try:
        other += ["optimizer"] if build(OptimizerTable, state["optimizer"]) != table else []
        other += ["recipe"] if not recipes.from_table(state["recipe"]).same_curve(recipe) else []
    except TrainError as error:
        raise damaged(path, str(error)) from None
    if other:
        raise TrainError(
            f"the checkpoint in {path.parent} has another {other[0]} than this run, so its curve would break: "
            "resume with what it was started with, or start in a new folder"
        )


def check_step(path: Path, state: dict[str, Any], steps: int) -> int:
    """The step of a checkpoint: a whole number within the run.

    Raises:
        TrainError: It is not.
    """
    if type(step := state["step"]) is not int or not 0 <= step <= steps:
        raise damaged(path, f"its step is {str(step)[:40]}, wanted a whole number from 0 to {steps}")
    return step


def check_states(path: Path, saved: Any, present: list[Tensor], what: str) -> list[Tensor]:
    """Check that saved states of random generators have the sizes of the present ones, and return them.

    Raises:
        TrainError: They do not; the message calls them `what`.
    """
    if not isinstance(saved, list) or len(saved) != len(present):
        raise damaged(path, f"{what} is no list of {len(present)} states of random generators")
    for one, other in zip(saved, present, strict=True):
        if not isinstance(one, Tensor) or one.dtype != other.dtype or one.shape != other.shape:
            raise damaged(path, f"{what} is no state of a random generator of {other.numel()} bytes")
        try:
            if one.numel() > 16:  # the generators of the CPU; a state on CUDA is a seed and an offset
                torch.Generator().set_state(one)
        except RuntimeError as error:
            raise damaged(path, f"{what}: {error}") from None
    return saved


def load_model(path: Path, saved: Any, model: nn.Module) -> None:
    """Load weights of exactly the names, shapes and dtypes of the model.

    Raises:
        TrainError: They differ.
    """
    own = model.state_dict()
    if not isinstance(saved, Mapping) or set(saved) != set(own):
        raise damaged(path, "its weights are those of another model")
    for name, value in saved.items():
        like = own[name]
        if not isinstance(value, Tensor) or (value.shape, value.dtype) != (like.shape, like.dtype):
            raise damaged(path, f"its weight {name} is no {like.dtype} tensor of shape {tuple(like.shape)}")
    model.load_state_dict({name: sharded_like(value, own[name]) for name, value in saved.items()})


def load_optimizers(path: Path, saved: Any, optimizers: Optimizers, step: int) -> None:
    """Load optimizers and schedules, and check that they are at `step` with the options of the recipe.

    Raises:
        TrainError: They do not fit the model, the recipe or the step.
    """
    wanted = [_options(member) for member in optimizers.members]
    try:
        members = [_sharded(one, member) for one, member in zip(saved["members"], optimizers.members, strict=True)]
        optimizers.load_state_dict({**saved, "members": members})
        for member, schedule, options in zip(optimizers.members, optimizers.schedules, wanted, strict=True):
            problems = [*_schedule_problems(member, schedule, step), *_option_problems(member, options)]
            for problem in problems + list(_state_problems(member, step)):
                raise ValueError(problem)
    except (LookupError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise damaged(path, str(error)) from error


def _sharded(saved: dict[str, Any], member: torch.optim.Optimizer) -> dict[str, Any]:
    """The state of an optimizer, divided as its parameters are. matfn's optimizers do this themselves."""
    if not any(isinstance(member, kind) for kind, _ in _TORCHS):
        return saved
    parameters = [parameter for group in member.param_groups for parameter in group["params"]]
    state = {
        number: {key: sharded_like(value, parameters[number]) for key, value in entry.items()}
        for number, entry in saved["state"].items()
    }
    return {**saved, "state": state}


def _options(member: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """The options of each group that no schedule changes."""
    return [{k: v for k, v in group.items() if k not in ("params", "lr")} for group in member.param_groups]


def _option_problems(member: torch.optim.Optimizer, wanted: list[dict[str, Any]]) -> Iterator[str]:
    for number, (found, options) in enumerate(zip(_options(member), wanted, strict=True)):
        # Compare common keys only: another version of torch may know an option more or less.
        if odd := [key for key in found.keys() & options.keys() if found[key] != options[key]]:
            yield f"group {number} of its optimizer has another {odd[0]} than the recipe"


def _schedule_problems(member: torch.optim.Optimizer, schedule: LambdaLR, step: int) -> Iterator[str]:
    if schedule.last_epoch != step:
        yield f"its learning rates are those of step {schedule.last_epoch}, its weights those of step {step}"
    groups = member.param_groups
    rates = [group["initial_lr"] * factor(step) for group, factor in zip(groups, schedule.lr_lambdas, strict=True)]
    if [group["lr"] for group in groups] != rates or schedule.base_lrs != [group["initial_lr"] for group in groups]:
        yield f"its learning rates are not those of the recipe at step {step}"


def _state_problems(member: torch.optim.Optimizer, step: int) -> Iterator[str]:
    """Wrong step counters, NaN, wrong shapes. Each parameter has a gradient in each step, so each counter is `step`."""
    expected = next((keys for kind, keys in _TORCHS if isinstance(member, kind)), None)
    for number, parameter in enumerate(p for group in member.param_groups for p in group["params"]):
        state = member.state.get(parameter, {})
        if expected is not None and set(state) != (wanted := expected if step else set()):
            yield f"parameter {number} of its optimizer has the state {sorted(state)}, wanted {sorted(wanted)}"
        for key, value in state.items():
            if key == "step" and float(value) != step:
                yield f"parameter {number} of its optimizer is at step {float(value):g}, the run at {step}"
            if isinstance(value, Tensor) and not bool(local(value).isfinite().all()):
                yield f"{key} of parameter {number} of its optimizer is not finite"
            if expected is not None and key != "step" and (value.shape, value.is_complex()) != (parameter.shape, False):
                yield f"{key} of parameter {number} of its optimizer has shape {tuple(value.shape)}"
