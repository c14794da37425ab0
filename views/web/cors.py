"""CORS for the model routes `/v1` and `/api/v1`, including errors and streams.

These routes authenticate by API key only. So every origin is allowed unless the operator restricts it, and cookies never
are.
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
"""Allowed headers if a preflight names none. `*` would not include `Authorization`."""
EXPOSED = "*, X-Request-Id, X-Stoa-Dropped, X-Stoa-Served, Idempotent-Replayed, Original-Request, X-Stoa-Run-Budget-Remaining, Retry-After, X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset"
"""`*` covers every header of requests without credentials; the names are for browsers that do not support it."""
MAX_AGE = "86400"
_NAMES = re.compile(r"[\w!#$%&'*+.^`|~, \t-]{1,4096}", re.ASCII)


class Cors:
    """WSGI middleware. `origins` are the allowed origins, `*` for any; without any it does nothing."""

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
            or (preflight and unknown_routes.resembles_model_route(self._flask, path))
        ):
            return self._app(environ, start_response)
        if preflight:
            return self._preflight(environ)(environ, start_response)
        added = self.headers(environ.get("HTTP_ORIGIN", ""))

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            return start_response(status, [*headers, *added], exc_info)

        return self._app(environ, start)

    def headers(self, origin: str) -> list[tuple[str, str]]:
        """CORS response headers for the origin."""
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
        requested = environ.get("HTTP_ACCESS_CONTROL_REQUEST_HEADERS", "")
        headers = Headers(self._allowed(environ["HTTP_ORIGIN"]))
        if "Access-Control-Allow-Origin" in headers:
            headers["Access-Control-Allow-Methods"] = METHODS
            headers["Access-Control-Allow-Headers"] = requested if _NAMES.fullmatch(requested) else HEADERS
            headers["Access-Control-Max-Age"] = MAX_AGE
            if environ.get("HTTP_ACCESS_CONTROL_REQUEST_PRIVATE_NETWORK") == "true":
                headers["Access-Control-Allow-Private-Network"] = "true"
        headers.add("Vary", "Access-Control-Request-Headers, Access-Control-Request-Private-Network")
        response = Response(status=204, headers=headers)
        del response.headers["Content-Type"]
        response.headers.extend(
            guards.common_headers(uuid.uuid4().hex, https=environ["wsgi.url_scheme"] == "https")
        )
        return response


def init_app(app: Flask) -> None:
    """Install the middleware in front of the fast path and Flask."""
    settings = cast(Settings, app.extensions["settings"])
    app.extensions["cors"] = cors = Cors(app, settings.stoa_cors_origins)
    app.wsgi_app = cors  # type: ignore[method-assign]
