"""A figure by layer over time: the median and range of all layers, and a map with one row for each layer."""

import base64
import math
import re
import statistics
import struct
import zlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from html import escape

from .charts import WIDTH, Axis, Line, label, paths, spread, svg
from .page import number

__all__ = ["by_layer", "short_names"]

# Cividis, a colour map that every colour vision reads in the same order (Nunez, Anderton, Renslow 2018).
_CIVIDIS = (
    (0, 34, 78),
    (18, 53, 112),
    (59, 73, 108),
    (87, 93, 109),
    (112, 113, 115),
    (138, 134, 120),
    (165, 156, 116),
    (195, 179, 105),
    (225, 204, 85),
    (254, 232, 56),
)
_NAMES, _RIGHT, _TOP, _CURVES, _GAP = 104, 8, 8, 84, 10
_COLUMNS = 240  # of the map, at most
_LETTERS = 22  # of a layer's name


def by_layer(
    steps: Sequence[float], values: Mapping[str, Sequence[float]], *, said: str, scale: str, limits: Sequence[float]
) -> str:
    """Return a drawing, as HTML.

    Args:
        steps: The measured steps, ascending.
        values: {layer: its value at each step}, NaN where there is none.
        said: What it shows, for readers who cannot see it.
        scale: "linear" or "log".
        limits: Least and greatest value; empty for limits around all values.
    """
    low, high = limits or spread((value for row in values.values() for value in row), scale)
    rows = min(12.0, max(2.5, 480 / len(values)))
    across = Axis(steps[0], max(steps[-1], steps[0] + 1), "linear", _NAMES, WIDTH - _RIGHT)
    up = Axis(low, high, scale, _TOP + _CURVES, _TOP)
    top = up.start + _GAP
    parts = [*_curves(steps, values, across, up), *_map(steps, values, across, up, top, rows)]
    bottom = top + rows * len(values)
    for value in across.ticks(4):
        parts.append(f'<path class="axis" d="M{across(value):.1f} {bottom:.1f}v3"/>')
        parts.append(label(number(value), across(value), bottom + 14, "middle"))
    parts.append(label("optimizer step", (_NAMES + WIDTH - _RIGHT) / 2, bottom + 27, "middle"))
    parts += _scale(up, bottom + 34)
    return svg(parts, bottom + 62, said)


def _curves(steps: Sequence[float], values: Mapping[str, Sequence[float]], across: Axis, up: Axis) -> list[str]:
    """The median of the layers, and the band from the least to the greatest."""
    parts = []
    for value in up.ticks(3):
        parts.append(f'<path class="grid" d="M{across.start:.1f} {up(value):.1f}H{across.end:.1f}"/>')
        parts.append(label(number(value), across.start - 5, up(value) + 3.5, "end"))
    known = [[row[k] for row in values.values() if math.isfinite(row[k])] for k in range(len(steps))]
    there = [(step, column) for step, column in zip(steps, known, strict=True) if column]
    outline = [(step, max(column)) for step, column in there] + [(step, min(column)) for step, column in there[::-1]]
    places = [(across(x), up(min(max(y, up.low), up.high))) for x, y in outline]
    if len(there) > 1 and all(math.isfinite(y) for _, y in places):
        corners = " ".join(f"{x:.1f} {y:.1f}" for x, y in places)
        parts.append(f'<path class="band" style="fill: var(--c0)" d="M{corners}Z"/>')
    median = Line("median", [(step, statistics.median(column)) for step, column in there])
    parts += [*paths(median, across, up), label("median,", 4, _TOP + 14), label("range", 4, _TOP + 26)]
    return parts


