"""One model call of a turn, through the gateway like those of clients: admitted, held, streamed, settled."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import orjson

from models.core.errors import DomainError
from models.core.settings import Settings
from models.gateway.call_errors import CallRefused, ProviderError, RelayFailed
from models.gateway.dialects import TURNS
from models.gateway.dialects.dialect import CallRequest, ErrorContext, IncomingRequest
from models.gateway.dialects.error_shapes import answer_message
from models.gateway.in_flight import InFlightCall
from models.gateway.stream import AnswerStream
from models.gateway.streamed_answer import AnswerStopped, StreamedAnswer
from models.gateway.upstream import UpstreamError
from models.ledger.payers import PayerHint
from models.turns.engine import TurnHandle

FAILURES = (CallRefused, ProviderError, UpstreamError, DomainError, RelayFailed)
PAUSING = ("insufficient_credits", "budget_exceeded", "credits_held", "rate_limit_exceeded")
"""Codes after which the same call may succeed later, once somebody has raised a limit or time has passed."""


class TurnCallFailed(DomainError):
    """A model call of a turn was refused, or failed before its answer began. Status, code and message are those of `/v1/chat/completions`."""


def open_call(
    handle: TurnHandle,
    body: dict[str, Any],
    request_id: str,
    settings: Settings,
    *,
    org_id: str | None = None,
    run_id: str | None = None,
    admitted: Callable[[InFlightCall], None] | None = None,
) -> StreamedAnswer:
    """Make the call of one round: `body` as `/v1/chat/completions` takes it, paid by the organisation `org_id`, if the key may, in the turn's run,
    or `run_id` below it. `admitted` gets the call once it is admitted, and stops it when the turn is to end; by default, that is done here. Holds no transaction.
    Raises TurnCallFailed."""
    streamed = {**body, "stream": True, "stream_options": {"include_usage": True}}
    run_id = run_id or handle.run_id
    headers = {"x-stoa-run-id": run_id} if run_id else {}
    received = IncomingRequest(
        request_id,
        handle.key.id,
        headers,
        streamed,
        orjson.dumps(streamed),
        acts_for=handle.key,
        admitted=admitted or partial(stop_with, handle),
    )
    payer = PayerHint(org_id) if org_id else PayerHint()
    request: CallRequest = replace(TURNS.read(received), payer=payer)
    try:
        answer = handle.gateway.open(request)
    except FAILURES as error:
        if admitted is None:
            handle.on_stop(None)
        raise failure_of(error, request_id, settings) from error
    assert isinstance(answer, AnswerStream)
    return StreamedAnswer(answer)


def stop_with(handle: TurnHandle, call: InFlightCall) -> None:
    """Let the turn's end be the call's, from its admission on: before the provider is asked, while it is silent, and while it answers. A worker that
    was stalled until another one had the turn asks nobody."""

    def stop() -> None:
        call.stop(_stop_reason(handle))

    handle.on_stop(stop)
    if not handle.has_lease():
        stop()


def tell_pieces(handle: TurnHandle, answer: StreamedAnswer, message_id: str) -> None:
    """Tell the watchers what the model writes as it comes, until the answer ends or the turn is to end; `answer.error` then says why it
    broke off."""
    handle.on_stop(lambda: answer.stop(_stop_reason(handle)))
    try:
        for kind, piece in answer:
            if kind:
                handle.emit(f"{kind}.delta", {"message_id": message_id, "text": piece})
    except ConnectionResetError:
        # said by `answer.error`
        pass
    except BaseException:
        answer.close()
        raise
    finally:
        handle.on_stop(None)


def _stop_reason(handle: TurnHandle) -> UpstreamError:
    if handle.stopped == "shutdown":
        return AnswerStopped("This server is stopping, so the answer ends here.")
    return AnswerStopped("The answer was stopped.")


def failure_of(error: Exception, request_id: str, settings: Settings) -> TurnCallFailed:
    """An error of the gateway as its answer says it."""
    answer = TURNS.error(error, ErrorContext(request_id, {}, settings))
    found = answer.body.get("error") if isinstance(answer.body, dict) else None
    code = found.get("code") or found.get("type") if isinstance(found, dict) else None
    return TurnCallFailed(
        answer_message(answer.body), status=answer.status, code=str(code or "upstream_error")
    )
