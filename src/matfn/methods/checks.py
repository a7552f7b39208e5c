"""Checks: the arguments that several methods share."""

from numbers import Real
from typing import cast

__all__ = ["check_count", "check_degree", "check_degrees", "check_exponent", "check_number", "check_sketch"]


def check_degree(degree: object) -> None:
    """Refuse anything but an odd integer of at least 3."""
    if isinstance(degree, bool) or not isinstance(degree, int) or degree < 3 or degree % 2 == 0:
        raise ValueError(
            f"degree must be an odd integer of at least 3, got {degree!r}: it is the degree of the odd polynomial in x "
            "(3 cubic, 5 quintic), so q has degree (degree - 1)/2 in m"
        )


def check_degrees(degree: object) -> tuple[int, ...]:
    """Return the degrees as a tuple; accept one odd integer of at least 3, or a nonempty tuple of them."""
    degrees: tuple[int, ...] = degree if isinstance(degree, tuple) else (cast(int, degree),)
    if not degrees:
        raise ValueError("degree=() lists no step: give one degree, or one degree for each step, e.g. (9, 9, 5)")
    for one in degrees:
        check_degree(one)
    return degrees


def check_exponent(p: object) -> None:
    """Refuse anything but an integer of at least 1. Check before caching: a cache takes 2.0 for 2 and True for 1."""
    if isinstance(p, bool) or not isinstance(p, int) or p < 1:
        raise ValueError(f"p must be a positive integer, got {p!r}")


def check_count(name: str, value: object, least: int) -> None:
    """Refuse anything but an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")


def check_number(name: str, value: object, low: float, high: float, why: str) -> None:
    """Refuse anything but a real number with low <= value < high."""
    if isinstance(value, bool) or not isinstance(value, Real) or not low <= float(value) < high:
        raise ValueError(f"{name} must be a number in [{low:g}, {high:g}), got {value!r}: {why}")


def check_sketch(sketch: object) -> None:
    """Refuse anything but a number of columns, or "exact"."""
    if sketch != "exact" and (type(sketch) is not int or sketch < 1):
        raise ValueError(f'sketch must be a number of columns, at least 1, or "exact", got {sketch!r}')
