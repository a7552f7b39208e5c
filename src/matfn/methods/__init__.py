"""Methods: each method is a frozen value in a file or folder of its own, and one line in `METHODS`."""

from .db_newton import DBNewton
from .exact import Exact
from .newton_schulz import NewtonSchulz
from .polar_express import PolarExpress
from .prism.prism import Prism
from .qdwh import QDWH
from .ritz_minimax.ritz_minimax import RitzMinimax
from .text import method_from, spec_of
from .tuned import Tuned
from .zolo_pd import ZoloPD

__all__ = [
    "METHODS",
    "QDWH",
    "DBNewton",
    "Exact",
    "NewtonSchulz",
    "PolarExpress",
    "Prism",
    "RitzMinimax",
    "Tuned",
    "ZoloPD",
    "method",
    "spec",
]

METHODS: dict[str, type] = {
    "polar-express": PolarExpress,
    "newton-schulz": NewtonSchulz,
    "prism": Prism,
    "ritz-minimax": RitzMinimax,
    "db-newton": DBNewton,
    "tuned": Tuned,
    "qdwh": QDWH,
    "zolo-pd": ZoloPD,
    "exact": Exact,
}


def method(text: str) -> object:
    """Parse a method from "name:key=value,...", the form used on the command line and in recipes.

    Args:
        text: For example "polar-express:steps=6,lower=1e-4", "polar-express:degree=(9,9,5)", "tuned:name=jordan".

    Raises:
        ValueError: If the name or a key is unknown, or the method refuses a value.
    """
    return method_from(text, METHODS)


def spec(value: object) -> str:
    """Write a method as the text that `method` parses; omits fields at their defaults."""
    return spec_of(value, METHODS)
