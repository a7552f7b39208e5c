"""Engines: how the matrix M, which tends to I, is carried from step to step."""

from ..iteration.protocols import Engine
from .coupled import Coupled
from .direct import Direct
from .gram import Gram
from .restarts import amplification, best_restarts

__all__ = ["ENGINES", "Coupled", "Direct", "Engine", "Gram", "amplification", "best_restarts"]

ENGINES: dict[str, type[Direct] | type[Gram] | type[Coupled]] = {"direct": Direct, "gram": Gram, "coupled": Coupled}
