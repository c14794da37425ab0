"""Two addresses that OpenAI's Conversations API and the conversations of projects have in common, told apart by what is asked for.

`POST /v1/conversations` with a `workspace_id` or a `title`, and `GET /v1/conversations/{id}` with an id that is none of OpenAI's, are those of
projects. Both routes document the answers of both.
"""

import io
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flask import Flask, request
from werkzeug.routing import Rule

from models.threads.conversation_items import PREFIX
from views.conversations.api import conversation_routes
from views.threads.api import conversations as openai_conversations
from views.web.fast_path import MAX_BODY_BYTES
from views.web.operation import operation_of

ENDPOINT = "conversations_api"
ADDRESS = "/v1/conversations"
KEYS = (b'"workspace_id"', b'"title"')
MAX_PEEK = 64 << 10
"""Bytes of a body that are looked at."""
_PAIRS = (
    (openai_conversations.create_conversation, conversation_routes.start),
    (openai_conversations.conversation, conversation_routes.get_conversation),
)


def init_app(app: Flask) -> None:
    """Tell the routes apart before anything else looks at the request, and document both."""
    rules = {rule.endpoint: rule for rule in app.url_map.iter_rules()}
    mine = {name: rules[f"{ENDPOINT}.{name}"] for name in ("start", "get_conversation")}

    def choose() -> None:
        _choose(mine)

    app.before_request_funcs.setdefault(None, []).insert(0, choose)
    for other, own in _PAIRS:
        _document(other, own)


def _choose(mine: Mapping[str, Rule]) -> None:
    rule = request.url_rule
    if rule is None or not rule.endpoint.startswith("openai_conversations."):
        return
    if rule.rule == ADDRESS and request.method == "POST" and _is_about_a_workspace():
        request.url_rule, request.view_args = mine["start"], {"workspace_id": ""}
    elif rule.endpoint == "openai_conversations.conversation":
        id = (request.view_args or {}).get("conversation_id", "")
        if not id.startswith(PREFIX):
            request.url_rule = mine["get_conversation"]
            request.view_args = {"project_id": "", "conversation_id": id}


def _is_about_a_workspace() -> bool:
    """Whether the body has a key of projects. It stays to be read."""
    length = request.content_length
    if (
        request.headers.get("Content-Encoding")
        or length is None
        or not 0 < length <= min(MAX_PEEK, MAX_BODY_BYTES)
    ):
        return False
    raw = request.stream.read()
    request.stream = io.BytesIO(raw)
    return any(key in raw for key in KEYS)


def _document(other: Any, own: Any) -> None:
    """Let the documented answers of OpenAI's route be those of both."""
    theirs, ours = operation_of(other), operation_of(own)
    assert theirs is not None
    assert ours is not None
    answers: dict[Any, tuple[str, Any]] = {}
    for status in {**theirs.answers, **ours.answers, 401: "", 413: "", 415: "", 429: ""}:
        found = []
        for operation in (theirs, ours):
            each = operation.answers.get(status)
            if isinstance(each, tuple):
                found.append(each)
            else:
                found.append((each or "", operation.door.error))
        texts = [text for text, _ in found if text]
        answers[status] = ("; or ".join(texts) or "Refused", found[0][1] | found[1][1])
    body = theirs.body | ours.body if theirs.body is not None else None
    other.__dict__["operation"] = replace(theirs, answers=answers, body=body)
