"""One answer for each error, in the shape of the door it happened at: page, fragment with a toast, or JSON."""

import logging
from typing import Any

from flask import Flask, Response, g, jsonify, make_response, render_template, request
from flask.typing import ResponseReturnValue
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import BadRequest, HTTPException, InternalServerError

from models.db import db
from models.errors import DomainError
from views.api.refusals import waiting
from views.guards import request_id
from views.htmx import wants_fragment

log = logging.getLogger("stoa.errors")

WORDS = {
    400: ("This request cannot be read", "Check the address or the form, and send it again."),
    401: ("Sign in to see this", "Your session has ended or was revoked."),
    403: ("You may not do this", "Ask an owner of the organisation, or the operator of this server."),
    404: ("There is nothing here", "The page was moved, or it belongs to another account."),
    405: ("This address does not take that", "Follow a link instead."),
    413: ("That is too large", "Send at most 20 MB."),
    429: ("Too many tries", "Wait a minute, then try again."),
    500: (
        "Something broke on our side",
        "It was logged. Try again, and give the operator the request id if it stays.",
    ),
}


def init_app(app: Flask) -> None:
    """Register the handlers."""
    app.register_error_handler(DomainError, _domain)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(ParseException, _unreadable)
    app.register_error_handler(Exception, _bug)


def _domain(error: DomainError) -> ResponseReturnValue:
    db.session.rollback()
    response = answer(error.status, error.message, error.code)
    response.headers.update(waiting(error))
    return response


def _http(error: HTTPException) -> ResponseReturnValue:
    if error.response is not None:
        return error.response
    status = error.code or 500
    headline, next_step = WORDS.get(status, (error.name, error.description or ""))
    response = answer(status, f"{headline}. {next_step}", error.name.lower().replace(" ", "_"))
    for name, value in error.get_headers():
        if name in ("Allow", "Retry-After"):
            response.headers[name] = value
    return response


def _unreadable(error: ParseException) -> ResponseReturnValue:
    """A chunked body that breaks its own framing is noticed only when somebody reads it."""
    return _http(BadRequest())


def _bug(error: Exception) -> ResponseReturnValue:
    db.session.rollback()
    g.bug = True
    log.exception("request %s: %s %s failed", request_id(), request.method, request.path)
    return _http(InternalServerError())


def answer(status: int, message: str, code: str) -> Response:
    """The error in the vocabulary of the door: `/v1` OpenAI's, `/api` ours, else a page or a toast."""
    if request.path.startswith("/v1/"):
        return _json(
            status, {"error": {"message": message, "type": _openai_type(status), "param": None, "code": code}}
        )
    if request.path.startswith("/api/") and status != 404:
        body: dict[str, Any] = {
            "error": {"code": code, "message": message, "details": None},
            "request_id": request_id(),
        }
        return _json(status, body)
    if wants_fragment():
        response = make_response(
            render_template("components/_toasts_oob.html", messages=[("bad", message)]), status
        )
        response.headers["HX-Reswap"] = "none"
        if status == 401:
            response.headers["HX-Redirect"] = "/login"
        return response
    headline, next_step = WORDS.get(status, (message, ""))
    page = render_template(
        "errors/error.html", status=status, headline=headline, next_step=next_step, message=message
    )
    return make_response(page, status)


def _json(status: int, body: dict[str, Any]) -> Response:
    response = jsonify(body)
    response.status_code = status
    return response


def _openai_type(status: int) -> str:
    if status == 401:
        return "authentication_error"
    if status == 429:
        return "rate_limit_error"
    return "server_error" if status >= 500 else "invalid_request_error"
