"""The hosts of sites: middleware before everything else, which answers them with files or processes of sites and nothing of the console.

Sites are written by users. They have an origin of their own: no cookie is read or set there, and no route of the console answers.
"""

import logging
import mimetypes
from collections.abc import Iterable, Iterator
from typing import Any, cast
from urllib.parse import quote

from flask import Flask
from sqlalchemy.exc import SQLAlchemyError
from werkzeug import Response
from werkzeug.exceptions import RequestedRangeNotSatisfiable

from models.core.errors import DomainError
from models.core.settings import Settings
from models.deployments.site_addresses import SiteHosts, site_hosts
from models.deployments.site_serving import ServedProcess, ServedTree, find_path, served_site
from models.deployments.site_traffic import SiteMeter, SiteRefusal
from models.projects.snapshots.blob_packs import MAX_BLOB, BlobDamaged, blob_bytes
from models.projects.snapshots.chunk_reading import StoredFile, stored_file
from models.projects.snapshots.manifest_text import Entry
from views.deployments.pages.site_proxy import answer_of

log = logging.getLogger("stoa.sites")

METHODS = frozenset({"GET", "HEAD"})
TYPES = mimetypes.MimeTypes(filenames=())
_MORE_TYPES = {
    ".avif": "image/avif",
    ".ico": "image/x-icon",
    ".js": "text/javascript",
    ".map": "application/json",
    ".md": "text/markdown",
    ".mjs": "text/javascript",
    ".otf": "font/otf",
    ".rss": "application/rss+xml",
    ".toml": "application/toml",
    ".ttf": "font/ttf",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
    ".webp": "image/webp",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
    ".xml": "application/xml",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
}
for _ending, _kind in _MORE_TYPES.items():
    TYPES.add_type(_kind, _ending)
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "strict-origin-when-cross-origin",
    "Content-Security-Policy": "frame-ancestors 'self'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Origin-Agent-Cluster": "?1",
    # asked for again each time, by its hash: a release or a rollback is seen at once
    "Cache-Control": "public, max-age=0, must-revalidate",
}
NOTHING = "There is nothing here.\n"


def init_app(app: Flask) -> None:
    """Install the hosts of sites in front of everything else, if this server serves any."""
    hosts = site_hosts(cast(Settings, app.extensions["settings"]))
    if hosts is not None:
        app.extensions["site_meter"] = SiteMeter(app.app_context, app.extensions["settings"])
        app.wsgi_app = _SiteHosts(app, hosts)  # type: ignore[method-assign]


class _SiteHosts:
    def __init__(self, app: Flask, hosts: SiteHosts) -> None:
        self._app, self._hosts = app, hosts
        self._console = app.wsgi_app
        self._meter: SiteMeter = app.extensions["site_meter"]

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        host = environ.get("HTTP_HOST", "")
        # anywhere in it: what looks like a site, and is none, must not reach the console
        if self._hosts.suffix not in host.lower():
            return self._console(environ, start_response)
        name = self._hosts.name_in(host)
        refusal = self._meter.admit(name) if name else None
        response = _refused(refusal) if refusal else self._respond(environ, name)
        if self._hosts.pattern.startswith("https:"):
            response.headers["Strict-Transport-Security"] = "max-age=31536000"
        body = response(environ, start_response)
        return self._meter.counted(name, body) if name else body

    def _respond(self, environ: dict[str, Any], name: str | None) -> Response:
        try:
            with self._app.app_context():
                served = served_site(name) if name else None
                if not isinstance(served, ServedProcess):
                    return _found(self._app, environ, served)
            return answer_of(served, environ)
        except (DomainError, SQLAlchemyError):
            return _text(503, "This site cannot be read right now. Try again in a minute.\n")
        except BlobDamaged:
            log.exception("a file of the site %s is damaged", name)
            return _text(500, "This file is damaged.\n")


