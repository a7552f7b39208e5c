"""Rules: what the optimizers do to stacks of matrices, apart from parameters, groups and processes."""

from ..matrices.buckets import Run
from .ema import Ema, VariantEma
from .norms import ElementNorm, RowNorm, Sign
from .nuclear import Nuclear
from .polar import Polar
from .rule import Elementwise, Rule

__all__ = ["ElementNorm", "Elementwise", "Ema", "Nuclear", "Polar", "RowNorm", "Rule", "Run", "Sign", "VariantEma"]
