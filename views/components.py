"""The components that a page has many of: icons, badges, times and tables, drawn by Python, since a macro costs ten times
the call of a function. Templates know them without an import; those with a body are called with `{% call %}`."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Literal

from flask import Flask
from markupsafe import Markup, escape

from views import format

Body = Callable[[], str]
Attrs = Mapping[str, object]
ButtonKind = Literal["primary", "quiet", "danger", "danger-solid"]
Size = Literal["sm", "lg"]

NONE: Attrs = {}

ICONS = {
    "search": '<circle cx="7" cy="7" r="4.5"/><path d="m10.5 10.5 3.5 3.5"/>',
    "copy": '<path d="M5.5 5.5h8v8h-8z"/><path d="M10.5 5.5v-3h-8v8h3"/>',
    "check": '<path d="m3 8.5 3.3 3.3L13 4.5"/>',
    "x": '<path d="m4 4 8 8M12 4l-8 8"/>',
    "down": '<path d="m4 6 4 4 4-4"/>',
    "right": '<path d="m6 4 4 4-4 4"/>',
    "up": '<path d="m4 10 4-4 4 4"/>',
    "updown": '<path d="m5 6 3-3 3 3M5 10l3 3 3-3"/>',
    "menu": '<path d="M2 4.5h12M2 8h12M2 11.5h12"/>',
    "plus": '<path d="M8 3v10M3 8h10"/>',
    "dots": '<path d="M3.5 8h.01M8 8h.01M12.5 8h.01" stroke-width="2.2"/>',
    "alert": '<path d="M8 2 14.5 13.5h-13zM8 6.5v3M8 11.6v.01"/>',
    "info": '<circle cx="8" cy="8" r="6"/><path d="M8 7.5v3.5M8 5v.01"/>',
    "credit": '<path d="M2.5 3.5h11M4 6v6.5M8 6v6.5M12 6v6.5"/>',
    "user": '<circle cx="8" cy="5.5" r="2.7"/><path d="M2.8 13.5c.7-2.6 2.7-3.7 5.2-3.7s4.5 1.1 5.2 3.7"/>',
    "users": '<circle cx="6" cy="5.5" r="2.4"/><path d="M1.5 13c.5-2.4 2.2-3.5 4.5-3.5s4 1.1 4.5 3.5M10.5 3.3a2.3 2.3 0 0 1 0 4.4M12.3 9.9c1.2.5 1.9 1.5 2.2 3.1"/>',
    "key": '<circle cx="5" cy="11" r="2.7"/><path d="m7 9 6-6M10.5 5.5l2 2"/>',
    "play": '<path d="M4.5 2.8v10.4L13 8z"/>',
    "chart": '<path d="M2.5 13.5h11M4 11V7.5M8 11V3M12 11V5.5"/>',
    "agent": '<path d="M2.5 5.5h11v8h-11zM8 5.5v-3M5.8 9v1M10.2 9v1"/>',
    "gear": '<circle cx="8" cy="8" r="2.2"/><path d="M8 1.8v2M8 12.2v2M1.8 8h2M12.2 8h2M3.6 3.6 5 5M11 11l1.4 1.4M12.4 3.6 11 5M5 11l-1.4 1.4"/>',
    "card": '<path d="M1.8 3.8h12.4v8.4H1.8zM1.8 6.8h12.4M4.3 9.8h2.4"/>',
    "topup": '<path d="M13.3 6A5.6 5.6 0 0 0 3 5.2M2.7 10A5.6 5.6 0 0 0 13 10.8M3 2.5v2.8h2.8M13 13.5v-2.8h-2.8"/>',
    "gift": '<path d="M2.5 7.5h11v6h-11zM1.8 4.8h12.4v2.7H1.8zM8 4.8v8.7M8 4.6C7 2 4.5 2 4.5 3.5S7 4.6 8 4.6c1-2.6 3.5-2.6 3.5-1.1S9 4.6 8 4.6"/>',
    "lock": '<path d="M3 7h10v6.5H3zM5.3 7V5a2.7 2.7 0 0 1 5.4 0v2"/>',
    "home": '<path d="M2.5 7 8 2.5 13.5 7v6.5h-11zM6.3 13.5v-4h3.4v4"/>',
    "bell": '<path d="M4 11V7a4 4 0 0 1 8 0v4l1.3 1.5H2.7zM6.7 14.3h2.6"/>',
    "store": '<path d="M2 3h12M3.5 5.5v8M6.5 5.5v8M9.5 5.5v8M12.5 5.5v8M2 13.5h12"/>',
    "book": '<path d="M3 2.5h8.5a1.5 1.5 0 0 1 1.5 1.5v9.5H4.5A1.5 1.5 0 0 1 3 12zM3 12a1.5 1.5 0 0 1 1.5-1.5H13"/>',
    "download": '<path d="M8 2.5v7.5M4.8 7 8 10.2 11.2 7M2.5 13.5h11"/>',
    "arrow": '<path d="M3 8h10M9 4l4 4-4 4"/>',
    "mail": '<path d="M1.8 3.5h12.4v9H1.8zM2 4l6 4.8L14 4"/>',
    "clock": '<circle cx="8" cy="8" r="6"/><path d="M8 4.5V8l2.3 1.5"/>',
    "branch": '<path d="M4 2.5v11M4 8.5h4.5a3 3 0 0 0 3-3v-.5"/><circle cx="11.5" cy="3.6" r="1.4"/>',
    "filter": '<path d="M2 4h12M4.5 8h7M6.5 12h3"/>',
    "terminal": '<path d="M1.8 2.8h12.4v10.4H1.8zM4.5 6l2 2-2 2M8.5 10.2h3"/>',
    "running": '<rect x="1.5" y="1.5" width="3" height="13"/><rect x="6.5" y="1.5" width="3" height="13"/><rect x="11.5" y="1.5" width="3" height="13"/>',
    "cut": '<circle cx="8" cy="8" r="6"/><path d="M4.5 8h7"/>',
}
"""Drawings of 16 units, in the colour of the text."""

_STATES = {
    "running": ("Running", "running", "running"),
    "completed": ("Completed", "ok", "check"),
    "failed": ("Failed", "bad", "x"),
    "cancelled": ("Cancelled", None, "cut"),
}
"""How the state of a run is called, its kind of badge and its icon."""

_KINDS = {
    "run": '<path d="M0 0h11v3H0zM0 4.5h4V11H0zM7 4.5h4V11H7z"/>',
    "step": '<path d="M1 1h9v9H1z"/>',
    "model": '<circle cx="5.5" cy="5.5" r="5"/>',
    "tool": '<path d="M5.5 0 11 5.5 5.5 11 0 5.5z"/>',
}

_FORMS = {"ago": format.ago, "date": format.date, "clock": format.clock, "moment": format.moment}


def init_app(app: Flask) -> None:
    """Give the components to templates under their own names."""
    drawn = (icon, badge, run_state, kind, time, swatch, button, link_button, icon_button)
    for function in (*drawn, table, column, row, row_head, cell, numbers):
        app.jinja_env.globals[function.__name__] = function


def icon(name: str, label: str | None = None, kind: str | None = None) -> Markup:
    """A drawing. Always beside a word; alone only with a label."""
    if label is None and kind is None:
        return _ICONS[name]
    css = f" icon--{kind}" if kind else ""
    read = f' role="img" aria-label="{escape(label)}"' if label else ' aria-hidden="true"'
    return Markup(f'<svg class="icon{css}" viewBox="0 0 16 16"{read}>{ICONS[name]}</svg>')


_ICONS = {
    name: Markup(f'<svg class="icon" viewBox="0 0 16 16" aria-hidden="true">{drawing}</svg>')
    for name, drawing in ICONS.items()
}


def badge(text: str, kind: str | None = None, icon_name: str | None = None) -> Markup:
    """Kind: ok, bad, running, held, sea, plain or none. State is word, shape and colour."""
    css = f" badge--{kind}" if kind else ""
    return Markup(f'<span class="badge{css}">{_ICONS[icon_name] if icon_name else ""}{escape(text)}</span>')


def run_state(state: str) -> Markup:
    """The badge of a run that is running, completed, failed or cancelled."""
    return badge(*_STATES[state])


def kind(name: str, failed: bool = False, open: bool = False) -> Markup:
    """The shape that tells run, step, model call and tool apart."""
    css = "bad" if failed else "open" if open and name != "step" else name
    return Markup(
        f'<svg class="kind kind--{css}" viewBox="0 0 11 11" aria-hidden="true">{_KINDS[name]}</svg>'
    )


def time(value: datetime | None, form: str = "ago") -> Markup:
    """Words (`ago`) or figures (`date`, `clock`, `moment`), always with the machine's form and the full date as title."""
    if value is None:
        return Markup(format.NONE)
    said = _FORMS[form](value)
    return Markup(f'<time datetime="{format.iso(value)}" title="{format.moment(value)}">{said}</time>')


