"""Checkpoints: saved by some processes, loaded by another number of processes. The losses go on as if nothing happened.

    torchrun --nproc-per-node 4 examples/checkpoint.py runs/small --until 10
    torchrun --nproc-per-node 2 examples/checkpoint.py runs/small --until 20

All of it is torch.distributed.checkpoint. It runs with GPUs (nccl) and without (gloo) as it stands.
"""

import argparse
import gc
import os
from pathlib import Path

import torch
from small_gpt import SmallGPT, batch, loss_of
from torch import distributed
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from matfn.optim import Muon, plan


def main(folder: Path, until: int) -> None:
    """Load the checkpoint if there is one, train until a step, print the losses, and save."""
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    if device.type != "cpu":
        torch.accelerator.set_device_index(int(os.environ["LOCAL_RANK"]))
    rank, ranks = distributed.get_rank(), distributed.get_world_size()

    model = SmallGPT().to(device)
    fully_shard(model, mesh=init_device_mesh(device.type, (ranks,)))
    optimizer = Muon(plan(model), lr=0.02, rest=dict(lr=3e-3))

    start = 0
    if folder.exists():
        weights, moments = get_state_dict(model, optimizer)  # the names, shapes and placements to load into
        held = {"model": weights, "optimizer": moments, "step": start}
        dcp.load(held, checkpoint_id=folder)
        set_state_dict(model, optimizer, model_state_dict=held["model"], optim_state_dict=held["optimizer"])
        start = held["step"]

    for step in range(start, until):
        loss = loss_of(model, batch(step, rank, ranks).to(device))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

        mean = loss.detach() / ranks
        distributed.all_reduce(mean)
        if rank == 0:
            print(f"step {step}  loss {mean.item():.6f}", flush=True)

    weights, moments = get_state_dict(model, optimizer)  # every process must call it
    dcp.save({"model": weights, "optimizer": moments, "step": until}, checkpoint_id=folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--until", type=int, default=10)
    distributed.init_process_group()
    main(**vars(parser.parse_args()))
    gc.collect()  # free the model before the group: with gloo, torch 2.13 may else abort at the end
    distributed.destroy_process_group()
