"""What one request has to do with kept responses: those that it continues or refers to, and where its answer is kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from models.gateway.chat_format import BadCall, KeptAnswer
from models.gateway.lenient_json import write
from models.gateway.response_state.response_items import REFERENCE, references, sent_again, with_references
from models.gateway.response_state.response_store import (
    MAX_CONTEXT,
    NO_CHAIN,
    ResponseChain,
    ResponseMemory,
    ResponseOwner,
    ResponseRecord,
)

FINISHED = ("completed", "incomplete")
"""Statuses of responses that are kept."""


class ResolvedBody(NamedTuple):
    """A body that refers to nothing, about its bytes, and the chain that it continues."""

    body: dict[str, Any]
    size: int
    chain: ResponseChain


@dataclass(frozen=True, slots=True)
class RequestState:
    """`body` as the client sent it, in about `size` bytes."""

    request_id: str
    body: Mapping[str, Any] = field(repr=False)
    size: int
    memory: ResponseMemory = field(repr=False)

    @property
    def previous_id(self) -> str | None:
        """The response that the request continues."""
        return self.body.get("previous_response_id") or None

    @property
    def refers(self) -> bool:
        """Whether the request refers to kept responses, or continues a conversation."""
        given = self.body.get("input")
        items: Sequence[Any] = given if isinstance(given, list) else ()
        referring = any(item.get("type") == REFERENCE for item in items)
        return self.previous_id is not None or bool(self.memory.context) or referring

    def resolve(self, owner: ResponseOwner) -> ResolvedBody:
        """The body with all that it refers to. The instructions of earlier responses are not inherited. Raises BadCall,
        ResponsesUnavailable."""
        chain = self.memory.chain(owner, self.previous_id) if self.previous_id else NO_CHAIN
        given = self.body.get("input") or []
        found = self.memory.items(owner, references(given))
        own = [{"role": "user", "content": given}] if isinstance(given, str) else given
        before = [*self.memory.context, *chain.items]
        items = [*map(sent_again, before), *with_references(own, found)]
        body = {key: value for key, value in self.body.items() if key != "previous_response_id"}
        size = self.size + chain.size
        if self.memory.context:
            size += len(write(list(self.memory.context)))
        if size > MAX_CONTEXT:
            message = f"With what it continues, the request has more than {MAX_CONTEXT >> 20} MB."
            raise BadCall(message, param="previous_response_id")
        return ResolvedBody({**body, "input": items}, size, chain)

    def answer(self, chain: ResponseChain = NO_CHAIN) -> KeptAnswer | None:
        """Where the answer is kept; `chain` is what it continues."""
        if not self.memory.keeps(self.body):
            return None
        id = f"resp_{self.request_id}"
        store = self.memory.stores(self.body)
        facts = {"id": id, "store": store, "previous_response_id": self.previous_id, **self.memory.facts}

        def keep(response: Mapping[str, Any], raw: bytes) -> None:
            output = response.get("output")
            items = [item for item in output if isinstance(item, dict)] if isinstance(output, list) else []
            status = response.get("status")
            if status in FINISHED:
                given = self.body.get("input")
                record = ResponseRecord(
                    self.request_id,
                    id,
                    given,
                    raw,
                    items,
                    self.previous_id,
                    chain,
                    store=store,
                    status=status,
                )
                self.memory.keep(record)

        return KeptAnswer(id, facts, keep)
