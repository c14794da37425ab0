"""Components escape text and keep markup."""

from datetime import UTC, datetime
from typing import Any

import pytest
from flask import Flask
from markupsafe import Markup

from tests.web.kit.charts import NOW, days
from views.web.charts import ChartSeries, stacked_chart

BAD = """<b title='x' id="y">&"""


def render_call(kit: Flask, module: str, call: str, **context: Any) -> str:
    """Render a call to a component of `components/<module>.html`."""
    name = call.partition("(")[0].split()[-1]
    with kit.test_request_context("/"):
        template = kit.jinja_env.from_string(f'{{% from "components/{module}.html" import {name} %}}{call}')
        return template.render(bad=BAD, **context)


@pytest.mark.parametrize(
    ("module", "call"),
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
def test_text_is_escaped(kit: Flask, module: str, call: str) -> None:
    drawn = render_call(
        kit, module, call, drawn=stacked_chart(days(2), [ChartSeries(BAD, [1, 2])], unit="credits", now=NOW)
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
def test_markup_is_kept(kit: Flask, call: str) -> None:
    assert "<i>drawn</i>" in render_call(kit, "tables", call, body=Markup("<i>drawn</i>"))


def test_tiny_dollar_amounts_are_escaped(kit: Flask) -> None:
    chart = stacked_chart(days(1), [ChartSeries("a", [1e-9])], unit="usd", now=NOW)
    drawn = render_call(kit, "chart", "{{ chart(drawn, 't', 'Cost') }}", drawn=chart)
    assert "<$0.000001" not in drawn
    assert "&lt;$0.000001" in drawn


def test_numbers_renders_the_same_cells_as_cell(kit: Flask) -> None:
    cells = render_call(kit, "tables", "{{ cell('0', label='Calls', numeric=true, zero=true) }}")
    cells += render_call(kit, "tables", "{{ cell('7', label='Credits', numeric=true, key=true) }}")
    template = "{{ numbers([('Calls', '0', 0), ('Credits', '7', 7)], key='Credits') }}"
    assert render_call(kit, "tables", template) == cells


def test_times_have_the_full_date(kit: Flask) -> None:
    when = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)
    assert render_call(kit, "times", "{{ time(when, 'date') }}", when=when) == (
        '<time datetime="2026-02-03T04:05:06.000Z" title="3 Feb 2026, 04:05:06 UTC">3 Feb 2026</time>'
    )
    assert render_call(kit, "times", "{{ time(none) }}") == "–"
