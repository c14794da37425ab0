"""The JSON door of the store's readers: the list, its metrics, one version, its dependencies (contract 2.6, 4, A.5)."""

import hashlib
import json
import logging
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from threading import Lock
from typing import Any

import orjson
import werkzeug
from flask import Blueprint, Response, jsonify, request
from flask.typing import ResponseReturnValue

from models.db import db
from models.errors import NotFound
from models.fairness import in_slices
from models.store import catalogue, dependencies, document, reading
from models.store.dependencies import BadReference, Node, Tree
from views.api.refusals import refusal
from views.format import iso
from views.gateway import json_answer
from views.guards import settings
from views.lane import Visit, open_door

log = logging.getLogger("stoa.store")
bp = Blueprint("agents_api", __name__)

PUBLIC = "public, max-age=300, s-maxage=600, stale-while-revalidate=3600"
JSON = "application/json; charset=utf-8"
PIECE = 1 << 17
SMALL = 1024


FIGURES_EVERY = 5.0
"""Seconds: how old figures in the list may be."""
SHARE = 20
"""What takes a second to make is sent for at least so many seconds, unless something is published."""


@dataclass(frozen=True, slots=True)
class Document:
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


class Cache:
    """One answer about the whole store, for all requests of this process: made anew after whatever is published, in any
    process, and when its figures are too old."""

    def __init__(self, write: Callable[[int], Iterable[bytes]]) -> None:
        self._write = write
        self._lock = Lock()
        self._document: Document | None = None

    def get(self) -> Document:
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


@open_door(bp, "/api/agents", "/api/v1/agents", method="GET")
def agents(visit: Visit) -> werkzeug.Response:
    """The agents with their figures (contract 4.1), cached as they are sent; of a publisher the most used ones.

    What is published or withdrawn shows at once; figures at most some seconds later. The contract's `Cache-Control`
    lets a client or a proxy keep the answer for minutes: who must not, revalidates with the entity tag.
    """
    return _cached(visit, _agents)


@open_door(bp, "/api/agents/metrics", "/api/v1/agents/metrics", method="GET")
def metrics(visit: Visit) -> werkzeug.Response:
    """The figures of the agents that ran, by `publisher/agent`; cached as the list is."""
    return _cached(visit, _metrics)


@bp.get("/api/publishers/<publisher_id>/agents")
@bp.get("/api/v1/publishers/<publisher_id>/agents")
def of_publisher(publisher_id: str) -> ResponseReturnValue:
    """All agents of a publisher, a page at a time, those that the list leaves out too. `?after=` is the last id."""
    try:
        found, further = document.agents_of(publisher_id, request.args.get("after", ""))
    except NotFound as missing:
        return refusal(missing)
    return _own(orjson.dumps({"agents": [_agent(*each) for each in found], "next": further}))


@bp.get("/api/agents/<publisher_id>/<agent_id>/<version>")
@bp.get("/api/v1/agents/<publisher_id>/<agent_id>/<version>")
def version(publisher_id: str, agent_id: str, version: str) -> ResponseReturnValue:
    """One version of an agent, or its `latest`."""
    if not (publisher_id.strip() and agent_id.strip() and version.strip()):
        return jsonify(error="Missing required parameters"), 400
    try:
        found = reading.version_of(publisher_id, agent_id, version)
    except NotFound as missing:
        return refusal(missing)
    head = json.dumps({"id": found.id, "version": found.version, "publisherId": found.publisher_id})
    times = json.dumps({"createdAt": iso(found.created_at), "updatedAt": iso(found.updated_at)})
    return _own(f'{head[:-1]}, "data": {found.data}, {times[1:]}'.encode())


@bp.get("/api/agents/<publisher_id>/<agent_id>/<version>/dependencies")
@bp.get("/api/v1/agents/<publisher_id>/<agent_id>/<version>/dependencies")
def spawned(publisher_id: str, agent_id: str, version: str) -> ResponseReturnValue:
    """The tree of the agents that a version may spawn."""
    if not (publisher_id.strip() and agent_id.strip() and version.strip()):
        return jsonify(error="Missing required parameters"), 400
    try:
        found = reading.version_of(publisher_id, agent_id, version)
        whole = f"{found.publisher_id}/{found.id}@{found.version}"
        tree = dependencies.tree_of(whole)
    except NotFound as missing:
        return refusal(missing)
    except BadReference:
        return jsonify(error="Internal server error"), 500
    return _own(json.dumps(_tree(tree)).encode())


def _tree(tree: Tree) -> dict[str, object]:
    shown: dict[str, object] = {
        "root": _node(tree.root),
        "totalAgents": tree.agents,
        "maxDepth": tree.depth,
        "hasCycles": tree.cyclic,
    }
    return shown | ({"truncated": True} if tree.cut else {})


def _node(node: Node) -> dict[str, object]:
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
    yield from _joined(b"[", (orjson.dumps(_agent(*each)) for each in document.agents(most)), b"]")


def _figures_alone(most: int) -> Iterator[bytes]:
    each = (
        orjson.dumps(f"{row.publisher_id}/{row.id}") + b":" + orjson.dumps(_figures(row))
        for row in document.used(most)
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


_agents = Cache(_list)
_metrics = Cache(_figures_alone)


# -- answers -------------------------------------------------------------------------------------------------


def _own(body: bytes) -> Response:
    """An answer that is made anew each time and sent only to who does not have it."""
    response = Response(body, content_type=JSON)
    response.headers["Cache-Control"] = "no-cache"
    response.set_etag(hashlib.sha256(body).hexdigest()[:32])
    response.make_conditional(request)
    return response


def _cached(visit: Visit, cache: Cache) -> werkzeug.Response:
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


def _made(parts: Iterable[bytes], stamp: int) -> Document:
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
    return Document(plain, b"".join(packed), tag.hexdigest()[:32], stamp, old_at)
