"""Searches of the web and of documentation in a turn: calls of the gateway, held, settled and recorded like the turn's model calls."""

import threading
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson

from models.assistants.tool_requests import MAX_ANSWER, ToolFailed
from models.core.db import extension
from models.core.strict_models import InvalidBody
from models.gateway.dialects import DOCS_SEARCH, WEB_SEARCH
from models.gateway.dialects.dialect import ErrorContext, IncomingRequest, Reply
from models.gateway.dialects.searches import SearchDialect
from models.gateway.in_flight import InFlightCall
from models.gateway.search_tools.search_providers import SearchNotSetUp
from models.ledger.payers import PayerHint
from models.turns.engine import TurnHandle
from models.turns.turn_call import FAILURES

DIALECTS: dict[str, SearchDialect] = {"web_search": WEB_SEARCH, "docs_search": DOCS_SEARCH}


class TurnSearches:
    """The searches of one turn, paid by its account, or by the organisation `org_id` if the key may."""

    def __init__(self, handle: TurnHandle, org_id: str | None) -> None:
        self._handle, self._org_id = handle, org_id
        self._lock = threading.Lock()
        self._credits = 0

    def offers(self, name: str) -> bool:
        """Whether this server has a service for the tool."""
        try:
            self._handle.gateway.routes.searches.find(DIALECTS[name].kind)
        except SearchNotSetUp:
            return False
        return True

    def search(self, name: str, arguments: Mapping[str, Any]) -> str:
        """What was found, or that nothing was. Needs the application context, and no transaction. Raises ToolFailed."""
        dialect = DIALECTS[name]
        body = _body(name, arguments)
        made: list[InFlightCall] = []
        received = IncomingRequest(
            uuid.uuid4().hex,
            self._handle.key.id,
            self._headers(),
            body,
            orjson.dumps(body),
            acts_for=self._handle.key,
            admitted=made.append,
        )
        payer = PayerHint(self._org_id) if self._org_id else PayerHint()
        try:
            request = replace(dialect.read(received), payer=payer)
            answer = self._handle.gateway.open(request)
        except InvalidBody as error:
            raise ToolFailed(f"The arguments do not fit: {error}.") from None
        except FAILURES as error:
            shown = dialect.error(error, ErrorContext(received.request_id, {}, extension("settings"))).body
            message = shown.get("error") or shown.get("message") if isinstance(shown, dict) else None
            raise ToolFailed(f"The search failed: {message or 'no answer'}") from error
        assert isinstance(answer, Reply)
        settled = made[0].settled
        with self._lock:
            self._credits += settled.credits if settled else 0
        found = orjson.loads(answer.body)
        text = found.get("result") or found.get("documentation") or found.get("error") or "(nothing)"
        return str(text)[:MAX_ANSWER]

    def take_credits(self) -> int:
        """What the searches since the last time cost, in credits."""
        with self._lock:
            taken, self._credits = self._credits, 0
        return taken

    def _headers(self) -> dict[str, str]:
        return {"x-stoa-run-id": self._handle.run_id} if self._handle.run_id else {}


def _body(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    if name == "web_search":
        return {"query": arguments.get("query")}
    body = {"libraryTitle": arguments.get("library")}
    return body if arguments.get("topic") is None else {**body, "topic": arguments["topic"]}
