"""Cost: the products of an engine, counted before the run, and the multiply-adds that a kernel does for them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..iteration.schedule import Schedule
from ..iteration.step import paterson_stockmeyer
from ..iteration.target import POLAR, Target
from .coupled import Coupled
from .direct import Direct
from .gram import Gram

__all__ = ["Product", "computed", "coupled_products", "engine_cost", "products_of", "share"]


@dataclass(frozen=True)
class Product:
    """One product of `kernels.Products` for one matrix: (rows x inner) times (inner x columns), `name` its method."""

    name: str
    rows: int
    inner: int
    columns: int

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of the full result, also if it is symmetric; each is two floating-point operations."""
        return self.rows * self.inner * self.columns

    @property
    def symmetric(self) -> bool:
        """Whether the result is symmetric, so that a kernel may compute one half."""
        return self.name in ("syrk", "sym_mm", "sym_addmm")


def products_of(
    schedule: Schedule, engine: Direct | Gram | Coupled, shape: tuple[int, int], target: Target = POLAR
) -> tuple[Product, ...]:
    """The products of one call, in the order of the engine.

    With n the short side, m the long one, a = m / n, and q of degree k in each step, in units of n^3:

    | engine  | per step                                   | once                                        |
    |---------|--------------------------------------------|---------------------------------------------|
    | direct  | a (M) + s(k) + a (applied)                 |                                             |
    | gram    | s(k) + 1 (Q) + 2 (M carried)               | a (M) + a (applied), and again at a restart |
    | coupled | 1 (M) + s(k) + t(p - 1) (Y) + 1 (Z)        | less M and Z in the first step, where Z = I |

    s(k) = 0, 1, 2, 2, 3, 3, 4 for k = 1 .. 7 (`Polynomial.products`); t(j) = floor(log2 j) + popcount(j), t(0) = 0.
    The first step after a restart saves the product for Q; the last step before a restart, and the last of all, save
    those that carry M. The last step of `Coupled` saves the products for Y if the inverse root is returned, and the
    product for Z if the root is.

    Args:
        schedule: Polynomials for the exponent of `target`.
        engine: `Gram` needs restarts: None computes them from a dtype (`restarts_for`), which is not known here.
        shape: (rows, columns) of the matrix; square for `Coupled`, the sign and the inverse.
        target: What is computed.

    Raises:
        TypeError: If a step is not a polynomial.
        ValueError: If the engine cannot compute the target, or `Gram` has no restarts.

    References:
        Polar Express, arXiv 2505.16932, for the products of each form.
    """
    degrees = [(degree - 1) // 2 for degree in schedule.degrees]
    if target.name not in engine.targets:
        raise ValueError(f"{engine!r} computes {', '.join(sorted(engine.targets))}, not {target.name}")
    n, m, tall = min(shape), max(shape), shape[0] > shape[1]
    match engine:
        case Direct():
            return tuple(_direct(degrees, n, m, tall, target.name))
        case Gram(restarts=None):
            raise ValueError(
                "Gram() chooses its restarts by the dtype: count Gram(restarts=restarts_for(schedule, dtype)) instead"
            )
        case Gram():
            return tuple(_gram(degrees, n, m, tall, engine.restarts or ()))
        case Coupled():
            return tuple(coupled_products(degrees, n, target))


def engine_cost(schedule: Schedule, engine: Direct | Gram, shape: tuple[int, int]) -> float:
    """Multiply-adds of one call for one matrix, to compare engines; symmetric products count three quarters."""
    # 0.75: the kernel is not chosen yet, and block rows or half of the tiles save a quarter to a half.
    return sum(p.multiply_adds * (0.75 if p.symmetric else 1.0) for p in products_of(schedule, engine, shape))


def share(kernel: object, n: int) -> float:
    """The computed share of a symmetric n x n result: `kernel.share(n)`, or all of it if the kernel has no `share`."""
    stated = getattr(kernel, "share", None)
    return 1.0 if stated is None else float(stated(n))


def computed(product: Product, kernel: object) -> float:
    """The multiply-adds that a kernel does for a product."""
    return product.multiply_adds * (share(kernel, product.rows) if product.symmetric else 1.0)


def _direct(degrees: list[int], n: int, m: int, tall: bool, name: str) -> Iterator[Product]:
    for k in degrees:
        yield Product("syrk" if name == "polar" else "mm", n, m, n)
        yield from _split(k, n)
        yield _applied("addmm", n, m, tall)


def _gram(degrees: list[int], n: int, m: int, tall: bool, restarts: tuple[int, ...]) -> Iterator[Product]:
    square = Product("sym_mm", n, n, n)
    for step, k in enumerate(degrees):
        fresh = step == 0 or step in restarts
        if step and fresh:
            yield _applied("mm", n, m, tall)
        if fresh:
            yield Product("syrk", n, m, n)
        yield from _split(k, n)
        yield from (Product("mm", n, n, n),) * (not fresh)  # Z Q
        if step + 1 < len(degrees) and step + 1 not in restarts:
            yield from (square, square)  # Z (M Z)
    yield _applied("mm", n, m, tall)


def coupled_products(degrees: Sequence[int], n: int, target: Target) -> Iterator[Product]:
    """The products of `Coupled` on n x n matrices, for the degrees k of the steps."""
    square, p = Product("sym_mm", n, n, n), target.p
    powers = (p - 1).bit_length() - 1 + (p - 1).bit_count() if p > 1 else 0
    for step, k in enumerate(degrees):
        last = step + 1 == len(degrees)
        yield from (square,) * (step > 0)
        yield from _split(k, n)
        if not (last and target.homogeneity < 0):
            yield from (square,) * powers
        if not last or target.homogeneity < 0:
            yield from (square,) * (step > 0)


def _split(k: int, n: int) -> Iterator[Product]:
    powers, blocks = paterson_stockmeyer(k)
    yield from (Product("sym_mm", n, n, n),) * powers
    yield from (Product("sym_addmm", n, n, n),) * blocks


def _applied(name: str, n: int, m: int, tall: bool) -> Product:
    return Product(name, m, n, n) if tall else Product(name, n, n, m)
