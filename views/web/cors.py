"""Which browsers' pages may read the answers of the model routes: `/v1` and `/api/v1`, errors and streams included.

These routes know their callers by a key alone. So any origin may call them unless the operator says otherwise, and
none is ever allowed to send cookies.
"""

import re
import uuid
from collections.abc import Iterable
from typing import Any, cast

from flask import Flask
from werkzeug import Response
from werkzeug.datastructures import Headers

from models.core.settings import Settings
from views.web import guards, unknown_routes

ANY = "*"
METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
HEADERS = "Authorization, Content-Type, X-Api-Key"
"""Allowed where a preflight names none. `*` would not cover `Authorization`."""
EXPOSED = "*, X-Request-Id, X-Stoa-Dropped, Retry-After, X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset"
"""`*` is every header, since no request brings cookies; the names are for browsers that do not know it."""
MAX_AGE = "86400"
_NAMES = re.compile(r"[\w!#$%&'*+.^`|~, \t-]{1,4096}", re.ASCII)


class Cors:
    """WSGI middleware. `origins` are those that may call, `*` for any; with none it adds nothing."""

    def __init__(self, app: Flask, origins: Iterable[str]) -> None:
        self._flask = app
        self._app = app.wsgi_app
        self._origins = frozenset(origins)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        preflight = environ["REQUEST_METHOD"] == "OPTIONS" and (
            "HTTP_ORIGIN" in environ and "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in environ
        )
        if not self._origins or not (
            unknown_routes.PREFIX.match(path)
            or (preflight and unknown_routes.leads_to_a_model(self._flask, path))
        ):
            return self._app(environ, start_response)
        if preflight:
            return self._preflight(environ)(environ, start_response)
        added = self.headers(environ.get("HTTP_ORIGIN", ""))

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            return start_response(status, [*headers, *added], exc_info)

        return self._app(environ, start)

    def headers(self, origin: str) -> list[tuple[str, str]]:
        """What lets a page of the origin read the answer."""
        allowed = self._allowed(origin)
        return [*allowed, ("Access-Control-Expose-Headers", EXPOSED)] if allowed else []

    def _allowed(self, origin: str) -> list[tuple[str, str]]:
        if ANY in self._origins:
            return [("Access-Control-Allow-Origin", ANY)]
        if not self._origins:
            return []
        allowed = [("Access-Control-Allow-Origin", origin)] if origin.lower() in self._origins else []
        return [*allowed, ("Vary", "Origin")]

    def _preflight(self, environ: dict[str, Any]) -> Response:
        wanted = environ.get("HTTP_ACCESS_CONTROL_REQUEST_HEADERS", "")
        headers = Headers(self._allowed(environ["HTTP_ORIGIN"]))
        if "Access-Control-Allow-Origin" in headers:
            headers["Access-Control-Allow-Methods"] = METHODS
            headers["Access-Control-Allow-Headers"] = wanted if _NAMES.fullmatch(wanted) else HEADERS
            headers["Access-Control-Max-Age"] = MAX_AGE
            if environ.get("HTTP_ACCESS_CONTROL_REQUEST_PRIVATE_NETWORK") == "true":
                headers["Access-Control-Allow-Private-Network"] = "true"
        headers.add("Vary", "Access-Control-Request-Headers, Access-Control-Request-Private-Network")
        response = Response(status=204, headers=headers)
        del response.headers["Content-Type"]
        response.headers.extend(guards.frame(uuid.uuid4().hex, https=environ["wsgi.url_scheme"] == "https"))
        return response


def init_app(app: Flask) -> None:
    """Put it before the fast lane and Flask."""
    settings = cast(Settings, app.extensions["settings"])
    app.extensions["cors"] = cors = Cors(app, settings.stoa_cors_origins)
    app.wsgi_app = cors  # type: ignore[method-assign]
