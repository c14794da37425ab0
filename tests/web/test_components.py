"""Components: what they are given is escaped, and what is markup stays."""

from datetime import UTC, datetime
from typing import Any

import pytest
from flask import Flask
from markupsafe import Markup

from tests.web.kit.charts import NOW, days
from views.web.charts import ChartSeries, stacked_chart

BAD = """<b title='x' id="y">&"""


def draw(kit: Flask, home: str, call: str, **words: Any) -> str:
    """A component of `components/<home>.html`, called in a template of its own."""
    name = call.partition("(")[0].split()[-1]
    with kit.test_request_context("/"):
        template = kit.jinja_env.from_string(f'{{% from "components/{home}.html" import {name} %}}{call}')
        return template.render(bad=BAD, **words)


@pytest.mark.parametrize(
    ("home", "call"),
    [
        ("icons", "{{ icon('x', label=bad) }}"),
        ("badges", "{{ badge(bad) }}"),
        ("buttons", "{{ button(bad, attrs={'data-x': bad}) }}"),
        ("buttons", "{{ link_button('Go', bad) }}"),
        ("tables", "{{ column(bad, href=bad, sort='ascending') }}"),
        ("tables", "{{ column(bad, hidden=true) }}"),
        ("tables", "{% call table([], label=bad, body_id=bad, foot=bad) %}{% endcall %}"),
        ("tables", "{% call row(id=bad, attrs={'hx-get': bad}) %}{% endcall %}"),
        ("tables", "{{ row_head(bad) }}"),
        ("tables", "{{ cell(bad, label=bad) }}"),
        ("tables", "{% call cell(label=bad) %}{% endcall %}"),
        ("tables", "{{ numbers([(bad, bad, 0)], key=bad) }}"),
        ("chart", "{{ chart(drawn, bad, bad) }}"),
    ],
)
def test_what_is_not_markup_is_escaped(kit: Flask, home: str, call: str) -> None:
    drawn = draw(
        kit, home, call, drawn=stacked_chart(days(2), [ChartSeries(BAD, [1, 2])], unit="credits", now=NOW)
    )
    assert "<b" not in drawn.replace("<button", "")
    assert "&lt;b title=&#39;x&#39; id=&#34;y&#34;&gt;&amp;" in drawn


@pytest.mark.parametrize(
    "call",
    [
        "{{ cell(body) }}",
        "{% call cell() %}{{ body }}{% endcall %}",
        "{% call row_head() %}{{ body }}{% endcall %}",
        "{% call table([], foot=body) %}{% endcall %}",
    ],
)
def test_what_is_markup_stays(kit: Flask, call: str) -> None:
    assert "<i>drawn</i>" in draw(kit, "tables", call, body=Markup("<i>drawn</i>"))


def test_tiny_dollars_are_no_tag(kit: Flask) -> None:
    chart = stacked_chart(days(1), [ChartSeries("a", [1e-9])], unit="usd", now=NOW)
    drawn = draw(kit, "chart", "{{ chart(drawn, 't', 'Cost') }}", drawn=chart)
    assert "<$0.000001" not in drawn
    assert "&lt;$0.000001" in drawn


def test_a_row_of_numbers_is_what_its_cells_are(kit: Flask) -> None:
    cells = draw(kit, "tables", "{{ cell('0', label='Calls', numeric=true, zero=true) }}")
    cells += draw(kit, "tables", "{{ cell('7', label='Credits', numeric=true, key=true) }}")
    figures = "{{ numbers([('Calls', '0', 0), ('Credits', '7', 7)], key='Credits') }}"
    assert draw(kit, "tables", figures) == cells


def test_times_say_the_full_date(kit: Flask) -> None:
    when = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)
    assert draw(kit, "times", "{{ time(when, 'date') }}", when=when) == (
        '<time datetime="2026-02-03T04:05:06.000Z" title="3 Feb 2026, 04:05:06 UTC">3 Feb 2026</time>'
    )
    assert draw(kit, "times", "{{ time(none) }}") == "–"
