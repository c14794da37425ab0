"""The page of an agent: one version, what it does, who uses it, what it spawns, and the lines that run it."""

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from time import monotonic
from typing import Any

from flask import Blueprint, Response, current_app, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from jinja2.utils import LRUCache
from markupsafe import Markup, escape

from models.db import db, now
from models.pool import Pool
from models.store import dependencies, freshness, publishers, showing, statistics
from models.store.dependencies import Node
from models.store.freshness import Kept, Stamp
from models.store.markdown import render as markdown
from models.store.showing import AgentRow, Page, Sheet
from models.store.tables import Agent
from models.store.takedowns import TakenDown
from views.charts import Chart, Series, stacked_chart
from views.errors import answer as error_answer
from views.gateway import gateway
from views.guards import cookie_user, limiter, settings
from views.htmx import answer, get_flashed_messages_waiting, render, wants_fragment
from views.store import previews, snippets, tree
from views.store.typescript import module_of

bp = Blueprint("agent", __name__)

AGENT = "/publishers/<publisher_id>/agents/<agent_id>"
TREE_ROOM = 60
PAGES_KEPT = 128
KEPT_SECONDS = 60
PAGE = "store/agent.html"
PARTED = "<!-- part -->"
HERE = Markup("<!-- here -->")
"""Where the parts stand in the frame that is kept."""
MAX_CODE = 40_000
"""Characters of a definition or prompt that the page shows; the download has all of them."""

PROMPTS = {
    "systemPrompt": "System prompt",
    "instructionsPrompt": "Instructions",
    "stepPrompt": "Prompt of each step",
}
OUTPUTS = {
    "last_message": "its last message",
    "all_messages": "all its messages",
    "structured_output": "structured output",
}


@bp.app_errorhandler(TakenDown)
def _taken_down(down: TakenDown) -> ResponseReturnValue:
    """The public note in place of what was taken down."""
    db.session.rollback()
    if wants_fragment() or request.path.startswith("/api/"):
        return error_answer(down.status, down.message, down.code)
    return render("store/taken_down.html", down=down, status=down.status)


@bp.get(AGENT)
@bp.get(f"{AGENT}/latest", endpoint="latest")
def newest(publisher_id: str, agent_id: str) -> ResponseReturnValue:
    """On to the latest version (contract 6.1), or to the highest where all are yanked. 302, since it changes."""
    _, agent = showing.find(db.session, publisher_id, agent_id)
    return redirect(address(agent, showing.newest_version(db.session, agent)))


@bp.get(f"{AGENT}/<version>")
def page(publisher_id: str, agent_id: str, version: str) -> ResponseReturnValue:
    """One version of an agent, for anybody; yanked ones too, kept from crawlers. `?client=` chooses the snippet, which
    htmx gets alone.

    What everybody sees is drawn once and sent again while nothing changed, for a minute at most, since times are told in
    words.
    """
    client = request.args.get("client", "")
    client = client if client in snippets.CLIENTS else next(iter(snippets.CLIENTS))
    if wants_fragment():
        sheet = showing.sheet_of(db.session, publisher_id, agent_id, version)
        return render("store/_use.html", partial="store/_use.html", use=Use.of(sheet, client))
    drawn, state = _drawn(publisher_id, agent_id, version, client)
    user = cookie_user()
    if user or get_flashed_messages_waiting():
        publisher = publishers.find(db.session, publisher_id) if user else None
        may_edit = publisher is not None and publishers.may_change(db.session, user, publisher)
        names = {"publisher_id": publisher_id, "agent_id": agent_id}
        whole = render_template(PAGE, drawn=drawn, may_edit=may_edit, **names)
    else:
        whole = drawn.whole = drawn.whole or _strangers_page(drawn, state)
    response = answer(whole)
    response.vary.add("HX-Request")
    return response


