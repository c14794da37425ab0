"""The page of an agent: one version, what it does, who uses it, what it spawns, and the lines that run it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from flask import Blueprint, Response, redirect, request, url_for
from flask.typing import ResponseReturnValue

from models.core.db import db, now
from models.store import publishers
from models.store.catalogue import agent_page
from models.store.catalogue.agent_page import AgentPage
from models.store.catalogue.markdown import render as markdown
from models.store.publishing import dependencies
from models.store.publishing.dependencies import DependencyNode
from models.store.publishing.takedowns import TakenDown
from models.store.statistics import durations
from models.store.tables import Agent
from views.store.pages import previews, snippets, tree
from views.store.pages.typescript import module_of
from views.web.charts import Chart, ChartSeries, stacked_chart
from views.web.error_handlers import answer as error_answer
from views.web.guards import cookie_user, limiter, settings
from views.web.htmx import render, wants_fragment

bp = Blueprint("agent", __name__)

AGENT = "/publishers/<publisher_id>/agents/<agent_id>"
TREE_ROOM = 60
SHOWN_DEPENDENTS = 8
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
    _, agent = agent_page.find(publisher_id, agent_id)
    return redirect(address(agent, agent_page.newest_version(agent)))


@bp.get(f"{AGENT}/<version>")
def page(publisher_id: str, agent_id: str, version: str) -> ResponseReturnValue:
    """One version of an agent, for anybody; yanked ones too, kept from crawlers. `?client=` chooses the snippet, which
    htmx gets alone."""
    client = request.args.get("client", "")
    client = client if client in snippets.CLIENTS else next(iter(snippets.CLIENTS))
    sheet = agent_page.sheet_of(publisher_id, agent_id, version)
    use = RunSnippets.of(sheet, client)
    if wants_fragment():
        return render("store/_use.html", partial="store/_use.html", use=use)
    response = render("store/agent.html", use=use, **_whole(sheet))
    response.vary.add("HX-Request")
    return response


@bp.get(f"{AGENT}/<version>/definition.json")
def definition(publisher_id: str, agent_id: str, version: str) -> ResponseReturnValue:
    """The definition as it was published, as a file."""
    sheet = agent_page.sheet_of(publisher_id, agent_id, version)
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
    sheet = agent_page.sheet_of(publisher_id, agent_id, version)
    shown = _card(sheet)
    db.session.rollback()
    return previews.answer(previews.card(*shown, fallback=agent_id), previews.digest(*shown))


def _card(sheet: AgentPage) -> tuple[str, str, str, str]:
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


def newest_address(agent: Agent) -> str:
    """The address that leads to the agent's latest version."""
    return url_for("agent.newest", publisher_id=agent.publisher_id, agent_id=agent.id)


@dataclass(frozen=True)
class RunSnippets:
    """The lines to copy: for the command line, and for the client that was chosen."""

    client: str
    run: str
    keep: str
    program: str
    start: str

    @classmethod
    def of(cls, sheet: AgentPage, client: str) -> "RunSnippets":
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


def _whole(sheet: AgentPage) -> dict[str, Any]:
    moment = now()
    agent = sheet.agent
    root = DependencyNode(sheet.full_id, agent.name)
    if sheet.data.get("spawnableAgents"):
        root = dependencies.outline_of(sheet.full_id, TREE_ROOM)
    nodes = list(tree.every(root))
    code = module_of(sheet.data)
    return {
        "sheet": sheet,
        "may_edit": publishers.may_change(cookie_user(), sheet.publisher),
        "base": settings().base_url,
        "card_digest": previews.digest(*_card(sheet)),
        "median_ms": durations.median_duration_ms(sheet.version.durations),
        "readme": markdown,
        "versions": agent_page.versions_of(agent),
        "chart": _chart(agent_page.days_of(agent, moment.date()), moment),
        "tree": root,
        "spawned": len({node.full_id for node in nodes} - {sheet.full_id}),
        "taken_down": sorted({node.full_id for node in nodes if node.taken_down}),
        "drawing": tree.drawing(root),
        "dependents": dependencies.dependents_of(agent.publisher_id, agent.id, SHOWN_DEPENDENTS),
        "prompts": _prompts(sheet.data),
        "tools": _names(sheet.data, "toolNames"),
        "outputs": OUTPUTS.get(str(sheet.data.get("outputMode")), "its last message"),
        "schemas": _schemas(sheet.data),
        "code": code[:MAX_CODE],
        "code_cut": max(0, len(code) - MAX_CODE),
    }


def _chart(days: Mapping[str, Mapping[date, int]], moment: datetime) -> Chart:
    """A column a day, stacked by version."""
    span = [moment.date() - timedelta(days=back) for back in reversed(range(agent_page.DAYS))]
    series = [ChartSeries(version, [runs.get(day, 0) for day in span]) for version, runs in days.items()]
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
