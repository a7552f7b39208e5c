"""FSDP2: every process holds a part of each weight and of its momentum.

    torchrun --nproc-per-node 2 examples/fsdp2.py

A matrix is computed whole by one process, its owner. The other processes send the owner their parts of the momentum,
and get back their parts of the update. It runs with GPUs (nccl) and without (gloo) as it stands.
"""

import gc
import os

import torch
from small_gpt import SmallGPT, batch, loss_of
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from matfn.optim import Muon, plan


def main(steps: int = 20) -> None:
    """Train for some steps and print the losses."""
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    if device.type != "cpu":
        torch.accelerator.set_device_index(int(os.environ["LOCAL_RANK"]))
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    mesh = init_device_mesh(device.type, (ranks,), mesh_dim_names=("shard",))

    model = SmallGPT().to(device)
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = Muon(plan(model), lr=0.02, rest=dict(lr=3e-3))  # after fully_shard, as with any optimizer

    for step in range(steps):
        loss = loss_of(model, batch(step, rank, ranks).to(device))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
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
