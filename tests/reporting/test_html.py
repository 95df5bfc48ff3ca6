"""Numbers, escaped text, colours and axes of the pages."""

from __future__ import annotations

import html
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.reporting.formatting import number
from hwnas.reporting.html import Html, bar, page, prose, table, text
from hwnas.reporting.line_charts import MAX_POINTS, downsample
from hwnas.reporting.svg import Axis
from hwnas.reporting.theme import DARK, LIGHT, SERIES


class TestWords:
    @pytest.mark.parametrize(
        "value, words",
        [
            (0.42134, "0.4213"), (0.5, "0.5"), (0.0, "0"), (12.0, "12"), (1234.5, "1234"),
            (9999.6, "10000"), (123456.7, "123,457"), (3.14159e-7, "3.142e-07"), (-2.5, "-2.5"),
            (0.000123456, "0.0001235"), (None, "not known"),
        ],
    )  # fmt: skip
    def test_numbers_have_four_significant_digits(self, value: float | None, words: str) -> None:
        assert number(value) == words

    @given(
        value=st.floats(-1e12, 1e12, allow_subnormal=False),
        digits=st.integers(2, 9),
    )
    def test_numbers_are_close_to_their_value(self, value: float, digits: int) -> None:
        read = float(number(value, digits).replace(",", ""))
        assert read == pytest.approx(value, rel=0.51 * 10 ** (1 - digits), abs=1e-300)

    @given(st.text())
    def test_text_is_escaped_and_can_be_unescaped(self, written: str) -> None:
        markup = text(written)
        assert not set(markup) & set("<>\"'\x00\x0b")
        markup.encode()
        if written.isprintable():
            assert html.unescape(markup) == written

    def test_text_between_backticks_becomes_code(self) -> None:
        assert prose("run `hwnas <b>` now") == "run <code>hwnas &lt;b&gt;</code> now"
        assert prose("a ` <b> alone") == "a ` &lt;b&gt; alone"

    @given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=2000))
    @settings(max_examples=30)
    def test_downsampling_keeps_order_and_sum(self, values: list[float]) -> None:
        x, y = downsample(list(range(len(values))), values)
        assert len(x) <= MAX_POINTS
        assert len(values) > MAX_POINTS or len(x) == len(values)
        assert (np.diff(x) > 0).all()
        size = -(-len(values) // MAX_POINTS)
        counts = np.array([len(values[i : i + size]) for i in range(0, len(values), size)])
        assert (y * counts).sum() == pytest.approx(sum(values), abs=1e-3)


class TestTables:
    def test_stacked_tables_repeat_the_titles_of_their_columns(self) -> None:
        rows = [[Html("first"), Html("1"), Html("2")]]
        markup = table("name", ("row", "a", '<"b">'), rows, "stacked")
        assert re.findall('<td data-label="(.*?)">', markup) == ["a", "&lt;&quot;b&quot;&gt;"]
        assert "data-label" not in table("name", ("row", "a", "b"), rows)

    def test_bars_of_nothing_have_no_width(self) -> None:
        assert bar(0.0) == '<div class="bar zero" style="width:0.00%"></div>'
        assert "zero" not in bar(0.001)


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb (WCAG 2.2)."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    lighter, darker = sorted((luminance(a), luminance(b)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_have_enough_contrast_with_the_background(scheme: str) -> None:
    """Colours as the style sheet sets them for the system's theme and for the reader's choice."""
    style = page("", Html(""), []).partition("<style>")[2].partition("</style>")[0]
    blocks = re.findall(r"(:root[^{]*)\{([^}]*)\}", style)
    themes = [
        dict(re.findall(r"--(\w+): (#\w{6});", block))
        for selector, block in blocks
        if "ink" in block and (selector.strip() == ":root") == (scheme == "light")
    ]
    assert len(themes) == (1 if scheme == "light" else 2)
    for colours in themes:
        assert colours == (LIGHT if scheme == "light" else DARK)
        for background in ("paper", "soft"):
            for name in ("ink", "dim", "pass", "fail", "inconclusive"):
                assert contrast(colours[name], colours[background]) >= 4.5, (name, background)
        for name in ("focus", *(f"s{i}" for i in range(SERIES))):
            assert contrast(colours[name], colours["paper"]) >= 3, name


class TestAxis:
    @given(
        values=st.lists(st.floats(-1e17, 1e17, allow_subnormal=False), min_size=1, max_size=9),
        from_zero=st.booleans(),
        whole=st.booleans(),
    )
    def test_values_are_on_the_axis_and_ticks_are_few(
        self, values: list[float], from_zero: bool, whole: bool
    ) -> None:
        axis = Axis.over(values, 10.0, 110.0, from_zero=from_zero)
        assert all(9.9 <= axis(value) <= 110.1 for value in values)
        ticks = axis.ticks(5, whole=whole)
        assert len(ticks) <= 11
        assert all(9.9 <= axis(value) <= 110.1 for value, _ in ticks)

    @given(st.floats(-1000, 1000), st.floats(1e-3, 1e4))
    def test_labels_of_ticks_are_distinct_and_correct(self, low: float, span: float) -> None:
        ticks = Axis.over([low, low + span], 0.0, 100.0).ticks(5)
        assert len(ticks) >= 2
        assert len({label for _, label in ticks}) == len(ticks)
        for value, label in ticks:
            assert float(label) == pytest.approx(value, abs=0.02 * span)
