"""Error handlers: a page, a fragment with a toast, or JSON, depending on the route."""

import logging
from typing import Any

from flask import Flask, Response, current_app, g, jsonify, make_response, render_template, request, url_for
from flask.typing import ResponseReturnValue
from gunicorn.http.errors import ParseException
from psycopg.errors import DeadlockDetected, LockNotAvailable
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from werkzeug.exceptions import BadRequest, HTTPException, InternalServerError, MethodNotAllowed

from models.accounts.bans import AccountSuspended
from models.core.db import db
from models.core.errors import DomainError
from models.core.strict_models import InvalidBody
from models.gateway.dialects.error_shapes import model_error
from models.orgs import SsoRequired
from views.web import guards, unknown_routes
from views.web.body import FORMS, MAX_FORM_BYTES, BadJson, BodyTooLarge, discard_form
from views.web.error_bodies import retry_header
from views.web.guards import cookie_token, request_id, settings
from views.web.htmx import wants_fragment
from views.web.operation import current_operation
from views.web.org_guards import sso_required

log = logging.getLogger("stoa.errors")


class ServerBusy(DomainError):
    """All connections to the database were in use for too long, or rows locked, or another request locked them the other way round."""

    status = 503
    code = "server_busy"
    retry_after = 5

    def __init__(self) -> None:
        super().__init__("The server is busy. Nothing was changed. Try again in a few seconds.")


MESSAGES = {
    400: ("Bad request", "Check the address or the form, and try again."),
    401: ("Sign in to continue", "Your session has expired or was revoked."),
    403: ("Access denied", "Ask an owner of the organisation or the operator of this server for access."),
    404: ("Not found", "Check the address. It may belong to another account."),
    402: ("Not enough credits", "Buy credits, or ask the operator of this server."),
    405: ("Method not allowed", "This address does not support the request."),
    409: ("Conflict", "Something has changed in the meantime. Reload the page and try again."),
    410: ("No longer available", "It has expired or was used already."),
    413: ("Request too large", "Send at most 20 MB."),
    422: ("Not accepted", "Check what you entered, and try again."),
    429: ("Too many requests", "Wait a minute, then try again."),
    502: ("A service did not respond", "Nothing was changed. Try again in a minute."),
    503: ("Temporarily unavailable", "Try again in a minute."),
    500: (
        "Internal server error",
        "The error was logged. Try again. If it persists, send the request id to the operator of this server.",
    ),
}


def init_app(app: Flask) -> None:
    """Register the handlers."""
    app.register_error_handler(DomainError, _domain)
    app.register_error_handler(AccountSuspended, _suspended)
    app.register_error_handler(PoolTimeout, _busy)
    app.register_error_handler(OperationalError, _operational)
    app.register_error_handler(BadJson, _bad_body)
    app.register_error_handler(InvalidBody, _bad_body)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(ParseException, _unreadable)
    app.register_error_handler(Exception, _bug)


def _domain(error: DomainError) -> ResponseReturnValue:
    db.session.rollback()
    if (response := _route_response(error)) is not None:
        return response
    if isinstance(error, SsoRequired):
        return sso_required(error.org)
    response = answer(error.status, error.message, error.code, details=error.details)
    response.headers.update(retry_header(error))
    return response


def _busy(error: PoolTimeout) -> ResponseReturnValue:
    log.warning("no connection to the database: %s", error)
    return _domain(ServerBusy())


def _operational(error: OperationalError) -> ResponseReturnValue:
    if not isinstance(error.orig, (LockNotAvailable, DeadlockDetected)):
        return _bug(error)
    log.warning("no lock in the database: %s", type(error.orig).__name__)
    return _domain(ServerBusy())


def _route_response(error: Exception) -> ResponseReturnValue | None:
    """The response in the error format of the JSON route; None to use this module's default."""
    operation = current_operation()
    return operation.door.format(error) if operation else None


def _bad_body(error: BadJson | InvalidBody) -> ResponseReturnValue:
    db.session.rollback()
    response = _route_response(error)
    return answer(400, str(error), "bad_request") if response is None else response


def _suspended(error: AccountSuspended) -> ResponseReturnValue:
    """Response for a banned user at every door: the suspension, its reason and the support address. On `/api` in the
    format of model calls (contract 5.2 row 4)."""
    db.session.rollback()
    described = current_operation()
    if described and described.door.suspended and (response := _route_response(error)) is not None:
        return response
    support = settings().stoa_support_email
    message = f"{error.message} Please contact {support or 'the operator of this server'} to resolve this."
    if request.path.startswith("/api/") and not request.path.startswith("/api/auth/callback/"):
        return _json(error.status, {"error": error.code, "message": message})
    if request.path.startswith("/v1/") or wants_fragment():
        return answer(error.status, message, error.code)
    signed_in = cookie_token() is not None
    page = render_template(
        "accounts/suspended.html", reason=error.reason, support=support, signed_in=signed_in
    )
    return make_response(page, error.status)


