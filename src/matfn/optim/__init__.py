"""Optimizers of matrices: the matrices by a matrix function, the rest by torch's AdamW, in one torch optimizer."""

from matfn.optim.base import MatrixOptimizer
from matfn.optim.layout import Layout
from matfn.optim.muon import Muon
from matfn.optim.plan import Entry, Plan, PlanError, plan
from matfn.optim.scale import SCALES, jordan, moonlight, spectral

__all__ = [
    "SCALES",
    "Entry",
    "Layout",
    "MatrixOptimizer",
    "Muon",
    "Plan",
    "PlanError",
    "jordan",
    "moonlight",
    "plan",
    "spectral",
]
