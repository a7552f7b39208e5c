"""Lightning: one module with automatic optimization, and one with manual optimization.

Start it by:

    python examples/lightning_modules.py
"""

from typing import Any

import pytorch_lightning as lightning
import torch
from small_gpt import SmallGPT, batch, loss_of
from torch import Tensor
from torch.optim.lr_scheduler import LinearLR
from torch.utils.data import DataLoader

from matfn.optim import Muon, plan


class Automatic(lightning.LightningModule):
    """Lightning calls backward, clips, steps the optimizer by a closure, and steps the scheduler."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.model, self.steps = SmallGPT(), steps
        self.losses: list[float] = []

    def configure_optimizers(self) -> Any:
        """Plan `self`, so that names in checkpoints are those of the module."""
        optimizer = Muon(plan(self), lr=0.02, rest=dict(lr=3e-3))
        scheduler = LinearLR(optimizer, 1.0, 0.1, total_iters=self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def training_step(self, _: int, index: int) -> Tensor:
        """The loss of the batch of this step: a run that goes on in an epoch must not begin with its first batch."""
        loss = loss_of(self.model, batch(self.global_step))
        self.losses.append(loss.item())
        return loss


class Manual(Automatic):
    """The same with every call written out."""

    def __init__(self, steps: int) -> None:
        super().__init__(steps)
        self.automatic_optimization = False

    def training_step(self, _: int, index: int) -> None:
        """A whole step."""
        optimizer, scheduler = self.optimizers(), self.lr_schedulers()
        loss = loss_of(self.model, batch(self.global_step))
        self.manual_backward(loss)
        self.clip_gradients(optimizer, gradient_clip_val=1.0, gradient_clip_algorithm="norm")
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        self.losses.append(loss.item())


def main(
    kind: type[Automatic] = Automatic, steps: int = 20, until: int | None = None, resume: str | None = None
) -> tuple[list[float], lightning.Trainer]:
    """Train until a step, from a checkpoint if one is given.

    Returns:
        The losses, and the trainer, whose `save_checkpoint` saves the state of the optimizer too.
    """
    clip = {} if kind is Manual else {"gradient_clip_val": 1.0}
    quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    trainer = lightning.Trainer(accelerator="cpu", devices=1, max_steps=until or steps, **clip, **quiet)
    module = kind(steps)
    numbers: Any = range(steps)
    trainer.fit(module, DataLoader(numbers, batch_size=None), ckpt_path=resume)
    return module.losses, trainer


if __name__ == "__main__":
    for kind in (Automatic, Manual):
        torch.manual_seed(0)
        print(kind.__name__, [round(loss, 3) for loss in main(kind)[0]])
