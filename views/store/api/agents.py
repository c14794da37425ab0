"""JSON API to read the store: list, metrics, definition, dependencies (contract 2.6, 4, A.5)."""

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
from views.gateway.api.model_calls import json_answer
from views.web.error_bodies import ServerError, door, error_response
from views.web.fast_path import RequestContext, fast_route
from views.web.format import iso
from views.web.guards import settings
from views.web.operation import Answers, Operation, ResponseModel, path, query

log = logging.getLogger("stoa.store")
bp = Blueprint("agents_api", __name__)

PUBLIC = "public, max-age=300, s-maxage=600, stale-while-revalidate=3600"
JSON = "application/json; charset=utf-8"
CHUNK_BYTES = 1 << 17
MIN_GZIP_BYTES = 1024


class AgentFigures(ResponseModel):
    usage_count: int = Field(description="Completed runs with a settled call, excluding the publisher's own")
    weekly_runs: int = Field(description="Of those, started in the last seven days")
    weekly_spent: float = Field(description="Dollars")
    total_spent: float = Field(description="Dollars")
    avg_cost_per_invocation: float = Field(description="Dollars")
    unique_users: int
    last_used: Missing[datetime] = Field(None, description="Absent if it never ran")


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
    name: str = Field(description="From the definition, else the id")
    description: Missing[str] = Field(None, description="Absent without one")
    publisher: ListedPublisher
    version: str = Field(description="The latest version that is not yanked")
    created_at: datetime = Field(description="When that version was published")
    version_stats: dict[str, VersionFigures] = Field(description="By version; only versions that ran")
    tags: list[str]


class AgentsPage(ResponseModel):
    agents: list[ListedAgent]
    next: str | None = Field(description="The id for `after`; null on the last page")


class PublishedVersion(ResponseModel):
    id: str
    version: str
    publisherId: str
    data: dict[str, Any] = Field(description="The definition")
    createdAt: datetime
    updatedAt: datetime
    changelog: Missing[str] = Field(None, description="What is new in it, in Markdown; absent without one")


class SpawnableAgent(ResponseModel):
    fullId: str = Field(description="publisher/agent@version")
    agentId: str
    publisher: str
    version: str
    displayName: str
    spawnerPrompt: str | None
    isAvailable: bool = Field(description="False if it is not published, or is its own ancestor")
    children: "list[SpawnableAgent]"
    isCyclic: bool


class SpawnableTree(ResponseModel):
    root: SpawnableAgent
    totalAgents: int = Field(description="Distinct agents")
    maxDepth: int = Field(description="Levels below the root")
    hasCycles: bool
    truncated: Missing[bool] = Field(None, description="Present if agents were left out")


def _words(error: Exception) -> ResponseReturnValue | None:
    return error_response(error) if isinstance(error, NotFound | Invalid) else None


DOOR = door(_words)
VERSION = [path("version", "A version such as 1.0.0, or latest: the highest that is not yanked")]
NO_VERSION: Answers = {
    400: "A part of the path is blank",
    404: "Publisher or agent not found",
    410: ("Taken down", ServerError),
}

MAX_AGE = 5.0
"""Maximum age of statistics in a cached response, in seconds."""
COST_FACTOR = 20
"""A response that takes a second to build is reused for at least this many seconds, unless something is published."""


@dataclass(frozen=True, slots=True)
class CachedResponse:
    """A response body, plain and gzipped, with its ETag. `store_version` is the version of the store it was built from;
    `expires_at` is on the monotonic clock, in seconds."""

    plain: bytes
    gzipped: bytes
    tag: str
    store_version: int
    expires_at: float

    def matches(self, store_version: int) -> bool:
        """Whether nothing was published since it was built."""
        return self.store_version == store_version

    @property
    def is_fresh(self) -> bool:
        """Whether its statistics are recent enough."""
        return time.monotonic() < self.expires_at


