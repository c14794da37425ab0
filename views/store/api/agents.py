"""The JSON door of the store's readers: the list, its metrics, one version, its dependencies (contract 2.6, 4, A.5)."""

import hashlib
import json
import logging
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from threading import Lock
from typing import Any

import orjson
import werkzeug
from flask import Blueprint, Response, jsonify, request
from flask.typing import ResponseReturnValue
from pydantic import Field

from models.core.cooperative import in_slices
from models.core.db import db
from models.core.errors import Invalid, NotFound
from models.core.strict_models import Missing
from models.store.catalogue import agents_document, catalogue, lookup
from models.store.publishing import dependencies
from models.store.publishing.dependencies import BadReference, DependencyNode, DependencyTree
from views.gateway.openai import json_answer
from views.web.error_bodies import ServerError, door, error_response
from views.web.fast_path import RequestContext, fast_route
from views.web.format import iso
from views.web.guards import settings
from views.web.operation import Answers, Operation, ResponseModel, path, query

log = logging.getLogger("stoa.store")
bp = Blueprint("agents_api", __name__)

PUBLIC = "public, max-age=300, s-maxage=600, stale-while-revalidate=3600"
JSON = "application/json; charset=utf-8"
PIECE = 1 << 17
SMALL = 1024


class AgentFigures(ResponseModel):
    usage_count: int = Field(
        description="Completed runs that have a settled call, without the publisher's own"
    )
    weekly_runs: int = Field(description="Those started in the last seven days")
    weekly_spent: float = Field(description="Dollars")
    total_spent: float = Field(description="Dollars")
    avg_cost_per_invocation: float = Field(description="Dollars")
    unique_users: int
    last_used: Missing[datetime] = Field(None, description="Absent where it never ran")


class VersionFigures(ResponseModel):
    weekly_runs: int
    weekly_dollars: float
    total_dollars: float
    total_invocations: int
    avg_cost_per_run: float
    unique_users: int
    last_used: Missing[datetime] = None


class ListedPublisher(ResponseModel):
    id: str
    name: str
    verified: bool
    avatar_url: str | None


class ListedAgent(AgentFigures):
    id: str
    name: str = Field(description="As defined, else the id")
    description: Missing[str] = Field(None, description="Absent where there is none")
    publisher: ListedPublisher
    version: str = Field(description="The latest that is not yanked")
    created_at: datetime = Field(description="Of that version")
    version_stats: dict[str, VersionFigures] = Field(description="By version, of those that ran")
    tags: list[str]


class AgentsPage(ResponseModel):
    agents: list[ListedAgent]
    next: str | None = Field(description="The id to go on after; null where none follow")


class PublishedVersion(ResponseModel):
    id: str
    version: str
    publisherId: str
    data: dict[str, Any] = Field(description="The definition")
    createdAt: datetime
    updatedAt: datetime


class SpawnableAgent(ResponseModel):
    fullId: str = Field(description="publisher/agent@version")
    agentId: str
    publisher: str
    version: str
    displayName: str
    spawnerPrompt: str | None
    isAvailable: bool = Field(description="False where it is not published, or stands above itself")
    children: "list[SpawnableAgent]"
    isCyclic: bool


class SpawnableTree(ResponseModel):
    root: SpawnableAgent
    totalAgents: int = Field(description="Distinct ones")
    maxDepth: int = Field(description="The root is 0")
    hasCycles: bool
    truncated: Missing[bool] = Field(None, description="Only where agents were left out")


def _words(error: Exception) -> ResponseReturnValue | None:
    return error_response(error) if isinstance(error, NotFound | Invalid) else None


DOOR = door(_words)
VERSION = [path("version", "As 1.0.0, or latest: the highest that is not yanked")]
NO_VERSION: Answers = {
    400: "A part of the path is blank",
    404: "No such publisher, or no such agent of it",
    410: ("It was taken down", ServerError),
}

FIGURES_EVERY = 5.0
"""Seconds: how old figures in the list may be."""
SHARE = 20
"""What takes a second to make is sent for at least so many seconds, unless something is published."""


@dataclass(frozen=True, slots=True)
class CachedResponse:
    """An answer ready to be sent: plain, packed by gzip, and its entity tag. `stamp` is that of the store it shows;
    `old_at` is in seconds of the monotonic clock."""

    plain: bytes
    packed: bytes
    tag: str
    stamp: int
    old_at: float

    def shows(self, stamp: int) -> bool:
        """Whether it still shows what is published."""
        return self.stamp == stamp

    @property
    def is_fresh(self) -> bool:
        """Whether its figures are new enough."""
        return time.monotonic() < self.old_at