def swatch(series: int | str) -> Markup:
    """The square of a series' colour: 1 to 8, or `held`."""
    return _SWATCHES[series]


_SWATCHES = {
    series: Markup(
        '<svg class="swatch" viewBox="0 0 11 11" aria-hidden="true">'
        f'<rect class="s{"-held" if series == "held" else series}" width="11" height="11" rx="2"/></svg>'
    )
    for series in (*range(1, 9), "held")
}


# -- buttons, and links that look like them; one primary per view

_BUSY = (
    '<svg class="btn__busy" viewBox="0 0 14 12" aria-hidden="true"><rect x="0" width="3" height="12"/>'
    '<rect x="5.5" width="3" height="12"/><rect x="11" width="3" height="12"/></svg>'
)


def button(
    label: str,
    kind: ButtonKind | None = None,
    size: Size | None = None,
    icon_name: str | None = None,
    type: Literal["submit", "button"] = "submit",
    block: bool = False,
    disabled: bool = False,
    attrs: Attrs = NONE,
) -> Markup:
    """A button; one that submits shows that it is busy."""
    off = " disabled" if disabled else ""
    busy = _BUSY if type == "submit" else ""
    drawn = _ICONS[icon_name] if icon_name else ""
    css = _button_css(kind, size, block)
    return Markup(
        f'<button class="{css}" type="{type}"{off}{_written(attrs)}>{busy}{drawn}{escape(label)}</button>'
    )


