"""One answer for each error, in the shape of the door it happened at: page, fragment with a toast, or JSON."""

import logging
from typing import Any

from flask import Flask, Response, current_app, g, jsonify, make_response, render_template, request, url_for
from flask.typing import ResponseReturnValue
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import BadRequest, HTTPException, InternalServerError, MethodNotAllowed

from models.accounts.bans import AccountSuspended
from models.core.db import db
from models.core.errors import DomainError
from models.core.strict_models import InvalidBody
from models.gateway.dialects.error_shapes import model_error
from views.web import guards, unknown_routes
from views.web.body import BadJson, BodyTooLarge
from views.web.error_bodies import waiting
from views.web.guards import cookie_token, request_id, settings
from views.web.htmx import wants_fragment
from views.web.operation import current_operation

log = logging.getLogger("stoa.errors")

WORDS = {
    400: ("This request cannot be read", "Check the address or the form, and send it again."),
    401: ("Sign in to see this", "Your session has ended or was revoked."),
    403: ("You may not do this", "Ask an owner of the organisation, or the operator of this server."),
    404: ("There is nothing here", "Check the address. What belongs to another account is not shown."),
    405: ("This address does not take that", "Follow a link instead."),
    409: ("This cannot be done now", "Something changed meanwhile. Load the page again."),
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
    app.register_error_handler(AccountSuspended, _suspended)
    app.register_error_handler(BadJson, _bad_body)
    app.register_error_handler(InvalidBody, _bad_body)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(ParseException, _unreadable)
    app.register_error_handler(Exception, _bug)


def _domain(error: DomainError) -> ResponseReturnValue:
    db.session.rollback()
    if (worded := _worded(error)) is not None:
        return worded
    response = answer(error.status, error.message, error.code, details=error.details)
    response.headers.update(waiting(error))
    return response


def _worded(error: Exception) -> ResponseReturnValue | None:
    """The answer in the words of the JSON route that raised it; None where it leaves that to this module."""
    described = current_operation()
    return described.door.words(error) if described else None


def _bad_body(error: BadJson | InvalidBody) -> ResponseReturnValue:
    db.session.rollback()
    worded = _worded(error)
    return answer(400, str(error), "bad_request") if worded is None else worded


def _suspended(error: AccountSuspended) -> ResponseReturnValue:
    """What a banned person is told at every door: that they are, why, and whom to write to. On `/api` in the form in
    which model calls say it (contract 5.2 row 4)."""
    db.session.rollback()
    described = current_operation()
    if described and described.door.suspended and (worded := _worded(error)) is not None:
        return worded
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
    if (worded := _worded(error)) is not None:
        return worded
    if isinstance(error, unknown_routes.UnknownRoute) or error is request.routing_exception:
        response = _no_route(error)
        if response is not None:
            return response
    status = error.code or 500
    headline, next_step = WORDS.get(status, (error.name, error.description or ""))
    if status == 404 and unknown_routes.family(request.path):
        next_step = "It does not exist, or it is not yours."
    if isinstance(error, BodyTooLarge):
        next_step = error.description or next_step
    response = answer(status, f"{headline}. {next_step}", error.name.lower().replace(" ", "_"))
    for name, value in error.get_headers():
        if name in ("Allow", "Retry-After", "Accept-Encoding"):
            response.headers[name] = value
    return response


def _no_route(error: HTTPException) -> Response | None:
    """The answer of an address or a method that the API has not; None where a page is what was looked for."""
    if not unknown_routes.is_api(request.path) and guards.api_key() is None:
        return None
    if isinstance(error, MethodNotAllowed):
        response = answer(405, unknown_routes.method_not_allowed(error), "method_not_allowed", routing=True)
        response.headers["Allow"] = ", ".join(sorted(error.valid_methods or ()))
        return response
    response = answer(404, unknown_routes.not_found(), "unknown_url", routing=True)
    if not unknown_routes.PREFIX.match(request.path) and unknown_routes.leads_to_a_model(
        current_app, request.path
    ):
        response.headers.extend(current_app.extensions["cors"].headers(request.headers.get("Origin", "")))
    return response


def _unreadable(error: ParseException) -> ResponseReturnValue:
    """A chunked body that breaks its own framing is noticed only when somebody reads it."""
    return _http(BadRequest())


def _bug(error: Exception) -> ResponseReturnValue:
    db.session.rollback()
    g.bug = True
    # The route, not the address: that may hold a sign-in link or whatever somebody typed.
    log.exception("request %s: %s %s failed", request_id(), request.method, request.url_rule)
    return _http(InternalServerError())


def answer(
    status: int, message: str, code: str, *, routing: bool = False, details: str | None = None
) -> Response:
    """The error in the vocabulary of the door: `/v1` OpenAI's or Anthropic's, `/api` ours, else a page or a toast.

    With `routing` a program called what is no route of the API, wherever it looked for one. `details` are for programs.
    """
    family = unknown_routes.family(request.path)
    if family == "v1" or (routing and family != "api"):
        body = model_error(request.headers, request_id(), status, message, code)
        if family == "api/v1":
            body["message"] = message  # where older versions of the Codebuff SDK look for it
        return _json(status, body)
    if routing or (family and not _for_people(status)):
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
    headline, next_step = WORDS.get(status, (message, ""))
    if message not in (headline, f"{headline}. {next_step}"):
        # A 404 of the domain names what was looked for; what to do is the same for all.
        next_step = f"{message.removesuffix('.')}. {next_step if status == 404 else ''}".rstrip()
    page = render_template("errors/error.html", status=status, headline=headline, next_step=next_step)
    return make_response(page, status)


def _for_people(status: int) -> bool:
    """Whether a browser stands before the error: it is led through `/api/auth` itself."""
    html = "text/html" in request.headers.get("Accept", "")
    return status == 404 and html and request.path.startswith("/api/auth/")


def _json(status: int, body: dict[str, Any]) -> Response:
    response = jsonify(body)
    response.status_code = status
    return response
