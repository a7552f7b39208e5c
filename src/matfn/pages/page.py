"""A self-contained HTML page: style for light and dark screens, tables, lists of facts, figures."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from html import escape

__all__ = ["CSS", "HEAD", "card", "document", "facts", "number", "table"]

CSS = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1d1f23; --soft: #5b616b; --line: #e3e5e9; --wash: #f6f7f9;
        --best: #eaf3fa; --look: #fdf1dc; --c0: #0072b2; --c1: #d55e00; --c2: #00855f; --c3: #b04a86; --c4: #a87400;
        --c5: #3593cc; --c6: #555 }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14161a; --ink: #e7e8ea; --soft: #a6acb6; --line: #343941; --wash: #1e2127; --best: #1c3448;
          --look: #3d2f14; --c0: #56b4e9; --c1: #ff8f4f; --c2: #35c997; --c3: #e39bc6; --c4: #e6b53c; --c5: #9ad4f5;
          --c6: #bbb }
}
* { box-sizing: border-box }
body { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "Liberation Sans", Arial, sans-serif; color: var(--ink);
       max-width: 62rem; margin: 3rem auto; padding: 0 1.5rem; background: var(--paper) }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .3rem; overflow-wrap: anywhere }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; overflow-wrap: anywhere }
h3 { font-size: 1rem; margin: 1.6rem 0 .4rem; overflow-wrap: anywhere }
p.lead { color: var(--soft); margin: 0 0 2rem }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { padding: .5rem .8rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap }
th { font-weight: 600; color: var(--soft); font-size: .85rem; border-bottom-width: 2px; vertical-align: bottom }
th:first-child, td:first-child { text-align: left; padding-left: .4rem }
td:first-child { font-weight: 600 }
tr.best td { background: var(--best) }
tr.look td { background: var(--look) }
table.facts td { text-align: left; font-weight: 400; white-space: normal; overflow-wrap: anywhere; font-size: .9rem;
                 padding: .3rem .4rem; vertical-align: top }
table.facts td:first-child { color: var(--soft); width: 12rem }
table.words { font-size: .85rem }
table.words th, table.words td { text-align: left; padding: .35rem .5rem; vertical-align: top; white-space: normal }
table.words td { overflow-wrap: break-word } table.words td:first-child { overflow-wrap: anywhere; min-width: 6.5rem }
figure { margin: 1rem 0 } figure svg { width: 100%; height: auto; display: block }
figure svg:not(.chart) { background: #fff; border-radius: 6px }
figcaption, p.note { color: var(--soft); font-size: .9rem }
pre { background: var(--wash); padding: 1rem; border-radius: 6px; overflow-x: auto; font-size: .82rem;
      line-height: 1.45 }
details summary { cursor: pointer; font-weight: 600; margin: 2rem 0 .6rem; font-size: 1.1rem }
.wide, figure { overflow-x: auto }
.columns { display: grid; grid-template-columns: 1fr 1fr; gap: 0 2.5rem }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(22rem, 100%), 1fr)); gap: .5rem 2rem }
.cards > * { min-width: 0 }
figure b { display: block; line-height: 1.3 } figure .unit { display: block; color: var(--soft); font-size: .85rem }
.chart text { font: 10px system-ui, -apple-system, "Segoe UI", "Liberation Sans", Arial, sans-serif; fill: var(--soft) }
.chart .names text { font-size: 8px } .chart .grid { stroke: var(--line); stroke-width: 1; fill: none }
.chart .axis { stroke: var(--soft); stroke-width: 1; fill: none }
.chart .line { fill: none; stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round }
.chart .band { stroke: none; fill-opacity: .2 }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1rem; padding: 0; margin: .3rem 0; list-style: none;
          font-size: .85rem; color: var(--soft) }
.legend svg { width: 1.8rem; height: .6rem; display: inline-block; margin-right: .35rem }
@media (max-width: 48rem) {
  .columns { grid-template-columns: minmax(0, 1fr) } figure svg:not(.chart) { min-width: 42rem }
  body { margin: 1.2rem auto; padding: 0 1rem } h1 { font-size: 1.4rem }
  th, td { padding: .35rem .25rem; font-size: .78rem } th { font-size: .72rem } th { white-space: normal }
  table.facts td:first-child { width: 8.5rem }
}
@media (max-width: 40rem) {
  table.words thead { display: none } table.words tr { display: block; padding: .5rem 0;
    border-bottom: 1px solid var(--line) }
  table.words td, table.words td:first-child { display: flex; gap: .6rem; border: 0; padding: .1rem .4rem;
    overflow-wrap: anywhere }
  table.words td:empty { display: none }
  table.words td::before { content: attr(data-head); color: var(--soft); flex: 0 0 5.2rem; font-weight: 400 }
}
details th, details td { font-size: .72rem; padding: .3rem; white-space: normal }
@media print { body { margin: 0; max-width: none } details > * { display: block } figure { break-inside: avoid } }
"""

HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{css}</style></head>
<body>
"""


def document(title: str, body: Iterable[str]) -> str:
    """Return a whole page: the head with style and title, and the parts of `body`, which are HTML."""
    return HEAD.format(title=escape(title), css=CSS) + "\n".join(body) + "\n</body></html>\n"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, marked: Collection[int] = (), kind: str = "") -> str:
    """Return a table of plain text.

    Args:
        heads: The heads of the columns.
        rows: The cells of each row.
        marked: The numbers of the rows that stand out.
        kind: "" sets numbers to the right, and a narrow screen scrolls. "words" sets text to the left, and a narrow
            screen shows each row as a list of its cells.
    """
    mark = ' class="look"' if kind == "words" else ' class="best"'
    tags = [f'<td data-head="{escape(name)}">' if kind == "words" else "<td>" for name in heads]
    head, lines = "".join(f"<th>{escape(text)}</th>" for text in heads), []
    for index, row in enumerate(rows):
        cells = "".join(f"{tag}{escape(text)}</td>" for tag, text in zip(tags, row, strict=True))
        lines.append(f"<tr{mark if index in marked else ''}>{cells}</tr>")
    css = f' class="{kind}"' if kind else ""
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody>"
    return f'<div class="wide"><table{css}>{body}</table></div>'


def facts(known: Mapping[str, object]) -> str:
    """Return a table of names and values."""
    shown = {key.replace("_", " "): f"{v:,}" if isinstance(v, int) else str(v) for key, v in known.items()}
    lines = (f"<tr><td>{escape(key)}</td><td>{escape(value)}</td></tr>" for key, value in shown.items())
    return f'<table class="facts"><tbody>{"".join(lines)}</tbody></table>'


def card(title: str, unit: str, drawing: str, caption: str) -> str:
    """Return a figure with its title, its unit, the drawing (HTML) and a caption."""
    head = f'<b>{escape(title)}</b><span class="unit">{escape(unit)}</span>'
    return f"<figure>{head}{drawing}<figcaption>{escape(caption)}</figcaption></figure>"


def number(value: float) -> str:
    """Return a number in at most three digits, such as 0.02, 1240, 3.4e6; "-" for NaN."""
    if value != value:
        return "-"
    if value in (float("inf"), float("-inf")):
        return "∞" if value > 0 else "\N{MINUS SIGN}∞"
    if value and not 1e-4 <= abs(value) < 1e5:
        digits, _, power = f"{value:.2e}".partition("e")
        text = f"{digits.rstrip('0').rstrip('.')}e{int(power)}"
    else:
        text = f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return text.replace("-", "\N{MINUS SIGN}")
