"""Optimizers of matrices: the matrices by a matrix function, the rest by torch's AdamW, in one torch optimizer."""

from .base import MatrixOptimizer
from .blocks import Cutting
from .layout import Layout
from .muon import Muon
from .normuon import NorMuon
from .plan import Entry, Plan, PlanError, plan
from .polargrad import PolarGrad
from .roots import minimax
from .scale import SCALES, jordan, moonlight, spectral, unit
from .shampoo import Shampoo
from .soap import SOAP

__all__ = [
    "SCALES",
    "SOAP",
    "Cutting",
    "Entry",
    "Layout",
    "MatrixOptimizer",
    "Muon",
    "NorMuon",
    "Plan",
    "PlanError",
    "PolarGrad",
    "Shampoo",
    "jordan",
    "minimax",
    "moonlight",
    "plan",
    "spectral",
    "unit",
]
