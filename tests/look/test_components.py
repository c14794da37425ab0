"""Components drawn by Python escape what they are given: no template does it for them."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from markupsafe import Markup

from tests.look.kit.charts import NOW, days
from views import components, drawings
from views.charts import Series, stacked_chart

BAD = """<b title='x' id="y">&"""


def body() -> Markup:
    return Markup("<i>drawn</i>")


@pytest.mark.parametrize(
    "draw",
    [
        lambda: components.icon("x", label=BAD),
        lambda: components.badge(BAD),
        lambda: components.column(BAD, href=BAD, sort="ascending"),
        lambda: components.column(BAD, hidden=True),
        lambda: components.table([], label=BAD, body_id=BAD, foot=BAD, caller=body),
        lambda: components.row(id=BAD, attrs={"hx-get": BAD}, caller=body),
        lambda: components.row_head(BAD),
        lambda: components.cell(BAD, label=BAD),
        lambda: components.cell(label=BAD, caller=body),
        lambda: components.numbers((BAD, BAD, 0), key=BAD),
        lambda: drawings.chart_table(_chart(), BAD, BAD),
        lambda: drawings.plot(_chart(), BAD),
    ],
)
def test_what_is_not_markup_is_escaped(draw: Callable[[], Any]) -> None:
    drawn = draw()
    assert isinstance(drawn, Markup)
    assert "<b" not in drawn
    assert "&lt;b title=&#39;x&#39; id=&#34;y&#34;&gt;&amp;" in drawn


def test_what_is_markup_stays() -> None:
    assert "<i>drawn</i>" in components.cell(body())
    assert "<i>drawn</i>" in components.cell(caller=body)
    assert "<i>drawn</i>" in components.row_head(caller=body)
    assert "<i>drawn</i>" in components.table([], foot=body(), caller=lambda: "")


def test_tiny_dollars_are_no_tag() -> None:
    chart = stacked_chart(days(1), [Series("a", [1e-9])], unit="usd", now=NOW)
    assert "<$0.000001" not in drawings.chart_table(chart, "t", "Cost")
    assert "&lt;$0.000001" in drawings.chart_table(chart, "t", "Cost")


def test_a_row_of_numbers_is_what_its_cells_are() -> None:
    cells = components.cell("0", label="Calls", numeric=True, zero=True)
    cells += components.cell("7", label="Credits", numeric=True, key=True)
    assert components.numbers(("Calls", "0", 0), ("Credits", "7", 7), key="Credits") == cells


def test_times_say_the_full_date() -> None:
    when = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)
    assert components.time(when, "date") == (
        '<time datetime="2026-02-03T04:05:06.000Z" title="3 Feb 2026, 04:05:06 UTC">3 Feb 2026</time>'
    )
    assert components.time(None) == "–"


def _chart() -> Any:
    return stacked_chart(days(2), [Series(BAD, [1, 2])], unit="credits", now=NOW)
