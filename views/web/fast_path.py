"""The fast lane: the chat doors and the list of agents, which answer on their own what Flask's hooks would do for a page.

A door in the lane is a function from a `RequestContext` to a response. It reads no cookie, so there is nothing to keep signed
in and no other site to refuse; it has no limit of Flask-Limiter's. What is left
of a request's frame, a third of what a call costs a worker, is its id and the headers every answer carries. The door is
an ordinary route besides: Flask knows its address and answers its other methods.
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

from models.core.settings import Settings
from views.web import guards

MOST_BYTES = 20 * 1024 * 1024
"""Of a request's body, here and everywhere else."""


@dataclass(frozen=True, slots=True)
class RequestContext:
    """One request to a door: what was sent, its id, and the application it came to."""

    request: Request
    id: str
    app: Flask

    @property
    def settings(self) -> Settings:
        """The settings of the application."""
        return cast(Settings, self.app.extensions["settings"])


Door = Callable[[RequestContext], Response]


class FastResponse(Response):
    """What a model's door answers: always with a body, never a redirect, so that its headers need no correction."""

    def get_wsgi_headers(self, environ: Any) -> Headers:
        """The headers themselves, with the length of a body that is known."""
        if self.is_sequence:
            self.headers["Content-Length"] = str(sum(map(len, self.response)))
        return self.headers


class _Request(Request):
    max_content_length = MOST_BYTES


def here() -> RequestContext:
    """The request Flask is in, for what a door shares with ordinary routes."""
    return RequestContext(flask.request, guards.request_id(), flask.current_app._get_current_object())  # type: ignore[attr-defined]


def open_door(blueprint: Blueprint, *addresses: str, method: str = "POST") -> Callable[[Door], Door]:
    """Give a door its addresses below the blueprint's; `init_app` puts it into the lane."""

    def register(door: Door) -> Door:
        def view() -> Any:
            return door(here())

        update_wrapper(view, door)
        for address in addresses:
            blueprint.add_url_rule(address, door.__name__, view, methods=[method])
            _doors[method, f"{blueprint.url_prefix or ''}{address}"] = door
        return door

    return register


_doors: dict[tuple[str, str], Door] = {}


def init_app(app: Flask) -> None:
    """Put the lane before Flask."""
    settings = cast(Settings, app.extensions["settings"])
    app.wsgi_app = _FastPath(app, settings.base_url.startswith("https://"))  # type: ignore[method-assign]


class _FastPath:
    def __init__(self, app: Flask, https: bool) -> None:
        self._app = app
        self._flask = app.wsgi_app
        self._https = https

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        door = _doors.get((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
        if door is None:
            return self._flask(environ, start_response)
        visit = RequestContext(_Request(environ, populate_request=False), os.urandom(16).hex(), self._app)
        added = guards.frame(visit.id, https=self._https or environ["wsgi.url_scheme"] == "https")

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            return start_response(status, headers + added, exc_info)

        return door(visit)(environ, start)
