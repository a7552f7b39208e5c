"""What a step sends: the bytes counted by hand, no collective beside the exchange and the agreement, and the memory.

torch calls every collective as an operator of `c10d` or `_c10d_functional`. So all of them are seen here, whoever calls
them. `test_bytes` compares the bytes with the plan for every optimizer.
"""

import math
from collections import Counter
from typing import Any

import pytest
import torch
from models import KINDS, Tiny, give_gradients, spread
from torch import distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.utils._python_dispatch import TorchDispatchMode

import benchmarks.collectives
from benchmarks.memory import peak_bytes
from matfn import PolarExpress
from matfn.optim import SOAP, Muon, NorMuon, PolarGrad, Shampoo, plan
from matfn.optim.matrices.exchange import Team, group_of_mesh
from matfn.optim.matrices.exchange_plan import exchange_plan

OPTIMIZERS = {"muon": Muon, "normuon": NorMuon, "polargrad": PolarGrad, "shampoo": Shampoo, "soap": SOAP}
GRAM = PolarExpress(steps=4, lower=0.03)  # a method that bears the Gram engine without restarts in float32


class Collectives(TorchDispatchMode):
    """Counts the collectives by name, and the bytes of each all-to-all to other ranks."""

    def __init__(self):
        super().__init__()
        self.calls, self.agreed, self.sent, self.received = Counter(), [], 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # DTensor calls again with its local parts
        if func.namespace in ("c10d", "_c10d_functional", "c10d_functional"):
            name = func._schema.name.split("::")[1]
            self.calls[name] += 1
            if name == "alltoall_base_":
                output, sent, _, received_sizes, sent_sizes = args[:5]
                # Groups are all ranks, or the first axis of the 2 x 2 mesh of "fsdp_tp".
                rank = distributed.get_rank() * len(sent_sizes) // distributed.get_world_size()
                self.sent += (sum(sent_sizes) - sent_sizes[rank]) * sent.element_size()
                self.received += (sum(received_sizes) - received_sizes[rank]) * output.element_size()
            if name == "send":
                self.agreed += [(tensor.dtype, tensor.numel()) for tensor in args[0]]
        return func(*args, **(kwargs or {}))


def collectives(kind, name):
    """Those of the second step by name, what was agreed in how many messages, the plans' traffic, the bytes moved."""
    model, _, _ = spread(Tiny(fused="tp" not in kind), kind)
    optimizer = OPTIMIZERS[name](plan(model), lr=0.01)
    give_gradients(model, 0)
    optimizer.step()
    give_gradients(model, 1)
    with Collectives() as seen:
        optimizer.step()
    shared = optimizer._sharded.shared
    traffic = [made.traffic(each.team.rank) for each in shared for made in each.plans.values()]
    messages = sum(math.ceil(math.log2(each.team.size)) for each in shared)
    return seen.calls, seen.agreed, messages, traffic, (seen.sent, seen.received)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_has_no_other_collectives(world, kind, name):
    for calls, agreed, messages, traffic, moved in world(4).run(collectives, kind, name):
        assert set(calls) <= {"alltoall_base_", "send", "recv_"}
        assert calls["send"] == calls["recv_"] == messages > 0
        assert all(dtype == torch.int64 and number == 16 for dtype, number in agreed)  # two hashes, each twice
        assert (sum(sent for sent, _ in traffic), sum(received for _, received in traffic)) == moved


def greatest():
    """The greatest of numbers that differ between ranks, three times in a row, and of a number of one rank alone."""
    size, rank = distributed.get_world_size(), distributed.get_rank()
    team = Team((size,), range(size), torch.device("cpu"), distributed.group.WORLD, "a test")
    found = [team._reduced(torch.tensor([rank + turn, -rank, 7 * (rank == turn)])).tolist() for turn in range(3)]
    return found, team.agree("equal", ["a line"], [True, rank == size - 1, False])


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_all_ranks_agree_for_any_number_of_ranks(world, ranks):
    expected = [[ranks - 1 + turn, 0, 7 * (turn < ranks)] for turn in range(3)]
    assert world(ranks).run(greatest) == [(expected, [1])] * ranks


def timeouts():
    """Seconds after which collectives fail: in the default group, and in a group made for a mesh of two axes."""
    groups: list[Any] = [distributed.group.WORLD, group_of_mesh(DeviceMesh("cpu", [[1], [0]]))]
    return [group._get_backend(torch.device("cpu")).options._timeout.total_seconds() for group in groups]


def test_new_groups_have_the_timeout_of_the_default_group(world):
    assert world(2).run(timeouts, timeout=23.0) == [[23.0, 23.0]] * 2