def link_button(
    label: str,
    href: str,
    kind: ButtonKind | None = None,
    size: Size | None = None,
    icon_name: str | None = None,
    block: bool = False,
    attrs: Attrs = NONE,
) -> Markup:
    """A link that looks like a button."""
    drawn = _ICONS[icon_name] if icon_name else ""
    css = _button_css(kind, size, block)
    return Markup(f'<a class="{css}" href="{escape(href)}"{_written(attrs)}>{drawn}{escape(label)}</a>')


def icon_button(
    label: str,
    icon_name: str,
    kind: ButtonKind | None = None,
    size: Size | None = None,
    type: Literal["submit", "button"] = "button",
    attrs: Attrs = NONE,
) -> Markup:
    """A button with its label for readers only."""
    css = _button_css(kind, size, False)
    return Markup(
        f'<button class="{css} btn--icon" type="{type}" aria-label="{escape(label)}"{_written(attrs)}>'
        f"{_ICONS[icon_name]}</button>"
    )


def _button_css(kind: ButtonKind | None, size: Size | None, block: bool) -> str:
    return f"btn{f' btn--{kind}' if kind else ''}{f' btn--{size}' if size else ''}{' btn--block' if block else ''}"


def _written(attrs: Attrs) -> str:
    return "".join(f' {name}="{escape(value)}"' for name, value in attrs.items())


