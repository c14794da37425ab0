"""The agent page: one version with its README, statistics, dependencies and snippets to run it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from typing import Any

from flask import Blueprint, Response, redirect, request, url_for
from flask.typing import ResponseReturnValue

from models.core.db import db, now
from models.store import publishers
from models.store.catalogue import agent_page, downloads, stars
from models.store.catalogue.agent_page import AgentPage, VersionLine
from models.store.catalogue.markdown import render as markdown
from models.store.publishing import dependencies, licences
from models.store.publishing.dependencies import DependencyNode
from models.store.publishing.takedowns import TakenDown
from models.store.statistics import agent_costs
from models.store.tables import Agent
from views.store.pages import previews, snippets, subagent_tree
from views.store.pages.typescript import module_of
from views.web.charts import Chart, ChartSeries, stacked_chart
from views.web.error_handlers import answer as error_answer
from views.web.guards import caller_account, cookie_user, limiter, settings
from views.web.htmx import render, wants_fragment
from views.web.launcher import run_line

bp = Blueprint("agent", __name__)

AGENT = "/publishers/<publisher_id>/agents/<agent_id>"
MAX_TREE_NODES = 60
SHOWN_DEPENDENTS = 8
MAX_CODE = 40_000
"""Characters of a definition or prompt that the page shows; the download is complete."""

PROMPTS = {
    "systemPrompt": "System prompt",
    "instructionsPrompt": "Instructions",
    "stepPrompt": "Step prompt",
}
OUTPUTS = {
    "last_message": "last message",
    "all_messages": "all messages",
    "structured_output": "structured output",
}


@bp.app_errorhandler(TakenDown)
def _taken_down(down: TakenDown) -> ResponseReturnValue:
    """Answer with the public takedown notice."""
    db.session.rollback()
    if wants_fragment() or request.path.startswith("/api/"):
        return error_answer(down.status, down.message, down.code)
    return render("store/taken_down.html", down=down, status=down.status)


@bp.get(AGENT)
@bp.get(f"{AGENT}/latest", endpoint="latest")
def newest(publisher_id: str, agent_id: str) -> ResponseReturnValue:
    """Redirect (302) to the latest version, or to the highest if all are yanked (contract 6.1)."""
    _, agent = agent_page.find(publisher_id, agent_id)
    return redirect(address(agent, agent_page.newest_version(agent)))


@bp.get(f"{AGENT}/<version>")
def page(publisher_id: str, agent_id: str, version: str) -> ResponseReturnValue:
    """Show one version of an agent. Yanked versions are shown too, with `noindex`. `?client=` selects the snippet; htmx
    receives only that."""
    client = request.args.get("client", "")
    client = client if client in snippets.CLIENTS else next(iter(snippets.CLIENTS))
    detail = agent_page.load(publisher_id, agent_id, version)
    use = RunSnippets.of(detail, client)
    if wants_fragment():
        return render("store/_use.html", partial="store/_use.html", use=use)
    response = render("store/agent.html", use=use, **_context(detail))
    response.vary.add("HX-Request")
    return response


@bp.get(f"{AGENT}/<version>/definition.json")
def definition(publisher_id: str, agent_id: str, version: str) -> ResponseReturnValue:
    """Download the published definition as JSON."""
    detail = agent_page.load(publisher_id, agent_id, version)
    # PostgreSQL returns 1e300 as an integer of 301 digits, which orjson cannot serialise
    text = json.dumps(detail.data, indent=2, ensure_ascii=False)
    response = Response(text, mimetype="application/json")
    name = f"{publisher_id}-{agent_id}-{version}.json"
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    response.headers["Cache-Control"] = "public, max-age=300"
    response.set_etag(detail.full_id)
    if request.method == "GET":
        downloads.count(detail.version, caller_account(), settings().secret_key, now().astimezone(UTC).date())
        db.session.commit()
    return response.make_conditional(request)


@bp.get(f"{AGENT}/<version>/card.png")
@limiter.limit("120/minute")
def card(publisher_id: str, agent_id: str, version: str) -> ResponseReturnValue:
    """The preview image (OpenGraph) of the page."""
    detail = agent_page.load(publisher_id, agent_id, version)
    shown = _card(detail)
    db.session.rollback()
    return previews.answer(previews.card(*shown, fallback=agent_id), previews.digest(*shown))


def _card(detail: AgentPage) -> tuple[str, str, str, str]:
    over = detail.publisher.name + (", verified publisher" if detail.publisher.verified else "")
    return over, detail.agent.name, detail.agent.description or "", detail.full_id


def address(agent: Agent, version: str) -> str:
    """URL of a version's page."""
    return url_for("agent.page", publisher_id=agent.publisher_id, agent_id=agent.id, version=version)


