"""What the scheduled methods refuse, and that they say what was wanted."""

import pytest

from loops import looped
from matfn import NewtonSchulz, PolarExpress, Tuned
from matfn.minimax.remez import best_odd, taylor

NAN, INF = float("nan"), float("inf")


@looped("lower", [1, 1.0, 2, 0, 0.0, -1e-3, NAN, INF, True, "1e-3", None])
def test_lower_lies_strictly_between_0_and_1(lower):
    with pytest.raises(ValueError, match=r"lower must be a number in \(0, 1\), got .*bounds s from below"):
        PolarExpress(lower=lower)


@looped("degree", [4, 1, 0, -3, 5.0, True, None, "5", [5, 5], (5, 4), (5, 1), (5, True)])
def test_degree_is_odd_and_at_least_3(degree):
    with pytest.raises(ValueError, match="degree must be an odd integer of at least 3 and at most 21, got"):
        PolarExpress(degree=degree)


@looped("degree", [4, 1, 0, -3, 5.0, True, None, (5, 5)])
def test_newton_schulz_takes_one_odd_degree(degree):
    with pytest.raises(ValueError, match="degree must be an odd integer of at least 3 and at most 21, got"):
        NewtonSchulz(degree=degree)


@looped("steps", [0, -1, 2.0, True, "5"])
@pytest.mark.parametrize("method", [PolarExpress, NewtonSchulz, Tuned])
def test_steps_is_a_positive_integer(method, steps):
    with pytest.raises(ValueError, match="steps must be an integer of at least 1 and at most 1000, got"):
        method(steps=steps)


def test_a_list_of_degrees_settles_the_steps():
    assert PolarExpress(degree=(9, 9, 5)).steps == 3
    assert PolarExpress(degree=(9, 9, 5), steps=3) == PolarExpress(degree=(9, 9, 5))
    assert PolarExpress(degree=(9, 9, 5)).schedule().degrees == (9, 9, 5)
    with pytest.raises(ValueError, match=r"degree=\(5, 5\) lists 2 steps, but steps=3: leave out one"):
        PolarExpress(degree=(5, 5), steps=3)


@looped("safety", [0.99, 0, -1, 2.0, NAN, INF, True, None])
def test_safety_is_at_least_1(safety):
    with pytest.raises(ValueError, match=r"safety must be a number in \[1, 2\), got .*divided by it"):
        PolarExpress(safety=safety)


@looped("cushion", [1, 1.5, -0.1, NAN, INF, True])
def test_cushion_is_below_1(cushion):
    with pytest.raises(ValueError, match=r"cushion must be a number in \[0, 1\), got .*least ratio"):
        PolarExpress(cushion=cushion)


# An exponent that no other test asks for: schedules are cached, and 2.0 would find the one of 2.
@looped("p", [0, -1, 1.5, NAN, "2", None, 37.0])
@pytest.mark.parametrize("method", [PolarExpress(), NewtonSchulz()])
def test_p_is_a_positive_integer(method, p):
    with pytest.raises(ValueError, match="p must be a positive integer, got"):
        method.schedule(p)


def test_a_list_of_no_degrees_is_no_schedule():
    with pytest.raises(ValueError, match="degree=\\(\\) lists no step"):
        PolarExpress(degree=())


@pytest.mark.parametrize("method", [PolarExpress(), NewtonSchulz(), Tuned()])
@looped("p", [2.0, True])
def test_a_number_equal_to_a_cached_p_is_still_refused(method, p):
    method.schedule(2)
    with pytest.raises(ValueError, match="p must be a positive integer"):
        method.schedule(p)


@looped("p", [1, 3, 4])
def test_tuned_rows_are_for_p_2(p):
    with pytest.raises(ValueError, match=f"p = 2 alone .*not p = {p}: use PolarExpress or NewtonSchulz"):
        Tuned("jordan").schedule(p)


@looped("p", [1, 3, 4])
def test_a_schedule_refuses_another_p(p):
    with pytest.raises(ValueError, match=rf"made for p = 2, and this function needs p = {p}: .*schedule\(p={p}\)"):
        PolarExpress().schedule().schedule(p)


@looped("bad", [0, -1, 1.5, True, "2"])
def test_the_solver_refuses_p_and_k(bad):
    with pytest.raises(ValueError, match="p must be a positive integer"):
        taylor(bad, 2)
    with pytest.raises(ValueError, match="p must be a positive integer"):
        best_odd(bad, 2, 0.1, 1)
    with pytest.raises(ValueError, match="k must be a positive integer"):
        taylor(2, bad)
    with pytest.raises(ValueError, match="k must be a positive integer"):
        best_odd(2, bad, 0.1, 1)


@looped(("lower", "upper"), [(0, 1), (-0.1, 1), (1, 0.5), (NAN, 1), (0.1, NAN), (0.1, INF)])
def test_the_solver_refuses_an_interval_that_is_none(lower, upper):
    with pytest.raises(ValueError, match="needs 0 < lower <= upper, got"):
        best_odd(2, 2, lower, upper)


def test_extreme_arguments_that_make_sense_are_taken():
    for lower in (1e-15, 1e-300, 1 - 1e-15):
        schedule = PolarExpress(steps=3, lower=lower).schedule()
        assert schedule.intervals[0] == (lower, 1.0)
    assert PolarExpress(cushion=0, safety=1).schedule().source.startswith("minimax composition")
