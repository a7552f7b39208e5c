"""matfn: matrix functions by matrix products, and the optimizers built on them."""

from .certify import Certificate, certify
from .engines import ENGINES, Coupled, Direct, Gram
from .errors import ConvergenceWarning, SpectrumError
from .functions import Polar, inv, inv_rootm, inv_sqrtm, orthogonalize, polar, rootm, signm, sqrtm
from .iteration.partial_fraction import PartialFraction
from .iteration.recorder import Recorder
from .iteration.schedule import Schedule
from .iteration.step import Polynomial
from .methods import (
    METHODS,
    QDWH,
    DBNewton,
    Exact,
    NewtonSchulz,
    PolarExpress,
    Prism,
    RitzMinimax,
    Tuned,
    ZoloPD,
    method,
    spec,
)
from .run.explain import explain
from .run.plan import RunPlan

__version__ = "0.1.0"

__all__ = [
    "ENGINES",
    "METHODS",
    "QDWH",
    "Certificate",
    "ConvergenceWarning",
    "Coupled",
    "DBNewton",
    "Direct",
    "Exact",
    "Gram",
    "NewtonSchulz",
    "PartialFraction",
    "Polar",
    "PolarExpress",
    "Polynomial",
    "Prism",
    "Recorder",
    "RitzMinimax",
    "RunPlan",
    "Schedule",
    "SpectrumError",
    "Tuned",
    "ZoloPD",
    "certify",
    "explain",
    "inv",
    "inv_rootm",
    "inv_sqrtm",
    "method",
    "orthogonalize",
    "polar",
    "rootm",
    "signm",
    "spec",
    "sqrtm",
]