class AgentsCache:
    """One answer about the whole store, for all requests of this process: made anew after whatever is published, in any
    process, and when its figures are too old."""

    def __init__(self, write: Callable[[int], Iterable[bytes]]) -> None:
        self._write = write
        self._lock = Lock()
        self._document: CachedResponse | None = None

    def get(self) -> CachedResponse:
        """The answer. One caller makes it at a time; meanwhile others wait if something was published, and else take
        what there is."""
        stamp = catalogue.stamp()
        db.session.rollback()  # gives the connection back while it waits
        cached = self._document
        if cached and cached.shows(stamp):
            if cached.is_fresh or not self._lock.acquire(blocking=False):
                return cached
        else:
            self._lock.acquire()
        try:
            stamp = catalogue.stamp()
            cached = self._document
            if not (cached and cached.shows(stamp) and cached.is_fresh):
                cached = self._document = _made(self._write(settings().stoa_listed_agents), stamp)
            return cached
        finally:
            self._lock.release()


@fast_route(bp, "/api/agents", "/api/v1/agents", method="GET")
@Operation(
    tag="Store", answers={200: ("The agents", list[ListedAgent]), 500: "It could not be made"}, door=DOOR
)
def agents(visit: RequestContext) -> werkzeug.Response:
    """List the agents.

    Kept as it is sent: what is published shows at once, figures within seconds. Cache-Control lets clients and proxies
    keep it for minutes; revalidate with the ETag to have it fresh. Most spent in seven days first; of one publisher the
    hundred most used, unless the operator says otherwise. The route of a publisher's agents has all of them.
    """
    return _cached(visit, _agents)


@fast_route(bp, "/api/agents/metrics", "/api/v1/agents/metrics", method="GET")
@Operation(
    tag="Store",
    answers={200: ("The figures", dict[str, AgentFigures]), 500: "They could not be made"},
    door=DOOR,
)
def metrics(visit: RequestContext) -> werkzeug.Response:
    """The agents' figures.

    By publisher/agent, of those that ran. Kept as the list is.
    """
    return _cached(visit, _metrics)


@bp.get("/api/publishers/<publisher_id>/agents")
@bp.get("/api/v1/publishers/<publisher_id>/agents")
@Operation(
    tag="Store",
    parameters=[query("after", "`next` of the page before")],
    answers={200: ("A page", AgentsPage), 404: "No such publisher", 410: ("It was taken down", ServerError)},
    door=DOOR,
)
def of_publisher(publisher_id: str) -> ResponseReturnValue:
    """List a publisher's agents.

    All that have a version to run, a hundred at a time, by id.
    """
    found, further = agents_document.agents_of(publisher_id, request.args.get("after", ""))
    return _own(orjson.dumps({"agents": [_agent(*each) for each in found], "next": further}))


@bp.get("/api/agents/<publisher_id>/<agent_id>/<version>")
@bp.get("/api/v1/agents/<publisher_id>/<agent_id>/<version>")
@Operation(
    tag="Store", parameters=VERSION, answers={200: ("The version", PublishedVersion), **NO_VERSION}, door=DOOR
)
def version(publisher_id: str, agent_id: str, version: str) -> ResponseReturnValue:
    """Read an agent's definition."""
    found = _version(publisher_id, agent_id, version)
    head = json.dumps({"id": found.id, "version": found.version, "publisherId": found.publisher_id})
    times = json.dumps({"createdAt": iso(found.created_at), "updatedAt": iso(found.updated_at)})
    return _own(f'{head[:-1]}, "data": {found.data}, {times[1:]}'.encode())


@bp.get("/api/agents/<publisher_id>/<agent_id>/<version>/dependencies")
@bp.get("/api/v1/agents/<publisher_id>/<agent_id>/<version>/dependencies")
@Operation(
    tag="Store",
    parameters=VERSION,
    answers={
        200: ("The tree", SpawnableTree),
        **NO_VERSION,
        500: "A definition names an agent that cannot be followed",
    },
    door=DOOR,
)
def spawned(publisher_id: str, agent_id: str, version: str) -> ResponseReturnValue:
    """What an agent may spawn.

    To five levels. A tree of more than 2,000 agents is cut, and says truncated.
    """
    found = _version(publisher_id, agent_id, version)
    try:
        tree = dependencies.tree_of(f"{found.publisher_id}/{found.id}@{found.version}")
    except BadReference:
        return jsonify(error="Internal server error"), 500
    return _own(json.dumps(_tree(tree)).encode())


def _version(publisher_id: str, agent_id: str, version: str) -> Any:
    if not (publisher_id.strip() and agent_id.strip() and version.strip()):
        raise Invalid("Missing required parameters", status=400)
    return lookup.version_of(publisher_id, agent_id, version)


def _tree(tree: DependencyTree) -> dict[str, object]:
    shown: dict[str, object] = {
        "root": _node(tree.root),
        "totalAgents": tree.agents,
        "maxDepth": tree.depth,
        "hasCycles": tree.cyclic,
    }
    return shown | ({"truncated": True} if tree.cut else {})


