"""Optimizers of matrices: the matrices by a matrix function, the rest by torch's AdamW, in one torch optimizer."""

from .base import MatrixOptimizer
from .layout import Layout
from .muon import Muon
from .normuon import NorMuon
from .plan import Entry, Plan, PlanError, plan
from .polargrad import PolarGrad
from .scale import SCALES, jordan, moonlight, spectral, unit

__all__ = [
    "SCALES",
    "Entry",
    "Layout",
    "MatrixOptimizer",
    "Muon",
    "NorMuon",
    "Plan",
    "PlanError",
    "PolarGrad",
    "jordan",
    "moonlight",
    "plan",
    "spectral",
    "unit",
]
