"""A loop in the style of torchtitan.

The model is made on the meta device, the optimizers of its parts are in one container, the rate warms up and decays,
and torch.distributed.checkpoint saves a flat state dict. Start it by:

    python examples/torchtitan_style.py
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from small_gpt import SmallGPT, batch, loss_of
from torch import nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.stateful import Stateful
from torch.optim.lr_scheduler import LambdaLR

from matfn.optim import Muon, plan

FLAT = StateDictOptions(flatten_optimizer_state_dict=True)  # keys are names: the number of processes may change


class Optimizers(Stateful):
    """The optimizers of the parts of a model (one part without pipeline parallelism)."""

    def __init__(self, parts: Sequence[nn.Module], **options: Any) -> None:
        self.parts = parts
        self.all = [Muon(plan(part), **options) for part in parts]

    def step(self) -> None:
        """Step all."""
        for optimizer in self.all:
            optimizer.step()

    def zero_grad(self) -> None:
        """Clear all gradients."""
        for optimizer in self.all:
            optimizer.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """One flat dict with the states of all parts."""
        pairs = zip(self.parts, self.all, strict=True)
        return {k: v for part, one in pairs for k, v in get_optimizer_state_dict(part, one, options=FLAT).items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load into the optimizer of each part what belongs to it."""
        for part, optimizer in zip(self.parts, self.all, strict=True):
            set_optimizer_state_dict(part, optimizer, optim_state_dict=state_dict, options=FLAT)


class Weights(Stateful):
    """The weights of a model, by name."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def state_dict(self) -> dict[str, Any]:
        """The weights."""
        return get_model_state_dict(self.model)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Set the weights."""
        set_model_state_dict(self.model, state_dict)


def main(steps: int = 20, folder: Path | None = None, resume: bool = False) -> list[float]:
    """Train, print and return the losses. With a folder the state is saved at half of the steps; `resume` loads it."""
    with torch.device("meta"):
        model = SmallGPT()
    # Here torchtitan compiles and shards: fully_shard(block), parallelize_module(...). The optimizer comes after it.
    model.to_empty(device="cpu")
    model.load_state_dict(SmallGPT().state_dict())
    optimizers = Optimizers([model], lr=0.02, rest=dict(lr=3e-3))
    warmup = 4
    schedules = [LambdaLR(one, lambda k: min((k + 1) / warmup, 1 - k / steps)) for one in optimizers.all]
    saved = {"model": Weights(model), "optimizer": optimizers, "schedule": schedules[0]}
    if resume:
        checkpoint.load(saved, checkpoint_id=folder, no_dist=True)

    losses: list[float] = []
    for step in range(schedules[0].last_epoch, steps):
        loss = loss_of(model, batch(step))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizers.step()
        optimizers.zero_grad()
        for schedule in schedules:
            schedule.step()
        losses.append(loss.item())
        print(f"step {step}  loss {losses[-1]:.6f}")
        if folder and not resume and step + 1 == steps // 2:
            checkpoint.save(saved, checkpoint_id=folder, no_dist=True)
    return losses


if __name__ == "__main__":
    main()
