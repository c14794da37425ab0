"""The model calls that programs of a turn may make, whatever way they reach the server: the doors, and in whose name a call is made.

Who calls, in which run, paid by whom, within which budget and with which models is the turn's: what a program sends about that is not read.
"""

import logging
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from models.accounts.key_format import PresentedKey
from models.gateway.call_errors import CallRefused, RelayFailed
from models.gateway.chat_format import Call
from models.gateway.dialects import CHAT, CODEBUFF, EMBEDDINGS, MESSAGES, RESPONSES
from models.gateway.dialects.dialect import CallRequest, Dialect, ErrorContext, IncomingRequest, Reply
from models.gateway.formats.messages_parsing import parse_messages
from models.gateway.in_flight import InFlightCall
from models.gateway.relay import Gateway
from models.gateway.stream import AnswerStream
from models.gateway.streamed_answer import AnswerStopped
from models.gateway.token_counts import count_input
from models.ledger.payers import PayerHint
from models.turns.turn_call import FAILURES

log = logging.getLogger("stoa.runners")

MAX_BODY = 20 << 20
DOORS: Mapping[str, Dialect] = {
    "/v1/chat/completions": CHAT,
    "/v1/messages": MESSAGES,
    "/v1/responses": RESPONSES,
    "/v1/embeddings": EMBEDDINGS,
    "/api/v1/chat/completions": CODEBUFF,
}
COUNT = "/v1/messages/count_tokens"
PASSED_HEADERS = ("anthropic-version", "anthropic-beta")
"""What a request may say about its format."""
IDENTITY = ("thread_id", "agent_id", "codebuff_metadata", "store", "background", "models")
"""Keys of a body that are replaced or left out: they name what is not the turn's."""
REFUSED = ("previous_response_id", "conversation", "prompt")
"""Keys that read what the account has stored."""
JSON = "application/json"


@dataclass(frozen=True)
class CallAnswer:
    """What a program gets: a body, or a stream that the caller closes."""

    status: int
    content_type: str
    body: bytes | AnswerStream
    headers: Mapping[str, str] = field(default_factory=dict)


