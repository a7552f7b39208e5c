"""A recipe in the style of torchtune: components named in a config, a class with setup, train and save.

Start it by:

    python examples/torchtune_style.py

torchtune's recipes instantiate the optimizer from `self._model.parameters()`. Names and classes are lost there, so a
recipe for matrices overrides that one line, and gives `plan(self._model)`.
"""

import importlib
from pathlib import Path
from typing import Any

import torch
from small_gpt import batch, loss_of
from torch import nn

from matfn.optim import plan

CONFIG: dict[str, Any] = {
    "model": {"_component_": "small_gpt.SmallGPT", "width": 64, "layers": 2},
    "optimizer": {
        "_component_": "matfn.optim.Muon",
        "lr": 0.02,
        "weight_decay": 0.1,
        "rest": {"lr": 3e-3, "weight_decay": 0.1},
    },
    "schedule": {"_component_": "torch.optim.lr_scheduler.CosineAnnealingLR", "T_max": 20},
    "gradient_accumulation_steps": 2,
    "clip_grad_norm": 1.0,
}


def instantiate(config: dict[str, Any], *args: Any) -> Any:
    """The object that a component of the config names."""
    module, name = config["_component_"].rsplit(".", 1)
    options = {key: value for key, value in config.items() if key != "_component_"}
    return getattr(importlib.import_module(module), name)(*args, **options)


class Recipe:
    """Full finetuning on one device."""

    def __init__(self, config: dict[str, Any], checkpoint: Path | None = None) -> None:
        self.config = config
        self.model: nn.Module = instantiate(config["model"])
        self.optimizer = instantiate(config["optimizer"], plan(self.model))
        self.schedule = instantiate(config["schedule"], self.optimizer)
        self.step = 0
        if checkpoint is not None:
            saved = torch.load(checkpoint, weights_only=True)
            self.model.load_state_dict(saved["model"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.schedule.load_state_dict(saved["schedule"])
            self.step = saved["step"]

    def train(self, steps: int) -> list[float]:
        """Go on until `steps`; the losses."""
        parts, losses = self.config["gradient_accumulation_steps"], []
        while self.step < steps:
            total = 0.0
            for part in range(parts):
                loss = loss_of(self.model, batch(self.step, part, parts)) / parts
                loss.backward()
                total += loss.item()
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config["clip_grad_norm"])
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.schedule.step()
            losses.append(total)
            print(f"step {self.step}  loss {total:.6f}")
            self.step += 1
        return losses

    def save(self, path: Path) -> None:
        """Everything that `checkpoint` needs."""
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save({**state, "schedule": self.schedule.state_dict(), "step": self.step}, path)


if __name__ == "__main__":
    Recipe(CONFIG).train(20)
