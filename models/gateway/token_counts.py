"""The input tokens of a request, without a call: exact where the provider counts for free, else by our tokenizer."""

import logging
from dataclasses import replace
from typing import Any

from models.gateway import lenient_json, tokens
from models.gateway.chat_format import Call
from models.gateway.dialects.dialect import Dialect
from models.gateway.formats import messages_request
from models.gateway.route import Route
from models.gateway.routing import Router
from models.gateway.upstream import UpstreamError

log = logging.getLogger("stoa.gateway")

MAX_ANSWER = 64 << 10
"""Bytes read of a provider's count."""
_COUNTED_KEYS = (
    "model",
    "messages",
    "system",
    "tools",
    "tool_choice",
    "thinking",
    "mcp_servers",
    "context_management",
)
"""What a provider takes in a request for a count."""


def count_input(routes: Router, dialect: Dialect, call: Call) -> int:
    """Count the input tokens of a call. Free; only its provider is asked, if it counts. Raises NoRoute, OtherModelKind or NoPrice."""
    route = routes.find(call.model)
    if call.format == messages_request.NAME and call.format in route.provider.formats:
        counted = _ask_provider(route, call)
        if counted is not None:
            return counted
    counted, _ = dialect.count_input(call)
    return counted if tokens.has_vocabulary(route.model) else counted + counted * 3 // 10


def _ask_provider(route: Route, call: Call) -> int | None:
    """The provider's own count; None if it does not answer with one."""
    body = {key: call.body[key] for key in _COUNTED_KEYS if call.body.get(key) is not None}
    request = route.provider.request(call, body | {"model": route.model})
    try:
        response = route.provider.upstream.send(replace(request, url=f"{request.url}/count_tokens"))
        try:
            found: Any = lenient_json.read(response.read(MAX_ANSWER)).value
        finally:
            response.close()
    except (UpstreamError, lenient_json.NotJson) as error:
        log.warning("%s did not count tokens: %s", route.provider.title, error)
        return None
    count = found.get("input_tokens") if isinstance(found, dict) and response.status == 200 else None
    return count if type(count) is int and count >= 0 else None
