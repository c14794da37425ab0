"""The base of dialects with a format of their own: calls are passed on to providers that have it, and translated for the others."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from models.core.errors import DomainError
from models.gateway import tokens
from models.gateway.bill import Bill
from models.gateway.budget_errors import RUN_BUDGET
from models.gateway.call_errors import client_error, redact_keys
from models.gateway.chat_format import BadCall, Call, Usage, UsageMeter, find_failure, request_definitions
from models.gateway.conversation import Answer, AnswerBuilder, Conversation
from models.gateway.dialects.chat import ChatDialect
from models.gateway.dialects.dialect import (
    AnswerCollector,
    CallRequest,
    Dialect,
    IncomingRequest,
    Reply,
    WholeAnswer,
    newest_messages,
)
from models.gateway.formats.chat_answer import ChatAnswerReader
from models.gateway.formats.chat_request import write_chat
from models.gateway.lenient_json import NotJson, read, write
from models.gateway.providers.provider import Provider
from models.gateway.routing import Route
from models.gateway.upstream import BrokenConnection, EmptyAnswer
from models.ledger.payers import payer_hint

CHAT = ChatDialect()


class TranslatingDialect(Dialect):
    """Needs no run; the header `x-stoa-run-id` attaches a call to one. `format`: the name of its format; `passed_on`: headers that a
    provider of this format gets unchanged."""

    collects = True
    format = ""
    passed_on: tuple[str, ...] = ()

    @abstractmethod
    def parse(self, received: IncomingRequest) -> Call:
        """Parse a body. Raises BadCall."""

    @abstractmethod
    def conversation(self, body: Mapping[str, Any]) -> Conversation:
        """A parsed body in normal form."""

    @abstractmethod
    def answer_body(self, call: Call, answer: Answer, meter: UsageMeter, usage: Usage) -> dict[str, Any]:
        """A whole answer in this format."""

    def read(self, received: IncomingRequest) -> CallRequest:
        headers = received.headers
        call: Call | DomainError
        if isinstance(received.body, DomainError):
            call = received.body
        else:
            try:
                passed = {name: value for name in self.passed_on if (value := headers.get(name))}
                call = replace(self.parse(received), headers=passed)
            except BadCall as error:
                call = error
        invalid = isinstance(call, DomainError) and call is not received.body
        return CallRequest(
            self,
            received.request_id,
            received.key,
            call,
            run_id=headers.get("x-stoa-run-id") or None,
            byok=headers.get("x-openrouter-api-key") or None,
            run_budget=headers.get(RUN_BUDGET) or None,
            size=len(received.raw),
            body=received.body if invalid else None,
            address=received.address,
            payer=payer_hint(headers.get("x-stoa-org"), headers.get("x-stoa-repo")),
        )

    def adapt(self, call: Call, provider: Provider) -> Call:
        """Translate the call for a provider without this format."""
        if self.format in provider.formats:
            return call
        conversation = self.translated(call.body)
        body = {"model": call.model, **write_chat(conversation)}
        return replace(
            call,
            body=body,
            format="chat",
            original=call.client_body,
            left_out=tuple(conversation.left_out),
            headers={},
        )

    def translated(self, body: Mapping[str, Any]) -> Conversation:
        """A parsed body as providers without this format get it."""
        return self.conversation(body)

    def stored_input(self, call: Call, size: int) -> tuple[Any, dict[str, Any] | None]:
        body = self._chat_body(call)
        return newest_messages(body["messages"], size), request_definitions(body, size)

    def count_text(self, call: Call) -> int:
        body = self._chat_body(call)
        return tokens.count_messages(body["messages"], body.get("tools"))

    def count_input(self, call: Call) -> tuple[int, dict[str, int]]:
        body = self._chat_body(call)
        return tokens.count_input(body["messages"], body.get("tools"))

    def _chat_body(self, call: Call) -> Mapping[str, Any]:
        """The request as it is stored, shown and counted: in the format of chat completions."""
        return call.body if call.format == "chat" else write_chat(self.conversation(call.body))

    # -- answers ---------------------------------------------------------------------------------------------

    def read_answer(self, raw: bytes, call: Call, route: Route, headers: Mapping[str, str]) -> WholeAnswer:
        if call.format != self.format:
            return CHAT.read_answer(raw, call, route, headers)
        title = route.provider.title
        if not raw.strip():
            raise EmptyAnswer(f"{title} sent an empty answer. Nothing was charged; try again.")
        body: Any = None
        with suppress(NotJson):
            body, raw = read(raw)
        if not isinstance(body, dict):
            raise BrokenConnection(f"{title} sent an answer that cannot be read.")
        meter = route.provider.meter(call)
        meter.body(body)
        if meter.failure is not None and not meter.started:
            failure = find_failure(read(redact_keys(raw, route)).value, is_error=True) or meter.failure
            raise client_error(failure, failure.status or 502, route, headers.get("Retry-After"))
        if meter.empty and not meter.ended:
            raise EmptyAnswer(
                f"{title} sent an answer without content and without usage. Nothing was charged; try again."
            )
        return WholeAnswer(raw, body, meter)

    def collector(self, call: Call, route: Route, headers: Mapping[str, str]) -> AnswerCollector:
        return CHAT.collector(call, route, headers)

    def stored_answer(self, call: Call, answers: Sequence[WholeAnswer]) -> Any:
        return answers[0].meter.answer

    def reply(self, call: Call, answers: Sequence[WholeAnswer], bill: Bill) -> Reply:
        whole = answers[0]
        if call.format == self.format:
            return Reply(self.finish(call, whole.value, whole.raw))
        builder = AnswerBuilder()
        for event in ChatAnswerReader().read_whole(whole.value):
            builder.add(event)
        return Reply(self.finish(call, self.answer_body(call, builder.answer(), whole.meter, bill.usage)))

    def finish(self, call: Call, body: dict[str, Any], raw: bytes | None = None) -> bytes:
        """The bytes of a whole settled answer; `raw` are those of a provider of this format."""
        return write(body) if raw is None else raw
