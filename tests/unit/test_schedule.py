"""Schedule: the scalar map on all kinds of numbers, exact errors, and a method like any other."""

import numpy as np
import pytest
import torch

import matfn
from matfn import NewtonSchulz, PolarExpress, Schedule, Tuned
from matrices import gaussian

SCHEDULES = {
    **{f"polar express p={p}": PolarExpress().schedule(p) for p in (1, 2, 3, 4, 8)},
    **{f"newton-schulz {d}": NewtonSchulz(degree=d, steps=6).schedule(2) for d in (3, 5, 7, 9)},
    "newton p=1": NewtonSchulz(degree=3, steps=12).schedule(1),
    "mixed": PolarExpress(degree=(9, 9, 5)).schedule(2),
    "to the end": PolarExpress(steps=12, safety=1).schedule(2),
    **{name: Tuned(name).schedule(2) for name in ("jordan", "you", "you6")},
}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


@every_schedule
def test_errors_are_the_worst_of_many_samples(schedule):
    """Never below a sample, and no more than 1e-6 above: errors come from critical points, samples only approach them.

    Between neighbours at logarithmic distance h the map changes by at most h^2/8 times its second derivative near a
    critical point; refining around the worst samples makes up for steep maps.
    """
    grid = np.geomspace(schedule.lower, 1, 100_001)
    errors = schedule.errors()
    assert len(errors) == schedule.steps
    assert schedule.error() == errors[-1]
    for t, exact in enumerate(errors):

        def worst(s, t=t):
            for row in schedule.rows[: t + 1]:
                s = s * row(s**schedule.p)
            return np.abs(1 - s)

        samples = worst(grid)
        i = int(samples.argmax())
        fine = np.linspace(grid[max(i - 1, 0)], grid[min(i + 1, len(grid) - 1)], 1001)
        sampled = max(samples.max(), worst(fine).max())
        rounding = 1e-13 * sum(abs(c) for row in schedule.coefficients for c in row)
        assert sampled <= exact + rounding
        assert exact <= sampled + 1e-6 + rounding


@every_schedule
def test_the_map_of_floats_arrays_and_tensors(schedule):
    s = np.linspace(0.01, 1, 50)
    array, tensor = schedule(s), schedule(torch.from_numpy(s))
    assert isinstance(array, np.ndarray)
    assert isinstance(tensor, torch.Tensor)
    assert np.array_equal(array, tensor.numpy()) or np.abs(array - tensor.numpy()).max() <= 1e-10
    assert isinstance(schedule(0.5), float)
    assert schedule(float(s[7])) == pytest.approx(array[7], rel=1e-10)
    assert schedule(0.0) == 0
    if schedule.p % 2 == 0:
        assert np.allclose(schedule(-s), -array, rtol=1e-12)
    steps, by_hand = list(schedule.trace(0.5)), 0.5
    assert len(steps) == schedule.steps
    for row, value in zip(schedule.rows, steps, strict=True):
        by_hand *= sum(c * by_hand ** (j * schedule.p) for j, c in enumerate(row.coefficients))
        assert value == pytest.approx(by_hand, rel=1e-9)


@every_schedule
def test_what_it_says_of_itself(schedule):
    assert schedule.degrees == tuple(2 * len(c) - 1 for c in schedule.coefficients)
    assert len(schedule.coefficients) == len(schedule.rows) == schedule.steps
    assert all(type(c) is float for row in schedule.coefficients for c in row)
    assert len(schedule.source) > 10
    assert schedule.intervals == () or len(schedule.intervals) == schedule.steps
    assert schedule.schedule(schedule.p) is schedule


def test_a_schedule_is_a_method():
    A = gaussian(3, 5, 8)
    schedule = PolarExpress().schedule(2)
    assert torch.equal(matfn.orthogonalize(A, method=schedule), matfn.orthogonalize(A))
    assert hash(schedule) == hash(PolarExpress().schedule(2))


def test_a_schedule_for_another_p_is_refused():
    schedule = PolarExpress().schedule(3)
    with pytest.raises(ValueError, match=r"made for p = 3.*needs p = 2.*schedule\(p=2\)"):
        matfn.orthogonalize(torch.eye(3), method=schedule)
    with pytest.raises(ValueError, match="made for p = 3"):
        matfn.inv_rootm(torch.eye(3), 4, method=schedule)
    assert matfn.inv_rootm(torch.eye(3), 3, method=schedule).shape == (3, 3)


def test_a_schedule_written_by_hand():
    rows = (matfn.Polynomial((1.5, -0.5)),) * 3
    mine = Schedule(rows, 2, 0.1, "written by hand in a test")
    assert mine(0.5) == pytest.approx(NewtonSchulz(degree=3, steps=3).schedule(2)(0.5), abs=1e-15)
    assert mine.errors() == pytest.approx([1 - 0.1495, 1 - 0.22257919, 1 - 0.3283554], abs=1e-6)


def test_one_rational_step_makes_a_schedule_rational():
    polynomial, rational = NewtonSchulz(steps=1).schedule(2), matfn.QDWH(lower=0.1).schedule(2)
    assert not polynomial.rational
    assert rational.rational
    mixed = Schedule((*rational.rows, *polynomial.rows), 2, 0.1, "written by hand in a test")
    assert mixed.rational
    X = gaussian(8, 24)
    mixed_plan = matfn.explain(tuple(X.shape), method=mixed)
    assert mixed_plan.engine == matfn.Direct()
    assert f"{mixed.steps} rational" in str(mixed_plan)


def test_a_schedule_that_diverges_says_so():
    """Without safety, values one rounding above the upper end are thrown farther out at each of many steep steps."""
    errors = PolarExpress(steps=25, lower=1e-3, cushion=0.0, safety=1.0).schedule(8).errors()
    assert errors[-1] == float("inf")
    assert PolarExpress(steps=25, lower=1e-3, cushion=0.0).schedule(8).error() <= 1e-12
