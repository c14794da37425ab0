"""Validates every response of a JSON route in tests against its documentation."""

from functools import cache
from typing import Any

from flask import Flask
from pydantic import TypeAdapter
from werkzeug.exceptions import HTTPException
from werkzeug.routing import RoutingException
from werkzeug.test import TestResponse

from views.gateway.api.openai import Completion
from views.web.error_bodies import ModelError, ServerError
from views.web.openapi import answer_types, routes

UNDOCUMENTED = {304, 405}
"""Statuses that need no documentation."""

_ANYTHING: TypeAdapter[Any] = TypeAdapter(Any)


def check(app: Flask, answer: TestResponse) -> None:
    """Fail if the status or body is not documented by the route."""
    request = answer.request
    try:
        endpoint, _ = app.url_map.bind("localhost").match(request.path, method=request.method)
    except (HTTPException, RoutingException):
        return
    types = _types(app).get((endpoint, request.method))
    if types is None or answer.status_code in UNDOCUMENTED:
        return
    where = f"{request.method} {request.path} answered {answer.status_code}"
    shape = types.get(answer.status_code) or types.get("default")
    if shape is None and answer.status_code == 503:
        return  # no connection is free; any route says it, in its own form
    if shape is None and answer.status_code == 500:
        shape = TypeAdapter(ServerError | ModelError)  # an internal error, possibly caused by the test
    assert shape, f"{where}, which is not documented"
    if answer.mimetype == "application/json" and not answer.content_encoding and shape is not _ANYTHING:
        try:
            shape.validate_json(answer.get_data(), strict=True)
        except ValueError as error:
            raise AssertionError(f"{where} does not match its documentation: {error}") from None


@cache
def _types(app: Flask) -> dict[tuple[str, str], dict[Any, TypeAdapter[Any]]]:
    return {
        (route.endpoint, route.method.upper()): {
            # provider responses are passed through
            status: _ANYTHING if shape is Completion else TypeAdapter(shape)
            for status, shape in answer_types(route).items()
        }
        for route in routes(app)
    }
