"""The base of dialects with a format of their own: calls are passed on to providers that have it, and translated for the others."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from models.gateway import tokens
from models.gateway.bill import Bill
from models.gateway.chat_format import Call, Usage, UsageMeter, request_definitions
from models.gateway.conversation import Answer, Conversation
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
from models.gateway.dialects.format_answers import FormatCollector, read_format_answer
from models.gateway.dialects.reading import read_request
from models.gateway.dialects.translation import TranslatedAnswer, as_chat, translated
from models.gateway.formats.chat_request import write_chat
from models.gateway.lenient_json import write
from models.gateway.providers.provider import Provider
from models.gateway.route import Route

CHAT = ChatDialect()


class TranslatingDialect(Dialect):
    """`format`: the name of its format; `passed_on`: headers that a provider of this format gets unchanged."""

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
        return read_request(self, received, self._parse_with_headers)

    def _parse_with_headers(self, received: IncomingRequest) -> Call:
        passed = {name: value for name in self.passed_on if (value := received.headers.get(name))}
        return replace(self.parse(received), headers=passed)

    def adapt(self, call: Call, provider: Provider) -> Call:
        """Translate the call for a provider without this format."""
        return translated(call, provider.format_for(call), self.translated)

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
        return write_chat(self.conversation(call.body)) if call.format == self.format else as_chat(call)

    # -- answers ---------------------------------------------------------------------------------------------

    def read_answer(self, raw: bytes, call: Call, route: Route, headers: Mapping[str, str]) -> WholeAnswer:
        if call.format == CHAT.format:
            return CHAT.read_answer(raw, call, route, headers)
        return read_format_answer(raw, call, route, headers)

    def collector(self, call: Call, route: Route, headers: Mapping[str, str]) -> AnswerCollector:
        if call.format == CHAT.format:
            return CHAT.collector(call, route, headers)
        return FormatCollector(call, route, headers)

    def stored_answer(self, call: Call, answers: Sequence[WholeAnswer]) -> Any:
        return answers[0].meter.answer

    def reply(self, call: Call, answers: Sequence[WholeAnswer], bill: Bill) -> Reply:
        whole = answers[0]
        if call.format == self.format:
            return Reply(self.finish(call, whole.value, whole.raw))
        answer = TranslatedAnswer(call).read_whole(whole.value)
        return Reply(self.finish(call, self.answer_body(call, answer, whole.meter, bill.usage)))

    def finish(self, call: Call, body: dict[str, Any], raw: bytes | None = None) -> bytes:
        """The bytes of a whole settled answer; `raw` are those of a provider of this format."""
        return write(body) if raw is None else raw
