"""Adjoints: derivatives of the functions in closed form, independent of the method that computed the value."""

from .implicit import attach
from .polar import polar_adjoint
from .ridge import with_ridge
from .square import adjoint

__all__ = ["adjoint", "attach", "polar_adjoint", "with_ridge"]
