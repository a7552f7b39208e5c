"""Update scales: by what factor an orthogonal update of shape m x n is multiplied before the learning rate.

An orthogonal m x n update has all singular values 1, so its entries have root mean square 1 / sqrt(max(m, n)): how
large a step that is depends on the shape. The conventions of the field differ in what they hold fixed, and a learning
rate means nothing without naming one. Here m is the number of outputs (rows), n of inputs (columns) of one matrix: of
one block where a parameter is cut (fused QKV, experts, groups of a convolution), with the kernel counted among the
inputs.
"""

import math
from collections.abc import Callable

__all__ = ["SCALES", "Scale", "jordan", "moonlight", "spectral", "unit"]

Scale = Callable[[int, int], float]


def jordan(m: int, n: int) -> float:
    """The convention of the original Muon: ``sqrt(max(1, m / n))``.

    The spectral norm of the update is 1 for wide matrices and grows with the ratio for tall ones.

    Args:
        m: outputs (rows), at least 1.
        n: inputs (columns), at least 1.

    References:
        Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024.
    """
    return math.sqrt(max(1.0, m / n))


def spectral(m: int, n: int) -> float:
    """The convention of the spectral condition: ``sqrt(m / n)``, so the RMS-to-RMS operator norm of the update is 1.

    The learning rate then transfers across widths.

    Args:
        m: outputs (rows), at least 1.
        n: inputs (columns), at least 1.

    References:
        Yang, Simon, Bernstein, "A spectral condition for feature learning", arXiv:2310.17813.
    """
    return math.sqrt(m / n)


def moonlight(m: int, n: int) -> float:
    """Moonlight's convention: ``0.2 sqrt(max(m, n))``, so the entries of the update have root mean square 0.2.

    That is about what AdamW's update has, hence a learning rate and a weight decay tuned for AdamW can be reused.

    Args:
        m: outputs (rows), at least 1.
        n: inputs (columns), at least 1.

    References:
        Liu et al., "Muon is scalable for LLM training", arXiv:2502.16982, section 2.2.
    """
    return 0.2 * math.sqrt(max(m, n))


def unit(m: int, n: int) -> float:
    """No scale: 1. For directions that have a size of their own, as those of PolarGrad, Shampoo and SOAP.

    Args:
        m: outputs (rows), at least 1.
        n: inputs (columns), at least 1.
    """
    return 1.0


SCALES: dict[str, Scale] = {"jordan": jordan, "spectral": spectral, "moonlight": moonlight, "unit": unit}