@bp.app_template_global()
def agent_address(full_id: str) -> str:
    """URL of the page of `publisher/agent@version`, or of `publisher/agent` (its latest version)."""
    name, _, version = full_id.partition("@")
    publisher_id, _, agent_id = name.partition("/")
    if version:
        return url_for("agent.page", publisher_id=publisher_id, agent_id=agent_id, version=version)
    return url_for("agent.newest", publisher_id=publisher_id, agent_id=agent_id)


def newest_address(agent: Agent) -> str:
    """URL that redirects to the agent's latest version."""
    return url_for("agent.newest", publisher_id=agent.publisher_id, agent_id=agent.id)


@dataclass(frozen=True)
class RunSnippets:
    """Snippets to copy: CLI commands and a program for the selected client."""

    client: str
    run: str
    save: str
    program: str
    start: str

    @classmethod
    def of(cls, detail: AgentPage, client: str) -> "RunSnippets":
        """Build the snippets for one of `snippets.CLIENTS`."""
        base = settings().base_url
        sdk = client == "sdk"
        return cls(
            client=client,
            run=run_line(detail.full_id),
            save=snippets.save_command(detail, base),
            program=snippets.typescript(detail) if sdk else snippets.curl(detail, base),
            start=snippets.typescript_start(base) if sdk else "",
        )

    @property
    def clients(self) -> dict[str, str]:
        """Display names of all clients, by key."""
        return snippets.CLIENTS


def _context(detail: AgentPage) -> dict[str, Any]:
    moment, user = now(), cookie_user()
    agent = detail.agent
    root = DependencyNode(detail.full_id, agent.name)
    if detail.data.get("spawnableAgents"):
        root = dependencies.outline_of(detail.full_id, MAX_TREE_NODES)
    nodes = list(subagent_tree.walk(root))
    code = module_of(detail.data)
    versions = agent_page.versions_of(agent)
    license = str(detail.data.get("license") or "")[: licences.MAX_CHARS]
    return {
        "detail": detail,
        "may_edit": publishers.can_manage(user, detail.publisher),
        "starred": user is not None and stars.is_starred(user, agent.publisher_id, agent.id),
        "base": settings().base_url,
        "card_digest": previews.digest(*_card(detail)),
        "cost": agent_costs.of_version(agent.publisher_id, agent.id, detail.version.version),
        "readme": markdown,
        "license": license,
        "license_is_spdx": bool(licences.spdx(license)),
        "versions": versions,
        "older": _older(detail, versions),
        "chart": _chart(agent_page.daily_runs(agent, moment.date()), moment),
        "tree": root,
        "spawned": len({node.full_id for node in nodes} - {detail.full_id}),
        "taken_down": sorted({node.full_id for node in nodes if node.taken_down}),
        "drawing": subagent_tree.drawing(root),
        "dependents": dependencies.dependents_of(agent.publisher_id, agent.id, SHOWN_DEPENDENTS),
        "prompts": _prompts(detail.data),
        "tools": _names(detail.data, "toolNames"),
        "outputs": OUTPUTS.get(str(detail.data.get("outputMode")), OUTPUTS["last_message"]),
        "schemas": _schemas(detail.data),
        "code": code[:MAX_CODE],
        "code_cut": max(0, len(code) - MAX_CODE),
    }


def _older(detail: AgentPage, versions: Sequence[VersionLine]) -> str | None:
    """The version below this one, if both are in the list and it was not taken down."""
    names = [line.version.version for line in versions if not line.takedown_reason]
    below = dict(pairwise(names))
    return below.get(detail.version.version)


def _chart(days: Mapping[str, Mapping[date, int]], moment: datetime) -> Chart:
    """Runs per day, stacked by version."""
    span = [moment.date() - timedelta(days=back) for back in reversed(range(agent_page.DAYS))]
    series = [ChartSeries(version, [runs.get(day, 0) for day in span]) for version, runs in days.items()]
    starts = [datetime.combine(day, time(), UTC) for day in span]
    return stacked_chart(starts, series, unit="calls", now=moment, height=210)


def _prompts(data: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    """Name and text of each non-empty prompt, and the number of characters left out."""
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
