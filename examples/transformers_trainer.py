"""The Trainer of transformers, with matfn's optimizer in three ways.

Start it by:

    python examples/transformers_trainer.py

"optimizers" passes the optimizer itself, "class" a class with its arguments, "factory" a function that gets the model
as the Trainer trains it (transformers 5 and newer), which also serves when the Trainer shards the model.
"""

import tempfile
from typing import Any

from tiny_llama import Counting, tiny_llama
from torch import nn
from transformers import Trainer, TrainingArguments

from matfn.optim import Muon, plan

REST = dict(lr=3e-3, weight_decay=0.1)  # AdamW's, for embeddings, head and norms


def make(model: nn.Module, lr: float) -> Muon:
    """The optimizer of a model."""
    return Muon(plan(model), lr=lr, weight_decay=0.1, rest=REST)


def main(way: str = "optimizers", steps: int = 20, folder: str | None = None, resume: bool = False) -> list[float]:
    """Train, print and return the losses. With `resume` it goes on from the last checkpoint in the folder."""
    model = tiny_llama()
    given: dict[str, Any] = {
        "optimizers": {"optimizers": (make(model, lr=0.02), None)},  # None: the Trainer makes the scheduler
        "class": {"optimizer_cls_and_kwargs": (Muon, dict(params=plan(model), lr=0.02, weight_decay=0.1, rest=REST))},
        "factory": {"optimizer_cls_and_kwargs": (lambda: make, dict(lr=0.02))},
    }[way]
    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            output_dir=folder or scratch,
            max_steps=steps,
            per_device_train_batch_size=8,
            gradient_accumulation_steps=2,
            lr_scheduler_type="cosine",  # scales the learning rate of every group
            warmup_steps=2,
            max_grad_norm=1.0,
            logging_steps=1,
            save_steps=steps // 2,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
        )
        trainer = Trainer(model, arguments, train_dataset=Counting(), **given)
        trainer.train(resume_from_checkpoint=resume)
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


if __name__ == "__main__":
    main()
