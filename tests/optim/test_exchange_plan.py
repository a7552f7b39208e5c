"""The plan of the exchange, without a process: boxes, owners, bytes and rounds, each counted again in another way."""

import itertools
import math
import random
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from matfn.optim.matrices.exchange_plan import (
    Item,
    Matrix,
    Split,
    assign,
    boxes,
    entries,
    exchange_plan,
    sends,
    sources,
    total,
    way_of,
)
from matfn.optim.matrices.layout import linear
from matfn.optim.member import Member
from matfn.optim.needs import member_line

MESHES = [(1,), (2,), (3,), (4,), (2, 2), (3, 2), (2, 2, 2)]
SPLITS = [None, Split(0), Split(1)]


@st.composite
def placed(draw):
    """A mesh, and how each of its axes places a parameter of 2 axes."""
    mesh = draw(st.sampled_from(MESHES))
    placements = tuple(draw(st.sampled_from(SPLITS)) for _ in mesh)
    return mesh, placements


@st.composite
def plans(draw):
    mesh, placements = draw(placed())
    matrices = []
    for i in range(draw(st.integers(1, 7))):
        shape = (draw(st.integers(1, 40)), draw(st.integers(1, 40)))
        work, tensors, extra = draw(st.integers(1, 100)), draw(st.integers(1, 2)), draw(st.integers(0, 9))
        itemsize, gram = draw(st.sampled_from([2, 4, 8])), draw(st.booleans())
        symmetric = draw(st.booleans())
        matrices.append(
            Matrix(f"m{i}", shape, placements, itemsize, float(work), tensors, extra, gram=gram, symmetric=symmetric)
        )
    return exchange_plan(matrices, mesh)


@given(placed(), st.integers(0, 9), st.integers(0, 9))
def test_boxes_are_what_chunk_cuts(case, m, n):
    mesh, placements = case
    for coordinate, box in zip(itertools.product(*map(range, mesh)), boxes((m, n), mesh, placements), strict=True):
        part = torch.arange(m * n).view(m, n)
        for split, size, index in zip(placements, mesh, coordinate, strict=True):
            if split is not None:
                chunks = part.chunk(size, split.axis)
                part = chunks[index] if index < len(chunks) else part.narrow(split.axis, 0, 0)
        (a, b), (c, d) = box
        assert torch.equal(torch.arange(m * n).view(m, n)[a:b, c:d], part)


def test_an_inner_cut_is_made_within_the_parts_of_later_axes():
    """As fully_shard cuts a tensor-parallel parameter: 14 rows, 7 for each of 2 ranks, cut into 4 and 3."""
    found = boxes((14, 8), (2, 2), (Split(0, last=True), Split(0)))
    assert [box[0] for box in found] == [(0, 4), (7, 11), (4, 7), (11, 14)]


@given(placed(), st.integers(1, 9), st.integers(1, 9), st.integers(0, 7))
def test_the_senders_hold_every_entry_once(case, m, n, owner):
    mesh, placements = case
    owner %= math.prod(mesh)
    held, senders = boxes((m, n), mesh, placements), sources(mesh, placements, owner)
    seen = torch.zeros(m, n)
    for rank in senders:
        (a, b), (c, d) = held[rank]
        seen[a:b, c:d] += 1
    assert owner in senders
    assert bool((seen == 1).all())