def one_step(shapes, axis, method):
    """Bytes that this rank sends and receives in a step of Muon on matrices cut along an axis; None: replicated."""
    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
    parameters = []
    for number, shape in enumerate(shapes):
        generator = torch.Generator().manual_seed(number)
        values, grad = torch.randn(2, *shape, generator=generator).unbind()
        if axis is not None:
            values, grad = (distribute_tensor(x, mesh, [Shard(axis)], src_data_rank=None) for x in (values, grad))
        parameters.append(nn.Parameter(values))
        parameters[-1].grad = grad
    optimizer = Muon(parameters, method=method)
    if axis is None:
        optimizer._sharded.group = distributed.group.WORLD
    with Collectives() as seen:
        optimizer.step()
    return seen.sent, seen.received


@pytest.mark.parametrize("ranks", [2, 4])
def test_bytes_counted_by_hand(world, ranks):
    """Numbers over all ranks: DDP (P - 1) mn, shards 2 (P - 1) / P mn, Gram (P - 1) n (n + 1)."""
    shapes, others = [(256, 16)] * 3 + [(512, 32)], ranks - 1
    entries = sum(m * n for m, n in shapes)
    grams = sum(others * n * (n + 1) * 4 + 2 * others * 16 for _, n in shapes)  # two triangles; 16: two scales
    expected = {
        (None, None): 4 * others * entries,
        (0, None): 4 * 2 * others * entries // ranks,
        (1, None): 4 * 2 * others * entries // ranks,
        (0, GRAM): grams,
        (1, GRAM): 4 * 2 * others * entries // ranks,
    }
    for (axis, method), count in expected.items():
        found = world(ranks).run(one_step, shapes, axis, method)
        assert sum(sent for sent, _ in found) == sum(received for _, received in found) == count, (axis, method)
    assert grams < expected[0, None] / 2


def memory(limit):
    """The peak of a step beyond what was held, the plan's memory, the bytes of owned matrices and of shards in float32.

    Args:
        limit: Bytes of whole matrices that an owner receives in one round; None is the optimizer's own limit.
    """
    model, _, _ = spread(Tiny(width=96, layers=3, fused=False), "fsdp")
    optimizer = Muon(plan(model), precision=torch.float32)
    for seed in range(2):
        give_gradients(model, seed)
        optimizer.step()
    [each] = optimizer._sharded.shared
    [(active, made)] = each.plans.items()
    if limit is not None:
        made = exchange_plan(made.matrices, made.mesh, made.items, limit)
        each.plans = {active: made}
        give_gradients(model, 2)
        optimizer.step()
    give_gradients(model, 3)
    peak, rank = peak_bytes(optimizer.step), each.team.rank
    sizes = [4 * math.prod(matrix.shape) for matrix in made.matrices]
    owned = sum(size for size, item in zip(sizes, made.items, strict=True) if item.owner == rank)
    return peak, made.memory(rank), owned, sum(sizes) // each.team.size, len(made.rounds)


def test_memory_is_that_of_the_plan_and_of_the_iteration(world):
    """The iteration adds the inputs on the shards, and stacks of the owned matrices, their updates and products."""
    for peak, planned, owned, shards, rounds in world(2).run(memory, None):
        assert rounds == 1
        assert planned <= peak <= planned + shards + 3 * owned


def test_smaller_rounds_take_less_memory(world):
    whole, small = (world(2).run(memory, limit) for limit in (None, 2**17))
    for (most, planned, *_), (peak, bounded, _, _, rounds) in zip(whole, small, strict=True):
        assert rounds > 4
        assert bounded < planned / 2
        assert peak < most - (planned - bounded) / 2


def counted_for_benchmarks():
    """Bytes sent as the benchmarks count them, and as they are known."""
    shape, rank = (6, 4), distributed.get_rank()
    x = distribute_tensor(torch.ones(shape), init_device_mesh("cpu", (2,)), [Shard(0)], src_data_rank=None)
    with benchmarks.collectives.Collectives() as seen:
        x.full_tensor()  # each rank sends its half
        distributed.all_reduce(torch.ones(10))
        distributed.broadcast(torch.ones(10), 0)
        distributed.gather(torch.ones(5), [torch.ones(5) for _ in range(2)] if rank == 0 else None, 0)
        distributed.all_to_all_single(torch.ones(4), torch.ones(4), [2, 2], [2, 2])
    return seen.sent, 48 + 40 + (40 if rank == 0 else 20) + 8


def test_the_benchmark_counts_what_is_known(world):
    for found, known in world(2).run(counted_for_benchmarks):
        assert found == known
