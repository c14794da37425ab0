"""The gateway as the compatible SDK knows it: chat completions (contract 5), token count (A.5), health (2.14)."""

import logging
from datetime import datetime
from typing import Annotated, Any

from flask import Blueprint
from flask.typing import ResponseReturnValue
from gunicorn.http.errors import ParseException
from pydantic import Field
from werkzeug import Response
from werkzeug.exceptions import HTTPException

from models.billing.holds import Admission
from models.db import now
from models.errors import DomainError
from models.gateway import tokens
from models.gateway.refusals import UpstreamRefused
from models.gateway.relay import MOST_PARALLEL, Ask, Refused, RelayFailed
from models.gateway.upstream import UpstreamError
from models.gateway.wire import BadCall, Call
from models.gateway.wire import chat as chat_dialect
from models.settings import Settings
from views import guards
from views.api.body import BadBody, BadJson, Body, TooLarge, parse, read_json, read_with_bytes
from views.api.content_encoding import UnknownCoding
from views.gateway import (
    asked_later,
    error_text,
    gateway,
    json_answer,
    knock,
    respond,
    suspended,
    too_little,
    with_dropped,
    with_retry_after,
)
from views.lane import Visit, open_door

log = logging.getLogger("stoa.gateway")
bp = Blueprint("gateway_api", __name__, url_prefix="/api")

DIRECT = ("openai/gpt-5", "openai/gpt-5.1")
"""Models whose several answers come from OpenAI itself (contract 5.3)."""


@open_door(bp, "/v1/chat/completions")
def chat_completions(visit: Visit) -> Response:
    """Contract section 5, in its order of checks."""
    key = guards.api_key(visit.request.environ)
    try:
        body, raw = read_with_bytes(visit.request, allow_nul=True, knock=lambda: _knock(visit, key))
        if not key:
            raise NoKey
        return respond(gateway(visit.app).open(_ask(visit, key, body, raw)))
    except NoKey:
        return json_answer({"message": "Unauthorized"}, 401)
    except BadJson:
        return json_answer({"message": "Invalid JSON in request body"}, 400)
    except TooLarge as error:
        return refuse(413, str(error.description), "request_too_large")
    except UnknownCoding as error:
        response = refuse(415, str(error.description), "unsupported_content_encoding")
        response.headers["Accept-Encoding"] = error.accept
        return response
    except (HTTPException, ParseException):
        return json_answer({"message": "Invalid JSON in request body"}, 400)
    except Refused as refused:
        return _not_admitted(refused.admission, visit.settings)
    except UpstreamRefused as error:
        return _passed_on(error)
    except UpstreamError as error:
        return with_dropped(refuse(error.status, str(error), error.kind, "upstream_error"), error.dropped)
    except DomainError as error:
        return asked_later(refuse(error.status, error.message, error.code), error)
    except RelayFailed:
        log.exception("request %s: the relay failed", visit.id)
        return json_answer({"error": "Failed to process request"}, 500)
    except Exception:
        log.exception("request %s failed", visit.id)
        return json_answer({"error": "Internal server error"}, 500)


class NoKey(Exception):
    """The request carries no API key."""


def _knock(visit: Visit, key: str | None) -> None:
    if not key:
        raise NoKey
    knock(visit, key, "codebuff")


def _ask(visit: Visit, key: str, body: Any, raw: bytes) -> Ask:
    request = visit.request
    metadata = body.get("codebuff_metadata") if isinstance(body, dict) else None
    metadata = metadata if isinstance(metadata, dict) else {}
    run_id, client_id = metadata.get("run_id"), metadata.get("client_id")
    answers, call = 1, _call(body, chat_dialect.size_of(raw))
    if isinstance(call, Call) and not call.stream:
        answers, call = _answers(metadata.get("n"), call)
    return Ask(
        door="codebuff",
        request_id=visit.id,
        key=key,
        call=call,
        run_id=run_id if isinstance(run_id, str) and run_id else None,
        require_run=True,
        answers=answers,
        client_id=client_id if isinstance(client_id, str) else None,
        byok=request.headers.get("x-openrouter-api-key") or None,
        direct_openai=isinstance(call, Call)
        and not call.stream
        and call.model.lower() in DIRECT
        and bool(metadata.get("n")),
        show_cost=True,
        greeting=True,
        size=len(raw),
    )


