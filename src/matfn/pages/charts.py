"""Line charts as SVG: axes with round ticks, and lines in colours that the page's style sets for light and dark."""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

from .page import number

__all__ = ["MOST", "WIDTH", "Axis", "Line", "chart", "label", "legend", "paths", "spread", "svg"]

WIDTH = 360  # of every drawing: a phone shows it in its own size
COLOURS, DASHES = 7, ("", "7 3", "2 3", "9 3 2 3")  # no two of 28 lines look alike
_LEFT, _TOP, _BOTTOM, _HEIGHT = 52, 8, 30, 210
MOST = 400  # points of a line; a longer one is drawn as the means of equal parts


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        name: For the legend; "" leaves it out.
        points: (x, y), in order of x. Points that are not finite interrupt the line.
        colour: The number of the colour and of the dashes.
        faint: Whether to draw it thin and half transparent, behind the others.
    """

    name: str
    points: Sequence[tuple[float, float]]
    colour: int = 0
    faint: bool = False

    @property
    def style(self) -> str:
        """The attributes of its stroke."""
        dash = DASHES[self.colour % len(DASHES)]
        look = f'class="line" style="stroke: var(--c{self.colour % COLOURS})"'
        look += f' stroke-dasharray="{dash}"' if dash else ""
        return look + (' stroke-opacity=".4" stroke-width="1"' if self.faint else "")


@dataclass(frozen=True)
class Axis:
    """Maps values to pixels, linearly or by logarithm.

    Attributes:
        low: The least value.
        high: The greatest value; above `low`.
        scale: "linear" or "log". A logarithmic axis has positive limits.
        start: The pixel of `low`.
        end: The pixel of `high`.
    """

    low: float
    high: float
    scale: str
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the pixel of a value; NaN if the axis does not have it."""
        low, high, value = map(self._form, (self.low, self.high, value))
        return self.start + (self.end - self.start) * (value - low) / (high - low)

    def _form(self, value: float) -> float:
        if self.scale != "log":
            return value
        return math.log10(value) if value > 0 else math.nan

    def ticks(self, most: int = 5) -> list[float]:
        """Return at most about `most` round values on the axis."""
        if self.scale == "log" and self.high / self.low >= 100:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            return [10.0**power for power in range(first, last + 1, 1 + (last - first) // most)]
        rough = (self.high - self.low) / most
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= rough * (1 - 1e-9))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(k * step, 12 - math.floor(math.log10(step))) for k in range(first, last + 1)]


def spread(values: Iterable[float], scale: str = "linear") -> tuple[float, float]:
    """Return limits around the finite values (of a logarithmic axis the positive ones), with a small margin."""
    known = [value for value in values if math.isfinite(value) and (scale != "log" or value > 0)]
    if not known:
        return (0.1, 10.0) if scale == "log" else (0.0, 1.0)
    low, high = min(known), max(known)
    if scale == "log":
        wider = max((high / low) ** 0.05, 1.05) if high / low < 1e300 else 10.0
        return low / wider, high * wider
    margin = 0.05 * (high - low) or 0.5 * abs(high) or 0.5  # of equal values, such as a constant learning rate
    return low - margin, high + margin


def chart(lines: Sequence[Line], *, x: str, y: str, scale: str = "linear", limits: Sequence[float] = ()) -> str:
    """Return a chart of lines with its legend, as HTML.

    Args:
        lines: The lines. The faint ones are drawn first.
        x: What the horizontal axis shows, with its unit.
        y: What the vertical axis shows, for readers who cannot see it.
        scale: Of the vertical axis: "linear" or "log".
        limits: Least and greatest value of the vertical axis; by default around all values.
    """
    thinned = [Line(line.name, thin(line.points), line.colour, line.faint) for line in lines]
    ends = [point[0] for line in thinned for point in line.points] or [0.0, 1.0]
    low, high = limits or spread((point[1] for line in thinned for point in line.points), scale)
    left, right = min(ends), max(ends) if max(ends) > min(ends) else min(ends) + 1
    across = Axis(left, right, "linear", _LEFT, WIDTH - 10)
    up = Axis(low, high, scale, _HEIGHT - _BOTTOM, _TOP)
    parts = [*_grid(across, up, _HEIGHT), label(x, (_LEFT + WIDTH - 10) / 2, _HEIGHT - 3, "middle")]
    for line in sorted(thinned, key=lambda line: not line.faint):
        parts += paths(line, across, up)
    return svg(parts, _HEIGHT, y) + legend(lines)


