"""The processes of the tests: errors, deaths and hangs end in an error, and leave nothing to the next test."""

import os
import signal
import time

import pytest
import torch
from processes import RankLostError
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor


def total(x):
    value = torch.tensor([x + distributed.get_rank()])
    distributed.all_reduce(value)
    return distributed.get_rank(), distributed.get_world_size(), value.item(), os.getpid(), torch.get_num_threads()


def fails_on(rank, count=1):
    if distributed.get_rank() in range(rank, rank + count):
        raise ValueError(f"no luck on {distributed.get_rank()}")
    distributed.all_reduce(torch.zeros(3))


def dies_on(rank):
    if distributed.get_rank() == rank:
        os.kill(os.getpid(), signal.SIGKILL)
    distributed.all_reduce(torch.zeros(3))


def sleeps():
    time.sleep(1000)


def returns_a_function():
    return lambda: 0


def summed(shape, names, placements):
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=names)
    x = torch.arange(24.0).view(6, 4)
    sharded = distribute_tensor(x, mesh, placements)
    assert isinstance(sharded, DTensor)
    return (sharded @ sharded.T).full_tensor().equal(x @ x.T)


def test_every_rank_runs_in_a_process_that_later_calls_use_again(world):
    pids = {}
    for ranks in (2, 4, 1, 2):
        results = world(ranks).run(total, 10)
        assert [r[:3] for r in results] == [(i, ranks, 10 * ranks + sum(range(ranks))) for i in range(ranks)]
        assert {r[4] for r in results} == {1}
        for rank, *_, pid, _ in results:
            assert pids.setdefault(rank, pid) == pid
    assert os.getpid() not in pids.values()


def test_an_exception_is_raised_with_the_traceback_of_its_rank_and_the_others_do_not_wait(world):
    start = time.monotonic()
    with pytest.raises(ValueError, match="no luck on 1") as caught:
        world(4).run(fails_on, 1, timeout=100.0, limit=200.0)
    assert time.monotonic() - start < 100  # the others' collective was given up, not waited for
    assert "on rank 1" in str(caught.value.__cause__)
    assert "in fails_on" in str(caught.value.__cause__)
    assert world(4).run(total, 0)[0][2] == 6


def test_the_outcomes_of_every_rank_can_be_asked_for(world):
    first, second = world(2).outcomes(fails_on, 0, 2)
    assert str(first) == "no luck on 0"
    assert str(second) == "no luck on 1"


def test_a_death_is_an_error_and_the_next_call_has_new_processes(world):
    before = world(2).run(total, 0)
    first, second = world(2).outcomes(dies_on, 1)
    assert isinstance(first, RuntimeError)
    assert isinstance(second, RankLostError)
    assert "exit code -9" in str(second)
    assert world(2).run(total, 0)[0][3] != before[0][3]


def test_a_hang_is_an_error_that_shows_where_it_stood(world):
    with pytest.raises(RankLostError, match="in sleeps"):
        world(2).run(sleeps, limit=1.0)
    assert world(2).run(total, 0)[1][2] == 1


def test_a_result_that_cannot_be_sent_is_an_error(world):
    with pytest.raises(Exception, match="lambda"):
        world(2).run(returns_a_function)


@pytest.mark.parametrize("ranks", [2, 4])
def test_meshes_of_one_call_do_not_reach_the_next(world, ranks):
    for _ in range(2):
        assert all(world(ranks).run(summed, (ranks,), ("a",), [Shard(0)]))
        assert all(world(ranks).run(summed, (2, ranks // 2), ("b", "c"), [Replicate(), Shard(1)]))
        assert all(world(ranks).run(summed, (1, ranks), ("a", "b"), [Shard(0), Shard(1)]))
