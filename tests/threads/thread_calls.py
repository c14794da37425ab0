"""Callers of the JSON API of threads, and of OpenAI's on them."""

from collections.abc import Callable
from typing import Any

import openai
from flask.testing import FlaskClient

from tests.factories import Person

Gpt = Callable[[Person], openai.OpenAI]
"""Makes OpenAI's client with the key of a person."""


class Caller:
    """A client with one key, for `/api/v1`."""

    def __init__(self, client: FlaskClient, key: str) -> None:
        self.client, self.headers = client, {"authorization": f"Bearer {key}"} if key else {}

    def __call__(self, method: str, path: str, body: Any = None, **query: Any) -> tuple[int, Any]:
        answer = self.client.open(
            f"/api/v1{path}", method=method, json=body, query_string=query or None, headers=self.headers
        )
        return answer.status_code, answer.json

    def made(self, path: str = "/threads", **body: Any) -> dict[str, Any]:
        """What a POST creates."""
        status, made = self("post", path, body)
        assert status == 201, made
        return dict(made)

    def said(self, thread: str, text: str, **body: Any) -> dict[str, Any]:
        """A message that is added."""
        return self.made(f"/threads/{thread}/messages", role=body.pop("role", "user"), content=text, **body)
