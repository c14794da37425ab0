"""Sitemaps for crawlers and Atom feeds of new versions."""

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from flask import Blueprint, Response, render_template, request, url_for
from flask.typing import ResponseReturnValue

from models.core.errors import NotFound
from models.store import publishers
from models.store.catalogue import listing
from views.web.guards import settings

bp = Blueprint("feeds", __name__)

MAX_URLS = 10_000
"""URLs per sitemap. The protocol allows 50,000, but rendering those would block the worker's other requests."""

PAGES = ("pages.landing", "store.browse", "docs.page", "launcher.page")


@bp.get("/sitemap.xml")
def sitemap() -> Response:
    """The sitemap of the public pages, or a sitemap index when one file cannot hold them."""
    count = len(PAGES) + listing.count_public_pages()
    if count <= MAX_URLS:
        return _sitemap(0)
    files = range(1, -(-count // MAX_URLS) + 1)
    return _xml(render_template("store/sitemaps.xml", base=settings().base_url, files=files))


@bp.get("/sitemap-<int:number>.xml")
def part(number: int) -> Response:
    """One file of the sitemap index. Raises NotFound past the last."""
    if not 1 <= number <= 50_000:
        raise NotFound("There is no such sitemap")
    return _sitemap((number - 1) * MAX_URLS)


def _sitemap(first: int) -> Response:
    own = PAGES[first:] if first < len(PAGES) else ()
    skipped = max(0, first - len(PAGES))
    rows = listing.public_pages(skipped, MAX_URLS - len(own))
    if first and not rows:
        raise NotFound("There is no such sitemap")
    # `url_for` is called once per template: it costs more than the rest of an entry
    base = settings().base_url
    publisher = url_for("publishers.page", publisher_id="PUBLISHER")
    agent = url_for("agent.newest", publisher_id="PUBLISHER", agent_id="AGENT")
    found: list[tuple[str, datetime | None]] = [(base + url_for(page), None) for page in own]
    for row in rows:
        address = (agent if row.id else publisher).replace("PUBLISHER", row.publisher_id)
        found.append((base + address.replace("AGENT", row.id or ""), row.published_at))
    return _xml(render_template("store/sitemap.xml", found=found))


@bp.get("/store/feed.atom")
def everything() -> ResponseReturnValue:
    """The newest versions of all agents."""
    return _feed(url_for("store.browse"), "New versions in the agent store", listing.newest_versions())


@bp.get("/publishers/<publisher_id>/feed.atom")
def of_publisher(publisher_id: str) -> ResponseReturnValue:
    """The newest versions of a publisher's agents. Raises NotFound."""
    publisher = publishers.visible(publisher_id)
    page = url_for("publishers.page", publisher_id=publisher_id)
    return _feed(page, f"New versions by {publisher.name}", listing.newest_versions(publisher_id))


def _feed(page: str, title: str, rows: Sequence[Any]) -> Response:
    changed = rows[0].published_at if rows else None
    body = render_template(
        "store/feed.xml", base=settings().base_url, page=page, title=title, rows=rows, changed=changed
    )
    response = _xml(body, "application/atom+xml")
    if changed:
        response.last_modified = changed
    return response


@bp.app_template_filter("xml_text")
def xml_text(text: str) -> str:
    """Strip the control characters that XML does not allow."""
    plain = "".join(letter for letter in text if letter >= " " or letter in "\t\n")
    return "".join(letter for letter in plain if letter not in "\ufffe\uffff")


def _xml(body: str, kind: str = "application/xml") -> Response:
    response = Response(body, mimetype=kind)
    response.headers["Cache-Control"] = "no-cache"
    response.set_etag(hashlib.sha256(body.encode()).hexdigest()[:32])
    response.make_conditional(request)
    return response
