"""Engines: how the matrix that is driven to I is carried from step to step."""

from .choose import choose
from .coupled import Coupled
from .direct import Direct
from .engine import Engine
from .gram import Gram
from .prescale import Scale, prescale, prescale_
from .restarts import amplification, best_restarts

__all__ = [
    "ENGINES",
    "Coupled",
    "Direct",
    "Engine",
    "Gram",
    "Scale",
    "amplification",
    "best_restarts",
    "choose",
    "prescale",
    "prescale_",
]

ENGINES: dict[str, type[Direct] | type[Gram] | type[Coupled]] = {"direct": Direct, "gram": Gram, "coupled": Coupled}
