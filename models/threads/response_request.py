"""What a turn of a response is asked for, as it is stored with the turn, and where it finds what it refers to."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from models.core.db import extension
from models.core.sealing import SealBroken, open_sealed, seal
from models.gateway.formats.responses_answer import ResponseHead
from models.gateway.response_state.response_store import (
    ResponseChain,
    ResponseOwner,
    ResponseRecord,
    ResponseStore,
)

SECRET_HEADERS = ("x-openrouter-api-key",)
"""Headers of clients that hold a key of theirs."""
_PURPOSE = "response"


@dataclass(frozen=True)
class ResponseRequest:
    """What a turn of a response is asked for. `body` is that of `/v1/responses` without `conversation`, `prompt` and `background`;
    `facts` is what its response says of those; `given` are its own items, that are added to the conversation `thread_id`."""

    request_id: str
    body: Mapping[str, Any]
    facts: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)
    address: str | None = None
    thread_id: str | None = None
    given: Sequence[Mapping[str, Any]] = ()

    @property
    def response_id(self) -> str:
        """The id of the response."""
        return f"resp_{self.request_id}"

    @property
    def background(self) -> bool:
        """Whether the response is kept with its events, for clients that left."""
        return bool(self.facts.get("background"))

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> "ResponseRequest":
        """As it was stored with the turn."""
        return cls(**{name: value for name, value in stored.items() if name in cls.__dataclass_fields__})

    def head(self) -> ResponseHead:
        """What the response says about its request."""
        facts = {"id": self.response_id, "store": self.body.get("store") is not False, **self.facts}
        return ResponseHead(self.response_id, str(self.body.get("model")), self.body, facts)

    def sent_headers(self) -> dict[str, str]:
        """The headers of the client, with its secrets. One that was sealed with another key of the server is left out."""
        found: dict[str, str] = {}
        for name, value in self.headers.items():
            if name not in SECRET_HEADERS:
                found[name] = value
                continue
            with suppress(SealBroken):
                opened = open_sealed(_secret_key(), _PURPOSE, value, context=self.response_id)
                found[name] = opened.decode("latin-1")
        return found


def stored_headers(headers: Mapping[str, str], response_id: str) -> dict[str, str]:
    """The headers of a request as they are stored with its turn: secrets are sealed for this response."""
    return {
        name: seal(_secret_key(), _PURPOSE, value.encode("latin-1", "replace"), context=response_id)
        if name in SECRET_HEADERS
        else value
        for name, value in headers.items()
    }


def _secret_key() -> str:
    return str(extension("settings").secret_key)


class ConversationMemory:
    """Where a response is kept whose items follow those of a conversation. See `ResponseMemory`."""

    def __init__(
        self, store: ResponseStore, context: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]
    ) -> None:
        self._store = store
        self.context = context
        self.facts = facts

    def keeps(self, body: Mapping[str, Any]) -> bool:
        """Its facts are told in any case."""
        return True

    def stores(self, body: Mapping[str, Any]) -> bool:
        return self._store.keeps(body)

    def chain(self, owner: ResponseOwner, id: str) -> ResponseChain:
        return self._store.chain(owner, id)

    def items(self, owner: ResponseOwner, ids: Sequence[str]) -> dict[str, Any]:
        found = {item["id"]: item for item in self.context if item.get("id") in ids}
        return self._store.items(owner, [id for id in ids if id not in found]) | found

    def keep(self, record: ResponseRecord) -> None:
        if record.store:
            self._store.keep(record)


class SmallHeaders(dict[str, str]):
    """Headers of the client's request, whose names have small letters."""

    def get(self, name: str, default: Any = None, /) -> Any:
        return super().get(name.lower(), default)
