"""What programs follow of the store: sitemaps for crawlers, and Atom feeds of new versions."""

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from flask import Blueprint, Response, request
from flask.typing import ResponseReturnValue

from models.errors import NotFound
from models.store import listing, publishers
from views.format import iso
from views.guards import settings

bp = Blueprint("feeds", __name__)

MOST_ADDRESSES = 50_000
"""As many as one sitemap may have."""

PAGES = ("/", "/store", "/docs/api")
SITEMAPS = 'xmlns="http://www.sitemaps.org/schemas/sitemap/0.9"'
XML = '<?xml version="1.0" encoding="UTF-8"?>\n'


@bp.get("/sitemap.xml")
def sitemap() -> Response:
    """The public pages of this server; where they are too many for one file, the list of the files."""
    count = len(PAGES) + listing.count_places()
    if count <= MOST_ADDRESSES:
        return _sitemap(0)
    files = range(1, -(-count // MOST_ADDRESSES) + 1)
    base = escape(settings().base_url)
    entries = "".join(f"<sitemap><loc>{base}/sitemap-{number}.xml</loc></sitemap>" for number in files)
    return _xml(f"{XML}<sitemapindex {SITEMAPS}>{entries}</sitemapindex>\n")


@bp.get("/sitemap-<int:number>.xml")
def part(number: int) -> Response:
    """One of the files that the list names. Raises NotFound behind the last."""
    if not 1 <= number <= 50_000:
        raise NotFound("There is no such sitemap")
    return _sitemap((number - 1) * MOST_ADDRESSES)


def _sitemap(first: int) -> Response:
    own = PAGES[first:] if first < len(PAGES) else ()
    skipped = max(0, first - len(PAGES))
    rows = listing.places(skipped, MOST_ADDRESSES - len(own))
    if first and not rows:
        raise NotFound("There is no such sitemap")
    base = settings().base_url
    found = [_address(base + path, None) for path in own]
    found += [_address(_page(base, row.publisher_id, row.id), row.published_at) for row in rows]
    return _xml(f"{XML}<urlset {SITEMAPS}>{''.join(found)}</urlset>\n")


def _address(address: str, changed: datetime | None) -> str:
    when = f"<lastmod>{iso(changed)}</lastmod>" if changed else ""
    return f"<url><loc>{escape(address)}</loc>{when}</url>"


def _page(base: str, publisher_id: str, agent_id: str | None) -> str:
    publisher = f"{base}/publishers/{publisher_id}"
    return f"{publisher}/agents/{agent_id}" if agent_id else publisher


@bp.get("/store/feed.atom")
def everything() -> ResponseReturnValue:
    """The newest versions of all agents."""
    return _feed("/store/feed.atom", "/store", "New versions in the agent store", listing.newest())


@bp.get("/publishers/<publisher_id>/feed.atom")
def of_publisher(publisher_id: str) -> ResponseReturnValue:
    """The newest versions of a publisher's agents. Raises NotFound."""
    publisher = publishers.shown(publisher_id)
    page = f"/publishers/{publisher_id}"
    title = f"New versions by {publisher.name}"
    return _feed(f"{page}/feed.atom", page, title, listing.newest(publisher_id))


def _feed(address: str, page: str, title: str, rows: Sequence[Any]) -> Response:
    base = settings().base_url
    changed = rows[0].published_at if rows else None
    parts = [
        f'{XML}<feed xmlns="http://www.w3.org/2005/Atom">',
        f"<id>{escape(base + address)}</id><title>{_words(title)}</title>",
        f'<link rel="self" type="application/atom+xml" href={quoteattr(base + address)}/>',
        f'<link rel="alternate" type="text/html" href={quoteattr(base + page)}/>',
        f"<updated>{iso(changed) or '1970-01-01T00:00:00.000Z'}</updated>",
        *_entries(base, rows),
        "</feed>\n",
    ]
    response = _xml("".join(parts), "application/atom+xml")
    if changed:
        response.last_modified = changed
    return response


def _entries(base: str, rows: Iterable[Any]) -> Iterable[str]:
    for row in rows:
        page = f"{_page(base, row.publisher_id, row.agent_id)}/{row.version}"
        yield (
            f"<entry><id>{escape(page)}</id><title>{_words(row.name)} {escape(row.version)}</title>"
            f"<updated>{iso(row.published_at)}</updated>"
            f'<link rel="alternate" type="text/html" href={quoteattr(page)}/>'
            f"<author><name>{_words(row.publisher_name)}</name></author>"
            f"<summary>{_words(row.description or '')}</summary></entry>"
        )


def _words(text: str) -> str:
    """Text that XML can carry: control characters, which it cannot, are left out."""
    plain = "".join(letter for letter in text if letter >= " " or letter in "\t\n")
    return escape("".join(letter for letter in plain if letter not in "\ufffe\uffff"))


def _xml(body: str, kind: str = "application/xml") -> Response:
    response = Response(body, mimetype=kind)
    response.headers["Cache-Control"] = "no-cache"
    response.set_etag(hashlib.sha256(body.encode()).hexdigest()[:32])
    response.make_conditional(request)
    return response