class TurnCalls:
    """The calls of one turn's programs. `run_id` and `alive` are asked at each call; `call_id` names each. `on_refused` hears why a call is not admitted, and says
    whether it is made once more; `on_admitted` hears of each that is. Safe for several threads."""

    def __init__(
        self,
        gateway: Gateway,
        key: PresentedKey,
        *,
        run_id: Callable[[], str | None],
        alive: Callable[[], bool],
        org_id: str | None = None,
        models: Sequence[str] = (),
        call_id: Callable[[], str] = lambda: uuid.uuid4().hex,
        on_refused: Callable[[Exception], bool] = lambda error: False,
        on_admitted: Callable[[], None] = lambda: None,
    ) -> None:
        self.gateway = gateway
        self.models = tuple(models)
        self._key, self._run_id, self._alive, self._call_id = key, run_id, alive, call_id
        self._on_refused, self._on_admitted = on_refused, on_admitted
        self._payer = PayerHint(org_id) if org_id else PayerHint()
        self._lock = threading.Lock()
        self._calls: list[InFlightCall] = []
        self._settled = 0

    @property
    def spent(self) -> int:
        """Credits of the calls that have ended."""
        with self._lock:
            for call in [each for each in self._calls if each.ended]:
                self._calls.remove(call)
                self._settled += call.settled.credits if call.settled else 0
            return self._settled

    @property
    def open(self) -> bool:
        """Whether a call has not ended."""
        return any(not call.ended for call in [*self._calls])

    def stop(self) -> None:
        """End the calls in flight, from any thread. Their answers so far are charged."""
        for call in [*self._calls]:
            call.stop(AnswerStopped("The turn ended."))

    def listed(self) -> list[str]:
        """The models that the turn may use."""
        return [*self.models] or [route.requested for route in self.gateway.routes.all_models()]

    # -- answers -------------------------------------------------------------------------------------------

    def get(self, path: str) -> CallAnswer:
        """The models."""
        path = path.rstrip("/")
        if path == "/v1/models":
            return _json(200, {"object": "list", "data": [_model(name) for name in self.listed()]})
        name = path.removeprefix("/v1/models/")
        return _json(200, _model(name)) if name != path and name in self.listed() else missing()

    def post(self, path: str, raw: bytes, headers: Mapping[str, str]) -> CallAnswer:
        """A model call, or a count of tokens. `headers` by their lower-case names."""
        path = path.rstrip("/")
        dialect = MESSAGES if path == COUNT else DOORS.get(path)
        if dialect is None:
            return missing()
        try:
            body = orjson.loads(raw)
        except orjson.JSONDecodeError:
            return refusal(400, "The request body is not valid JSON.", "invalid_json")
        if isinstance(body, dict) and (found := next((key for key in REFUSED if body.get(key)), None)):
            said = f"'{found}' is not served in a turn: send the whole input."
            return refusal(400, said, "invalid_request_error")
        id = self._call_id()
        try:
            if path == COUNT:
                return self._count(dialect, body)
            answer = self.call(dialect, body, headers, id)
        except Exception as error:
            if not isinstance(error, FAILURES):
                log.exception("call %s of a turn failed", id)
                error = RelayFailed("The call failed on our side.")
            refused = dialect.error(error, ErrorContext(id, headers, self.gateway.settings))
            return _json(refused.status, refused.body, refused.headers)
        if isinstance(answer, AnswerStream):
            return CallAnswer(200, answer.content_type, answer)
        assert isinstance(answer, Reply)
        return CallAnswer(200, answer.content_type, answer.body)

    def call(self, dialect: Dialect, body: Any, headers: Mapping[str, str], request_id: str) -> Any:
        """Make a call in the turn's name: `body` as a client of the dialect sends it. Returns the gateway's answer. Raises as `Gateway.open`."""
        try:
            return self._open(dialect, body, headers, request_id)
        except CallRefused as error:
            if not self._on_refused(error):
                raise
        return self._open(dialect, body, headers, self._call_id())

    def _open(self, dialect: Dialect, body: Any, headers: Mapping[str, str], request_id: str) -> Any:
        if isinstance(body, dict):
            body = self._own(dialect, body)
        own = {name: headers[name] for name in PASSED_HEADERS if headers.get(name)}
        run_id = self._run_id()
        if run_id:
            own["x-stoa-run-id"] = run_id
        received = IncomingRequest(
            request_id,
            self._key.id,
            own,
            body,
            orjson.dumps(body),
            acts_for=self._key,
            admitted=self._admitted,
        )
        request: CallRequest = replace(dialect.read(received), payer=self._payer, free=False)
        return self.gateway.open(request)

    def _count(self, dialect: Dialect, body: Any) -> CallAnswer:
        found = self._own(dialect, body) if isinstance(body, dict) else body
        call: Call = parse_messages(found, len(orjson.dumps(found)), limit_required=False)
        return _json(200, {"input_tokens": count_input(self.gateway.routes, dialect, call)})

    def _own(self, dialect: Dialect, body: dict[str, Any]) -> dict[str, Any]:
        """The body without what is not the program's to say."""
        metadata = body.get("codebuff_metadata")
        found = {key: value for key, value in body.items() if key not in IDENTITY}
        if self.models and found.get("model") not in self.models:
            found["model"] = self.models[0]
        if dialect is RESPONSES:
            found["store"] = False
        if dialect is CODEBUFF:
            several = metadata.get("n") if isinstance(metadata, dict) else None
            found["codebuff_metadata"] = {"run_id": self._run_id(), **({"n": several} if several else {})}
        return found

    def _admitted(self, call: InFlightCall) -> None:
        with self._lock:
            self._calls.append(call)
        self._on_admitted()
        if not self._alive():
            call.stop(AnswerStopped("The turn ended."))


def missing() -> CallAnswer:
    """The answer at every other path."""
    return refusal(404, "This socket serves model calls only.", "not_found")


def refusal(status: int, message: str, code: str) -> CallAnswer:
    """An error that no dialect words."""
    return _json(status, {"error": {"message": message, "type": "invalid_request_error", "code": code}})


def _json(status: int, body: Any, headers: Mapping[str, str] | None = None) -> CallAnswer:
    return CallAnswer(status, JSON, orjson.dumps(body), headers or {})


def _model(name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "type": "model",
        "created": 0,
        "owned_by": "stoa",
        "display_name": name,
    }