def _drawn(*key: str) -> tuple["Drawn", Stamp]:
    """The parts of the page, and the state of the store in which they are shown. A page that was never drawn tells its
    own state, since to ask for that first would be a round trip more."""
    pool = gateway(current_app).pool
    kept: Kept[Drawn] | None = _pages.get(key)
    if kept is not None:
        state = freshness.stamp(pool)
        return kept.get(state, lambda: _draw(pool, *key)[0]), state
    began = monotonic()
    drawn, state = _draw(pool, *key)
    _pages[key] = kept = Kept(KEPT_SECONDS)
    kept.put(drawn, state, monotonic() - began)
    return drawn, state


def _strangers_page(drawn: "Drawn", state: Stamp) -> str:
    """The page of who is not signed in; what stands around and between the parts is the same for every agent."""
    around = _frame.get(
        Stamp(state.published, 0, True),
        lambda: render_template(PAGE, drawn=Drawn(*[HERE] * 6), may_edit=False).split(HERE),
    )
    parts = (drawn.title, drawn.meta, drawn.path, drawn.head, drawn.download, drawn.body, "")
    return "".join(itertools.chain.from_iterable(zip(around, parts, strict=True)))


@bp.get(f"{AGENT}/<version>/definition.json")
def definition(publisher_id: str, agent_id: str, version: str) -> ResponseReturnValue:
    """The definition as it was published, as a file."""
    sheet = showing.sheet_of(db.session, publisher_id, agent_id, version)
    # PostgreSQL writes 1e300 as an integer of 301 digits, which orjson does not
    text = json.dumps(sheet.data, indent=2, ensure_ascii=False)
    response = Response(text, mimetype="application/json")
    name = f"{publisher_id}-{agent_id}-{version}.json"
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    response.headers["Cache-Control"] = "public, max-age=300"
    response.set_etag(sheet.full_id)
    return response.make_conditional(request)


@bp.get(f"{AGENT}/<version>/card.png")
@limiter.limit("120/minute")
def card(publisher_id: str, agent_id: str, version: str) -> ResponseReturnValue:
    """The picture that other sites show beside a link to the page."""
    sheet = showing.sheet_of(db.session, publisher_id, agent_id, version)
    shown = _card(sheet)
    db.session.rollback()
    return previews.answer(previews.card(*shown, fallback=agent_id), previews.digest(*shown))


def _card(sheet: Sheet) -> tuple[str, str, str, str]:
    over = sheet.publisher.name + (", verified publisher" if sheet.publisher.verified else "")
    return over, sheet.agent.name, sheet.agent.description or "", sheet.full_id


def address(agent: Agent, version: str) -> str:
    """The page of a version."""
    return url_for("agent.page", publisher_id=agent.publisher_id, agent_id=agent.id, version=version)


@bp.app_template_global()
def agent_address(full_id: str) -> str:
    """The page of `publisher/agent@version`, or of the latest version of `publisher/agent`."""
    name, _, version = full_id.partition("@")
    publisher_id, _, agent_id = name.partition("/")
    if version:
        return url_for("agent.page", publisher_id=publisher_id, agent_id=agent_id, version=version)
    return url_for("agent.newest", publisher_id=publisher_id, agent_id=agent_id)


def newest_address(agent: Agent | AgentRow) -> str:
    """The address that leads to the agent's latest version."""
    return url_for("agent.newest", publisher_id=agent.publisher_id, agent_id=agent.id)


@dataclass
class Drawn:
    """The parts of a page that are the same for everybody; `whole` is the page of who is not signed in, once drawn."""

    title: Markup
    meta: Markup
    path: Markup
    head: Markup
    download: Markup
    body: Markup
    whole: str = ""


_pages: LRUCache = LRUCache(PAGES_KEPT)
"""Drawn pages by their address; those of addresses that lead nowhere are not among them."""

_frame: Kept[list[str]] = Kept()


