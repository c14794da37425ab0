"""Every answer that a test gets of a JSON route is held to what the route says of itself, so that the document stays true."""

from functools import cache
from typing import Any

from flask import Flask
from pydantic import TypeAdapter
from werkzeug.exceptions import HTTPException
from werkzeug.routing import RoutingException
from werkzeug.test import TestResponse

from views.gateway.openai import Completion
from views.web.error_bodies import ModelError, ServerError
from views.web.openapi import answer_types, routes

NOT_SAID = {304, 405}
"""Statuses that any route may answer."""

_ANYTHING: TypeAdapter[Any] = TypeAdapter(Any)


def check(app: Flask, answer: TestResponse) -> None:
    """Fail on a status or a body that the route does not describe."""
    request = answer.request
    try:
        endpoint, _ = app.url_map.bind("localhost").match(request.path, method=request.method)
    except (HTTPException, RoutingException):
        return
    types = _types(app).get((endpoint, request.method))
    if types is None or answer.status_code in NOT_SAID:
        return
    where = f"{request.method} {request.path} answered {answer.status_code}"
    shape = types.get(answer.status_code) or types.get("default")
    if shape is None and answer.status_code == 500:
        shape = TypeAdapter(ServerError | ModelError)  # a bug, or one that the test made
    assert shape, f"{where}, which is not described"
    if answer.mimetype == "application/json" and not answer.content_encoding and shape is not _ANYTHING:
        try:
            shape.validate_json(answer.get_data(), strict=True)
        except ValueError as error:
            raise AssertionError(f"{where} in another form than described: {error}") from None


@cache
def _types(app: Flask) -> dict[tuple[str, str], dict[Any, TypeAdapter[Any]]]:
    return {
        (route.endpoint, route.method.upper()): {
            # what a provider answers is passed on as it is
            status: _ANYTHING if shape is Completion else TypeAdapter(shape)
            for status, shape in answer_types(route).items()
        }
        for route in routes(app)
    }
