"""Tensor parallel: every process computes with a part of each weight, and all read the same batch.

    torchrun --nproc-per-node 2 examples/tensor_parallel.py

It runs with GPUs (nccl) and without (gloo) as it stands.
"""

import gc
import os

import torch
from small_gpt import SmallGPT, batch, loss_of
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from matfn.optim import Muon, plan


def main(steps: int = 20) -> None:
    """Train for some steps and print the losses."""
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    if device.type != "cpu":
        torch.accelerator.set_device_index(int(os.environ["LOCAL_RANK"]))
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),), mesh_dim_names=("tensor",))

    model = SmallGPT().to(device)
    columns, rows = ColwiseParallel(), RowwiseParallel()
    for block in model.blocks:
        parallelize_module(block, mesh, dict(q=columns, k=columns, v=columns, out=rows, up=columns, down=rows))
    optimizer = Muon(plan(model), lr=0.02, rest=dict(lr=3e-3))  # after parallelize_module

    for step in range(steps):
        loss = loss_of(model, batch(step).to(device))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

        if distributed.get_rank() == 0:
            print(f"step {step}  loss {loss.item():.6f}", flush=True)


if __name__ == "__main__":
    distributed.init_process_group()
    main()
    gc.collect()  # free the model before the group: with gloo, torch 2.13 may else abort at the end
    distributed.destroy_process_group()
