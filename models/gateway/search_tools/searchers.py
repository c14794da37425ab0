"""The services that search: Linkup and SearXNG the web, Context7 documentation. Each answers `{"result": text or null}`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol
from urllib.parse import urlencode

import orjson

from models.gateway.lenient_json import NotJson, read
from models.gateway.upstream import (
    MAX_BODY,
    BrokenConnection,
    ProviderRequest,
    ProviderResponse,
    Upstream,
)

LINKUP = "https://api.linkup.so/v1"
CONTEXT7 = "https://context7.com/api/v1"
RESULTS = {"standard": 8, "deep": 20}
"""Results of a metasearch that are returned, by depth."""
MAX_ANSWER = 4 << 20


class SearchReply:
    """A successful search. See `ProviderResponse`."""

    status = 200
    headers: Mapping[str, str] = {"Content-Type": "application/json"}

    def __init__(self, result: str | None) -> None:
        self._raw = orjson.dumps({"result": result})

    def read(self, limit: int = MAX_BODY) -> bytes:
        return self._raw

    def blocks(self) -> Iterator[bytes]:
        yield self._raw

    def abort(self) -> None:
        """Nothing to abort."""

    def close(self) -> None:
        """Nothing to close."""


class Searcher(Protocol):
    """Makes the requests of one search. `http` sends them; its errors pass through."""

    def search(self, query: Mapping[str, Any], http: "SearchHttp") -> str | None:
        """The text that was found. Raises UpstreamError, SearchFailed."""


class SearchFailed(Exception):
    """The service answered with an error: `response`, unread."""

    def __init__(self, response: ProviderResponse) -> None:
        super().__init__(str(response.status))
        self.response = response


class SearchHttp:
    """Requests of one search, which can be aborted together."""

    def __init__(self, upstream: Upstream, template: ProviderRequest, title: str) -> None:
        self._upstream = upstream
        self._template = template
        self._title = title

    def get(self, url: str, query: Mapping[str, Any], key: str | None = None) -> bytes:
        """The body of a GET. Raises UpstreamError, SearchFailed."""
        return self._send(f"{url}?{urlencode(query)}", "GET", b"", key)

    def post(self, url: str, body: Mapping[str, Any], key: str) -> Any:
        """The JSON answer to a POST. Raises UpstreamError, SearchFailed."""
        return self.parsed(self._send(url, "POST", orjson.dumps(body), key))

    def parsed(self, raw: bytes) -> Any:
        """A body as JSON. Raises BrokenConnection."""
        try:
            return read(raw).value
        except NotJson:
            raise BrokenConnection(f"{self._title} sent an answer that cannot be read.") from None

    def _send(self, url: str, method: str, body: bytes, key: str | None) -> bytes:
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "stoa/0.1"}
        if body:
            headers["Content-Type"] = "application/json"
        if key:
            headers["Authorization"] = f"Bearer {key}"
        response = self._upstream.send(
            replace(self._template, url=url, method=method, headers=headers, body=body)
        )
        if response.status != 200:
            raise SearchFailed(response)
        try:
            return response.read(MAX_ANSWER)
        finally:
            response.close()


class Linkup:
    """An answer with its sources, written by Linkup."""

    def __init__(self, key: str, url: str = LINKUP) -> None:
        self._key, self._url = key, url

    def search(self, query: Mapping[str, Any], http: SearchHttp) -> str | None:
        asked = {"q": query["query"], "depth": query["depth"], "outputType": "sourcedAnswer"}
        found = http.post(f"{self._url}/search", asked, self._key)
        answer = found.get("answer") if isinstance(found, dict) else None
        return answer if isinstance(answer, str) and answer.strip() else None


class SearXng:
    """The results of the operator's own metasearch: title, address and excerpt each."""

    def __init__(self, url: str) -> None:
        self._url = url

    def search(self, query: Mapping[str, Any], http: SearchHttp) -> str | None:
        found = http.parsed(http.get(f"{self._url}/search", {"q": query["query"], "format": "json"}))
        results = found.get("results") if isinstance(found, dict) else None
        kept = [each for each in results if isinstance(each, dict)] if isinstance(results, list) else []
        return _listed(kept[: RESULTS[query["depth"]]]) or None


def _listed(results: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for number, result in enumerate(results, 1):
        title, url, text = (str(result.get(key) or "").strip() for key in ("title", "url", "content"))
        lines.append("\n".join(filter(None, (f"{number}. {title or url}", url, text))))
    return "\n\n".join(lines)


class Context7:
    """Documentation of a library: the best match of its title, then its text. The key is optional."""

    def __init__(self, key: str | None, url: str = CONTEXT7) -> None:
        self._key, self._url = key, url

    def search(self, query: Mapping[str, Any], http: SearchHttp) -> str | None:
        found = http.parsed(http.get(f"{self._url}/search", {"query": query["query"]}, self._key))
        results = found.get("results") if isinstance(found, dict) else None
        first = next((each for each in results or () if isinstance(each, dict) and each.get("id")), None)
        if first is None:
            return None
        wanted = {"type": "txt", "topic": query.get("topic"), "tokens": query.get("max_tokens")}
        asked = {key: value for key, value in wanted.items() if value}
        text = http.get(f"{self._url}/{str(first['id']).strip('/')}", asked, self._key)
        return text.decode("utf-8", "replace").strip() or None


class SearchUpstream:
    """Answers requests like an upstream, by a searcher."""

    def __init__(self, searcher: Searcher, http: Upstream, title: str) -> None:
        self._searcher = searcher
        self._http = http
        self._title = title

    def send(self, request: ProviderRequest) -> ProviderResponse:
        query: Mapping[str, Any] = orjson.loads(request.body)
        try:
            return SearchReply(self._searcher.search(query, SearchHttp(self._http, request, self._title)))
        except SearchFailed as failed:
            return failed.response
