"""The bytes that a plan predicts for each rank are those that the collectives of a step really send."""

import pytest
import torch
from models import Tiny, give_gradients, spread
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh

from matfn.optim import SOAP, AdaMuon, Muon, NorMuon, PolarGrad, Shampoo, plan

OPTIMIZERS = {
    "muon": lambda p: Muon(p, lr=0.02),
    "float32": lambda p: Muon(p, lr=0.02, precision=torch.float32),
    "normuon": lambda p: NorMuon(p, lr=0.02),
    "adamuon": lambda p: AdaMuon(p, lr=0.02),
    "polargrad": lambda p: PolarGrad(p, lr=0.02),
    "shampoo": lambda p: Shampoo(p, lr=0.02),
    "soap": lambda p: SOAP(p, lr=0.003),
}


class Counted:
    """Counts the bytes of every all-to-all while it is entered, those to and from the rank itself left out."""

    def __enter__(self):
        self.sent = self.received = self.calls = 0
        self.original = distributed.all_to_all_single
        distributed.all_to_all_single = self.count
        return self

    def __exit__(self, *_):
        distributed.all_to_all_single = self.original

    def count(self, output, input, output_split_sizes=None, input_split_sizes=None, group=None, async_op=False):
        assert input.dtype == output.dtype == torch.uint8
        assert (input.numel(), output.numel()) == (sum(input_split_sizes), sum(output_split_sizes))
        rank = distributed.get_rank(group)
        self.calls += 1
        self.sent += input.numel() - input_split_sizes[rank]
        self.received += output.numel() - output_split_sizes[rank]
        return self.original(output, input, output_split_sizes, input_split_sizes, group=group, async_op=async_op)


def sent_and_predicted(kind, name):
    """Bytes sent and received in a step, and all that the plan predicts: sent, received, owned by rank."""
    model, _, _ = spread(Tiny(width=32, fused="tp" not in kind), kind)
    planned = plan(model)
    optimizer = OPTIMIZERS[name](planned)
    give_gradients(model, 0)
    with Counted() as counted:
        optimizer.step()
    mesh = init_device_mesh("cpu", (distributed.get_world_size(),)) if kind == "ddp" else None
    ranks = planned.outlook(mesh, optimizer).ranks
    return (counted.sent, counted.received), ranks.sent.tolist(), ranks.received.tolist(), ranks.matrices.tolist()


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("kind", ["ddp", "fsdp", "tp", "hsdp", "fsdp_tp"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_predicted_bytes_are_sent(world, ranks, kind, name):
    results = world(ranks).run(sent_and_predicted, kind, name)
    counted = [result[0] for result in results]
    for _, sent, received, _ in results:
        assert list(zip(sent, received, strict=True)) == counted
    if not (kind == "ddp" and name in ("shampoo", "soap")):
        assert all(sent > 0 for sent, _ in counted)
        assert sum(results[0][3]) > 0
