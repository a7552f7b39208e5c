"""Rules: what the optimizers do to stacks of matrices, apart from parameters, groups and processes."""

from ..matrices.buckets import Run
from .element_norm import ElementNorm, Sign
from .ema import Ema, VariantEma
from .nuclear import Nuclear
from .polar import Polar
from .row_norm import RowNorm
from .rule import Elementwise, Rule

__all__ = ["ElementNorm", "Elementwise", "Ema", "Nuclear", "Polar", "RowNorm", "Rule", "Run", "Sign", "VariantEma"]
