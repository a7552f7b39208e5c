"""Parts of stacks, without a process: what they hold, who owns them, what they send, and how work is shared."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from matfn.optim.matrices.exchange_plan import (
    Matrix,
    Split,
    assign,
    boxes,
    entries,
    exchange_plan,
    held,
    holders,
    own_range,
    senders,
    sources,
)
from matfn.optim.matrices.forecast import forecast
from matfn.optim.matrices.parts import parted

MESHES = [(1,), (2,), (5,), (2, 2), (3, 2), (2, 2, 2)]
SPLITS = [None, Split(0), Split(1), Split(2), Split(0, last=True)]


@st.composite
def cases(draw):
    """A mesh, and some stacks and matrices on it."""
    mesh = draw(st.sampled_from(MESHES))
    matrices = []
    for i in range(draw(st.integers(1, 5))):
        shape = tuple(draw(st.integers(1, 9)) for _ in range(3))
        placements = tuple(draw(st.sampled_from(SPLITS)) for _ in mesh)
        work, tensors = float(draw(st.integers(1, 100)) * shape[0]), draw(st.integers(1, 2))
        stack = draw(st.booleans())
        matrices.append(Matrix(f"m{i}", shape, placements, draw(st.sampled_from([2, 4])), work, tensors, stack=stack))
    return mesh, matrices


@given(cases(), st.sampled_from([1, 300, 2**25]))
def test_parts_hold_every_entry_of_every_rank_once(case, limit):
    """Each rank writes 1 where its parts are in its shard, and each part is filled by its senders."""
    mesh, matrices = case
    for matrix, parts in zip(matrices, parted(matrices, mesh, limit), strict=True):
        assert [part.start for part in parts] == list(np.cumsum([0, *(part.shape[0] for part in parts)]))[:-1]
        assert sum(part.shape[0] for part in parts) == matrix.shape[0]
        assert sum(part.work for part in parts) == pytest.approx(matrix.work)
        whole = torch.arange(math.prod(matrix.shape)).view(matrix.shape)
        mine = boxes(matrix.shape, mesh, matrix.placements)
        shards = [whole[tuple(slice(*sides) for sides in box)] for box in mine]
        seen = [torch.zeros_like(shard) for shard in shards]
        for part, item in zip(parts, assign(parts, mesh), strict=True):
            found = torch.zeros(part.shape, dtype=torch.int64)
            for rank, box in enumerate(held(part.place, mesh)):
                seen[rank][own_range(part.place, mesh, rank)] += 1
                if rank in sources(mesh, part.placements, item.owner) and entries(box):
                    assert rank in senders(part, mesh, item)
                    piece = shards[rank][own_range(part.place, mesh, rank)]
                    found[tuple(slice(*sides) for sides in box)] += piece
            assert torch.equal(found, whole[part.start : part.start + part.shape[0]])
        assert all(bool((counts == 1).all()) for counts in seen)


@given(cases(), st.sampled_from([1, 300, 2**25]))
def test_the_bytes_of_parts_are_those_of_their_pieces(case, limit):
    """Counted message by message, from the indices that a rank and a part share."""
    mesh, matrices = case
    plan = exchange_plan([part for parts in parted(matrices, mesh, limit) for part in parts], mesh, limit=limit)
    ranks = range(math.prod(mesh))
    sent, received = [0 for _ in ranks], [0 for _ in ranks]
    for part, item in zip(plan.matrices, plan.items, strict=True):
        shape = part.place[0]
        for rank, (rows, *others) in enumerate(boxes(shape, mesh, part.placements)):
            if rank == item.owner or item.way == "local":
                continue
            common = set(range(*rows)) & set(range(part.start, part.start + part.shape[0]))
            piece = -(-len(common) * entries(tuple(others)) * part.itemsize // 8) * 8
            gives = rank in sources(mesh, part.placements, item.owner)
            sent[rank] += piece * part.tensors * gives
            received[item.owner] += piece * part.tensors * gives
            sent[item.owner] += piece
            received[rank] += piece
    assert [plan.traffic(rank) for rank in ranks] == list(zip(sent, received, strict=True))
    counted = forecast(plan)
    assert counted.sent.tolist() == sent
    assert counted.received.tolist() == received
    assert counted.memory.tolist() == [plan.memory(rank) for rank in ranks]
    assert counted.work.sum() == pytest.approx(sum(matrix.work for matrix in matrices))


def test_expert_parallel_parts_stay_with_the_ranks_that_hold_them():
    """8 experts over 4 groups of 2 ranks, which share their rows: only the ranks of a group exchange anything."""
    mesh, cut = (4, 2), (Split(0), Split(1))
    stacks = [Matrix(f"w{i}", (8, 6, 4), cut, work=800.0, stack=True) for i in range(3)]
    alone = Matrix("alone", (6, 4), (Split(0), Split(0)), work=150.0)
    parts = [part for each in parted([*stacks, alone], mesh) for part in each]
    plan = exchange_plan(parts, mesh)
    for part, item in list(zip(parts, plan.items, strict=True))[:-1]:
        group = part.start // 2
        assert set(holders(part.place, mesh)) == {2 * group, 2 * group + 1}
        assert item.owner // 2 == group
        assert all((plan.there(item, rank) + plan.back(item, rank) == 0) == (rank // 2 != group) for rank in
                   set(range(8)) - {item.owner})  # fmt: skip
    assert sorted(plan.work(rank) for rank in range(8)) == [300.0] * 6 + [350.0, 400.0]


@pytest.mark.parametrize("placements", [(None,), (Split(1),)])
@pytest.mark.parametrize("ranks", [3, 8])
def test_work_is_balanced_within_a_quarter(placements, ranks):
    """The largest part has a quarter of the mean, and no rank gets one while another has less work."""
    stacks = [Matrix(f"w{i}", (31 + 40 * i, 6, 4), placements, work=31.0 + 40 * i, stack=True) for i in range(3)]
    whole = exchange_plan(stacks, (ranks,))
    plan = exchange_plan([part for parts in parted(stacks, (ranks,)) for part in parts], (ranks,))
    mean = sum(stack.work for stack in stacks) / ranks
    assert max(part.work for part in plan.matrices) <= mean / 4
    assert max(plan.work(rank) for rank in range(ranks)) <= 1.25 * mean
    assert max(whole.work(rank) for rank in range(ranks)) > 1.25 * mean
    assert len(plan.matrices) <= 4 * ranks + 2 * len(stacks)  # no more messages than that needs


def test_many_small_stacks_stay_whole_and_large_ones_fit_into_rounds():
    small = [Matrix(f"w{i}", (8, 6, 4), (None,), work=8.0, stack=True) for i in range(40)]
    assert all(len(parts) == 1 for parts in parted(small, (4,)))
    size = 6 * 4 * 4
    plan = exchange_plan([part for parts in parted(small, (4,), 2 * size) for part in parts], (4,), limit=2 * size)
    assert all(part.shape[0] <= 2 for part in plan.matrices)


def test_what_is_not_a_stack_or_stays_is_not_cut():
    cut = (Split(1),)
    for matrix in (
        Matrix("no stack", (8, 6, 4), cut, work=8.0),
        Matrix("one", (1, 6, 4), cut, work=8.0, stack=True),
        Matrix("stays", (8, 6, 4), (Split(0),), work=8.0, whole=True, stack=True),
        Matrix("empty", (8, 0, 4), cut, stack=True),
    ):
        assert parted([matrix], (4,)) == ((matrix,),)
    assert parted([Matrix("alone", (8, 6, 4), cut, work=8.0, stack=True)], (1,))[0][0].length is None


def test_the_parts_of_a_stack_travel_one_after_the_other():
    """The shards of a parameter are held from its first to its last part. No other parameter comes between."""
    size = 6 * 4 * 4
    stacks = [Matrix(f"w{i}", (5, 6, 4), (None,), work=5.0, stack=True) for i in range(3)]
    large = Matrix("large", (60, 40), (None,), work=100.0)
    parts = [part for each in parted([*stacks, large], (2,), 2 * size) for part in each]
    plan = exchange_plan(parts, (2,), limit=10**9)
    [items] = plan.rounds
    assert {part.shape[0] for part in parts[:-1]} == {1, 2}
    names = [name for name, _ in itertools.groupby(parts[item.index].name for item in items)]
    assert names == ["large", "w0", "w1", "w2"]
