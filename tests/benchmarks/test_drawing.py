"""The frame of a figure: each label once, the facts below whole, and both files written."""

import json

import pytest

pytest.importorskip("matplotlib")

from matplotlib.figure import Figure

from benchmarks import drawing

FACTS = {"processor": "a processor of a rather long name", "threads": "2", "torch": "2.13", "matfn": "0.1"}


def test_labels_of_all_panels_once_in_their_order():
    figure = Figure()
    left, right = figure.subplots(1, 2)
    for axes, labels in ((left, "ab"), (right, "bc")):
        for label in labels:
            axes.plot([0, 1], label=label)
    drawing.legend(figure, [left, right], size=7)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b", "c"]


def test_a_narrow_figure_has_several_lines_below():
    figure = Figure(figsize=(4, 3))
    drawing.foot(figure, FACTS, "medians")
    lines = figure.get_supxlabel().splitlines()
    assert len(lines) > 1
    assert max(map(len, lines)) <= 13 * 4
    text = " ".join(lines)
    assert text.endswith("; medians")
    assert all(value in text for value in FACTS.values())


def test_numbers_lie_beside_the_figure(tmp_path):
    figure = Figure()
    figure.subplots()
    numbers, picture = drawing.write(tmp_path / "new" / "name", {"x": [1, 2]}, figure)
    assert (numbers.name, picture.name) == ("name.json", "name.png")
    assert json.loads(numbers.read_text()) == {"x": [1, 2]}
    assert picture.read_bytes().startswith(b"\x89PNG")
