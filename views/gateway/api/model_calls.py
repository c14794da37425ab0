"""Model calls over HTTP, in any dialect: the request read, the gateway's answer or error as a response."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

from flask import Flask
from gunicorn.http.errors import ParseException
from limits.storage import Storage, storage_from_string
from werkzeug import Response
from werkzeug.exceptions import HTTPException

from models.accounts.key_format import MistypedKey, check_typing
from models.core.errors import DomainError
from models.core.pool import Pool
from models.core.settings import GATEWAY_POOL
from models.gateway.budget_errors import RUN_BUDGET, RUN_BUDGET_LEFT
from models.gateway.call_errors import CallRefused, ProviderError
from models.gateway.call_session import read_purpose, read_session
from models.gateway.chat_format import BadCall, Call, UploadedFile, chat_parsing
from models.gateway.dialects import RESPONSES
from models.gateway.dialects.dialect import (
    CallRequest,
    Dialect,
    ErrorContext,
    IncomingRequest,
    MissingApiKey,
    Reply,
    UnreadableBody,
)
from models.gateway.dialects.error_shapes import model_error
from models.gateway.idempotency import (
    EVENT_STREAM,
    NOT_STORED,
    ORIGINAL,
    REPLAYED,
    AnswerNotKept,
    BadIdempotencyKey,
    Replay,
    dropped_header,
    idempotency_key,
)
from models.gateway.idempotency import HEADER as IDEMPOTENCY_KEY
from models.gateway.key_rate_limits import KeyLimits
from models.gateway.lenient_json import write
from models.gateway.relay import Gateway
from models.gateway.response_state.response_store import ResponseOwner
from models.gateway.served import SERVED
from models.gateway.stream import AnswerStream
from models.gateway.token_counts import count_input
from models.gateway.upstream import UpstreamError
from models.ledger.payers import payer_hint
from views.gateway.api.form_body import is_form, read_form
from views.web import error_handlers, guards
from views.web.body import BadJson, BodyTooLarge, read_with_bytes
from views.web.content_encoding import UnsupportedEncoding
from views.web.error_bodies import ModelError
from views.web.failed_keys import TooManyFailedKeys, seconds_to_wait
from views.web.fast_path import FastResponse, RequestContext
from views.web.operation import ErrorFormat, Status, header

PAYER_HEADERS = [
    header("x-stoa-org", "Id or slug of the organisation that pays"),
    header("x-stoa-repo", "The repository you work in; an organisation of yours that has it pays"),
    header(
        IDEMPOTENCY_KEY,
        "Makes retries safe: within 24 hours a request with the same key, route and body gets the stored answer, with "
        "`Idempotent-Replayed: true`, and is not charged again. At most 255 characters, such as a UUID",
    ),
]
CALL_HEADERS = [
    header("x-stoa-run-id", "Attaches the call to one of your running runs"),
    header(RUN_BUDGET, "Credits that this run and its sub-runs may spend; the first one given counts"),
    *PAYER_HEADERS,
]
"""The headers of every model call."""
FORBIDDEN = (
    "The key lacks the scope (`insufficient_permissions`), or may not be used from this address, for this model or outside of certain "
    "agents' runs (`ip_not_allowed`, `model_not_allowed`, `agent_not_allowed`), your plan does not include the model (`model_not_in_plan`), your role or your team in the organisation may not make this "
    "call (`org_role`, `team_model`, `team_repository`), your key belongs to another one (`org_conflict`) or is not authorised "
    "for its single sign-on (`org_sso`), all calls of "
    "the account were stopped (`account_stopped`), or your account is suspended"
)
NOT_FOUND = "No configured provider serves the model, or you belong to no such organisation (`org_not_found`)"
CLAIMED = (
    "The first request with this `Idempotency-Key` has not ended (`idempotency_key_in_use`; retry after the seconds in "
    "Retry-After), or its answer was too large to store (`idempotency_answer_not_kept`)"
)
KEY_REUSED = "The `Idempotency-Key` was used for another request (`idempotency_error`)"

CALL_ERRORS: Mapping[Status, Any] = {
    400: "The body is invalid, fields of it would be dropped and the key is strict (`fields_dropped`), the model has no price here, or is of a kind that another route serves",
    402: "Not enough credits for this call, even without calls in flight, or a budget leaves less (`budget_exceeded`; "
    "`details` names it)",
    403: FORBIDDEN,
    404: NOT_FOUND,
    409: CLAIMED,
    422: KEY_REUSED,
    429: "The key's limits or your plan are used up (`rate_limit_exceeded`), calls in flight hold the credits (`credits_held`; `details` "
    "lists their holds), or the provider's rate limit; retry after the seconds in Retry-After",
    500: "Internal error of this server",
    502: "The provider could not be reached, or failed; nothing is charged",
    503: "The ledger is not reachable, or the provider failed too often of late (`upstream_unavailable`); retry after the seconds in "
    "Retry-After",
    504: "The provider did not respond in time; nothing is charged",
    "default": "The provider's error",
}
"""What a model call answers when it does not succeed."""

MEMORY = frozenset({"thread_id", "agent_id"})
"""Keys of a chat completion that continues a thread, or is answered by an assistant."""
MemoryDoor = Callable[[RequestContext, str, dict[str, Any]], Response]
"""Answers such a request: its context, API key and body."""

DOOR = ErrorFormat(lambda error: None, ModelError, ModelError, ModelError, ModelError)


def init_app(app: Flask) -> None:
    """Create the process's gateway. Raises SettingsError when the operator's price file is invalid."""
    settings = app.extensions["settings"]
    pool = Pool(app.config["SQLALCHEMY_DATABASE_URI"], GATEWAY_POOL)
    storage = storage_from_string(
        app.config["RATELIMIT_STORAGE_URI"], **app.config["RATELIMIT_STORAGE_OPTIONS"]
    )
    app.extensions["gateway"] = Gateway(settings, pool, KeyLimits(cast(Storage, storage), settings))


def remember(app: Flask, door: MemoryDoor) -> None:
    """Let a later room answer the chat completions that name a thread or an assistant."""
    app.extensions["memory_door"] = door


def gateway(app: Flask) -> Gateway:
    """The gateway of this process."""
    return cast(Gateway, app.extensions["gateway"])


@dataclass(frozen=True, slots=True)
class StatefulCalls:
    """Requests that are no plain call: those with a value for one of `keys` in their body, which `answer` answers, or raises an error."""

    keys: tuple[str, ...]
    answer: Callable[[RequestContext, str, dict[str, Any]], Response]

    def takes(self, body: Any) -> bool:
        """Whether it answers a request with this body."""
        return isinstance(body, dict) and any(body.get(key) for key in self.keys)


def call_model(
    context: RequestContext,
    dialect: Dialect,
    *,
    remembers: bool = False,
    stateful: StatefulCalls | None = None,
) -> Response:
    """Make one call in a dialect, with checks in the order of contract 5.2. `remembers`: a body that names a thread or an assistant is answered
    by what `remember` has set; `stateful` answers those that it takes."""
    request: CallRequest | None = None
    try:
        received = _read_body(context, dialect)
        if remembers and isinstance(received.body, dict) and not MEMORY.isdisjoint(received.body):
            door: MemoryDoor = context.app.extensions["memory_door"]
            return door(context, received.key, received.body)
        if stateful is not None and stateful.takes(received.body):
            return stateful.answer(context, received.key, received.body)
        request = _read_call(context, dialect, received)
        return _to_response(gateway(context.app).open(request), dialect)
    except Exception as error:
        return _error_response(context, dialect, error, unread=request is None)


def count_tokens(
    context: RequestContext,
    dialect: Dialect,
    parse: Callable[[Any, int], Call],
    write_count: Callable[[int], dict[str, Any]],
) -> Response:
    """The count of a request's input tokens, which is free. `parse` reads a body of so many bytes."""
    request = context.request
    try:
        key = guards.single_api_key(request.environ)
        if not key:
            raise MissingApiKey
        gateway(context.app).admitter.authenticate(key, context.id, dialect, request.remote_addr)
        try:
            body, raw = read_with_bytes(request, allow_nul=True)
        except BadJson as error:
            raise BadCall(f"The request body is not valid JSON: {error}.") from error
        call = parse(body, chat_parsing.size_of(raw))
        return json_answer(write_count(count_input(gateway(context.app).routes, dialect, call)))
    except Exception as error:
        return refuse_in(context, dialect, error)