class AgentsCache:
    """A response about the whole store, cached per process. It is rebuilt after every publication, in any process, and
    when its statistics expire."""

    def __init__(self, write: Callable[[int], Iterable[bytes]]) -> None:
        self._write = write
        self._lock = Lock()
        self._document: CachedResponse | None = None

    def get(self) -> CachedResponse:
        """The current response. One caller rebuilds it at a time; the others wait if something was published, and
        otherwise get the stale one."""
        store_version = catalogue.store_version()
        db.session.rollback()  # release the connection while waiting
        cached = self._document
        if cached and cached.matches(store_version):
            if cached.is_fresh or not self._lock.acquire(blocking=False):
                return cached
        else:
            self._lock.acquire()
        try:
            store_version = catalogue.store_version()
            cached = self._document
            if not (cached and cached.matches(store_version) and cached.is_fresh):
                cached = self._document = _build(self._write(settings().stoa_listed_agents), store_version)
            return cached
        finally:
            self._lock.release()


@fast_route(bp, "/api/agents", "/api/v1/agents", method="GET")
@Operation(tag="Store", answers={200: ("The agents", list[ListedAgent]), 500: "Internal error"}, door=DOOR)
def agents(context: RequestContext) -> werkzeug.Response:
    """List the agents.

    Sorted by spend in the last seven days. At most the hundred most used agents per publisher, unless the operator sets
    another limit; GET /api/publishers/{publisher_id}/agents lists all. New versions appear at once, statistics within
    seconds. Cache-Control allows caching for minutes; revalidate with the ETag to get the current list.
    """
    return _cached(context, _agents)


@fast_route(bp, "/api/agents/metrics", "/api/v1/agents/metrics", method="GET")
@Operation(
    tag="Store",
    answers={200: ("The metrics", dict[str, AgentFigures]), 500: "Internal error"},
    door=DOOR,
)
def metrics(context: RequestContext) -> werkzeug.Response:
    """Get the agents' metrics.

    Keyed by publisher/agent; only agents that ran. Cached like the list.
    """
    return _cached(context, _metrics)


@bp.get("/api/publishers/<publisher_id>/agents")
@bp.get("/api/v1/publishers/<publisher_id>/agents")
@Operation(
    tag="Store",
    parameters=[query("after", "`next` of the previous page")],
    answers={200: ("A page", AgentsPage), 404: "Publisher not found", 410: ("Taken down", ServerError)},
    door=DOOR,
)
def of_publisher(publisher_id: str) -> ResponseReturnValue:
    """List a publisher's agents.

    Every agent with a version to run, a hundred per page, sorted by id.
    """
    found, next_after = agents_document.agents_of(publisher_id, request.args.get("after", ""))
    return _uncached(orjson.dumps({"agents": [_agent(*each) for each in found], "next": next_after}))


@bp.get("/api/agents/<publisher_id>/<agent_id>/<version>")
@bp.get("/api/v1/agents/<publisher_id>/<agent_id>/<version>")
@Operation(
    tag="Store", parameters=VERSION, answers={200: ("The version", PublishedVersion), **NO_VERSION}, door=DOOR
)
def version(publisher_id: str, agent_id: str, version: str) -> ResponseReturnValue:
    """Get an agent's definition."""
    found = _version(publisher_id, agent_id, version)
    head = json.dumps({"id": found.id, "version": found.version, "publisherId": found.publisher_id})
    rest = {"createdAt": iso(found.created_at), "updatedAt": iso(found.updated_at)}
    if found.changelog:
        rest["changelog"] = found.changelog
    return _uncached(f'{head[:-1]}, "data": {found.data}, {json.dumps(rest)[1:]}'.encode())


@bp.get("/api/agents/<publisher_id>/<agent_id>/<version>/dependencies")
@bp.get("/api/v1/agents/<publisher_id>/<agent_id>/<version>/dependencies")
@Operation(
    tag="Store",
    parameters=VERSION,
    answers={
        200: ("The tree", SpawnableTree),
        **NO_VERSION,
        500: "A definition has an invalid reference",
    },
    door=DOOR,
)
def spawned(publisher_id: str, agent_id: str, version: str) -> ResponseReturnValue:
    """Get the agents it can spawn.

    Up to five levels and 2,000 agents; a larger tree is cut and has `truncated`.
    """
    found = _version(publisher_id, agent_id, version)
    try:
        tree = dependencies.tree_of(f"{found.publisher_id}/{found.id}@{found.version}")
    except BadReference:
        return jsonify(error="Internal server error"), 500
    return _uncached(json.dumps(_tree(tree)).encode())


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


