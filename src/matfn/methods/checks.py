"""Checks: the arguments that several methods share."""

from numbers import Real
from typing import cast

from ..errors import shown
from ..iteration.target import MOST_EXPONENT, is_exponent

__all__ = ["check_count", "check_degree", "check_degrees", "check_exponent", "check_interval", "check_number"]
__all__ += ["MOST_STEPS", "check_sketch", "check_work"]

# Far beyond every use, and at most minutes of work. A larger number is a mistake, such as a digit too many.
MOST_STEPS = 1000
MOST_DEGREE = 21  # coefficients of degree 21 amplify rounding by 1e9
MOST_COLUMNS = 4096
# Sum of ((degree - 1) / 2)^2 over the steps: 1000 quintics, 250 steps of degree 9, 40 of degree 21. A minimax step of
# degree 5 takes 2 ms, of degree 21 2 s.
_MOST_WORK = 4000


def check_degree(degree: object) -> None:
    """Refuse anything but an odd integer from 3 to 21."""
    if isinstance(degree, bool) or not isinstance(degree, int) or not 3 <= degree <= MOST_DEGREE or degree % 2 == 0:
        raise ValueError(
            f"degree must be an odd integer of at least 3 and at most {MOST_DEGREE}, got {shown(degree)}: it is the "
            "degree of the odd polynomial in x (3 cubic, 5 quintic), so q has degree (degree - 1)/2 in m"
        )


def check_degrees(degree: object) -> tuple[int, ...]:
    """Return the degrees as a tuple; accept one odd integer of at least 3, or a nonempty tuple of them."""
    degrees: tuple[int, ...] = degree if isinstance(degree, tuple) else (cast(int, degree),)
    if not degrees:
        raise ValueError("degree=() lists no step: give one degree, or one degree for each step, e.g. (9, 9, 5)")
    for one in degrees:
        check_degree(one)
    return degrees


def check_work(degrees: tuple[int, ...]) -> None:
    """Refuse minimax steps of these degrees that would take minutes to compute."""
    if sum(((degree - 1) // 2) ** 2 for degree in degrees) > _MOST_WORK:
        raise ValueError(
            f"{len(degrees)} minimax steps of degree up to {max(degrees)} would take minutes to compute: take fewer "
            "steps, or a lower degree"
        )


def check_exponent(p: object) -> None:
    """Refuse anything but an integer from 1 to 256. Check before caching: a cache takes 2.0 for 2 and True for 1."""
    if not is_exponent(p):
        raise ValueError(f"p must be a positive integer, got {shown(p)}, and at most {MOST_EXPONENT}: M^(-1/p)")


def check_count(name: str, value: object, least: int, most: int) -> None:
    """Refuse anything but an integer from `least` to `most`."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{name} must be an integer of at least {least} and at most {most}, got {shown(value)}")


def check_number(name: str, value: object, low: float, high: float, why: str) -> None:
    """Refuse anything but a real number with low <= value < high."""
    if isinstance(value, bool) or not isinstance(value, Real) or not low <= cast(float, value) < high:
        raise ValueError(f"{name} must be a number in [{low:g}, {high:g}), got {shown(value)}: {why}")


def check_interval(name: str, ends: object, most: float) -> None:
    """Refuse anything but a pair (low, high) of numbers with 0 < low <= high < most."""
    pair = ends if isinstance(ends, tuple) and len(ends) == 2 else ()
    real = [cast(float, end) for end in pair if isinstance(end, Real) and not isinstance(end, bool)]
    if len(real) < 2 or not 0 < real[0] <= real[1] < most:
        raise ValueError(f"{name} must be (low, high) with 0 < low <= high < {most:g}, got {shown(ends)}")


def check_sketch(sketch: object) -> None:
    """Refuse anything but a number of columns, or "exact"."""
    if not (isinstance(sketch, str) and sketch == "exact") and (
        type(sketch) is not int or not 1 <= sketch <= MOST_COLUMNS
    ):
        raise ValueError(
            f'sketch must be a number of columns, from 1 to {MOST_COLUMNS}, or "exact", got {shown(sketch)}'
        )
