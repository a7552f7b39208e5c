"""Optimizers of matrices: the matrices by a matrix function, the rest by torch's AdamW, in one torch optimizer."""

from ..methods.resolvents import Resolvents, resolvents
from .base import MatrixOptimizer
from .blocks import Cutting
from .layout import Layout
from .muon import Muon
from .normuon import NorMuon
from .plan import Entry, Plan, PlanError, plan
from .polargrad import PolarGrad
from .root_choice import RootChoice, root_choice
from .roots import minimax
from .scale import SCALES, jordan, moonlight, spectral, unit
from .shampoo import Shampoo
from .sinks import JsonLines, Record, TensorBoard
from .soap import SOAP
from .telemetry import Telemetry

__all__ = [
    "SCALES",
    "SOAP",
    "Cutting",
    "Entry",
    "JsonLines",
    "Layout",
    "MatrixOptimizer",
    "Muon",
    "NorMuon",
    "Plan",
    "PlanError",
    "PolarGrad",
    "Record",
    "Resolvents",
    "RootChoice",
    "Shampoo",
    "Telemetry",
    "TensorBoard",
    "jordan",
    "minimax",
    "moonlight",
    "plan",
    "resolvents",
    "root_choice",
    "spectral",
    "unit",
]