def _node(node: DependencyNode) -> dict[str, object]:
    return {
        "fullId": node.full_id,
        "agentId": node.agent,
        "publisher": node.publisher,
        "version": node.version,
        "displayName": node.name,
        "spawnerPrompt": node.prompt,
        "isAvailable": node.available,
        "children": [_node(child) for child in node.children],
        "isCyclic": node.cyclic,
    }


# -- the list ------------------------------------------------------------------------------------------------


def _list(most: int) -> Iterator[bytes]:
    yield from _joined(b"[", (orjson.dumps(_agent(*each)) for each in agents_document.agents(most)), b"]")


def _figures_alone(most: int) -> Iterator[bytes]:
    each = (
        orjson.dumps(f"{row.publisher_id}/{row.id}") + b":" + orjson.dumps(_figures(row))
        for row in agents_document.used(most)
    )
    yield from _joined(b"{", each, b"}")


def _joined(first: bytes, parts: Iterable[bytes], last: bytes) -> Iterator[bytes]:
    yield first
    between = b""
    for part in in_slices(parts):
        yield between + part
        between = b","
    yield last


def _agent(row: Any, versions: Iterable[Any]) -> dict[str, Any]:
    return {
        "id": row.id,
        "name": row.name,
        **({} if row.description is None else {"description": row.description}),
        "publisher": {
            "id": row.publisher_id,
            "name": row.publisher_name,
            "verified": row.verified,
            "avatar_url": row.avatar_url,
        },
        "version": row.latest_version,
        "created_at": iso(row.created_at),
        **_figures(row),
        "version_stats": {each.version: _version_figures(each) for each in versions},
        "tags": row.tags,
    }


def _figures(row: Any) -> dict[str, Any]:
    """Dollars are credits by 100."""
    return {
        "usage_count": row.runs,
        "weekly_runs": row.weekly_runs,
        "weekly_spent": row.weekly_credits / 100,
        "total_spent": row.credits / 100,
        "avg_cost_per_invocation": row.credits / row.runs / 100 if row.runs else 0,
        "unique_users": row.unique_users,
        **({"last_used": iso(row.last_used)} if row.last_used else {}),
    }


def _version_figures(row: Any) -> dict[str, Any]:
    return {
        "weekly_runs": row.weekly_runs,
        "weekly_dollars": row.weekly_credits / 100,
        "total_dollars": row.credits / 100,
        "total_invocations": row.runs,
        "avg_cost_per_run": row.credits / row.runs / 100,
        "unique_users": row.unique_users,
        **({"last_used": iso(row.last_used)} if row.last_used else {}),
    }


_agents = AgentsCache(_list)
_metrics = AgentsCache(_figures_alone)


# -- answers -------------------------------------------------------------------------------------------------


def _own(body: bytes) -> Response:
    """An answer that is made anew each time and sent only to who does not have it."""
    response = Response(body, content_type=JSON)
    response.headers["Cache-Control"] = "no-cache"
    response.set_etag(hashlib.sha256(body).hexdigest()[:32])
    response.make_conditional(request)
    return response


def _cached(visit: RequestContext, cache: AgentsCache) -> werkzeug.Response:
    try:
        with visit.app.app_context():
            found = cache.get()
    except Exception:
        log.exception("request %s: GET %s failed", visit.id, visit.request.path)
        return json_answer({"error": "Internal server error"}, 500)
    packs = len(found.plain) > SMALL and visit.request.accept_encodings["gzip"] > 0
    response = werkzeug.Response(found.packed if packs else found.plain, content_type=JSON)
    if packs:
        response.headers["Content-Encoding"] = "gzip"
    response.headers["Cache-Control"] = PUBLIC
    response.headers["Vary"] = "Accept-Encoding"
    response.set_etag(found.tag, weak=True)
    response.make_conditional(visit.request)
    return response


def _made(parts: Iterable[bytes], stamp: int) -> CachedResponse:
    """Packed piece by piece, so that the worker's other requests go on in between."""
    began = time.monotonic()
    plain = b"".join(parts)
    db.session.rollback()  # gives the connection back
    packer, tag, packed = zlib.compressobj(5, zlib.DEFLATED, 31), hashlib.sha256(), []
    for start in range(0, len(plain), PIECE):
        piece = plain[start : start + PIECE]
        tag.update(piece)
        packed.append(packer.compress(piece))
        time.sleep(0)
    packed.append(packer.flush())
    ended = time.monotonic()
    old_at = ended + max(FIGURES_EVERY, SHARE * (ended - began))
    return CachedResponse(plain, b"".join(packed), tag.hexdigest()[:32], stamp, old_at)
