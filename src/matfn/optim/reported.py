"""`report()` makes the page of an optimizer: measurements of telemetry, decisions of the plan, the machine."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..pages.files import write_text

if TYPE_CHECKING:
    from .model.plan import Entry
    from .telemetry.history import History

__all__ = ["Reported"]


class Reported:
    """The part of `MatrixOptimizer` that shows what it did.

    Attributes:
        history: The measurements of the last `Telemetry` of this optimizer; None without one. Copies have none.
        entries: The entries of the `Plan` that it was made of; empty without one, and of copies.
    """

    history: "History | None" = None
    entries: "tuple[Entry, ...]" = ()

    def report(
        self,
        path: str | Path | None = None,
        *,
        losses: Sequence[Any] | Mapping[str, Sequence[Any]] | None = None,
        history: "History | str | Path | None" = None,
        title: str | None = None,
    ) -> str:
        """A self-contained HTML page: loss, rates, figures by layer over time, what the plan decided, the machine.

        The figures are those of a `Telemetry` of this optimizer, which keeps its measurements, also after `detach`.
        Without one, the page says how to record them. docs/telemetry.md explains the figures.

        Args:
            path: A file to write the page to, whole or not at all; its folder must exist. None writes nothing.
            losses: Losses to draw: one number for each step, or (step, loss) pairs, or {name: either of these}.
            history: Measurements in place of the optimizer's own: a `History`, or the path of a file of `JsonLines`.
            title: The title of the page; by default the name of the optimizer.

        Returns:
            The page.

        Raises:
            TypeError: If an argument has another type.
            ValueError: If the file of the history is damaged.
            OSError: If a file cannot be read or written.
        """
        from .telemetry.report import optimizer_page  # late: it imports the optimizers

        page = optimizer_page(self, losses=losses, history=history, title=title)
        if path is not None:
            write_text(Path(path), page)
        return page
