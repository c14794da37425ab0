"""The JSON door of the store's readers: the list, its metrics, one version, its dependencies (contract 2.6, 4, A.5)."""

import hashlib
import json
import logging
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import werkzeug
from flask import Blueprint, Response, jsonify, request
from flask.typing import ResponseReturnValue

from models.db import Database, db
from models.errors import NotFound
from models.store import dependencies, document, freshness, reading
from models.store.dependencies import BadReference, Node, Tree
from models.store.freshness import Kept
from views.api.refusals import refusal
from views.format import iso
from views.gateway import gateway, json_answer
from views.guards import settings
from views.lane import Visit, open_door

log = logging.getLogger("stoa.store")
bp = Blueprint("agents_api", __name__)

PUBLIC = "public, max-age=300, s-maxage=600, stale-while-revalidate=3600"
JSON = "application/json; charset=utf-8"
PIECE = 1 << 17
SMALL = 1024


@dataclass(frozen=True, slots=True)
class Document:
    """An answer ready to be sent: plain, packed by gzip, and its entity tag."""

    plain: bytes
    packed: bytes
    tag: str


_agents: Kept[Document] = Kept()
_metrics: Kept[Document] = Kept()


@open_door(bp, "/api/agents", "/api/v1/agents", method="GET")
def agents(visit: Visit) -> werkzeug.Response:
    """The agents with their figures (contract 4.1), kept as they are sent; of a publisher the most used ones.

    What is published or withdrawn shows at once; figures at most some seconds later. The contract's `Cache-Control`
    lets a client or a proxy keep the answer for minutes: who must not, revalidates with the entity tag.
    """
    return _kept(visit, _agents, document.agents)


@open_door(bp, "/api/agents/metrics", "/api/v1/agents/metrics", method="GET")
def metrics(visit: Visit) -> werkzeug.Response:
    """The figures of the agents that ran, by `publisher/agent`; kept as the list is."""
    return _kept(visit, _metrics, document.metrics)


@bp.get("/api/publishers/<publisher_id>/agents")
@bp.get("/api/v1/publishers/<publisher_id>/agents")
def of_publisher(publisher_id: str) -> ResponseReturnValue:
    """All agents of a publisher, a page at a time, those that the list leaves out too. `?after=` is the last id."""
    try:
        return _own(document.agents_of(db.session, publisher_id, request.args.get("after", "")).encode())
    except NotFound as missing:
        return refusal(missing)


@bp.get("/api/agents/<publisher_id>/<agent_id>/<version>")
@bp.get("/api/v1/agents/<publisher_id>/<agent_id>/<version>")
def version(publisher_id: str, agent_id: str, version: str) -> ResponseReturnValue:
    """One version of an agent, or its `latest`."""
    if not (publisher_id.strip() and agent_id.strip() and version.strip()):
        return jsonify(error="Missing required parameters"), 400
    try:
        found = reading.version_of(db.session, publisher_id, agent_id, version)
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
        found = reading.version_of(db.session, publisher_id, agent_id, version)
        whole = f"{found.publisher_id}/{found.id}@{found.version}"
        tree = dependencies.tree_of(db.session, whole)
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


# -- answers -------------------------------------------------------------------------------------------------


def _own(body: bytes) -> Response:
    """An answer that is made anew each time and sent only to who does not have it."""
    response = Response(body, content_type=JSON)
    response.headers["Cache-Control"] = "no-cache"
    response.set_etag(hashlib.sha256(body).hexdigest()[:32])
    response.make_conditional(request)
    return response


def _kept(visit: Visit, kept: Kept[Document], write: Callable[[Database, int], str]) -> werkzeug.Response:
    try:
        with visit.app.app_context():
            most = settings().stoa_listed_agents
            found = kept.get(
                freshness.stamp(gateway(visit.app).pool), lambda: _document(write(db.session, most))
            )
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


def _document(words: str) -> Document:
    """Packed piece by piece, so that the worker's other requests go on in between."""
    db.session.rollback()
    plain = words.encode()
    packer, tag, packed = zlib.compressobj(5, zlib.DEFLATED, 31), hashlib.sha256(), []
    for start in range(0, len(plain), PIECE):
        piece = plain[start : start + PIECE]
        tag.update(piece)
        packed.append(packer.compress(piece))
        time.sleep(0)
    packed.append(packer.flush())
    return Document(plain, b"".join(packed), tag.hexdigest()[:32])
