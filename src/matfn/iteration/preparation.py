"""Preparation: what is done to a matrix between its scaling and the first step of a schedule."""

from dataclasses import dataclass

__all__ = ["NORMS", "PLAIN", "Preparation"]

NORMS = ("frobenius", "schatten4")
MOST = 0.5  # above half of the singular values the sketch costs more than the steps that it saves


@dataclass(frozen=True)
class Preparation:
    """The norm that the singular values are relative to, and the share of them that is deflated.

    Attributes:
        norm: "frobenius", or "schatten4" for (sum of sigma^4)^(1/4), which is nearer to the largest singular value and
            is read from the first M at no product.
        deflation: The share of the singular values, the largest, that a sketch shrinks to the size of the next ones,
            from 0 (none) to 1/2 (`matfn.run.preparation.deflated`).

    Raises:
        ValueError: If a field is out of range.
    """

    norm: str = "frobenius"
    deflation: float = 0.0

    def __post_init__(self) -> None:
        """Refuse another norm and an impossible share."""
        if self.norm not in NORMS:
            raise ValueError(
                f"norm must be one of {NORMS}, got {self.norm!r}: the interval [lower, 1] is given relative to it"
            )
        share = self.deflation
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= MOST:
            raise ValueError(
                f"deflation must be a number from 0 (none) to {MOST}, got {share!r}: the share of the singular values, "
                "the largest, that are shrunk beforehand; 1/16 suits the momenta of networks"
            )

    def __str__(self) -> str:
        norm = {"frobenius": "Frobenius norm", "schatten4": "Schatten-4 norm"}[self.norm]
        return f"divide by the {norm}" + (f", deflate 1/{1 / self.deflation:g} of the values" if self.deflation else "")


PLAIN = Preparation()