def _call(body: Any, size: int) -> Call | DomainError:
    try:
        return chat_dialect.parse(body, size, truthy_stream=True)
    except BadCall as error:
        return error


def _answers(wanted: Any, call: Call) -> tuple[int, Call | DomainError]:
    if not wanted:
        return 1, call
    if type(wanted) is not int or not 1 <= wanted <= MOST_PARALLEL:
        return 1, BadCall(f"'codebuff_metadata.n' must be a whole number from 1 to {MOST_PARALLEL}.")
    return wanted, call


def refuse(status: int, message: str, code: str, kind: str = "invalid_request_error") -> Response:
    """An error that every version of the SDK can show: the text both where old and new ones look for it."""
    return json_answer(
        {"error": {"message": message, "code": code, "type": kind}, "message": message}, status
    )


def _not_admitted(admission: Admission, settings: Settings) -> Response:
    run = admission.run_id
    base_url = settings.base_url
    # an organisation has no free credits that come again
    reset = "" if admission.org_id else f" Your free credits reset {when(admission.next_quota_reset, now())}."
    rows = {
        "unknown_key": (401, {"message": "Invalid Codebuff API key"}),
        "banned": (403, {"error": "account_suspended", "message": suspended(settings)}),
        "out_of_credits": (
            402,
            {"message": f"Out of credits. Please add credits at {base_url}/usage.{reset}"},
        ),
        "no_run": (400, {"message": "No runId found in request body"}),
        "run_not_found": (400, {"message": f"runId Not Found: {run}"}),
        "run_not_running": (400, {"message": f"runId Not Running: {run}"}),
    }
    if admission.outcome in rows:
        status, body = rows[admission.outcome]
        return json_answer(body, status)
    return refuse(402, too_little(admission), "insufficient_credits", "insufficient_credits")


def when(moment: datetime | None, current: datetime) -> str:
    """How far off a moment is, in its largest unit: `in 3 days`, `in 1 hour`; `soon` when unknown or past."""
    if moment is None or moment <= current:
        return "soon"
    minutes = int((moment - current).total_seconds() // 60)
    for size, unit in ((1440, "day"), (60, "hour")):
        if minutes >= size:
            count = minutes // size
            return f"in {count} {unit}{'s' if count > 1 else ''}"
    count = max(minutes, 1)
    return f"in {count} minute{'s' if count > 1 else ''}"


def _passed_on(error: UpstreamRefused) -> Response:
    """A provider's error in the form of contract 5.6."""
    failure = error.failure
    told: dict[str, Any] = {"message": error_text(error), "code": failure.code}
    if not failure.plain:
        told |= {"type": failure.type, "param": failure.param}
        if failure.metadata is not None:
            told["metadata"] = failure.metadata
    if failure.details is not None:
        told["details"] = failure.details
    return with_retry_after(json_answer({"error": told}, error.status), error)


class Conversation(Body):
    """What is to be counted: messages in any dialect."""

    messages: Annotated[list[dict[str, Any]], Field(fail_fast=True)]
    system: Any = None
    tools: Any = None
    model: str | None = None


@bp.post("/v1/token-count")
def token_count() -> ResponseReturnValue:
    """Input tokens of a conversation, free of charge (A.5). Other vendors' vocabularies are finer: 30 % are added."""
    try:
        body = read_json(allow_nul=True)
    except BadJson:
        return json_answer({"error": "Invalid JSON in request body"}, 400)
    except TooLarge as error:
        return json_answer({"error": error.description}, 413)
    try:
        asked = parse(Conversation, body)
    except BadBody as error:
        return json_answer({"error": "Invalid request body", "details": error.tree}, 400)
    key = guards.api_key()
    if not key:
        return json_answer({"message": "Unauthorized"}, 401)
    if guards.key_credential(key) is None:
        return json_answer({"message": "Invalid Codebuff API key"}, 401)
    count = tokens.count_messages(asked.messages, asked.tools, asked.system)
    own = asked.model is None or tokens.knows(asked.model)
    return json_answer({"inputTokens": count if own else count + count * 3 // 10})


@bp.get("/healthz")
def healthz() -> ResponseReturnValue:
    """Alive. Says nothing about the database, which `/readyz` does."""
    timestamp = now().strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
    return json_answer({"status": "ok", "cached_agents": 0, "timestamp": timestamp})
