"""Pages: ticks, lines cut at their limits, maps whose pixels are the values, escaped text, files whole or absent."""

import base64
import io
import math
import os
import re
from xml.etree import ElementTree

import pytest
from matplotlib import image

from matfn.pages import charts, files, layers, page


@pytest.mark.parametrize(
    ("low", "high", "scale", "wanted"),
    [
        (0.0, 1.0, "linear", [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (-3.0, 12.0, "linear", [0.0, 5.0, 10.0]),
        (1e-4, 1e4, "log", [1e-4, 1e-2, 1.0, 1e2, 1e4]),
        (40.0, 160.0, "log", [50.0, 100.0, 150.0]),
        (5e-9, 5.2e-9, "linear", [5e-9, 5.05e-9, 5.1e-9, 5.15e-9, 5.2e-9]),
    ],
)
def test_ticks_are_round_and_on_the_axis(low, high, scale, wanted):
    ticks = charts.Axis(low, high, scale, 0, 100).ticks(5)
    assert ticks == pytest.approx(wanted, rel=1e-12)


def test_an_axis_maps_its_ends_and_refuses_what_it_lacks():
    for scale in ("linear", "log"):
        axis = charts.Axis(0.1, 10, scale, 5, 25)
        assert (axis(0.1), axis(10)) == pytest.approx((5, 25))
    assert axis(1.0) == pytest.approx(15)
    assert math.isnan(axis(-1.0))


def test_limits_leave_out_what_is_not_finite():
    low, high = charts.spread([1.0, math.nan, math.inf, 3.0])
    assert low < 1 < 3 < high < 3.2
    assert charts.spread([-1.0, 0.0, 10.0, 1000.0], "log")[0] > 5
    low, high = charts.spread([2.0, 2.0])
    assert low < 2 < high


def points_of(part):
    numbers = [float(x) for x in re.findall(r"-?[\d.]+", re.search(r' d="M(.*?)"', part)[1])]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def test_a_line_is_cut_where_it_leaves_its_limits():
    across, up = charts.Axis(0, 4, "linear", 0, 40), charts.Axis(0, 1, "linear", 100, 0)
    line = charts.Line("", [(0, 0.5), (1, 2.5), (2, 0.5), (3, 0.5), (4, -0.5)])
    first, second = (points_of(part) for part in charts.paths(line, across, up))
    assert first == [(0, 50), (2.5, 0)]  # from 0.5 to 2.5, it reaches 1 after a quarter of the way
    assert second == [(17.5, 0), (20, 50), (30, 50), (35, 100)]


def test_a_value_that_is_missing_interrupts_a_line_and_a_single_one_is_a_dot():
    across, up = charts.Axis(0, 4, "linear", 0, 40), charts.Axis(0, 1, "linear", 100, 0)
    parts = charts.paths(charts.Line("", [(0, 0.1), (1, 0.2), (2, math.nan), (3, 0.3)]), across, up)
    assert [part.split()[0] for part in parts] == ["<path", "<circle"]


def test_a_long_line_is_drawn_as_means():
    points = [(float(k), float(k % 2)) for k in range(10_000)]
    short = charts.thin(points, 100)
    assert len(short) == 100
    assert (short[0][0], short[-1][0]) == (0.0, 9999.0)
    assert all(y == 0.5 for _, y in short)
    assert charts.thin(points[:50], 100) == points[:50]


def drawn(html, kind):
    return [points_of(part) for part in re.findall(rf'<path class="{kind}"[^>]*>', html)]


def test_a_chart_draws_faint_lines_first_on_an_axis_around_all_values():
    lines = [charts.Line("a", [(0, 1.0), (1, 1000.0)]), charts.Line("b", [(0, 10.0), (1, 10.0)], 1, faint=True)]
    html = charts.chart(lines, x="step", y="loss", scale="log").split("</svg>")[0]
    (_, between), (_, below) = faint = drawn(html, "line")[0]
    assert "stroke-opacity" in re.search(r'<path class="line"[^>]*>', html)[0]
    assert between == below
    (_, least), (_, most) = drawn(html, "line")[1]
    assert (between - least) / (most - least) == pytest.approx(1 / 3, abs=0.01)
    assert len(faint) == 2


def test_a_legend_names_each_line_once_and_a_single_line_needs_none():
    lines = [charts.Line(name, [(0, 1)], k) for k, name in enumerate(("a", "b", "", "a", "b"))]
    assert re.findall(r"</svg>(.*?)</li>", charts.legend(lines)) == ["a", "b"]
    assert charts.legend(lines[:1]) == charts.legend([lines[0], lines[2]]) == ""


def test_a_legend_keeps_the_order_of_lines_that_repeat_incompletely():
    """As in a comparison whose second round of seeds has begun."""
    lines = [charts.Line(name, [(0.0, 1.0)]) for name in ("a", "b", "c", "a")]
    assert re.findall(r"</svg>(.*?)</li>", charts.legend(lines)) == ["a", "b", "c"]


def test_the_curves_of_layers_are_their_median_and_range():
    values = {"a": [1.0, 1.0], "b": [10.0, 100.0], "c": [1000.0, 1000.0]}
    html = layers.by_layer([1, 5], values, said="x", scale="log", limits=(1.0, 1000.0))
    [band], [median] = drawn(html, "band"), drawn(html, "line")
    top, bottom = band[0][1], band[-1][1]
    assert top < bottom
    assert [y for _, y in band] == [top, top, bottom, bottom]
    assert [(bottom - y) / (bottom - top) for _, y in median] == pytest.approx([1 / 3, 2 / 3], abs=0.01)
    assert "<title>b: first 10, last 100</title>" in html


def test_marked_rows_stand_out():
    html = page.table(("n",), [("one",), ("two",), ("three",)], marked=[1])
    assert re.findall(r"<tr class=\"best\"><td>(.*?)</td>", html) == ["two"]


def pixels(html, which=0):
    raw = re.findall(r"base64,([\w+/=]+)", html)[which]
    return image.imread(io.BytesIO(base64.b64decode(raw)))


def test_the_pixels_of_a_map_are_the_values():
    values = {"a.weight": [1.0, 10.0, math.nan], "b.weight": [100.0, 1000.0, 0.0]}
    html = layers.by_layer([1, 5, 9], values, said="x", scale="log", limits=(1.0, 1000.0))
    found = pixels(html)
    count = found.shape[1]
    assert found.shape == (2, count, 4)
    marks = found[:, [0, count * 3 // 4, count - 1]]  # steps 1, 5 and 5: step 9 is the end of the axis
    shades = marks[..., :3].sum(-1)
    assert shades[0, 0] < shades[0, 1] < shades[1, 0] < shades[1, 1]
    assert tuple(marks[0, 0, :3] * 255) == pytest.approx((0, 34, 78), abs=0.5)
    assert tuple(marks[1, 1, :3] * 255) == pytest.approx((254, 232, 56), abs=0.5)
    assert (marks[..., 3] == 1).all()
    empty = layers.by_layer([1, 5], {"a": [math.nan, math.nan]}, said="x", scale="log", limits=(1.0, 10.0))
    assert (pixels(empty)[..., 3] == 0).all()
    for svg in (html, empty):
        ElementTree.fromstring(svg)


def test_names_of_layers_are_short_and_different():
    names = [f"transformer.blocks.{k}.attention.{x}.weight" for k in (1, 11) for x in ("q", "k")]
    short = layers.short_names(names)
    assert max(map(len, short)) <= 22
    assert len(set(short)) == 4
    assert layers.short_names(["w"]) == ["w"]
    assert layers.short_names(["a.weight", "a"]) == ["a.weight", "a"]
    assert layers.short_names(["layers.12.self_attention_query_projection.weight"]) == ["layers.12.…_projection"]


def test_text_is_escaped():
    html = page.document(
        "<a>", [page.table(("<b>",), [("<c>",)]), page.facts({"<d>": "<e>"}), page.card("<f>", "", "", "<g>")]
    )
    assert not re.search("<[a-g]>", html.replace("<b>&lt;f&gt;</b>", ""))
    chart = charts.chart([charts.Line("<h>", [(0, 1), (1, 2)]), charts.Line('"i"', [(0, 1)])], x="<x>", y='"y"')
    ElementTree.fromstring(f"<div>{chart}</div>")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.02, "0.02"),
        (1240.0, "1240"),
        (3.4e6, "3.4e6"),
        (1e-7, "1e−7"),
        (-0.5, "−0.5"),
        (0.0, "0"),
        (math.nan, "-"),
        (math.inf, "∞"),
    ],
)
def test_numbers_are_short(value, text):
    assert page.number(value) == text.replace("−", "\N{MINUS SIGN}")


def test_a_file_is_whole_or_absent(tmp_path):
    path = tmp_path / "page.html"
    files.write_text(path, "old")

    def fail():
        with files.whole(path) as file:
            file.write(b"new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["page.html"]
    with pytest.raises(OSError, match="nothing"):
        files.write_text(tmp_path / "nothing" / "page.html", "new")


def test_what_a_crash_left_is_replaced_and_a_link_there_is_not_followed(tmp_path):
    """The unfinished file of a process of the same number."""
    left, other = tmp_path / f"page.html.{os.getpid()}.partial", tmp_path / "other"
    other.write_text("other")
    left.symlink_to(other)
    files.write_text(tmp_path / "page.html", "new")
    left.write_text("half")
    files.write_text(tmp_path / "page.html", "newer")
    assert (tmp_path / "page.html").read_text() == "newer"
    assert other.read_text() == "other"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["other", "page.html"]
