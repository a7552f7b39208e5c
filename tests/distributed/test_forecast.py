"""The forecast of an exchange for all ranks at once equals the sums of the plan, rank by rank."""

import math
import random
import time

import numpy as np
import pytest

from matfn.optim.matrices.exchange_plan import Matrix, Split, exchange_plan
from matfn.optim.matrices.forecast import forecast


def some(random, axes, number):
    """Matrices of odd shapes with every kind of placement."""
    matrices = []
    for index in range(number):
        shape = tuple(random.choice((1, 2, 3, 7, 16, 40)) for _ in range(random.choice((2, 2, 3))))
        cuts = [None, Split(0), Split(1), Split(0, last=True)]
        placements = tuple(random.choice(cuts) for _ in range(axes))
        n = min(shape)
        matrices.append(
            Matrix(
                *(f"m{index}", shape, placements),
                itemsize=random.choice((2, 4)),
                work=float(math.prod(shape) * n * 9),
                tensors=random.choice((1, 2)),
                extra=random.choice((0, 4, 20)),
                whole=len(shape) == 3 and random.choice((True, False)),
                gram=random.choice((True, False)),
                width=random.choice((4, 8)),
            )
        )
    return matrices


@pytest.mark.parametrize("mesh", [(1,), (2,), (5,), (2, 2), (3, 2), (2, 3, 2)])
@pytest.mark.parametrize("limit", [200, 2**25])
def test_all_ranks_at_once_are_the_ranks_one_by_one(mesh, limit):
    plan = exchange_plan(some(random.Random(str(mesh)), len(mesh), 400), mesh, limit=limit)
    ways = {item.way for item in plan.items}
    assert ways == ({"local"} if mesh == (1,) else {"local", "owner", "gram"})
    found = forecast(plan)
    for rank in range(math.prod(mesh)):
        assert (found.sent[rank], found.received[rank]) == plan.traffic(rank)
        assert found.memory[rank] == plan.memory(rank)
        assert found.matrices[rank] == sum(item.way != "local" and item.owner == rank for item in plan.items)
    assert found.sent.sum() == found.received.sum()
    replicated = sum(m.work for m, item in zip(plan.matrices, plan.items, strict=True) if item.way == "owner")
    assert found.work.sum() >= replicated
    if mesh == (1,):
        assert found.work[0] == pytest.approx(sum(m.work for m in plan.matrices))


def test_work_is_shared_and_none_is_lost():
    """The owner does the squares of a Gram matrix, all ranks the two products with the long side."""
    tall = Matrix("tall", (64, 8), (Split(0),), work=2 * 64 * 8 * 8 + 5000.0, gram=True)
    wide = Matrix("wide", (8, 64), (Split(0),), work=7000.0)
    experts = Matrix("experts", (4, 8, 8), (Split(0),), work=4000.0, whole=True)
    plan = exchange_plan([tall, wide, experts], (4,))
    assert [item.way for item in plan.items] == ["gram", "owner", "local"]
    work = forecast(plan).work
    thin = 2 * 64 * 8 * 8 / 4
    expected = np.full(4, thin + 1000.0)
    expected[plan.items[0].owner] += 5000.0
    expected[plan.items[1].owner] += 7000.0
    assert work == pytest.approx(expected)


def test_the_forecast_of_two_thousand_ranks_takes_seconds():
    shapes = [(8192, 8192), (1024, 8192), (28672, 8192), (8192, 28672)]
    matrices = [
        Matrix(f"{shape} {i}", shape, (Split(0, last=True), Split(0)), 2, work=float(math.prod(shape)))
        for shape in shapes
        for i in range(140)
    ]
    begun = time.process_time()
    found = forecast(exchange_plan(matrices, (256, 8)))
    assert time.process_time() - begun < 10
    assert found.sent.sum() == found.received.sum() > 0