@dataclass(frozen=True)
class Use:
    """The lines to copy: for the command line, and for the client that was chosen."""

    client: str
    run: str
    keep: str
    program: str
    start: str

    @classmethod
    def of(cls, sheet: Sheet, client: str) -> "Use":
        """For one of `snippets.CLIENTS`."""
        base = settings().base_url
        sdk = client == "sdk"
        return cls(
            client=client,
            run=snippets.command_line(sheet),
            keep=snippets.keep_line(sheet),
            program=snippets.typescript(sheet) if sdk else snippets.curl(sheet, base),
            start=snippets.typescript_start(base) if sdk else "",
        )

    @property
    def clients(self) -> dict[str, str]:
        """Every client by its key, as people call it."""
        return snippets.CLIENTS


def _draw(pool: Pool, publisher_id: str, agent_id: str, version: str, client: str) -> tuple[Drawn, Stamp]:
    """The page as it is now. Raises NotFound."""
    moment = now()
    found = showing.page_of(pool, publisher_id, agent_id, version, moment.date())
    sheet = found.sheet
    of_agent = newest_address(sheet.agent)
    context = {
        "of_agent": of_agent,
        "here": f"{of_agent}/{version}",
        "sheet": sheet,
        "use": Use.of(sheet, client),
        **_whole(found, moment),
    }
    drawn = render_template("store/_agent_parts.html", **context)
    parts = map(Markup, drawn.split(PARTED))  # our own templates, which escape
    return Drawn(escape(f"{sheet.agent.name} by {sheet.publisher.name}"), *parts), found.stamp


def _whole(found: Page, moment: datetime) -> dict[str, Any]:
    sheet = found.sheet
    root = Node(sheet.full_id, sheet.agent.name)
    if found.known:
        root = dependencies.outline_of(db.session, sheet.full_id, TREE_ROOM, found.known)
    spawned = {node.full_id for node in tree.every(root)} - {sheet.full_id}
    code = module_of(sheet.data)
    return {
        "base": settings().base_url,
        "card_digest": previews.digest(*_card(sheet)),
        "median_ms": statistics.median_duration_ms(sheet.version.durations),
        "readme": markdown,
        "versions": found.versions,
        "chart": _chart(found.days, moment),
        "tree": root,
        "spawned": len(spawned),
        "taken_down": sorted({node.full_id for node in tree.every(root) if node.taken_down}),
        "drawing": tree.drawing(root),
        "dependents": found.dependents,
        "prompts": _prompts(sheet.data),
        "tools": _names(sheet.data, "toolNames"),
        "outputs": OUTPUTS.get(str(sheet.data.get("outputMode")), "its last message"),
        "schemas": _schemas(sheet.data),
        "code": code[:MAX_CODE],
        "code_cut": max(0, len(code) - MAX_CODE),
    }


def _chart(days: Mapping[str, Mapping[date, int]], moment: datetime) -> Chart:
    """A column a day, stacked by version."""
    span = [moment.date() - timedelta(days=back) for back in reversed(range(showing.DAYS))]
    series = [Series(version, [runs.get(day, 0) for day in span]) for version, runs in days.items()]
    starts = [datetime.combine(day, time(), UTC) for day in span]
    return stacked_chart(starts, series, unit="calls", now=moment, height=210)


def _prompts(data: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    """Name and text of each prompt that is not empty, and how many characters of it are left out."""
    found = []
    for key, name in PROMPTS.items():
        text = str(data.get(key) or "")
        if text.strip():
            found.append((name, text[:MAX_CODE], max(0, len(text) - MAX_CODE)))
    return found


def _schemas(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    named = {"Input schema": data.get("inputSchema"), "Output schema": data.get("outputSchema")}
    return [
        (name, json.dumps(schema, indent=2, ensure_ascii=False)[:MAX_CODE])
        for name, schema in named.items()
        if schema
    ]


def _names(data: Mapping[str, Any], key: str) -> list[str]:
    names = data.get(key)
    return [str(name) for name in names] if isinstance(names, list) else []