def _found(app: Flask, environ: dict[str, Any], tree: ServedTree | None) -> Response:
    if environ["REQUEST_METHOD"] not in METHODS:
        refused = _text(405, "Sites are read only.\n")
        refused.headers["Allow"] = "GET, HEAD"
        return refused
    path = _decoded(environ.get("PATH_INFO", ""))
    if tree is None or path is None:
        return _text(404, NOTHING)
    found = find_path(tree, path)
    if found.folder is not None:
        # a folder's own address, whatever the path began with: never another host
        query = environ.get("QUERY_STRING", "")
        response = _text(308, "")
        response.headers["Location"] = quote(found.folder) + (f"?{query}" if query else "")
        response.autocorrect_location_header = False
        return response
    if found.entry is None:
        return _text(404, NOTHING)
    return _file(app, environ, tree.account_id, found.entry, found.status)


def _file(app: Flask, environ: dict[str, Any], account_id: str, entry: Entry, status: int) -> Response:
    hash, size = entry.hash or "", entry.size or 0
    response = Response(None, status, headers=HEADERS, content_type=content_type(entry.path))
    response.set_etag(hash)
    response.content_length = size
    response.direct_passthrough = True
    body: Iterable[bytes]
    if environ["REQUEST_METHOD"] == "HEAD":
        body = ()
    elif size > MAX_BLOB:
        body = _LargeFile(app, stored_file(account_id, hash))
    else:
        data = b"" if _is_known(environ, hash) else blob_bytes(account_id, hash)
        if data is None:
            raise BlobDamaged(f"blob {hash} of account {account_id}, which a site shows, is missing")
        body = [data]
    response.response = body
    if status != 200:
        return response
    try:
        # a range of a HEAD has no meaning (RFC 9110)
        ranges = environ["REQUEST_METHOD"] == "GET" and "," not in environ.get("HTTP_RANGE", "")
        response.make_conditional(environ, accept_ranges=ranges, complete_length=size)
    except RequestedRangeNotSatisfiable:
        refused = _text(416, "The file is shorter than this range.\n")
        refused.headers["Content-Range"] = f"bytes */{size}"
        return refused
    response.headers["Accept-Ranges"] = "bytes"
    return response


def content_type(path: str) -> str:
    """The type of a file by its name, texts in UTF-8."""
    name = path.rpartition("/")[2].lower()
    found, encoding = TYPES.guess_type(name)
    if found is None or encoding is not None:
        return "application/octet-stream"
    text = found.startswith("text/") or found in ("application/json", "application/xml", "image/svg+xml")
    return f"{found}; charset=utf-8" if text else found


class _LargeFile:
    """A file that is read while it is sent, from any byte on; no connection to the database is held while the client reads."""

    def __init__(self, app: Flask, file: StoredFile | None) -> None:
        if file is None:
            raise BlobDamaged("a large file that a site shows is missing")
        self._app, self._stored, self._at = app, file, 0
        self._pieces: Iterator[bytes] | None = None

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, at: int) -> None:
        """Read on from this byte."""
        self._at, self._pieces = at, None

    def tell(self) -> int:
        """The next byte."""
        return self._at

    def __iter__(self) -> "_LargeFile":
        return self

    def __next__(self) -> bytes:
        with self._app.app_context():
            if self._pieces is None:
                self._pieces = self._stored.pieces(self._at)
            piece = next(self._pieces)
        self._at += len(piece)
        return piece


def _is_known(environ: dict[str, Any], etag: str) -> bool:
    return f'"{etag}"' in environ.get("HTTP_IF_NONE_MATCH", "")


def _decoded(path_info: str) -> str | None:
    try:
        path = path_info.encode("latin-1").decode()
    except UnicodeError:
        return None
    return None if "\0" in path else path


def _refused(refusal: SiteRefusal) -> Response:
    """A plain page that says when to come back."""
    if refusal.reason == "requests":
        response = _text(429, "Too many requests for this site. Try again in a second.\n")
    else:
        response = _text(503, "This site has served as much as it may today. It is back at midnight, UTC.\n")
    response.headers["Retry-After"] = str(refusal.seconds)
    return response


def _text(status: int, text: str) -> Response:
    response = Response(text, status, headers=HEADERS, content_type="text/plain; charset=utf-8")
    response.headers["Cache-Control"] = "no-store"
    return response
