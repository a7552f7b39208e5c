"""matfn: matrix functions by matrix products, and the optimizers built on them."""

from .certify import Certificate, certify
from .engines import ENGINES, Coupled, Direct, Gram
from .errors import SpectrumError
from .functions import Polar, inv, inv_rootm, inv_sqrtm, orthogonalize, polar, rootm, signm, sqrtm
from .methods import METHODS, Exact, NewtonSchulz, PolarExpress, Prism, Tuned, method, spec
from .schedule import Schedule
from .step import Polynomial

__version__ = "0.1.0"

__all__ = [
    "ENGINES",
    "METHODS",
    "Certificate",
    "Coupled",
    "Direct",
    "Exact",
    "Gram",
    "NewtonSchulz",
    "Polar",
    "PolarExpress",
    "Polynomial",
    "Prism",
    "Schedule",
    "SpectrumError",
    "Tuned",
    "certify",
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
