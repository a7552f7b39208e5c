"""What every method asks of its arguments."""

from numbers import Real

__all__ = ["check_degree", "check_exponent", "check_number", "check_steps"]


def check_degree(degree: object) -> None:
    """Refuse anything but an odd integer of at least 3."""
    if isinstance(degree, bool) or not isinstance(degree, int) or degree < 3 or degree % 2 == 0:
        raise ValueError(
            f"degree must be an odd integer of at least 3, got {degree!r}: it counts the odd polynomial in x "
            "(3 cubic, 5 quintic), so q has degree (degree - 1)/2 in m"
        )


def check_exponent(p: object) -> None:
    """Refuse anything but an integer of at least 1; before a cache sees it, to which 2.0 and True are 2 and 1."""
    if isinstance(p, bool) or not isinstance(p, int) or p < 1:
        raise ValueError(f"p must be a positive integer, got {p!r}")


def check_steps(steps: object) -> None:
    """Refuse anything but an integer of at least 1."""
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be an integer of at least 1, got {steps!r}")


def check_number(name: str, value: object, low: float, high: float, why: str) -> None:
    """Refuse anything but a real number with low <= value < high."""
    if isinstance(value, bool) or not isinstance(value, Real) or not low <= float(value) < high:
        raise ValueError(f"{name} must be a number in [{low:g}, {high:g}), got {value!r}: {why}")
