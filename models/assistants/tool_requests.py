"""Requests of tools and MCP servers: through the guard of `outgoing`, with secrets for their own host only, and answers that are cut."""

import time
from collections.abc import Mapping
from typing import Any

import orjson
import requests

from models.assistants.tool_secrets import OpenedSecret, host_of
from models.core import outgoing
from models.core.outgoing import OutgoingRefused
from models.core.settings import Settings

MAX_ANSWER_BYTES = 1_000_000
MAX_ANSWER = 64_000
"""Characters of an answer that the model sees."""
AGAIN = frozenset({429, 502, 503, 504})
"""Statuses after which a request is repeated, if its tool says so."""
USER_AGENT = "Stoa-Tools/1.0"


class ToolFailed(Exception):
    """A tool did not answer. `message` is for the model, and for who watches it; without secrets."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class ToolHttp:
    """Sends requests to one URL with the secrets of its headers."""

    def __init__(
        self, url: str, headers: Mapping[str, str], secrets: Mapping[str, OpenedSecret], settings: Settings
    ) -> None:
        """`headers` names a secret by header. Raises ToolFailed for a secret that is gone or for another host."""
        self.url, self._settings = url, settings
        self.headers: dict[str, str] = {}
        try:
            host = host_of(url)
        except OutgoingRefused as refused:
            raise ToolFailed(f"The address of the tool is wrong: {refused}.") from None
        for header, name in headers.items():
            secret = secrets.get(name)
            if secret is None:
                raise ToolFailed(f"The secret '{name}' of this tool is gone.")
            if secret.host != host:
                raise ToolFailed(f"The secret '{name}' is not for {host}.")
            self.headers[header] = secret.value

    def send(
        self,
        method: str,
        *,
        seconds: float,
        json: Any = None,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """One request; redirects are not followed, because they would take the secrets along. Raises `requests.RequestException`."""
        sent = {
            "User-Agent": USER_AGENT,
            "Accept": "application/json, text/*",
            **(headers or {}),
            **self.headers,
        }
        body = None
        if json is not None:
            body, sent["Content-Type"] = orjson.dumps(json), "application/json"
        session = outgoing.guarded(
            requests.Session(), self._settings, seconds=seconds, max_bytes=MAX_ANSWER_BYTES
        )
        try:
            return session.request(
                method, self.url, data=body, params=params, headers=sent, allow_redirects=False
            )
        finally:
            session.close()

    def text(self, text: str) -> str:
        """Text for the model: cut, without NUL characters and the secrets that were sent."""
        for value in self.headers.values():
            for secret in (value, value.rpartition(" ")[2]):
                if len(secret) >= 8:
                    text = text.replace(secret, "[secret]")
        text = text.replace("\0", "\ufffd")
        if len(text) > MAX_ANSWER:
            text = f"{text[:MAX_ANSWER]}\n[cut: {len(text) - MAX_ANSWER:,} more characters]"
        return text


def call_endpoint(
    http: ToolHttp, method: str, arguments: Mapping[str, Any], *, seconds: float, retries: int
) -> str:
    """Call a registered tool and return its answer. Blocks; call it outside a transaction. Raises ToolFailed."""
    in_query = method in ("GET", "DELETE")
    params = {name: _query_text(value) for name, value in arguments.items()} if in_query else None
    problem = ""
    for attempt in range(retries + 1):
        if attempt:
            time.sleep(0.25 * 2**attempt)
        try:
            response = http.send(method, seconds=seconds, json=None if in_query else arguments, params=params)
        except OutgoingRefused as refused:
            raise ToolFailed(f"The tool cannot be reached: {refused}.") from None
        except requests.RequestException as error:
            problem = f"The tool did not answer: {str(error)[:300]}."
            continue
        text = http.text(response.content.decode("utf-8", "replace"))
        if 200 <= response.status_code < 300:
            return text or "(empty)"
        problem = f"The tool answered with status {response.status_code}: {text[:2_000]}"
        if response.status_code not in AGAIN:
            break
    raise ToolFailed(problem)


def _query_text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()
