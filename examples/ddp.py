"""DDP: every process holds the whole model, and computes the updates of its share of the matrices.

    torchrun --nproc-per-node 2 examples/ddp.py

It runs with GPUs (nccl) and without (gloo) as it stands.
"""

import gc
import os

import torch
from small_gpt import SmallGPT, batch, loss_of
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from matfn.optim import Muon, plan


def main(steps: int = 20) -> None:
    """Train for some steps and print the losses."""
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    if device.type != "cpu":
        torch.accelerator.set_device_index(int(os.environ["LOCAL_RANK"]))
    rank, ranks = distributed.get_rank(), distributed.get_world_size()

    model = DistributedDataParallel(SmallGPT().to(device))
    optimizer = Muon(plan(model), lr=0.02, rest=dict(lr=3e-3))  # plan the wrapped model: it knows the processes

    for step in range(steps):
        loss = loss_of(model, batch(step, rank, ranks).to(device))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

        mean = loss.detach() / ranks
        distributed.all_reduce(mean)
        if rank == 0:
            print(f"step {step}  loss {mean.item():.6f}", flush=True)


if __name__ == "__main__":
    distributed.init_process_group()
    main()
    gc.collect()  # free the model before the group: with gloo, torch 2.13 may else abort at the end
    distributed.destroy_process_group()
