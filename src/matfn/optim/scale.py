"""Update scales: the factor of an orthogonal m x n update, beside the learning rate.

All singular values of an orthogonal m x n update are 1, so its entries have root mean square 1 / sqrt(max(m, n)), which
depends on the shape. Each convention keeps another quantity independent of the shape, so a learning rate has a meaning
only together with its scale. m is the number of outputs (rows) and n the number of inputs (columns) of one matrix, both
at least 1. If a parameter is cut (fused QKV, experts, groups of a convolution), the matrix is one block. A kernel
belongs to the inputs.
"""

import math
from collections.abc import Callable

__all__ = ["SCALES", "Scale", "jordan", "moonlight", "spectral", "unit"]

Scale = Callable[[int, int], float]


def jordan(m: int, n: int) -> float:
    """The convention of the original Muon: ``sqrt(max(1, m / n))``.

    The spectral norm of the update is 1 for wide matrices, and sqrt(m / n) for tall ones.

    References:
        Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024.
    """
    return math.sqrt(max(1.0, m / n))


def spectral(m: int, n: int) -> float:
    """The convention of the spectral condition: ``sqrt(m / n)``, which makes the RMS-to-RMS operator norm 1.

    The learning rate then transfers across widths.

    References:
        Yang, Simon, Bernstein, "A spectral condition for feature learning", arXiv:2310.17813.
    """
    return math.sqrt(m / n)


def moonlight(m: int, n: int) -> float:
    """The convention of Moonlight: ``0.2 sqrt(max(m, n))``, which makes the root mean square of the entries 0.2.

    The updates of AdamW are about as large, so learning rate and weight decay tuned for AdamW can be used again.

    References:
        Liu et al., "Muon is scalable for LLM training", arXiv:2502.16982, section 2.2.
    """
    return 0.2 * math.sqrt(max(m, n))


def unit(m: int, n: int) -> float:
    """No scale: 1. For PolarGrad, Shampoo and SOAP, whose directions have a size of their own."""
    return 1.0


SCALES: dict[str, Scale] = {"jordan": jordan, "spectral": spectral, "moonlight": moonlight, "unit": unit}
