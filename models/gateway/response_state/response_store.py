"""Reads and writes kept responses, one statement each, straight over libpq like the rest of a model call.

A response is written after its call is settled, and takes its owner from the settled call: what was not billed is not kept. If the
server is killed in between, only the kept copy is lost.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import orjson
import psycopg

from models.core.errors import DomainError
from models.core.pool import Pool
from models.gateway.chat_format import BadCall
from models.gateway.lenient_json import read, write
from models.gateway.response_state.response_items import kept_items, own_ids
from models.ledger.group_commit import GroupCommit
from models.ledger.holds import Admission

log = logging.getLogger("stoa.gateway")

MAX_CONTEXT = 20 * 1024 * 1024
"""Bytes of the responses that one request continues; as many as a request may have."""
MAX_LENGTH = 5_000
"""Responses in a chain."""
MAX_KEPT = 32 * 1024 * 1024
"""Bytes of a response that is kept."""
ROW_BYTES = 500
"""What a response takes besides its texts."""
TRIMMED = 0.9
"""What an account keeps of its limit when it is reached."""

# the call is settled, so nothing waits for the disk: after a crash of PostgreSQL the copies of its last half second are lost
_KEEP = """
WITH soon AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true)), kept AS (
    INSERT INTO stored_response (id, account_id, user_id, chain_id, previous_id, size, item_ids, input, response)
    SELECT r.id, c.account_id, c.user_id, r.chain_id, r.previous_id, r.size, r.item_ids, r.input::json, r.response::json
    FROM json_to_recordset($1::json) AS r (
        request_id text, id text, chain_id text, previous_id text, size integer, item_ids text[], input text, response text
    )
    JOIN gateway_call c ON c.request_id = r.request_id AND c.state = 'settled'
    CROSS JOIN soon
    ORDER BY c.account_id, r.id
    ON CONFLICT (id) DO NOTHING
    RETURNING account_id, size
)
SELECT k.account_id, sum(k.size) + coalesce(max(s.bytes), 0)
FROM kept k LEFT JOIN response_storage s USING (account_id) GROUP BY k.account_id
"""
_TRIM = """
WITH chain AS (
    SELECT chain_id, max(created_at) AS continued, sum(size) AS bytes
    FROM stored_response WHERE account_id = $1 GROUP BY chain_id
), ranked AS (
    SELECT chain_id, sum(bytes) OVER (ORDER BY continued DESC, chain_id) AS total FROM chain
)
DELETE FROM stored_response r USING ranked k
WHERE r.account_id = $1 AND r.chain_id = k.chain_id AND k.total > $2
"""
_CHAIN = """
WITH RECURSIVE link AS (
    SELECT r.*, r.size::bigint AS total, 1 AS place FROM stored_response r
    WHERE r.id = $1 AND r.account_id = $2 AND r.user_id = $3
    UNION ALL
    SELECT r.*, l.total + r.size, l.place + 1
    FROM link l JOIN stored_response r ON r.id = l.previous_id AND r.account_id = $2 AND r.user_id = $3
    WHERE l.total <= $4 AND l.place < $5
)
SELECT previous_id, chain_id, input::text, (response -> 'output')::text, total FROM link ORDER BY place DESC
"""
_ITEMS = """
SELECT e.item ->> 'id', e.item::text FROM stored_response r CROSS JOIN LATERAL (
    SELECT value AS item FROM json_array_elements(r.response -> 'output')
    UNION ALL SELECT value FROM json_array_elements(r.input)
) e
WHERE r.item_ids && $1::text[] AND r.account_id = $2 AND r.user_id = $3
AND e.item ->> 'id' = ANY ($1::text[]) AND e.item ->> 'type' <> 'item_reference'
"""
_READ = "SELECT response::text FROM stored_response WHERE id = $1 AND account_id = $2 AND user_id = $3"
_DELETE = "DELETE FROM stored_response WHERE id = $1 AND account_id = $2 AND user_id = $3 RETURNING id"


class PreviousResponseNotFound(BadCall):
    """No response with this id is kept for the caller. Clients then send the whole conversation."""

    code = "previous_response_not_found"

    def __init__(self, id: str) -> None:
        super().__init__(f"Previous response with id '{id}' not found.", param="previous_response_id")


class ResponsesUnavailable(DomainError):
    """The database could not be reached."""

    status = 503
    code = "responses_unavailable"
    retry_after = 5

    def __init__(self) -> None:
        super().__init__("Kept responses cannot be reached. Try again in a moment.")


class ResponseOwner(NamedTuple):
    """Whose responses: of the account that pays, those of one person."""

    account_id: str
    user_id: str


def owner_of(admission: Admission) -> ResponseOwner:
    """The owner of what an admitted caller keeps."""
    assert admission.account_id
    assert admission.user_id
    return ResponseOwner(admission.account_id, admission.user_id)


@dataclass(frozen=True, slots=True)
class ResponseChain:
    """What a request continues: the items of its responses, oldest first, about their bytes, and the id of the chain. `kept`: all of
    it is in the database."""

    items: Sequence[Mapping[str, Any]] = field(default=(), repr=False)
    size: int = 0
    chain_id: str | None = None
    kept: bool = True


NO_CHAIN = ResponseChain()


@dataclass(frozen=True, slots=True)
class ResponseRecord:
    """An answered request: `given` is its own input, `response` the response as JSON, `output` its items."""

    request_id: str
    id: str
    given: Any = field(repr=False)
    response: bytes = field(repr=False)
    output: Sequence[Mapping[str, Any]] = field(repr=False)
    previous_id: str | None = None
    chain: ResponseChain = NO_CHAIN
    store: bool = True
    status: str = "completed"


class ResponseMemory(Protocol):
    """Where responses are kept: the database, or the memory of a connection or of a conversation in front of it.

    `context` are items that come before those of the request, `facts` what responses say about where they are kept besides their ids."""

    context: Sequence[Mapping[str, Any]]
    facts: Mapping[str, Any]

    def keeps(self, body: Mapping[str, Any]) -> bool:
        """Whether the answer to this request is kept."""

    def stores(self, body: Mapping[str, Any]) -> bool:
        """Whether it is kept in the database."""

    def chain(self, owner: ResponseOwner, id: str) -> ResponseChain:
        """The chain that ends in this response. Raises PreviousResponseNotFound, ResponsesUnavailable."""

    def items(self, owner: ResponseOwner, ids: Sequence[str]) -> dict[str, Any]:
        """The items with these ids, without those that are not kept. Raises ResponsesUnavailable."""

    def keep(self, record: ResponseRecord) -> None:
        """Keep a response. Never raises: the answer was paid for, and is sent in any case."""


class ResponseStore:
    """The database. Safe for threads and greenlets. `limit`: bytes that each account may keep."""

    context: Sequence[Mapping[str, Any]] = ()
    facts: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, pool: Pool, *, limit: int, days: int) -> None:
        self._pool = pool
        self._limit = limit
        self.enabled = days > 0
        self._write = GroupCommit[dict[str, Any], None](self._one, self._many)

    def keeps(self, body: Mapping[str, Any]) -> bool:
        return self.enabled and body.get("store") is not False

    stores = keeps

    def keep(self, record: ResponseRecord) -> None:
        row = _row(record)
        if row["size"] > min(MAX_KEPT, self._limit):
            log.warning("response %s is too large to be kept", record.id)
            return
        try:
            self._write(row)
        except psycopg.Error as error:
            log.warning("response %s was not kept: %s", record.id, error)

    def _one(self, row: dict[str, Any]) -> None:
        self._many([row])

    def _many(self, rows: list[dict[str, Any]]) -> list[None]:
        for account_id, total in self._pool.execute(_KEEP, (orjson.dumps(rows).decode(),)):
            if total > self._limit:
                self._pool.execute(_TRIM, (account_id, int(self._limit * TRIMMED)))
        return [None] * len(rows)

    def chain(self, owner: ResponseOwner, id: str) -> ResponseChain:
        rows = self._links(owner, id)
        if not rows:
            raise PreviousResponseNotFound(id)
        first_previous, chain_id, _, _, total = rows[0]
        if total > MAX_CONTEXT or len(rows) >= MAX_LENGTH:
            message = "The conversation has become too long to be continued by 'previous_response_id'."
            raise BadCall(message, param="previous_response_id")
        if first_previous is not None:
            # an earlier response was deleted
            raise PreviousResponseNotFound(id)
        items = [item for row in rows for part in row[2:4] for item in read(part.encode()).value]
        return ResponseChain(self._with_references(owner, items), total, chain_id)

    def input_items(self, owner: ResponseOwner, id: str) -> list[dict[str, Any]]:
        """The items that a response was generated from, oldest first: those of the responses before it, as far as they are kept, and
        its own. Raises ResponsesUnavailable."""
        rows = self._links(owner, id)
        parts = [part for row in rows for part in row[2:4]][:-1]
        items = [item for part in parts for item in read(part.encode()).value]
        return self._with_references(owner, items)

    def _links(self, owner: ResponseOwner, id: str) -> list[tuple[Any, ...]]:
        return [] if "\0" in id else self._read(_CHAIN, (id, *owner, MAX_CONTEXT, MAX_LENGTH))

    def _with_references(self, owner: ResponseOwner, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        wanted = [str(item["id"]) for item in items if item.get("type") == "item_reference"]
        found = self.items(owner, wanted) if wanted else {}
        return [
            found.get(item["id"], item) if item.get("type") == "item_reference" else item for item in items
        ]

    def items(self, owner: ResponseOwner, ids: Sequence[str]) -> dict[str, Any]:
        if not ids:
            return {}
        rows = self._read(_ITEMS, (list(dict.fromkeys(ids)), *owner))
        return {id: read(item.encode()).value for id, item in rows}

    def find(self, owner: ResponseOwner, id: str) -> bytes | None:
        """A response as JSON; None if none is kept. Raises ResponsesUnavailable."""
        rows = self._read(_READ, (id, *owner)) if "\0" not in id else []
        return rows[0][0].encode() if rows else None

    def delete(self, owner: ResponseOwner, id: str) -> bool:
        """Delete a response. Those that continue it stay, but cannot be continued. Returns whether there was one. Raises
        ResponsesUnavailable."""
        return "\0" not in id and bool(self._read(_DELETE, (id, *owner)))

    def _read(self, query: str, params: Sequence[Any]) -> list[tuple[Any, ...]]:
        try:
            return self._pool.execute(query, params)
        except psycopg.Error as error:
            log.warning("could not read kept responses: %s", error)
            raise ResponsesUnavailable from error


def _row(record: ResponseRecord) -> dict[str, Any]:
    items = kept_items(record.given, record.id)
    ids = own_ids(items, record.output, record.given)
    previous = record.previous_id
    if not record.chain.kept:
        # it continues what only a connection remembers
        items, previous = [*map(dict, record.chain.items), *items], None
    kept = write(items).decode()
    return {
        "request_id": record.request_id,
        "id": record.id,
        "chain_id": record.chain.chain_id if previous and record.chain.chain_id else record.id,
        "previous_id": previous,
        "size": len(kept) + len(record.response) + ROW_BYTES,
        "item_ids": ids,
        "input": kept,
        "response": record.response.decode(),
    }
