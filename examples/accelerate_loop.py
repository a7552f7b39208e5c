"""Accelerate: accumulation, clipping, a scheduler, and a checkpoint from which the run goes on.

Start it by:

    accelerate launch examples/accelerate_loop.py
"""

from accelerate import Accelerator
from tiny_llama import Counting, tiny_llama
from torch.optim.lr_scheduler import LinearLR
from torch.utils.data import DataLoader

from matfn.optim import Muon, plan


def main(steps: int = 20, folder: str | None = None, resume: bool = False) -> list[float]:
    """Train, print and return the losses. With a folder the state is saved at half of the steps; `resume` loads it."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = accelerator.prepare(tiny_llama())
    # Under DDP plan the prepared model, which knows the processes. FSDP2 wants both in one call of prepare.
    optimizer = Muon(plan(model), lr=0.02, rest=dict(lr=3e-3))
    scheduler = LinearLR(optimizer, 1.0, 0.1, total_iters=steps)
    optimizer, loader = accelerator.prepare(optimizer, DataLoader(Counting(), batch_size=8))
    accelerator.register_for_checkpointing(scheduler)
    if resume:
        accelerator.load_state(folder)

    losses: list[float] = []
    done = scheduler.last_epoch
    batches = iter(loader)
    for _ in range(2 * done):  # the batches of the steps that are done
        next(batches)
    for batch in batches:
        if done == steps:
            break
        with accelerator.accumulate(model):
            loss = model(**batch).loss
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()  # only at the last batch of an accumulation
            optimizer.zero_grad()
        if accelerator.sync_gradients:
            scheduler.step()
            done += 1
            losses.append(loss.item())
            accelerator.print(f"step {done}  loss {losses[-1]:.6f}")
            if folder and not resume and done == steps // 2:
                accelerator.save_state(folder)
    return losses


if __name__ == "__main__":
    main(16)