def response_owner(context: RequestContext) -> ResponseOwner:
    """Whose kept responses the caller reads. Raises MissingApiKey, CallRefused, LedgerUnavailable."""
    request = context.request
    key = guards.single_api_key(request.environ)
    if not key:
        raise MissingApiKey
    payer = payer_hint(request.headers.get("x-stoa-org"), request.headers.get("x-stoa-repo"))
    served = gateway(context.app)
    return served.admitter.response_owner(
        key, context.id, RESPONSES, payer=payer, address=request.remote_addr
    )


def refuse_in(context: RequestContext, dialect: Dialect, error: Exception) -> Response:
    """An error that is no call's, in the dialect's format."""
    found = _limited(context, normalize(error))
    if not isinstance(found, CallRefused | DomainError):
        error_handlers.log.error("request %s: %s failed", context.id, context.request.path, exc_info=error)
    answer = dialect.error(found, ErrorContext(context.id, context.request.headers, context.settings))
    response = json_answer(answer.body, answer.status)
    if isinstance(found, TooManyFailedKeys):
        response.headers["Retry-After"] = str(found.retry_after)
    return response


class _Received(NamedTuple):
    key: str
    body: Any
    raw: bytes
    files: tuple[UploadedFile, ...]
    form: bool


def _read_body(context: RequestContext, dialect: Dialect) -> _Received:
    request = context.request
    key = guards.single_api_key(request.environ)
    if key:
        check_typing(key)
    elif not dialect.body_first:
        raise MissingApiKey

    def knock() -> None:
        # authenticate before reading a large body
        if not key:
            raise MissingApiKey
        gateway(context.app).admitter.authenticate(key, context.id, dialect, request.remote_addr)

    body: Any
    files: tuple[UploadedFile, ...] = ()
    form = bool(dialect.form_limit) and is_form(request)
    try:
        if form:
            knock()
            body, files, raw = read_form(request, dialect.form_limit)
        else:
            body, raw = read_with_bytes(request, allow_nul=True, before_large=knock)
    except BadJson as error:
        if dialect.body_first:
            raise UnreadableBody from error
        body, raw = BadCall(f"The request body is not valid JSON: {error}."), b""
    except BadCall as error:
        body, raw = error, b""
    if dialect.body_first:
        dialect.check_body(body)
    if not key:
        raise MissingApiKey
    return _Received(key, body, raw, files, form)