def _map(
    steps: Sequence[float], values: Mapping[str, Sequence[float]], across: Axis, up: Axis, top: float, height: float
) -> list[str]:
    """One row of pixels for each layer, its name, and its values as a hint of the pointer."""
    count = min(_COLUMNS, max(len(steps), 1) * 8)
    span = across.high - across.low
    columns = [bisect_right(steps, across.low + (k + 0.5) / count * span) - 1 for k in range(count)]
    pixels = [[_colour(row[max(k, 0)], up) for k in columns] for row in values.values()]
    width, whole = across.end - across.start, height * len(values)
    place = f'x="{across.start:.1f}" y="{top:.1f}" width="{width:.1f}" height="{whole:.1f}"'
    look = 'preserveAspectRatio="none" style="image-rendering: pixelated"'
    parts = [f'<image {place} {look} href="data:image/png;base64,{_png(pixels)}"/>', '<g class="names">']
    every, names = math.ceil(8.5 / height), short_names(list(values))
    for index, (name, row) in enumerate(values.items()):
        y = top + height * index
        if index % every == 0:
            parts.append(label(names[index], across.start - 5, y + min(height, 8.5) / 2 + 3, "end"))
        told = [value for value in row if value == value]
        hint = f"{name}: first {number(told[0])}, last {number(told[-1])}" if told else f"{name}: not measured"
        area = f'x="0" y="{y:.1f}" width="{WIDTH}" height="{height:.1f}" fill-opacity="0"'
        parts.append(f"<rect {area}><title>{escape(hint)}</title></rect>")
    return [*parts, "</g>"]


def _colour(value: float, axis: Axis) -> bytes:
    """The colour of a value, (r, g, b, opacity); NaN and zeros of a logarithmic axis are transparent."""
    if value == math.inf:
        return bytes((*_CIVIDIS[-1], 255))
    place = (axis(value) - axis.start) / (axis.end - axis.start)
    return bytes((*_shade(place), 255)) if math.isfinite(place) else bytes(4)


def _shade(place: float) -> tuple[int, ...]:
    """The colour at a place in [0, 1] of the map."""
    spot = min(max(place, 0.0), 1.0) * (len(_CIVIDIS) - 1)
    index = min(int(spot), len(_CIVIDIS) - 2)
    pairs = zip(_CIVIDIS[index], _CIVIDIS[index + 1], strict=True)
    return tuple(round(a + (b - a) * (spot - index)) for a, b in pairs)


def _scale(up: Axis, top: float) -> list[str]:
    """The bar of colours, with its ticks."""
    bar = Axis(up.low, up.high, up.scale, _NAMES, WIDTH - _RIGHT)
    pixels = [[bytes((*_shade((k + 0.5) / 128), 255)) for k in range(128)]]
    place = f'x="{bar.start:.1f}" y="{top:.1f}" width="{bar.end - bar.start:.1f}" height="8"'
    look = f'preserveAspectRatio="none" href="data:image/png;base64,{_png(pixels)}"'
    parts = [f"<image {place} {look}/>", label("colours", _NAMES - 5, top + 8, "end")]
    for value in bar.ticks(4):
        parts.append(f'<path class="axis" d="M{bar(value):.1f} {top + 8:.1f}v3"/>')
        parts.append(label(number(value), bar(value), top + 20, "middle"))
    return parts


def _png(rows: Sequence[Sequence[bytes]]) -> str:
    """A picture of RGBA pixels as a PNG in base64."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", len(rows[0]), len(rows), 8, 6, 0, 0, 0)
    lines = b"".join(b"\0" + b"".join(row) for row in rows)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines, 9)) + chunk(b"IEND", b"")
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + body).decode()


def short_names(names: Sequence[str]) -> list[str]:
    """Return names of at most 22 letters: without ".weight", and without the middle of a long name."""
    cut = [name.removesuffix(".weight") for name in names]
    return [_short(name) for name in (cut if len(set(cut)) == len(names) else names)]


def _short(name: str) -> str:
    if len(name) <= _LETTERS:
        return name
    block = re.match(r".*?\.\d+\.", name)
    head = block[0] if block else name[:7]
    if len(head) > _LETTERS // 2:
        head = ".".join(part[:3] for part in head.split("."))[: _LETTERS // 2]
    return f"{head}…{name[len(head) + 1 - _LETTERS :]}"
