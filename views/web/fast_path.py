"""The fast path: WSGI middleware that serves the chat routes and the list of agents without Flask's request hooks.

A fast route is a function from a `RequestContext` to a response. It needs neither cookies, CSRF protection nor Flask-Limiter,
which take a third of the time of a call in a worker; only the request id and the common response headers remain. It is also an
ordinary Flask route, which handles its other methods.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import update_wrapper
from typing import Any, cast

import flask
from flask import Blueprint, Flask
from werkzeug import Request, Response
from werkzeug.datastructures import Headers

from models.accounts import access_tokens
from models.core.db import now
from models.core.settings import Settings
from views.web import guards

MAX_BODY_BYTES = 20 * 1024 * 1024
"""Maximum bytes of a request body, here and in Flask."""
MAX_UPLOAD_BYTES = 26 * 1024 * 1024
"""Maximum bytes of a form of a model call: a file of 25 MB and its fields. The server receives no more of any body."""
_ACCESS = f"Bearer {access_tokens.PREFIX}"


@dataclass(frozen=True, slots=True)
class RequestContext:
    """A request, its id and the application."""

    request: Request
    id: str
    app: Flask

    @property
    def settings(self) -> Settings:
        """The application's settings."""
        return cast(Settings, self.app.extensions["settings"])


FastView = Callable[[RequestContext], Response]


class FastResponse(Response):
    """A response with a body that is never a redirect, so Werkzeug need not correct its headers."""

    def get_wsgi_headers(self, environ: Any) -> Headers:
        """The headers as they are, plus `Content-Length` if it is known."""
        if self.is_sequence:
            self.headers["Content-Length"] = str(sum(map(len, self.response)))
        return self.headers


class _Request(Request):
    max_content_length = MAX_BODY_BYTES


def current_context() -> RequestContext:
    """The context of the current Flask request, for code shared with ordinary routes."""
    return RequestContext(flask.request, guards.request_id(), flask.current_app._get_current_object())  # type: ignore[attr-defined]


def fast_route(blueprint: Blueprint, *addresses: str, method: str = "POST") -> Callable[[FastView], FastView]:
    """Decorator: register a fast route at `addresses` below the blueprint's prefix."""

    def register(view_function: FastView) -> FastView:
        def view() -> Any:
            return view_function(current_context())

        update_wrapper(view, view_function)
        for address in addresses:
            blueprint.add_url_rule(address, view_function.__name__, view, methods=[method])
            _fast_views[method, f"{blueprint.url_prefix or ''}{address}"] = view_function
        return view_function

    return register


_fast_views: dict[tuple[str, str], FastView] = {}


def init_app(app: Flask) -> None:
    """Install the fast path in front of Flask."""
    settings = cast(Settings, app.extensions["settings"])
    app.wsgi_app = _FastPath(app, settings.base_url.startswith("https://"))  # type: ignore[method-assign]


class _FastPath:
    def __init__(self, app: Flask, https: bool) -> None:
        self._app = app
        self._flask = app.wsgi_app
        self._https = https

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ.get("HTTP_AUTHORIZATION", "").startswith(_ACCESS):
            self._open_access_token(environ)
        view_function = _fast_views.get((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
        if view_function is None:
            return self._flask(environ, start_response)
        context = RequestContext(_Request(environ, populate_request=False), os.urandom(16).hex(), self._app)
        added = guards.common_headers(context.id, https=self._https or environ["wsgi.url_scheme"] == "https")

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            return start_response(status, headers + added, exc_info)

        return view_function(context)(environ, start)

    def _open_access_token(self, environ: dict[str, Any]) -> None:
        """Put the token of its session in the place of an access token, for every door. One that has expired stays, and is an
        unknown key."""
        settings: Settings = self._app.extensions["settings"]
        access = environ["HTTP_AUTHORIZATION"].removeprefix("Bearer ").strip()
        if token := access_tokens.session_token(settings.secret_key, access, now()):
            environ["HTTP_AUTHORIZATION"] = f"Bearer {token}"