def _read_call(context: RequestContext, dialect: Dialect, received: _Received) -> CallRequest:
    request, (key, body, raw, files, form) = context.request, received
    call = dialect.read(
        IncomingRequest(
            context.id,
            key,
            request.headers,
            body,
            raw,
            request.remote_addr,
            gateway(context.app).responses,
            files,
            form,
        )
    )
    if call.run_id is None and (session := read_session(request.environ, body)) is not None:
        purpose = read_purpose(request.environ)
        call = replace(call, session=session, headers=request.headers, purpose=purpose)
    value = request.headers.get(IDEMPOTENCY_KEY)
    return call if value is None else _idempotent(context, call, value, raw)


def _idempotent(context: RequestContext, call: CallRequest, value: str, raw: bytes) -> CallRequest:
    """The call with its idempotency key, which is for this route, body, run and payer."""
    request, payer = context.request, call.payer
    same = (request.path, request.query_string, raw, call.run_id, payer.org, payer.repo_url)
    try:
        key = idempotency_key(value.strip(), *same, is_test=call.presented.is_test)
    except BadIdempotencyKey as error:
        return replace(call, call=error)
    return replace(call, idempotency=key, headers=request.headers)


def _to_response(answer: Reply | AnswerStream | Replay, dialect: Dialect) -> Response:
    """The gateway's answer as an HTTP response (contract 5.4)."""
    if isinstance(answer, Reply):
        response = FastResponse(answer.body, content_type=answer.content_type)
        if not answer.stored:
            response.headers[NOT_STORED] = "false"
    elif isinstance(answer, Replay):
        return _replayed(answer, dialect)
    else:
        response = stream_response(answer, answer.content_type)
    response.headers.update(answer.limits)
    if answer.served is not None:
        response.headers[SERVED] = answer.served
    if answer.balance is not None:
        response.headers.update(dialect.balance_headers(answer.balance))
    return _with_facts(response, answer.dropped, answer.run_left)


