"""The drawings of `views/charts.py` as SVG, and the tables of the same figures, drawn by Python for what they have of each.
Nothing here calculates."""

from flask import Flask
from markupsafe import Markup, escape

from views.charts import Chart, Waterfall
from views.components import swatch

WORDS = {"hour": "Hour", "day": "Day", "week": "Week"}


def init_app(app: Flask) -> None:
    """Give the drawings to templates under their own names."""
    for function in (plot, chart_table, trace_bars):
        app.jinja_env.globals[function.__name__] = function


def plot(chart: Chart, table_id: str) -> Markup:
    """The drawing alone. The script reads what it says of a column from the table `table_id`."""
    base = chart.base
    wide = " plot__y--wide" if chart.unit in ("ms", "usd") else ""
    steps = "".join(
        f'<text class="axis-text" x="100%" y="{tick.y + 4}" text-anchor="end">{escape(tick.text)}</text>'
        for tick in chart.ticks
    )
    labels = "".join(
        f'<text class="axis-text{" axis-text--fine" if label.fine else ""}" x="{label.x}%" y="{base + 21}"'
        f' text-anchor="{label.anchor}">{escape(label.text)}</text>'
        for label in chart.labels
    )
    line, step = "", ""
    if chart.kind == "line":
        line = ' data-line="1"'
    else:
        step = f'<line class="axis-step" x1="0" x2="100%" y1="{base + 3.5}" y2="{base + 3.5}"/>'
    return Markup(
        f'<div class="plot" data-plot="{len(chart.columns)}" data-table="{escape(table_id)}">\n'
        f'<svg class="plot__y{wide}" height="{chart.height}" aria-hidden="true">{steps}</svg>\n'
        f'<svg class="plot__cols" height="{chart.height}" aria-hidden="true">\n'
        f"{_lines(chart) if line else _columns(chart)}"
        f'<rect class="col-mark" y="10" height="{base - 10}" data-fill="{chart.fill}"{line} hidden/>\n'
        f'<line class="axis-base" x1="0" x2="100%" y1="{base + 0.5}" y2="{base + 0.5}"/>{step}\n'
        f"{labels}\n"
        "</svg>\n</div>"
    )


def _columns(chart: Chart) -> str:
    tracks, columns = [], []
    rest = f'" height="{chart.base - 10}"/>'
    for column in chart.columns:
        now = " col-track--now" if column.now else ""
        x, width = f'x="{column.x}%" y="', f'" width="{column.width}%'
        tracks.append(f'<rect class="col-track{now}" {x}10{width}{rest}')
        if column.segments:
            parts = [
                f'<rect class="s{colour} seg" {x}{y}{width}" height="{height}"/>'
                for colour, y, height in column.segments
            ]
            columns.append(f"<g>{''.join(parts)}</g>")
    joints = "".join(f'<line x1="0" x2="100%" y1="{y}" y2="{y}"/>' for y in chart.joints)
    return f'<g>{"".join(tracks)}</g>\n<g class="col-joint">{joints}</g>\n{"".join(columns)}'


def _lines(chart: Chart) -> str:
    base = chart.base
    now = "".join(
        f'<rect class="col-track col-track--now" x="{column.x}%" y="10" width="{column.width}%" height="{base - 10}"/>'
        for column in chart.columns
        if column.now
    )
    grid = "".join(f'<line x1="0" x2="100%" y1="{tick.y}" y2="{tick.y}"/>' for tick in chart.ticks[1:])
    lines = []
    for line in chart.lines:
        lines.append(
            f'<svg width="100%" height="{base}" viewBox="0 0 1000 {base}" preserveAspectRatio="none">'
            f'<path class="line l{line.colour}" d="{line.path}" vector-effect="non-scaling-stroke"/></svg>'
        )
        lines += [f'<circle class="dot s{line.colour}" cx="{x}%" cy="{y}" r="3"/>' for x, y in line.dots]
    return f'<g>{now}</g>\n<g class="axis-grid">{grid}</g>\n{"".join(lines)}'


def chart_table(chart: Chart, id: str, label: str) -> Markup:
    """The figures of a chart, a row for each column of it."""
    summed = chart.kind == "columns"
    heads = "".join(
        f'<th scope="col" class="n"><span class="key-head">{swatch(key.colour)}{escape(key.name)}</span></th>'
        for key in chart.legend
    )
    rows = []
    for column in chart.columns:
        cells = "".join(
            f'<td class="n zero">{_figure(text)}</td>' if zero else f'<td class="n">{_figure(text)}</td>'
            for text, zero in zip(column.cells, column.zeros, strict=True)
        )
        total = f'<td class="n">{_figure(column.total)}</td>' if summed else ""
        rows.append(f'<tr><th scope="row">{column.long_name}</th>{cells}{total}</tr>')
    total, foot = "", ""
    if summed:
        total = '<th scope="col" class="n" data-total>Total</th>'
        sums = "".join(f'<td class="n">{escape(key.total)}</td>' for key in chart.legend)
        foot = f'<tfoot><tr><th scope="row">Total</th>{sums}<td class="n">{escape(chart.total)}</td></tr></tfoot>'
    label, id = escape(label), escape(id)
    return Markup(
        f'<div class="table-wrap table-wrap--tall" tabindex="0" role="group" aria-label="{label}, table">'
        f'<table class="table" id="{id}" aria-label="{label}">\n'
        f'<thead><tr><th scope="col">{WORDS[chart.grain]}<span class="visually-hidden">, UTC</span></th>'
        f"{heads}{total}</tr></thead>\n"
        f"<tbody>{''.join(rows)}</tbody>\n{foot}</table></div>"
    )


def trace_bars(waterfall: Waterfall, index: int) -> Markup:
    """The drawing of one row of a trace."""
    grid = "".join(
        f'<line class="tick" x1="{tick.x}%" x2="{tick.x}%" y1="0" y2="100%"/>' for tick in waterfall.ticks
    )
    bars = "".join(
        f'<rect class="{bar.css}" x="{bar.x}%" y="{bar.y}%" width="{bar.width}%" height="{bar.height}%"/>'
        for bar in waterfall.rows[index]
    )
    return Markup(f'<svg class="wf" aria-hidden="true">{grid}{bars}</svg>')


def _figure(text: str) -> str:
    # what `views.format` writes needs nothing else, and a table has hundreds
    return text.replace("<", "&lt;")