def _list_parts(limit: int) -> Iterator[bytes]:
    yield from _joined(b"[", (orjson.dumps(_agent(*each)) for each in agents_document.agents(limit)), b"]")


def _metrics_parts(limit: int) -> Iterator[bytes]:
    each = (
        orjson.dumps(f"{row.publisher_id}/{row.id}") + b":" + orjson.dumps(_agent_metrics(row))
        for row in agents_document.used(limit)
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
        **_agent_metrics(row),
        "version_stats": {each.version: _version_metrics(each) for each in versions},
        "tags": row.tags,
    }


def _agent_metrics(row: Any) -> dict[str, Any]:
    """Amounts in dollars: credits / 100."""
    return {
        "usage_count": row.runs,
        "weekly_runs": row.weekly_runs,
        "weekly_spent": row.weekly_credits / 100,
        "total_spent": row.credits / 100,
        "avg_cost_per_invocation": row.credits / row.runs / 100 if row.runs else 0,
        "unique_users": row.unique_users,
        **({"last_used": iso(row.last_used)} if row.last_used else {}),
    }


def _version_metrics(row: Any) -> dict[str, Any]:
    return {
        "weekly_runs": row.weekly_runs,
        "weekly_dollars": row.weekly_credits / 100,
        "total_dollars": row.credits / 100,
        "total_invocations": row.runs,
        "avg_cost_per_run": row.credits / row.runs / 100,
        "unique_users": row.unique_users,
        **({"last_used": iso(row.last_used)} if row.last_used else {}),
    }


_agents = AgentsCache(_list_parts)
_metrics = AgentsCache(_metrics_parts)


# -- responses -----------------------------------------------------------------------------------------------


def _uncached(body: bytes) -> Response:
    """A response built for each request, with an ETag: 304 for clients that have it."""
    response = Response(body, content_type=JSON)
    response.headers["Cache-Control"] = "no-cache"
    response.set_etag(hashlib.sha256(body).hexdigest()[:32])
    response.make_conditional(request)
    return response


def _cached(context: RequestContext, cache: AgentsCache) -> werkzeug.Response:
    try:
        with context.app.app_context():
            found = cache.get()
    except Exception:
        log.exception("request %s: GET %s failed", context.id, context.request.path)
        return json_answer({"error": "Internal server error"}, 500)
    compress = len(found.plain) > MIN_GZIP_BYTES and context.request.accept_encodings["gzip"] > 0
    response = werkzeug.Response(found.gzipped if compress else found.plain, content_type=JSON)
    if compress:
        response.headers["Content-Encoding"] = "gzip"
    response.headers["Cache-Control"] = PUBLIC
    response.headers["Vary"] = "Accept-Encoding"
    response.set_etag(found.tag, weak=True)
    response.make_conditional(context.request)
    return response


def _build(parts: Iterable[bytes], store_version: int) -> CachedResponse:
    """Build and gzip in chunks, yielding to the worker's other requests in between."""
    began = time.monotonic()
    plain = b"".join(parts)
    db.session.rollback()  # release the connection
    compressor, tag, gzipped = zlib.compressobj(5, zlib.DEFLATED, 31), hashlib.sha256(), []
    for start in range(0, len(plain), CHUNK_BYTES):
        chunk = plain[start : start + CHUNK_BYTES]
        tag.update(chunk)
        gzipped.append(compressor.compress(chunk))
        time.sleep(0)
    gzipped.append(compressor.flush())
    ended = time.monotonic()
    expires_at = ended + max(MAX_AGE, COST_FACTOR * (ended - began))
    return CachedResponse(plain, b"".join(gzipped), tag.hexdigest()[:32], store_version, expires_at)
