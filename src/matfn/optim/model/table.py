"""The printed plan: a text table of 120 columns. Repeated blocks of a network share one line."""

import math
import re
import textwrap
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .plan import Entry

__all__ = ["HEADER", "by_sizes", "columns", "render", "rows", "totals"]

WIDTH = 120
HEADER = ("parameter", "shape", "role", "rule", "matrices", "by", "why")
_NAME, _SHAPE, _MATRICES = 42, 16, 18
Row = tuple[str, str, str, str, str, str, str]


def render(entries: Sequence["Entry"]) -> str:
    """The table of a plan, the number of parameters that each rule moves, and the decisions that want a look."""
    found = rows(entries)
    caps = (_NAME, _SHAPE, 12, 16, _MATRICES, 7, WIDTH)
    widths = [min(cap, max(len(row[i]) for row in [HEADER, *found])) for i, cap in enumerate(caps)]
    widths[-1] = WIDTH - sum(widths[:-1]) - 2 * (len(widths) - 1)
    lines = [line for row in [HEADER, tuple("─" * width for width in widths), *found] for line in _wrapped(row, widths)]
    return "\n".join([*lines, "", _summary(entries), *_looks(entries)])


def rows(entries: Sequence["Entry"]) -> list[Row]:
    """The rows of the table as text, under `HEADER`."""
    return [_row(name, entry) for name, entry in _folded(entries)]


def _row(name: str, entry: "Entry") -> Row:
    rule = entry.rule if entry.rule != "adamw" or entry.decays else "adamw, no wd"
    matrices = entry.layout.matrices if entry.layout and entry.is_matrix else ()
    by = entry.certainty + " ?" * entry.look
    return (name, by_sizes(entry.parameter.shape), entry.role, rule, _sizes(matrices), by, entry.reason)


def _sizes(matrices: Sequence[tuple[int, int, int]]) -> str:
    """Matrices as "3 x 768 x 768". Blocks of equal size are counted together, different sizes are joined by "+"."""
    counts: dict[tuple[int, int], int] = {}
    for b, m, n in matrices:
        counts[m, n] = counts.get((m, n), 0) + b
    return " + ".join(by_sizes((b, m, n)) for (m, n), b in counts.items())


def by_sizes(sizes: Sequence[int]) -> str:
    """Sizes as "768 x 3072"."""
    return " x ".join(str(size) for size in sizes) or "scalar"


