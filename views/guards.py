"""Who may enter, and what every answer carries: identification, roles, origin checks, security headers."""

import uuid
from typing import cast

from flask import Flask, Response, current_app, g, request

from models.settings import Settings

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: https:; font-src 'self'; "
    "connect-src 'self'; form-action 'self' https:; frame-ancestors 'self'; base-uri 'none'; manifest-src 'self'"
)


def init_app(app: Flask) -> None:
    """Give every request an id and every answer its security headers."""
    app.before_request(_identify_request)
    app.after_request(_secure)


def settings() -> Settings:
    """The settings of the running application."""
    return cast(Settings, current_app.extensions["settings"])


def request_id() -> str:
    """The id of this request, shown in error answers and in the log."""
    return cast(str, g.request_id)


def _identify_request() -> None:
    g.request_id = uuid.uuid4().hex


def _secure(response: Response) -> Response:
    headers = response.headers
    headers["X-Frame-Options"] = "SAMEORIGIN"
    headers["X-Content-Type-Options"] = "nosniff"
    headers["Referrer-Policy"] = "strict-origin-when-cross-origin"
    headers.setdefault("X-Request-Id", g.get("request_id", ""))
    if response.mimetype == "text/html":
        headers.setdefault("Content-Security-Policy", CSP)
    if request.is_secure:
        headers["Strict-Transport-Security"] = "max-age=31536000"
    return response
