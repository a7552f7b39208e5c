"""Choice: which products an engine gets, by device, dtype and size, from measurements."""

import torch
from torch import Tensor

from .blocked import Blocked
from .eager import EAGER
from .products import Products

__all__ = ["products_for"]

# The height of a block row at which blocked products are quickest on a CPU (AMD EPYC with AVX512-BF16, one thread): 1.5
# times as fast as full ones in float32 at 512 rows and more, 1.3 to 1.5 in bfloat16 at 768. Two such rows must fit.
_ROWS = {torch.float64: 64, torch.float32: 96, torch.bfloat16: 192}


def products_for(X: Tensor, mirrored: bool) -> Products:
    """The products for iterates (b, m, n): blocked on a CPU where two block rows fit and nothing is differentiated.

    Args:
        X: The first iterate, in the dtype of the iteration.
        mirrored: Whether the iteration bears that symmetric products are mirrored. That of the polar factor does. The
            coupled one for roots does not: from condition 1e4 on it diverges, since the error that makes Z Y
            nonsymmetric is the one by which Z and Y correct each other.
    """
    rows = _ROWS.get(X.dtype)
    plain = torch.compiler.is_compiling() or (torch.is_grad_enabled() and X.requires_grad)
    if not mirrored or rows is None or plain or X.device.type != "cpu" or min(X.shape[-2:]) < 2 * rows:
        return EAGER
    return Blocked(rows)
