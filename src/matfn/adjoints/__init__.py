"""Adjoints: derivatives of the functions in closed form, independent of the method that computed the value."""

from .attach import adjoint, attach
from .polar import polar_adjoint

__all__ = ["adjoint", "attach", "polar_adjoint"]
