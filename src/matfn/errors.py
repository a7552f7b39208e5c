"""The errors and warnings of matfn: what was given, what was wanted, what to do."""

from torch import Tensor

__all__ = ["ConvergenceWarning", "SpectrumError", "shown", "which"]


class SpectrumError(ValueError):
    """The spectrum of a matrix lies where the function is not defined (singular, indefinite, on the imaginary axis)."""


class ConvergenceWarning(UserWarning):
    """The steps of a method ended before its result satisfied the equation of the function.

    The result is what the steps reached, and is returned. ``warnings.simplefilter("error", ConvergenceWarning)`` makes
    it an error.
    """


def which(bad: Tensor) -> str:
    """Name the first marked matrix of a batch, counted from 0: "matrix 1 of 3", or "the matrix" of a batch of one.

    `bad` (...) is boolean and marks at least one matrix.
    """
    bad = bad.reshape(-1)
    return f"matrix {int(bad.nonzero()[0])} of {len(bad)}" if len(bad) > 1 else "the matrix"


def shown(value: object) -> str:
    """Return the repr of a value in at most about 100 characters."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # an integer with more digits than Python prints
        return "an integer of thousands of digits"
    return text if len(text) <= 100 else f"{text[:60]}... ({len(text)} characters)"
