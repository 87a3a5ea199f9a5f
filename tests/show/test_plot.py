"""Drawing charts as SVG: scales, round ticks, lines with gaps, and text that stays text."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from carbon_plugin.show import plot


def test_scale_maps_its_ends_and_keeps_values_inside():
    scale = plot.Scale(10, 20, 100, 200)

    assert [scale.at(value) for value in (10, 15, 20, 30, 0)] == [100, 150, 200, 200, 100]
    assert plot.Scale(1, 100, 0, 10, log=True).at(10) == pytest.approx(5)
    assert plot.Scale(3, 3, 5, 10).at(3) == 5


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 10, [0, 2, 4, 6, 8, 10]), (0, 0.7, [0, 0.2, 0.4, 0.6]), (3, 3, [3]), (-1, 1, [-1, -0.5, 0, 0.5, 1])],
)
def test_ticks_are_round_numbers_inside_the_axis(low, high, expected):
    assert plot.ticks(low, high) == pytest.approx(expected)


def test_labels_have_the_decimals_that_tell_them_apart():
    assert [text for _, text in plot.labelled([0, 0.2, 0.4])] == ["0.0", "0.2", "0.4"]
    assert [text for _, text in plot.labelled([0, 1000, 2000])] == ["0", "1,000", "2,000"]


def test_line_is_interrupted_where_a_value_is_missing():
    of = plot.frame(100, 100, (0, 4), (0, 1))

    drawn = plot.line(of, [0, 1, 2, 3, 4], [0.1, 0.2, None, 0.4, 0.3], "gpu")

    assert len(re.findall("M", drawn)) == 2
    assert "<circle" in plot.line(of, [0, 1, 2], [None, 0.5, None], "gpu")


def test_points_on_a_straight_line_are_left_out():
    of = plot.frame(100, 100, (0, 3), (0, 1), left_px=0, right_px=0, top_px=0, bottom_px=0)

    level = plot.line(of, [0, 1, 2, 3], [0.5, 0.5, 0.5, 0.5], "gpu")
    corner = plot.line(of, [0, 1, 2, 3], [0.5, 0.5, 1.0, 0.2], "gpu")

    assert re.search('d="([^"]+)"', level)[1] == "M0,50L100,50"
    assert re.search('d="([^"]+)"', corner)[1].count("L") == 3


def test_names_in_a_drawing_are_text():
    evil = '<script>alert("x")</script>\x1b & more'
    svg = plot.standalone(plot.drawing(50, 50, [plot.words(0, 0, evil), plot.box(0, 0, 5, 5, "gpu", evil)]))

    texts = {one.text for one in ElementTree.fromstring(svg).iter() if one.text}
    assert any(text.startswith("<script>") for text in texts)
    assert "<script" not in svg


def test_file_that_stands_alone_names_its_colours():
    assert "var(" not in plot.standalone(plot.drawing(10, 10, [plot.box(0, 0, 5, 5, "host")]))


def test_name_in_a_legend_that_is_wider_than_the_drawing_is_cut():
    markup, _ = plot.legend([("gpu", "x" * 400), ("host", "short")], 240)

    assert "x" * 60 not in markup
    assert "…" in markup
    assert "short" in markup
