"""The base of dialects that are not conversations: a request is passed on to a provider that has the same format."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from models.gateway.bill import Bill
from models.gateway.chat_format import Call
from models.gateway.dialects.dialect import (
    CallRequest,
    Dialect,
    ErrorAnswer,
    ErrorContext,
    IncomingRequest,
    Reply,
    WholeAnswer,
    newest_messages,
)
from models.gateway.dialects.reading import passed_meter, read_passed_answer, read_request
from models.gateway.dialects.translating import CHAT
from models.gateway.route import Route
from models.gateway.routing import Router


class PassingDialect(Dialect):
    """Answers are passed on unchanged; errors have OpenAI's format."""

    @abstractmethod
    def parse(self, received: IncomingRequest) -> Call:
        """Parse a body. Raises BadCall."""

    @abstractmethod
    def inputs(self, call: Call) -> list[str]:
        """What is stored of the input, as texts."""

    def read(self, received: IncomingRequest) -> CallRequest:
        return read_request(self, received, self.parse)

    def route(self, routes: Router, request: CallRequest, call: Call) -> Route:
        return routes.find(call.model, byok=request.byok, task=call.format)

    def stored_input(self, call: Call, size: int) -> tuple[Any, dict[str, Any] | None]:
        messages = [{"role": "user", "content": text} for text in self.inputs(call)]
        return newest_messages(messages, size), None

    def count_text(self, call: Call) -> int:
        return self.count_input(call)[0]

    def read_answer(self, raw: bytes, call: Call, route: Route, headers: Mapping[str, str]) -> WholeAnswer:
        return read_passed_answer(raw, route, headers, passed_meter(call, route))

    def stored_answer(self, call: Call, answers: Sequence[WholeAnswer]) -> Any:
        return answers[0].meter.answer

    def reply(self, call: Call, answers: Sequence[WholeAnswer], bill: Bill) -> Reply:
        return Reply(answers[0].raw)

    def error(self, error: Exception, context: ErrorContext) -> ErrorAnswer:
        return CHAT.error(error, context)
