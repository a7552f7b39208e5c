"""History: the measurements of telemetry in memory, or read again from lines of JSON."""

import json
import math
from array import array
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from .figures import FIGURES
from .sinks import Record

__all__ = ["History"]


class History:
    """A sink that keeps measurements in memory, 8 bytes a number.

    It keeps at most `most` measured steps. If there are more, every second one is dropped, so that the rest still
    covers the whole training.

    Args:
        most: The greatest number of measured steps to keep, at least 2.

    Attributes:
        steps: The measured steps, ascending.
        figures: {figure: {parameter: its value at each step}}; NaN where a parameter was not measured.
        rates: {group: its learning rate at each step}.
        share: The share of the time that telemetry took, at the last measurement.
        skipped: The number of measurements that the budget left out.

    Raises:
        ValueError: If `most` is below 2.
    """

    def __init__(self, most: int = 500) -> None:
        if most < 2:
            raise ValueError(f"History: most must be at least 2, got {most}.")
        self.most, self.share, self.skipped = most, 0.0, 0
        self.steps: list[int] = []
        self.figures: dict[str, dict[str, array[float]]] = {name: {} for name in FIGURES}
        self.rates: dict[str, array[float]] = {}

    def __len__(self) -> int:
        return len(self.steps)

    def __call__(self, record: Record) -> None:
        """Keep a record. A second record of the last step, as of a second optimizer, adds to it."""
        self._add(record.step, record.figures, record.rates)
        self.share, self.skipped = record.share, record.skipped

    def _add(self, step: int, figures: Mapping[str, Mapping[str, float]], rates: Mapping[str, float]) -> None:
        if not self.steps or step != self.steps[-1]:
            if self.steps and step < self.steps[-1]:
                raise ValueError(f"History: step {step} comes after step {self.steps[-1]}; give each run its own.")
            if len(self.steps) == self.most:
                self._halve()
            self.steps.append(step)
            for row in self._rows():
                row.append(math.nan)
        for param, values in figures.items():
            for name, value in values.items():
                self._row(self.figures.setdefault(name, {}), param)[-1] = value
        for group, rate in rates.items():
            self._row(self.rates, group)[-1] = rate

    def _row(self, rows: dict[str, "array[float]"], name: str) -> "array[float]":
        return rows.setdefault(name, array("d", [math.nan]) * len(self.steps))

    def _rows(self) -> Iterable["array[float]"]:
        yield from self.rates.values()
        for rows in self.figures.values():
            yield from rows.values()

    def _halve(self) -> None:
        del self.steps[1::2]
        for row in self._rows():
            del row[1::2]

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """The measurements that `JsonLines` wrote to a file. A last line that a crash cut short is left out.

        Raises:
            OSError: If the file cannot be read.
            ValueError: If it is damaged, or holds no telemetry.
        """
        return cls.parse(Path(path).read_bytes(), str(path))

    @classmethod
    def parse(cls, raw: bytes, name: str) -> Self:
        """The measurements in the content of such a file; `name` is for errors.

        Raises:
            ValueError: If it is damaged, or holds no telemetry.
        """
        history = cls()
        for number, line in enumerate(raw.splitlines(keepends=True), start=1):
            if not line.endswith(b"\n"):
                break
            try:
                history._take(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise ValueError(f"{name} is damaged or no telemetry: line {number}: {error}") from None
        return history

    def _take(self, line: dict[str, Any]) -> None:
        """Add one line of a file."""
        if "parameter" in line:
            values = {name: math.nan if line[name] is None else float(line[name]) for name in FIGURES if name in line}
            self._add(int(line["step"]), {str(line["parameter"]): values}, {})
        else:
            self._add(int(line["step"]), {}, {str(k): float(v) for k, v in line.get("rates", {}).items()})
            self.share, self.skipped = float(line["telemetry_share"]), int(line["telemetry_skipped"])