def _http(error: HTTPException) -> ResponseReturnValue:
    if error.response is not None:
        return error.response
    if (response := _route_response(error)) is not None:
        return response
    if isinstance(error, unknown_routes.UnknownRoute) or error is request.routing_exception:
        response = _no_route(error)
        if response is not None:
            return response
    status = error.code or 500
    headline, next_step = MESSAGES.get(status, (error.name, error.description or ""))
    if status == 404 and unknown_routes.family(request.path):
        next_step = "It does not exist, or it is not yours."
    if isinstance(error, BodyTooLarge):
        next_step = error.description or next_step
    elif status == 413 and request.mimetype in FORMS:
        discard_form()
        kept = "" if wants_fragment() else " Go back: your browser still has what you entered."
        next_step = f"Send at most {MAX_FORM_BYTES >> 20} MB of text, and files of at most 20 MB.{kept}"
    response = answer(status, f"{headline}. {next_step}", error.name.lower().replace(" ", "_"))
    for name, value in error.get_headers():
        if name in ("Allow", "Retry-After", "Accept-Encoding"):
            response.headers[name] = value
    return response


def _no_route(error: HTTPException) -> Response | None:
    """Response for an unknown API route or method; None for pages."""
    if not unknown_routes.is_api(request.path) and guards.api_key() is None:
        return None
    if isinstance(error, MethodNotAllowed):
        response = answer(405, unknown_routes.method_not_allowed(error), "method_not_allowed", routing=True)
        response.headers["Allow"] = ", ".join(sorted(error.valid_methods or ()))
        return response
    response = answer(404, unknown_routes.not_found(), "unknown_url", routing=True)
    if not unknown_routes.PREFIX.match(request.path) and unknown_routes.resembles_model_route(
        current_app, request.path
    ):
        response.headers.extend(current_app.extensions["cors"].headers(request.headers.get("Origin", "")))
    return response


def _unreadable(error: ParseException) -> ResponseReturnValue:
    """Invalid chunked framing, detected when a view reads the body."""
    return _http(BadRequest())


def _bug(error: Exception) -> ResponseReturnValue:
    db.session.rollback()
    g.bug = True
    # Log the route, not the URL, which may contain a sign-in link or user input.
    log.exception("request %s: %s %s failed", request_id(), request.method, request.url_rule)
    return _http(InternalServerError())


def answer(
    status: int, message: str, code: str, *, routing: bool = False, details: str | None = None
) -> Response:
    """The error response: OpenAI's or Anthropic's format on `/v1`, JSON on `/api`, otherwise a page or a toast.

    `routing`: a client called an unknown API route, at any path. `details` are included in JSON only.
    """
    family = unknown_routes.family(request.path)
    if unknown_routes.PROJECTS.match(request.path):
        code = "NOT_FOUND" if status == 404 else code.upper()
        return _json(status, {"error": {"code": code, "message": message}})
    if family == "v1" or (routing and family != "api"):
        body = model_error(request.headers, request_id(), status, message, code)
        if family == "api/v1":
            body["message"] = message  # read by older versions of the Codebuff SDK
        return _json(status, body)
    if routing or (family and not _expects_html(status)):
        body = {"error": {"code": code, "message": message, "details": details}, "request_id": request_id()}
        return _json(status, body)
    if wants_fragment():
        response = make_response(
            render_template("components/_toasts_oob.html", messages=[("bad", message)]), status
        )
        response.headers["HX-Reswap"] = "none"
        if status == 401:
            response.headers["HX-Redirect"] = url_for("accounts.login")
        return response
    headline, next_step = MESSAGES.get(status, (message, ""))
    if message not in (headline, f"{headline}. {next_step}"):
        # A domain 404 names the missing resource; the next step is the same for all.
        next_step = f"{message.removesuffix('.')}. {next_step if status == 404 else ''}".rstrip()
    page = render_template("errors/error.html", status=status, headline=headline, next_step=next_step)
    return make_response(page, status)


def _expects_html(status: int) -> bool:
    """Whether a browser navigates to this route: sign-in redirects go through `/api/auth`."""
    html = "text/html" in request.headers.get("Accept", "")
    return status == 404 and html and request.path.startswith("/api/auth/")


def _json(status: int, body: dict[str, Any]) -> Response:
    response = jsonify(body)
    response.status_code = status
    return response
