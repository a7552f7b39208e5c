"""Optimizers of matrices: the matrices by a matrix function, the rest by torch's AdamW, in one torch optimizer."""

from ..methods.resolvents.resolvents import Resolvents, resolvents
from .adamuon import AdaMuon
from .matrices import layout
from .matrices.layout import Layout
from .model.plan import Entry, Plan, PlanError, plan
from .muon import Muon
from .normuon import NorMuon
from .optimizer import MatrixOptimizer
from .polargrad import PolarGrad
from .rules.blocks import Cutting
from .rules.roots import minimax
from .scale import SCALES, jordan, moonlight, spectral, unit
from .shampoo import Shampoo
from .soap import SOAP
from .telemetry.history import History
from .telemetry.sinks import JsonLines, Record, Scalars, TensorBoard
from .telemetry.telemetry import Telemetry

__all__ = [
    "SCALES",
    "SOAP",
    "AdaMuon",
    "Cutting",
    "Entry",
    "History",
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
    "Scalars",
    "Shampoo",
    "Telemetry",
    "TensorBoard",
    "jordan",
    "layout",
    "minimax",
    "moonlight",
    "plan",
    "resolvents",
    "spectral",
    "unit",
]
