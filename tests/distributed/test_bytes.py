"""The bytes that a plan predicts for each rank are those that the collectives of a step really send."""

import pytest
import torch
from models import KINDS, Tiny, farthest, give_gradients, spread, weights
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh

from matfn import NewtonSchulz
from matfn.optim import SOAP, AdaMuon, Muon, NorMuon, PolarGrad, Shampoo, plan

OPTIMIZERS = {
    "muon": lambda p: Muon(p, lr=0.02),
    "float32": lambda p: Muon(p, lr=0.02, precision=torch.float32),
    "gram": lambda p: Muon(p, lr=0.02, method=NewtonSchulz(degree=5, steps=5)),
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
    """Bytes sent and received in a step; what the plan predicts of them for all ranks; the ways of the matrices."""
    model, _, _ = spread(Tiny(width=32, fused="tp" not in kind), kind)
    planned = plan(model)
    optimizer = OPTIMIZERS[name](planned)
    give_gradients(model, 0)
    with Counted() as counted:
        optimizer.step()
    found = planned.outlook(None, optimizer)
    bytes_by_rank = list(zip(found.ranks.sent.tolist(), found.ranks.received.tolist(), strict=True))
    return (counted.sent, counted.received), bytes_by_rank, {k.way for k in found.kinds}


def every_optimizer(kind):
    return {name: sent_and_predicted(kind, name) for name in OPTIMIZERS}


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_predicted_bytes_are_sent(world, ranks, kind):
    results = world(ranks).run(every_optimizer, kind)
    for name in OPTIMIZERS:
        counted = [result[name][0] for result in results]
        assert [result[name][1] for result in results] == [counted] * ranks
        local = kind == "ddp" and name in ("shampoo", "soap")  # every process keeps their factors
        assert all((sent > 0) != local for sent, _ in counted)
        if kind in ("fsdp", "tp"):
            assert ("gram" in results[0][name][2]) == (name == "gram")


WORDS = {"ddp": "replicate=4", "fsdp": "4", "hsdp": "2x2x1", "tp": "tp=4", "fsdp_tp": "2x2"}


def counts(planned, mesh, optimizer):
    """What an outlook says of each matrix and each rank."""
    found = planned.outlook(mesh, optimizer)
    ranks = {name: values.tolist() for name, values in vars(found.ranks).items()}
    return [(k.shape, k.count, k.way, k.work, k.moved) for k in found.kinds], ranks


def words_and_truth(kind):
    """The counts for a mesh of words, from a plain model, and those of the model on the real mesh."""
    model, *_ = spread(Tiny(width=32, fused=False), kind)
    found = {}
    for name, make in OPTIMIZERS.items():
        real, plain = plan(model), plan(Tiny(width=32, fused=False))
        found[name] = counts(plain, WORDS[kind], make(plain)), counts(real, None, make(real))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_words_predict_what_a_real_mesh_does(world, kind):
    for results in world(4).run(words_and_truth, kind):
        for (words, forecast), (truth, on_ranks) in results.values():
            if "tp" in kind:  # the small layers outside of the blocks are whole here, and words cut them too
                words, truth = ([k for k in kinds if min(k[0]) == 32] for kinds in (words, truth))
                assert len(words) == 4
                assert words == truth
            else:
                assert (words, forecast) == (truth, on_ranks)


def plain_on_a_mesh(shape):
    """The bytes sent, the predicted ones, and the weights of plain parameters that a mesh shares."""
    model, mesh = Tiny(dtype=torch.float64), init_device_mesh("cpu", shape)
    planned = plan(model, mesh=mesh)
    optimizer = Muon(planned, lr=0.02)
    give_gradients(model, 0)
    with Counted() as counted:
        optimizer.step()
    return counted.sent, planned.outlook().ranks.sent[distributed.get_rank()], weights(model), str(planned)


@pytest.mark.parametrize("shape", [(2,), (2, 2)])
def test_a_mesh_gives_owners_to_plain_parameters(world, shape):
    alone = Tiny(dtype=torch.float64)
    give_gradients(alone, 0)
    Muon(plan(alone), lr=0.02).step()
    for sent, predicted, moved, shown in world(shape[0] * len(shape)).run(plain_on_a_mesh, shape):
        assert sent == predicted > 0
        assert farthest(moved, weights(alone)) < 1e-12
        assert "A step of Muon on" in shown