def _grid(across: Axis, up: Axis, height: float) -> list[str]:
    parts = []
    for value in up.ticks():
        place = up(value)
        parts.append(f'<path class="grid" d="M{across.start:.1f} {place:.1f}H{across.end:.1f}"/>')
        parts.append(label(number(value), across.start - 5, place + 3.5, "end"))
    base = up.start
    parts.append(f'<path class="axis" d="M{across.start:.1f} {base:.1f}H{across.end:.1f}"/>')
    for value in across.ticks():
        place = across(value)
        parts.append(f'<path class="axis" d="M{place:.1f} {base:.1f}v3"/>')
        parts.append(label(number(value), place, base + 14, "middle"))
    return parts


def paths(line: Line, across: Axis, up: Axis) -> list[str]:
    """Return the line within the axes; a point without neighbours is a dot."""
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in line.points:
        place = across(x), up(y)
        if math.isfinite(place[1]):
            runs[-1].append(place)
        elif runs[-1]:
            runs.append([])
    runs = [part for run in runs for part in _inside(run, up.end, up.start)]
    parts = []
    for run in filter(None, runs):
        if len(run) == 1:
            [(x, y)] = run
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" style="fill: var(--c{line.colour % COLOURS})"/>')
        else:
            parts.append(f'<path {line.style} d="M{" ".join(f"{x:.1f} {y:.1f}" for x, y in run)}"/>')
    return parts


def _inside(run: Sequence[tuple[float, float]], top: float, bottom: float) -> list[list[tuple[float, float]]]:
    """The parts of a line between two heights, cut where it crosses them."""
    parts: list[list[tuple[float, float]]] = [[]]
    for index, (x, y) in enumerate(run):
        x0, y0 = run[index - 1] if index else (x, y)
        crossed = [edge for edge in (top, bottom) if (y0 - edge) * (y - edge) < 0]
        for edge in sorted(crossed, key=lambda edge: abs(edge - y0)):
            parts[-1].append((x0 + (x - x0) * (edge - y0) / (y - y0), edge))
            if len(parts[-1]) > 1 and not top <= y <= bottom:
                parts.append([])
        if top <= y <= bottom:
            parts[-1].append((x, y))
    return parts


def thin(points: Sequence[tuple[float, float]], most: int = MOST) -> list[tuple[float, float]]:
    """Return at most `most` points: the means of equal parts of a longer line. The ends keep their x."""
    if len(points) <= most:
        return list(points)
    cuts = [round(k * len(points) / most) for k in range(most + 1)]
    parts = [points[a:b] for a, b in itertools.pairwise(cuts)]
    means = [(_mean(part, lambda p: p[0]), _mean(part, lambda p: p[1])) for part in parts]
    return [(points[0][0], means[0][1]), *means[1:-1], (points[-1][0], means[-1][1])]


def _mean(part: Sequence[tuple[float, float]], of: Callable[[tuple[float, float]], float]) -> float:
    return math.fsum(map(of, part)) / len(part) if all(math.isfinite(of(p)) for p in part) else math.nan


def label(text: str, x: float, y: float, anchor: str = "start") -> str:
    """Return a text at a place."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def svg(parts: Iterable[str], height: float, said: str) -> str:
    """Return an `<svg>` element of width `WIDTH`. `said` describes it for readers who cannot see it."""
    head = f'<svg class="chart" role="img" aria-label="{escape(said)}" viewBox="0 0 {WIDTH} {height:.0f}"'
    return f'{head} xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'


def legend(lines: Sequence[Line]) -> str:
    """Return the names of the lines with a stroke of each; nothing if at most one has a name."""
    named: dict[str, Line] = {}
    for line in lines:
        if line.name:
            named.setdefault(line.name, line)
    if len(named) < 2:
        return ""
    items = (
        f'<li><svg class="chart" viewBox="0 0 28 9"><path {line.style} d="M2 5H26"/></svg>{escape(name)}</li>'
        for name, line in named.items()
    )
    return f'<ul class="legend">{"".join(items)}</ul>'