# -- tables that fold into titled lines under 44rem; roles are written out, because folding changes `display`


def table(
    columns: Sequence[str],
    label: str | None = None,
    body_id: str | None = None,
    foot: str | None = None,
    stack: bool = True,
    wrap: bool = True,
    *,
    caller: Body,
) -> Markup:
    """Heads made by `column`, and rows as its body; `foot`: drawn rows of totals."""
    css = "table table--stack" if stack else "table"
    said = f' aria-label="{escape(label)}"' if label else ""
    place = f' id="{escape(body_id)}"' if body_id else ""
    total = f'<tfoot role="rowgroup">{escape(foot)}</tfoot>' if foot else ""
    drawn = (
        f'<table class="{css}" role="table"{said}>\n'
        f'<thead role="rowgroup"><tr role="row">{"".join(columns)}</tr></thead>\n'
        f'<tbody role="rowgroup"{place}>{caller()}</tbody>\n'
        f"{total}</table>"
    )
    return Markup(f'<div class="table-wrap">{drawn}</div>' if wrap else drawn)


def column(
    text: str,
    numeric: bool = False,
    hidden: bool = False,
    sort: Literal["ascending", "descending"] | None = None,
    href: str | None = None,
) -> Markup:
    """The head of a column. `hidden`: for readers only. With `href` a link that sorts."""
    said: str = escape(text)
    if href:
        arrow = _ICONS["down" if sort == "descending" else "up"] if sort else ""
        said = f'<a class="sort" href="{escape(href)}">{said}{arrow}</a>'
    elif hidden:
        said = f'<span class="visually-hidden">{said}</span>'
    css = ' class="n"' if numeric else ""
    order = f' aria-sort="{sort}"' if sort else ""
    return Markup(f'<th role="columnheader" scope="col"{css}{order}>{said}</th>')


def row(id: str | None = None, attrs: Attrs = NONE, *, caller: Body) -> Markup:
    """A row; its cells are the body."""
    place = f' id="{escape(id)}"' if id else ""
    return Markup(f'<tr role="row"{place}{_written(attrs)}>{caller()}</tr>')


def row_head(content: object = None, *, caller: Body | None = None) -> Markup:
    """The first cell of a row, which names it."""
    return Markup(f'<th role="rowheader" scope="row">{escape(content) if caller is None else caller()}</th>')


def cell(
    content: object = "",
    label: str | None = None,
    numeric: bool = False,
    key: bool = False,
    zero: bool = False,
    act: bool = False,
    wide: bool = False,
    hide_narrow: bool = False,
    colspan: int | None = None,
    *,
    caller: Body | None = None,
) -> Markup:
    """A cell, with the title `label` when folded. `key` stands at the right then; `zero` greys the value and leaves it out."""
    names = ""
    if numeric:
        names = " n"
    if zero:
        names += " zero"
    if key:
        names += " key"
    if act:
        names += " act"
    if wide:
        names += " wide"
    if hide_narrow:
        names += " skip-narrow"
    css = f' class="{names[1:]}"' if names else ""
    title = f' data-label="{escape(label)}"' if label else ""
    span = f' colspan="{colspan}"' if colspan else ""
    said = escape(content) if caller is None else caller()
    return Markup(f'<td role="cell"{css}{title}{span}>{said}</td>')


def numbers(*figures: tuple[str, str, object], key: str | None = None) -> Markup:
    """`cell(numeric=true)` for each (label, text, value), at a third of its price: one whose value is nothing is greyed,
    the one with the label `key` is the row's key."""
    cells = []
    for label, text, value in figures:
        zero = "" if value else " zero"
        css = " key" if label == key else ""
        cells.append(f'<td role="cell" class="n{zero}{css}" data-label="{escape(label)}">{escape(text)}</td>')
    return Markup("".join(cells))
