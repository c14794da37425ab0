"""`/v1/*`: the gateway as any OpenAI client knows it. Errors have OpenAI's shape; the model list also Anthropic's."""

from typing import Any, cast

from flask import Blueprint, Flask
from flask.typing import ResponseReturnValue
from gunicorn.http.errors import ParseException
from werkzeug import Response
from werkzeug.exceptions import HTTPException

from models.billing.holds import Admission, LedgerUnavailable
from models.errors import DomainError
from models.gateway.lenient_json import write
from models.gateway.names import CHAT
from models.gateway.pricing import MILLION, Price
from models.gateway.refusals import UpstreamRefused
from models.gateway.relay import Ask, Gateway, Refused, Reply
from models.gateway.routing import Route
from models.gateway.stream import Stream
from models.gateway.upstream import UpstreamError
from models.gateway.wire import BadCall, Call
from models.gateway.wire import chat as chat_dialect
from models.pool import Pool
from models.settings import GATEWAY_POOL, Settings
from views import errors, guards
from views.api.body import BadJson, TooLarge, read_with_bytes
from views.api.content_encoding import UnknownCoding
from views.lane import Answer, Visit, here, open_door

bp = Blueprint("gateway", __name__, url_prefix="/v1")

CREATED = 1_735_689_600
"""When the listed models are said to have been made: no price table knows."""
NO_KEY = "No API key was given. Send 'Authorization: Bearer <key>'."


def init_app(app: Flask) -> None:
    """Make the process's gateway. Raises SettingsError when the operator's price file cannot be used."""
    settings = app.extensions["settings"]
    pool = Pool(app.config["SQLALCHEMY_DATABASE_URI"], GATEWAY_POOL)
    app.extensions["gateway"] = Gateway(settings, pool)
    app.register_blueprint(bp)


def gateway(app: Flask) -> Gateway:
    """The gateway of this process."""
    return cast(Gateway, app.extensions["gateway"])


@open_door(bp, "/chat/completions")
def chat_completions(visit: Visit) -> Response:
    """A chat completion, streamed or not. No run is needed; `x-stoa-run-id` ties the call to one."""
    try:
        return _chat(visit)
    except Refused as refused:
        return refuse(visit, *_words(refused.admission, visit.settings))
    except UpstreamRefused as error:
        return _passed_on(visit, error)
    except UpstreamError as error:
        return with_dropped(refuse(visit, error.status, str(error), error.kind), error.dropped)
    except DomainError as error:
        return asked_later(refuse(visit, error.status, error.message, error.code, param=_param(error)), error)
    except TooLarge as error:
        return refuse(visit, 413, str(error.description), "request_too_large")
    except UnknownCoding as error:
        response = refuse(visit, 415, str(error.description), "unsupported_content_encoding")
        response.headers["Accept-Encoding"] = error.accept
        return response
    except (HTTPException, ParseException):
        return refuse(visit, 400, "The request body cannot be read.", "bad_request")
    except Exception:
        errors.log.exception("request %s: POST %s failed", visit.id, visit.request.path)
        return refuse(visit, 500, "The call failed on our side; nothing was charged.", "internal_error")


def _chat(visit: Visit) -> Response:
    request = visit.request
    environ = request.environ
    key = guards.api_key(environ)
    if not key:
        return refuse(visit, 401, NO_KEY, "invalid_api_key")
    call: Call | DomainError
    raw = b""
    try:
        body, raw = read_with_bytes(request, allow_nul=True, knock=lambda: knock(visit, key, "openai"))
        call = chat_dialect.parse(body, chat_dialect.size_of(raw))
    except BadJson as error:
        call = BadCall(f"The request body is not JSON that can be used: {error}.")
    except BadCall as error:
        call = error
    ask = Ask(
        door="openai",
        request_id=visit.id,
        key=key,
        call=call,
        run_id=environ.get("HTTP_X_STOA_RUN_ID") or None,
        byok=environ.get("HTTP_X_OPENROUTER_API_KEY") or None,
        size=len(raw),
    )
    return respond(gateway(visit.app).open(ask))


def knock(visit: Visit, key: str, door: str) -> None:
    """Before a large body is read: the ledger must know whose it is. Raises Refused, LedgerUnavailable."""
    gateway(visit.app).recognise(key, visit.id, door)


@bp.get("/models")
def models() -> ResponseReturnValue:
    """Every model that can be asked for here."""
    visit = here()
    if (refusal := _stranger(visit)) is not None:
        return refusal
    listed = gateway(visit.app).routes.models()
    if _anthropic(visit):
        data = [_anthropic_model(route) for route in listed]
        ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]}
        return json_answer({"data": data, "has_more": False, **ends})
    return json_answer({"object": "list", "data": [_model(route) for route in listed]})


@bp.get("/models/<path:name>")
def model(name: str) -> ResponseReturnValue:
    """One model, if it can be called here for chat completions."""
    visit = here()
    if (refusal := _stranger(visit)) is not None:
        return refusal
    try:
        route = gateway(visit.app).routes.find(name)
    except DomainError as error:
        return refuse(visit, 404, error.message, "model_not_found", param="model")
    return json_answer(_anthropic_model(route) if _anthropic(visit) else _model(route))


def _model(route: Route) -> dict[str, Any]:
    return {
        "id": route.requested,
        "object": "model",
        "created": CREATED,
        "owned_by": route.provider.name,
        "type": CHAT,
        "context_window": route.context_window,
        "pricing": _pricing(route.price),
    }


