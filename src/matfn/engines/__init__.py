"""Engines: how the matrix M, which tends to I, is carried from step to step."""

from ..iteration.protocols import Engine
from .coupled import Coupled
from .direct import Direct
from .gram import Gram
from .restarts import best_restarts, gram_error

__all__ = ["ENGINES", "Coupled", "Direct", "Engine", "Gram", "best_restarts", "gram_error"]

ENGINES: dict[str, type[Direct] | type[Gram] | type[Coupled]] = {"direct": Direct, "gram": Gram, "coupled": Coupled}