@given(plans())
def test_bytes_are_those_of_all_pieces(plan):
    """Counted message by message. What one rank sends another receives."""
    ranks = range(math.prod(plan.mesh))
    sent, received = [0 for _ in ranks], [0 for _ in ranks]
    for item in plan.items:
        matrix = plan.matrices[item.index]
        if item.way == "local":
            continue
        held, n = boxes(matrix.shape, plan.mesh, matrix.placements), min(matrix.shape)
        even = n + n % 2
        for rank in set(sources(plan.mesh, matrix.placements, item.owner)) - {item.owner}:
            piece = -(-entries(held[rank]) * matrix.itemsize // 8) * 8 * matrix.tensors
            if item.way == "gram":
                piece = 16 + -(-even * (even + 1) // 2 * 4 // 8) * 8
            sent[rank] += piece
            received[item.owner] += piece
        for rank in set(ranks) - {item.owner}:
            piece = -(-entries(held[rank]) * matrix.itemsize // 8) * 8 + -(-matrix.extra // 8) * 8
            if item.way == "gram":
                piece = 16 + -(-(even * (even + 1) // 2 if matrix.symmetric else n * n) * 4 // 8) * 8
            sent[item.owner] += piece
            received[rank] += piece
    assert [plan.traffic(rank) for rank in ranks] == list(zip(sent, received, strict=True))


@given(plans())
def test_what_one_rank_asks_is_what_is_listed_for_all(plan):
    ranks = range(math.prod(plan.mesh))
    for matrix, item in zip(plan.matrices, plan.items, strict=True):
        for rank in ranks:
            assert sends(plan.mesh, matrix.placements, rank, item.owner) == (
                rank in sources(plan.mesh, matrix.placements, item.owner)
            )
            if item.way != "local" and rank != item.owner:
                assert plan.replies(item)[rank] == plan.back(item, rank)


def test_two_thousand_ranks_have_one_list_of_senders():
    """A list for each owner would take 700 x 2048 entries, and each a pass over all ranks."""
    every = [sources((2048,), (Split(0),), owner) for owner in range(700)]
    assert every[0] == tuple(range(2048))
    assert all(some is every[0] for some in every)


@pytest.mark.parametrize("limit", [1, 2000, 10**9])
@given(plans())
def test_rounds_hold_every_matrix_once_and_no_owner_more_than_the_limit(limit, plan):
    plan = exchange_plan(plan.matrices, plan.mesh, plan.items, limit)
    travelling = [item for item in plan.items if item.way != "local"]
    assert sorted((i for each in plan.rounds for i in each), key=lambda item: item.index) == travelling
    for items, owner in itertools.product(plan.rounds, range(math.prod(plan.mesh))):
        own = [plan.matrices[item.index] for item in items if item.owner == owner]
        assert len(own) <= 1 or sum(math.prod(m.shape) * m.itemsize * m.tensors for m in own) <= limit


@pytest.mark.parametrize("ranks", [2, 5, 8])
def test_work_is_balanced_as_the_largest_first_rule_promises(ranks):
    """Graham: at most 4/3 - 1/(3 P) of the best, which is at least the mean and the largest matrix."""
    chance = random.Random(0)
    for _ in range(50):
        works = [float(chance.randint(1, 100)) for _ in range(chance.randint(1, 40))]
        plan = exchange_plan([Matrix(f"m{i}", (4, 4), (Split(0),), work=w) for i, w in enumerate(works)], (ranks,))
        best = max(
            sum(works) / ranks, max(works), sum(sorted(works)[::-1][ranks - 1 : ranks + 1]) if len(works) > ranks else 0
        )
        assert max(plan.work(rank) for rank in range(ranks)) <= (4 / 3 - 1 / (3 * ranks)) * best + 1e-9
        assert sum(plan.work(rank) for rank in range(ranks)) == sum(works)


def test_the_gram_way_is_taken_where_it_sends_fewer_bytes():
    """4 or 6 n^2 (P - 1) bytes against 2 m n (P - 1) / P entries: m / n = P in bfloat16, P / 2 in float32 for 4."""
    for ranks, itemsize, symmetric in itertools.product((2, 4, 8), (2, 4), (True, False)):
        border = (2 if symmetric else 3) * ranks / itemsize
        for ratio in (border / 1.1, border * 1.1):
            n = 256
            matrix = Matrix(
                "w", (round(ratio * n / ranks) * ranks, n), (Split(0),), itemsize, gram=True, symmetric=symmetric
            )
            assert way_of(matrix, (ranks,)) == ("gram" if ratio > border else "owner")
    long, wide = (4096, 64), (64, 4096)
    assert way_of(Matrix("w", wide, (Split(1),), gram=True), (2,)) == "gram"
    assert way_of(Matrix("w", wide, (Split(0),), gram=True), (2,)) == "owner"  # the short side is cut
    assert way_of(Matrix("w", long, (Split(0), Split(1)), gram=True), (2, 2)) == "owner"
    assert way_of(Matrix("w", long, (None,), gram=True), (2,)) == "owner"
    assert way_of(Matrix("w", long, (Split(0),)), (2,)) == "owner"
    assert way_of(Matrix("w", long, (Split(0), None), gram=True), (2, 3)) == "gram"


def test_whole_matrices_stay_where_they_are():
    assert way_of(Matrix("w", (8, 4, 4), (Split(0),), whole=True), (4,)) == "local"
    assert way_of(Matrix("w", (4, 4), (Split(0),)), (1,)) == "local"
    plan = exchange_plan([Matrix("w", (8, 4, 4), (Split(0),), whole=True)], (4,))
    assert plan.rounds == ()
    assert [plan.traffic(rank) for rank in range(4)] == [(0, 0)] * 4


def test_owners_stay_when_matrices_are_added():
    old = [Matrix(f"m{i}", (8, 8), (Split(0),), work=float(i + 1)) for i in range(5)]
    first = assign(old, (3,))
    known = {m.name: item for m, item in zip(old, first, strict=True)}
    more = [Matrix("new", (8, 8), (Split(0),), work=100.0), *old]
    second = assign(more, (3,), known)
    assert [item.owner for item in second[1:]] == [item.owner for item in first]
    assert second == assign(more, (3,), known)


def test_memory_is_bounded_by_two_rounds():
    """Hundred equal matrices: memory grows with the limit of a round, not with the number of matrices."""
    matrices = [Matrix(f"m{i}", (64, 64), (Split(0),), work=1.0) for i in range(100)]
    size = 64 * 64 * 4
    for limit in (2 * size, 4 * size):
        plan = exchange_plan(matrices, (2,), limit=limit)
        a_round = limit // size * (size + 2 * size) + 2 * (limit // size) * size  # own ones, and shards of the other's
        assert plan.memory(0) <= 2 * a_round
    assert exchange_plan(matrices, (2,)).memory(0) > plan.memory(0)


def test_the_owner_of_a_gram_matrix_never_holds_it_whole():
    plan = exchange_plan([Matrix("w", (64, 8), (Split(0),), gram=True, symmetric=True)], (2,))
    messages = 2 * (8 * 9 // 2 * 4 + 16)  # a triangle and two scales, there and back
    assert plan.items[0].way == "gram"
    assert (plan.memory(0), plan.memory(1)) == (messages + 2 * 8 * 8 * 4, messages)


def test_what_processes_compare_has_all_that_the_plan_knows_of_a_matrix():
    """The lines of members are hashed and compared; a difference that is in none would make the exchange hang."""
    param = torch.zeros(8, 4)

    def line(wire: torch.dtype = torch.bfloat16, change: Mapping[str, Any] | None = None) -> str:
        matrix, lender = Matrix("w", (8, 4), (None,), **(change or {})), cast(Any, None)
        member = Member(0, "w", param, linear((8, 4)), lender, matrix, wire, False)
        return member_line("w", param, "matrix", member)

    changes = dict(itemsize=2, work=2.0, tensors=2, extra=8, whole=True, gram=True, symmetric=True, width=8, stack=True)
    of_the_parameter = {"name", "shape", "placements"}  # the line begins with them
    of_the_layout = {"start", "length"}
    assert {field.name for field in fields(Matrix)} <= {*changes, *of_the_parameter, *of_the_layout}
    assert len(
        {line(), line(torch.float16), *(line(change={name: value}) for name, value in changes.items())}
    ) == 2 + len(changes)


def test_gram_matrices_of_1_to_4_send_a_quarter_of_the_bytes_on_two_ranks():
    """In float32 with a symmetric Q: 4 n^2 against 4 m n. On P ranks it is P / 8, because every rank sends n x n."""
    matrix = Matrix("w", (4096, 1024), (Split(0),), gram=True, symmetric=True)
    for ranks in (2, 4):
        owner, gram = (sum(total(matrix, (ranks,), Item(0, way, 0))) for way in ("owner", "gram"))
        assert gram / owner == pytest.approx(ranks / 8, rel=2e-3)