def _replayed(replay: Replay, dialect: Dialect) -> Response:
    """A stored answer as an HTTP response: a stream as a stream."""
    stored = replay.answer
    if replay.streamed:
        response = stream_response(replay.blocks(dialect.greeting()))
    else:
        response = FastResponse(b"".join(replay.blocks()), stored.status, content_type=stored.content_type)
    response.headers.update(stored.headers)
    response.headers[REPLAYED] = "true"
    response.headers[ORIGINAL] = replay.request_id
    return response


def stream_response(blocks: Iterable[bytes], content_type: str = EVENT_STREAM) -> FastResponse:
    """A response that is sent as it is produced."""
    return FastResponse(
        blocks,
        direct_passthrough=True,
        content_type=content_type,
        headers={"Cache-Control": "no-cache", "Connection": "keep-alive", "X-Accel-Buffering": "no"},
    )


def _error_response(context: RequestContext, dialect: Dialect, error: Exception, *, unread: bool) -> Response:
    """An error as an HTTP response in the dialect's format. `unread`: the body was not read, so the gateway has no record of
    the call."""
    normalized = _limited(context, normalize(error))
    if not isinstance(normalized, CallRefused | ProviderError | UpstreamError | DomainError):
        error_handlers.log.error(
            "request %s: POST %s failed", context.id, context.request.path, exc_info=error
        )
    answer = dialect.error(normalized, ErrorContext(context.id, context.request.headers, context.settings))
    key = guards.api_key(context.request.environ) if unread else None
    limited = isinstance(normalized, TooManyFailedKeys)
    if key and not limited and isinstance(normalized, CallRefused | DomainError):
        gateway(context.app).refusals.record_unread(dialect, context.id, key, normalized, answer)
    response = json_answer(answer.body, answer.status)
    response.headers.update(answer.headers)
    if isinstance(error, UnsupportedEncoding):
        response.headers["Accept-Encoding"] = error.accept
    retrying = CallRefused | ProviderError | UpstreamError | DomainError
    if isinstance(normalized, retrying) and normalized.retry_after:
        seconds = str(normalized.retry_after)
        if seconds.isprintable() and len(seconds) < 100:
            response.headers["Retry-After"] = seconds
    if isinstance(normalized, AnswerNotKept):
        # SDKs retry a 409 otherwise
        response.headers["X-Should-Retry"] = "false"
    response.headers.update(getattr(error, "limits", {}))
    return _with_facts(response, getattr(error, "dropped", ()))


def _limited(context: RequestContext, error: Exception) -> Exception:
    """The error, or the refusal of one more unknown key after too many."""
    unknown = isinstance(error, CallRefused) and error.admission.outcome == "unknown_key"
    if not unknown and not isinstance(error, MistypedKey):
        return error
    request = context.request
    key = guards.api_key(request.environ) or ""
    per_minute = context.settings.stoa_failed_keys_per_minute
    wait = seconds_to_wait(guards.limiter, per_minute, guards.network_of(request.remote_addr), key)
    return error if wait is None else TooManyFailedKeys(wait)


def normalize(error: Exception) -> Exception:
    """Convert errors of reading a body to errors that dialects format."""
    match error:
        case BodyTooLarge():
            return DomainError(str(error.description), status=413, code="request_too_large")
        case UnsupportedEncoding():
            return DomainError(str(error.description), status=415, code="unsupported_content_encoding")
        case HTTPException() | ParseException():
            return UnreadableBody()
    return error


def _with_facts(response: Response, dropped: tuple[str, ...], run_left: int | None = None) -> Response:
    """Name the request keys left out for the provider, and what is left of the run's envelope, in headers."""
    response.headers.update(dropped_header(dropped))
    if run_left is not None:
        response.headers[RUN_BUDGET_LEFT] = str(max(run_left, 0))
    return response


def json_answer(body: Any, status: int = 200) -> Response:
    """A JSON response."""
    return Response(write(body), status, content_type="application/json")


def refuse(
    context: RequestContext, status: int, message: str, code: str, *, param: str | None = None
) -> Response:
    return json_answer(
        model_error(context.request.headers, context.id, status, message, code, param=param), status
    )
