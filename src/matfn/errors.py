"""The errors of matfn: what was given, what was wanted, what to do."""

__all__ = ["SpectrumError"]


class SpectrumError(ValueError):
    """The spectrum of a matrix lies where the function is not defined (singular, indefinite, on the imaginary axis)."""