def _pricing(price: Price | None) -> dict[str, str] | None:
    """Dollars per token as OpenRouter writes them, for a call of ordinary length; None where only it knows."""
    if price is None:
        return None
    tier = price.tiers[0]
    figures = {
        "prompt": tier.input / MILLION,
        "completion": tier.output / MILLION,
        "input_cache_read": tier.cache_read / MILLION,
        "input_cache_write": tier.cache_write / MILLION,
        "request": price.request,
    }
    return {name: f"{figure.normalize():f}" for name, figure in figures.items()}


def _anthropic_model(route: Route) -> dict[str, Any]:
    name = route.requested
    return {"type": "model", "id": name, "display_name": name, "created_at": "2025-01-01T00:00:00Z"}


def _anthropic(visit: Visit) -> bool:
    return "anthropic-version" in visit.request.headers


def _stranger(visit: Visit) -> Response | None:
    key = guards.api_key(visit.request.environ)
    if key and guards.key_credential(key):
        return None
    message = "This API key is unknown or expired." if key else NO_KEY
    return refuse(visit, 401, message, "invalid_api_key")


# -- answers -------------------------------------------------------------------------------------------------


def respond(answer: Reply | Stream) -> Response:
    """The answer of the gateway as HTTP (contract 5.4)."""
    if isinstance(answer, Reply):
        return with_dropped(Answer(answer.body, content_type="application/json"), answer.dropped)
    response = Answer(
        answer,
        direct_passthrough=True,
        content_type="text/event-stream",
        headers={"Cache-Control": "no-cache", "Connection": "keep-alive", "X-Accel-Buffering": "no"},
    )
    return with_dropped(response, answer.dropped)


def with_dropped(response: Response, dropped: tuple[str, ...]) -> Response:
    """Name what of the request the provider was not sent."""
    if dropped:
        response.headers["X-Stoa-Dropped"] = ", ".join(dropped)
    return response


def json_answer(body: Any, status: int = 200) -> Response:
    """A JSON answer."""
    return Response(write(body), status, content_type="application/json")


def refuse(
    visit: Visit,
    status: int,
    message: str,
    code: Any,
    *,
    param: Any = None,
    kind: Any = None,
    details: Any = None,
) -> Response:
    """An error as OpenAI's clients read it, or Anthropic's where that is what calls."""
    headers = visit.request.headers
    body = errors.model_error(headers, visit.id, status, message, code, param=param, kind=kind)
    if details is not None:
        body["error"]["details"] = details
    return json_answer(body, status)


def _param(error: DomainError) -> str | None:
    return error.param if isinstance(error, BadCall) else "model" if error.code.startswith("model_") else None


def _passed_on(visit: Visit, error: UpstreamRefused) -> Response:
    failure = error.failure
    text = error_text(error)
    response = refuse(
        visit,
        error.status,
        text,
        failure.code,
        param=failure.param,
        kind=failure.type,
        details=failure.details,
    )
    return with_retry_after(response, error)


def with_retry_after(response: Response, error: UpstreamRefused) -> Response:
    """The provider's `Retry-After`, if it sent one, and what it was not sent."""
    with_dropped(response, error.dropped)
    if error.retry_after and error.retry_after.isprintable() and len(error.retry_after) < 100:
        response.headers["Retry-After"] = error.retry_after
    return response


def asked_later(response: Response, error: DomainError) -> Response:
    """`Retry-After`, where the ledger is away."""
    if isinstance(error, LedgerUnavailable):
        response.headers["Retry-After"] = str(error.retry_after)
    return response


def error_text(error: UpstreamRefused) -> str:
    """The provider's message with what lay behind it (contract 5.6)."""
    failure = error.failure
    metadata = failure.metadata if isinstance(failure.metadata, dict) else {}
    raw = metadata.get("raw")
    if raw is None:
        return failure.message
    text = raw if isinstance(raw, str) else write(raw).decode()
    name = metadata.get("provider_name")
    shown = text if len(text) <= 1000 else f"{text[:1000]}..."
    return f"{failure.message} [{name if isinstance(name, str) and name else 'Provider details'}: {shown}]"


def _words(admission: Admission, settings: Settings) -> tuple[int, str, str]:
    base_url = settings.base_url
    run = admission.run_id
    words = {
        "unknown_key": (401, "This API key is unknown or expired.", "invalid_api_key"),
        "banned": (403, suspended(settings), "account_suspended"),
        "out_of_credits": (402, f"Out of credits. Add credits at {base_url}/usage.", "insufficient_credits"),
        "no_run": (400, "No run was named.", "run_not_found"),
        "run_not_found": (400, f"There is no run '{run}' of yours (x-stoa-run-id).", "run_not_found"),
        "run_not_running": (400, f"The run '{run}' is over (x-stoa-run-id).", "run_not_running"),
        "insufficient": (402, too_little(admission), "insufficient_credits"),
    }
    return words[admission.outcome]


def suspended(settings: Settings) -> str:
    """What a banned user is told (contract 5.2 row 4)."""
    support = settings.stoa_support_email or "the operator of this server"
    return f"Your account has been suspended due to billing issues. Please contact {support} to resolve this."


def too_little(admission: Admission) -> str:
    """Why a hold was refused although something is left."""
    left = max(admission.available, 0)
    beside = f" beside the {admission.held} held by calls in flight" if admission.held else ""
    if left < admission.minimum:
        return (
            f"What this call sends costs about {admission.minimum} credits, and {left} are free{beside}. "
            "Send less, wait for the other calls, or add credits."
        )
    return (
        f"This call can cost up to {admission.hold} credits, and {left} are free{beside}. "
        "Wait for the other calls, ask for fewer tokens (max_tokens), or add credits."
    )