def columns(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """Lines of a table: the first row is its head, the columns in `right` end at the same place."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    ruled = [rows[0], ["─" * width for width in widths], *rows[1:]]
    cells = [
        [c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(r, widths, strict=True))]
        for r in ruled
    ]
    return ["  ".join(row).rstrip() for row in cells]


def _wrapped(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """A row as text lines. Each cell is wrapped to its width, and long names are broken at dots."""
    cells = [_cell(text, width) for text, width in zip(row, widths, strict=True)]
    height = max(len(cell) for cell in cells)
    columns = [cell + [""] * (height - len(cell)) for cell in cells]
    return [
        "  ".join(part.ljust(w) for part, w in zip(parts, widths, strict=True)).rstrip()
        for parts in zip(*columns, strict=True)
    ]


def _cell(text: str, width: int) -> list[str]:
    if len(text) > width and " " not in text:  # a parameter name, which is broken before a dot
        pieces, lines = re.split(r"(?=\.)", text), [""]
        for piece in pieces:
            if len(lines[-1]) + len(piece) > width:
                lines.append(" ")
            lines[-1] += piece
        return [part for line in lines for part in (textwrap.wrap(line, width, drop_whitespace=False) or [""])]
    return textwrap.wrap(text, width) or [""]


def _folded(entries: Sequence["Entry"]) -> list[tuple[str, "Entry"]]:
    """Entries that differ only in the numbers of their names become one entry, as "h.0-11.attn.weight".

    The order is that of the model, by the first entry of each row.
    """
    alike: dict[tuple[object, ...], list[Entry]] = {}
    for entry in entries:
        masked = re.sub(r"(?<=\.)\d+(?=\.)|^\d+(?=\.)", "#", entry.name)
        decision = (entry.role, entry.rule, entry.layout, entry.reason, entry.certainty, entry.look)
        kind = (masked, tuple(entry.parameter.shape), *decision)
        alike.setdefault(kind, []).append(entry)
    folded: list[tuple[str, Entry]] = []
    for kind, group in alike.items():
        name = _fold_name(str(kind[0]), [entry.name for entry in group])
        folded += [(name, group[0])] if name else [(entry.name, entry) for entry in group]
    order = {entry.name: place for place, entry in enumerate(entries)}
    return sorted(folded, key=lambda row: order[row[1].name])


def _fold_name(masked: str, names: Sequence[str]) -> str | None:
    """One name for all `names`, or None if their numbers do not form a full grid of ranges."""
    pattern = re.compile(re.escape(masked).replace(r"\#", r"(\d+)"))
    numbers = [tuple(int(x) for x in match.groups()) for name in names if (match := pattern.fullmatch(name))]
    if len(names) == 1:
        return names[0]
    values = [sorted(set(column)) for column in zip(*numbers, strict=True)]
    ranges = all(column == list(range(column[0], column[-1] + 1)) for column in values)
    if not ranges or math.prod(len(column) for column in values) != len(names):
        return None
    shown = iter(f"{v[0]}-{v[-1]}" if len(v) > 1 else str(v[0]) for v in values)
    return re.sub("#", lambda _: next(shown), masked)


def _counted(entries: Sequence["Entry"]) -> str:
    """The number of matrices in some entries, as "3 matrices in "."""
    count = sum(b for entry in entries if entry.layout for b, _, _ in entry.layout.matrices)
    return f"{count} {'matrix' if count == 1 else 'matrices'} in "


def _looks(entries: Sequence["Entry"]) -> list[str]:
    """The decisions that want a look, named and counted."""
    looks = [entry for entry in entries if entry.look]
    if not looks:
        return []
    names = ", ".join(name for name, _ in _folded(looks))
    verb = "decision wants" if len(looks) == 1 else "decisions want"
    return textwrap.wrap(f"{len(looks)} {verb} a look (marked ?): {names}", WIDTH)


def totals(entries: Iterable["Entry"]) -> list[tuple[str, str, str, str, str]]:
    """For each rule that moves a parameter: its name, numbers, share of all numbers, tensors, matrices."""
    found = []
    for label, some, total in _by_rule(list(entries)):
        numel = sum(entry.parameter.numel() for entry in some)
        count = sum(b for entry in some if entry.is_matrix and entry.layout for b, _, _ in entry.layout.matrices)
        if some:
            found.append((label, f"{numel:,}", f"{numel / total:.1%}", str(len(some)), str(count) if count else ""))
    return found


def _by_rule(entries: Sequence["Entry"]) -> list[tuple[str, list["Entry"], int]]:
    """(name, entries, numbers of the whole model) of every rule; the rules for matrices come first."""
    total = sum(entry.parameter.numel() for entry in entries) or 1
    names = dict.fromkeys(("matrix", *(e.rule for e in entries if e.is_matrix)))
    return [
        *((rule, [e for e in entries if e.rule == rule], total) for rule in names),
        ("adamw", [e for e in entries if e.rule == "adamw" and e.decays], total),
        ("adamw, no wd", [e for e in entries if e.rule == "adamw" and not e.decays], total),
        ("frozen", [e for e in entries if e.rule == "frozen"], total),
    ]


def _summary(entries: Sequence["Entry"]) -> str:
    """One line per rule: number and share of the parameters, number of tensors, number of matrices."""
    lines = []
    for label, found, total in _by_rule(entries):
        extra = _counted(found) if label == "matrix" or any(entry.is_matrix for entry in found) else ""
        numel = sum(entry.parameter.numel() for entry in found)
        if found or label == "matrix":
            tensors = f"{len(found)} tensor{'s' * (len(found) != 1)}"
            lines.append(f"{label:<16}{numel:>14,} parameters  {numel / total:>6.1%}  {extra}{tensors}")
    return "\n".join(lines)
