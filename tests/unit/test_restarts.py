"""Where the Gram engine restarts: the model of its rounding errors against derivatives, and the chooser against all."""

from itertools import combinations

import pytest
import torch

from matfn import NewtonSchulz, PolarExpress, Tuned
from matfn.engines import best_restarts, gram_error
from matfn.engines.restarts import fewest_restarts, restarts_for
from matfn.iteration.schedule import Schedule

F64, F32, F16, BF16 = torch.float64, torch.float32, torch.float16, torch.bfloat16
UNIT = 2.0**-24


def result(schedule, s, end, at=None, wrong=None):
    """The result for diag(s) in float64: one Gram matrix for the steps before `end`, with an error before step `at`."""
    X = s.diag()
    for stretch in (schedule.rows[:end], *((row,) for row in schedule.rows[end:])):
        Q, M = torch.eye(len(s), dtype=F64), X @ X.mT
        for k, row in enumerate(stretch):
            M = M + wrong if k == at and len(stretch) > 1 else M
            Z = sum(c * torch.linalg.matrix_power(M, j) for j, c in enumerate(row.coefficients))
            Q, M = Z @ Q, Z @ M @ Z
        X = Q @ X
    return X


@pytest.mark.parametrize("end", [4, 2])
@pytest.mark.parametrize("at", [0, 1])
def test_an_error_of_the_gram_matrix_is_multiplied_as_foretold(at, end):
    """An error in each pair of directions: none exceeds the model, and the worst comes near to it."""
    schedule, step, worst = PolarExpress(steps=4).schedule(), 1e-9, 0.0
    s = torch.cat([torch.zeros(1, dtype=F64), torch.logspace(-4, 0, 31, dtype=F64)])
    exact = result(schedule, s, end)
    for i, j in combinations(range(len(s)), 2):
        E = torch.zeros(len(s), len(s), dtype=F64)
        E[i, j] = E[j, i] = step
        change = (result(schedule, s, end, at, E) - exact) / step
        worst = max(worst, torch.linalg.matrix_norm(change, 2).item())
    # 64 roundings of a formed M, 4 of a carried one relative to max z^2 max m.
    size = UNIT * (64 if at == 0 else 4 * schedule.rows[0](s**2).abs().max().item() ** 2)
    whole = gram_error(schedule, tuple(range(end, 4)), F32)
    # A pair changes in two entries, of which the model counts the larger one; `whole` adds all errors.
    assert 0.02 * whole <= worst * size <= 2**0.5 * whole


@pytest.mark.parametrize(("method", "known"), [(PolarExpress(), 0.7), (PolarExpress((9,) * 4), 1.5)])
def test_without_a_restart_a_low_rank_matrix_loses_all_digits(method, known):
    schedule = method.schedule()
    assert gram_error(schedule, (), F32) > known
    assert gram_error(schedule, (2,), F32) < gram_error(schedule, (), F32) / 20
    assert gram_error(schedule, (), F64) == pytest.approx(gram_error(schedule, (), F32) * 2.0**-29, rel=1e-6)


def test_a_schedule_that_overflows_is_infinitely_wrong():
    steep = Schedule(PolarExpress().schedule().rows[:1] * 40, 2, 1e-3, "the first step again and again")
    assert gram_error(steep, (), F32) == float("inf")


@pytest.mark.parametrize("dtype", [F32, F16, BF16], ids=str)
@pytest.mark.parametrize("count", [0, 1, 2, 3])
@pytest.mark.parametrize(
    "method", [PolarExpress(steps=7), PolarExpress(steps=7, safety=1.05), NewtonSchulz(steps=8), Tuned("jordan", 7)]
)
def test_the_chooser_finds_what_an_exhaustive_search_finds(method, count, dtype):
    schedule = method.schedule()
    restarts, error = best_restarts(schedule, count, dtype)
    assert len(restarts) == count
    assert all(0 < r < schedule.steps for r in restarts)
    assert error == pytest.approx(gram_error(schedule, restarts, dtype), rel=1e-12)
    best = min(gram_error(schedule, r, dtype) for r in combinations(range(1, schedule.steps), count))
    assert error == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize("count", [-1, 5])
def test_no_room(count):
    with pytest.raises(ValueError, match="5 steps have room for 0 to 4 restarts"):
        best_restarts(PolarExpress().schedule(), count, F32)


def test_the_dtype_decides_how_many():
    schedule = PolarExpress().schedule()
    assert restarts_for(schedule, F64) == ()
    assert restarts_for(schedule, F32) == (2,)
    assert restarts_for(schedule, F16) == restarts_for(schedule, BF16) == (1, 2, 3)
    assert gram_error(schedule, (2,), F32) <= 0.01


@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
def test_no_fewer_restarts_would_do(dtype):
    schedule = NewtonSchulz(steps=10).schedule()
    found = restarts_for(schedule, dtype)
    tolerated = max(0.05, 2 * gram_error(schedule, tuple(range(1, 10)), dtype))
    assert gram_error(schedule, found, dtype) <= tolerated
    assert found
    for fewer in combinations(range(1, 10), len(found) - 1):
        assert gram_error(schedule, fewer, dtype) > tolerated


def test_every_step_restarts_where_nothing_reaches_the_tolerance():
    assert fewest_restarts(PolarExpress().schedule(), F32, 1e-9) == (1, 2, 3, 4)


@pytest.mark.timeout(600)
def test_long_schedules_take_no_search_over_all_subsets():
    for method in (PolarExpress(steps=30), NewtonSchulz(steps=60)):
        restarts = restarts_for(method.schedule(), BF16)
        assert restarts == tuple(sorted(set(restarts)))
        assert len(restarts) <= 59


def test_a_method_without_a_schedule_restarts_every_second_step():
    class Adaptive:
        steps = 7

        def step(self, k, residual):
            raise NotImplementedError

    assert restarts_for(Adaptive(), F16) == (2, 4, 6)
