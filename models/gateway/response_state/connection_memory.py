"""What the WebSockets of a process remember of their responses, also of those with `store` false."""

import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from models.gateway.lenient_json import read, write
from models.gateway.response_state.response_items import kept_items, references, with_references
from models.gateway.response_state.response_store import (
    ResponseChain,
    ResponseOwner,
    ResponseRecord,
    ResponseStore,
)

MAX_BYTES = 48 << 20
"""Bytes that all connections of a process remember. Clients of what is forgotten send the whole conversation again."""
MAX_RESPONSES = 64
"""Responses that a connection remembers."""


@dataclass(frozen=True, slots=True)
class RememberedResponse:
    """`items` is the JSON of all items up to the end of the response. `kept`: the chain is in the database, too."""

    items: bytes = field(repr=False)
    chain_id: str | None
    kept: bool


class RememberedResponses:
    """The memory of a process; what was used least recently is forgotten first. Safe for threads and greenlets."""

    def __init__(self, limit: int = MAX_BYTES) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._found: OrderedDict[tuple[int, str], RememberedResponse] = OrderedDict()
        self._bytes = 0
        self._connections = itertools.count()

    @property
    def bytes(self) -> int:
        """What is remembered, in bytes."""
        return self._bytes

    def connect(self) -> int:
        """The number of a new connection."""
        return next(self._connections)

    def get(self, connection: int, id: str) -> RememberedResponse | None:
        """A response of the connection."""
        with self._lock:
            found = self._found.get((connection, id))
            if found is not None:
                self._found.move_to_end((connection, id))
            return found

    def add(self, connection: int, id: str, response: RememberedResponse) -> None:
        """Remember a response, unless it is too large for all of the memory."""
        if len(response.items) > self._limit:
            return
        with self._lock:
            self._found[connection, id] = response
            self._bytes += len(response.items)
            while self._bytes > self._limit:
                self._bytes -= len(self._found.popitem(last=False)[1].items)

    def forget(self, connection: int, ids: Sequence[str]) -> None:
        """Forget responses of a connection."""
        with self._lock:
            for id in ids:
                if (found := self._found.pop((connection, id), None)) is not None:
                    self._bytes -= len(found.items)


class ConnectionMemory:
    """The memory of one connection, in front of the database. See `ResponseMemory`. `ended` is told of each response that is kept."""

    context: Sequence[Mapping[str, Any]] = ()
    facts: Mapping[str, Any] = MappingProxyType({})

    def __init__(
        self,
        store: ResponseStore,
        remembered: RememberedResponses,
        ended: Callable[[ResponseRecord], None] = lambda record: None,
    ) -> None:
        self._store = store
        self._remembered = remembered
        self._connection = remembered.connect()
        self._ids: list[str] = []
        self._ended = ended

    def keeps(self, body: Mapping[str, Any]) -> bool:
        return True

    def stores(self, body: Mapping[str, Any]) -> bool:
        return self._store.keeps(body)

    def chain(self, owner: ResponseOwner, id: str) -> ResponseChain:
        found = self._remembered.get(self._connection, id)
        if found is None:
            return self._store.chain(owner, id)
        items = read(found.items).value
        resolved = with_references(items, self.items(owner, references(items)))
        return ResponseChain(resolved, len(found.items), found.chain_id, found.kept)

    def items(self, owner: ResponseOwner, ids: Sequence[str]) -> dict[str, Any]:
        if not ids:
            return {}
        found: dict[str, Any] = {}
        for id in self._ids:
            remembered = self._remembered.get(self._connection, id)
            for item in read(remembered.items).value if remembered else ():
                if item.get("id") in ids:
                    found[item["id"]] = item
        return self._store.items(owner, [id for id in ids if id not in found]) | found

    def keep(self, record: ResponseRecord) -> None:
        if record.store:
            self._store.keep(record)
        self.remember(record, kept=record.store)
        self._ended(record)

    def remember(self, record: ResponseRecord, *, kept: bool) -> None:
        """Remember a response that was not generated, or is kept elsewhere."""
        given = kept_items(record.given, record.id)
        items = [*record.chain.items, *given, *record.output]
        kept = kept and record.chain.kept
        chain_id = (record.chain.chain_id or record.id) if kept else record.id
        self._remembered.add(self._connection, record.id, RememberedResponse(write(items), chain_id, kept))
        self._ids.append(record.id)
        self._remembered.forget(self._connection, self._ids[:-MAX_RESPONSES])
        del self._ids[:-MAX_RESPONSES]

    def close(self) -> None:
        """Forget everything."""
        self._remembered.forget(self._connection, self._ids)
