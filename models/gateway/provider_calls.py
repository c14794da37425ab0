"""Send the request of a call to its provider, and read the answer or its beginning."""

import threading

from models.gateway.call_errors import read_provider_error
from models.gateway.chat_format import Call
from models.gateway.dialects.dialect import Dialect, WholeAnswer
from models.gateway.failover import Attempt
from models.gateway.routing import Route
from models.gateway.upstream import MAX_STREAM, READ, ProviderResponse

JSON_LINES = ("ndjson", "jsonl", "json-lines", "json-seq", "stream")
"""Substrings of a `Content-Type` that announce a stream of JSON."""


def request_count(call: Call, route: Route) -> int:
    """How many times the request is sent to get the answers that the client wants merged."""
    return 1 if route.provider.native_n else call.answers


def fetch_all(dialect: Dialect, attempt: Attempt) -> list[WholeAnswer]:
    """Send the request as often as needed, in parallel. Returns the answers of those that succeeded; raises the first
    one's error when all failed."""
    copies = request_count(attempt.call, attempt.route)
    found: list[WholeAnswer | BaseException | None] = [None] * copies

    def fetch(index: int) -> None:
        try:
            found[index] = _fetch(dialect, attempt)
        except BaseException as error:
            found[index] = error

    threads = [threading.Thread(target=fetch, args=(index,), daemon=True) for index in range(1, copies)]
    for thread in threads:
        thread.start()
    fetch(0)
    for thread in threads:
        thread.join()
    answers = [item for item in found if isinstance(item, WholeAnswer)]
    if not answers:
        assert isinstance(found[0], BaseException)
        raise found[0]
    return answers


def succeeded(response: ProviderResponse) -> bool:
    return 200 <= response.status < 300


def content_type(response: ProviderResponse) -> str:
    return (response.headers.get("Content-Type") or "").lower()


def read_start(response: ProviderResponse) -> bytes:
    """Read the first bytes of a body announced as JSON or HTML, which may be an event stream nevertheless."""
    kind = content_type(response)
    start = b""
    if ("json" in kind and not any(word in kind for word in JSON_LINES)) or "html" in kind:
        for chunk in response.blocks():
            start += chunk
            if len(start.strip()) > 10 or len(start) >= READ:
                break
    return start


def _fetch(dialect: Dialect, attempt: Attempt) -> WholeAnswer:
    route = attempt.route
    response = route.provider.upstream.send(attempt.request)
    try:
        if not succeeded(response):
            raise read_provider_error(response, route)
        raw = response.read(MAX_STREAM if "event-stream" in content_type(response) else dialect.max_answer)
        return dialect.read_answer(raw, attempt.call, route, response.headers)
    finally:
        response.close()
