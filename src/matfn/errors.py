"""The errors and warnings of matfn: what was given, what was wanted, what to do."""

__all__ = ["ConvergenceWarning", "SpectrumError"]


class SpectrumError(ValueError):
    """The spectrum of a matrix lies where the function is not defined (singular, indefinite, on the imaginary axis)."""


class ConvergenceWarning(UserWarning):
    """The steps of a method ended before its result satisfied the equation of the function.

    The result is what the steps reached, and is returned. ``warnings.simplefilter("error", ConvergenceWarning)`` makes
    it an error.
    """
