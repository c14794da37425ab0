"""Error messages and bodies shared by the dialects."""

from collections.abc import Mapping
from datetime import UTC
from typing import Any, Protocol

from models.accounts.api_keys import AddressNotAllowed, KeyExpired
from models.accounts.scopes import scope_message
from models.core.db import now
from models.core.settings import Settings
from models.gateway.budget_errors import budget_details, budget_message
from models.gateway.call_errors import CreditsHeld, ProviderError, relative_time
from models.gateway.lenient_json import write
from models.ledger.holds import Admission

_OPENAI = {
    401: "authentication_error",
    402: "insufficient_credits",
    403: "permission_error",
    429: "rate_limit_error",
}
_ANTHROPIC = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    409: "invalid_request_error",
    413: "request_too_large",
    415: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
}


PLAN_OUTCOMES = ("plan_limit", "plan_rate", "model_not_in_plan")
"""Outcomes of admission that `plan_refusal` explains."""
_CONTINUE = 'Enable "Continue with credits" in the CLI to use a-la-carte credits.'


KEY_OUTCOMES = (
    "key_expired",
    "ip_not_allowed",
    "insufficient_permissions",
    "model_not_allowed",
    "agent_not_allowed",
    "fields_dropped",
    "key_busy",
    "key_rate",
)
"""Outcomes of admission that `key_refusal` explains."""


class RequestHeaders(Protocol):
    """Case-insensitive headers of a client's request."""

    def get(self, name: str, /) -> str | None:
        """The value of a header."""

    def __contains__(self, name: str, /) -> bool: ...


def model_error(
    headers: RequestHeaders,
    request_id: str,
    status: int,
    message: str,
    code: Any,
    *,
    param: Any = None,
    kind: Any = None,
) -> dict[str, Any]:
    """Format an error as OpenAI's, or Anthropic's for requests with `anthropic-version`."""
    if "anthropic-version" in headers:
        return {
            "type": "error",
            "error": {"type": _ANTHROPIC.get(status, "api_error"), "message": message},
            "request_id": request_id,
        }
    kind = kind or _OPENAI.get(status, "api_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def answer_message(body: Any) -> str:
    """The message in the body of an error, in any dialect's format."""
    error = body.get("error") if isinstance(body, dict) else None
    message = error.get("message") if isinstance(error, dict) else body.get("message") or error
    return message if isinstance(message, str) else ""


def upstream_message(error: ProviderError) -> str:
    """The provider's message with its details (contract 5.6)."""
    failure = error.failure
    metadata = failure.metadata if isinstance(failure.metadata, dict) else {}
    raw = metadata.get("raw")
    if raw is None:
        return failure.message
    text = raw if isinstance(raw, str) else write(raw).decode()
    name = metadata.get("provider_name")
    excerpt = text if len(text) <= 1000 else f"{text[:1000]}..."
    return f"{failure.message} [{name if isinstance(name, str) and name else 'Provider details'}: {excerpt}]"


def ban_message(settings: Settings) -> str:
    """The message for a banned user (contract 5.2 row 4)."""
    support = settings.stoa_support_email or "the operator of this server"
    return f"Your account has been suspended due to billing issues. Please contact {support} to resolve this."


def insufficient_message(admission: Admission) -> str:
    """Why a call is too expensive although credits are left."""
    if admission.funding == "plan":
        return (
            f"This call costs at least about {admission.minimum} credits, and your plan has "
            f"{max(admission.balance, 0)} left for now. Send less, or add credits and continue with those."
        )
    return (
        f"This call costs at least about {admission.minimum} credits, and {max(admission.balance, 0)} are available. "
        "Send less, or add credits."
    )


def held_message(refusal: CreditsHeld) -> str:
    """Why a call has to wait for calls in flight."""
    admission = refusal.admission
    whose = "your plan's" if admission.funding == "plan" else "your"
    return (
        f"Calls in flight hold {admission.held} of {whose} {admission.balance} credits, and this call needs "
        f"{_needed(admission)}. Try again when they end, request fewer tokens (max_tokens), or add credits."
    )


def held_details(refusal: CreditsHeld) -> dict[str, Any]:
    """The details of `credits_held`: amounts in credits, and the account's oldest holds, by call."""
    admission = refusal.admission
    return {
        "balance": admission.balance,
        "held": admission.held,
        "available": max(admission.available, 0),
        "needed": _needed(admission),
        "holds": [
            {
                "request_id": hold.request_id,
                "model": hold.model,
                "credits": hold.credits,
                "since": hold.since.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            }
            for hold in refusal.holds
        ],
        "holds_total": refusal.count,
    }


def budget_refusal(admission: Admission, settings: Settings) -> tuple[int, str, str, dict[str, Any]]:
    """Status, message, code and details of a call that a budget refused. 429 only if it needs no more than to wait."""
    assert admission.budget is not None
    status, code = (429, "budget_held") if admission.outcome == "budget_held" else (402, "budget_exceeded")
    base_url = settings.base_url
    return status, budget_message(admission.budget, base_url), code, budget_details(admission, base_url)


def key_refusal(admission: Admission) -> tuple[int, str, str]:
    """Status, message and code of a call that its key does not allow."""
    facts, outcome = admission.refusal, admission.outcome
    if outcome in ("key_busy", "key_rate"):
        return 429, _key_limit_message(facts), "rate_limit_exceeded"
    if outcome == "key_expired":
        return 401, KeyExpired().message, outcome
    if outcome == "ip_not_allowed":
        return 403, AddressNotAllowed().message, outcome
    if outcome == "insufficient_permissions":
        return 403, scope_message(str(facts.get("scope"))), outcome
    if outcome == "fields_dropped":
        fields = ", ".join(facts.get("fields") or ())
        return (
            400,
            f"This API key is strict, and these fields cannot be passed on to the model '{admission.model}': {fields}. "
            "Leave them out, choose another model, or use a key that is not strict.",
            outcome,
        )
    if outcome == "model_not_allowed":
        return 403, f"This API key may not use the model '{admission.model}'.", outcome
    agent = facts.get("agent")
    used = f"not of '{agent}'" if agent else "and this call names no run (x-stoa-run-id)"
    return 403, f"This API key may be used in runs of certain agents only, {used}.", outcome


def _key_limit_message(facts: Mapping[str, Any]) -> str:
    if (parallel := facts.get("parallel")) is not None:
        calls = "1 call" if parallel == 1 else f"{parallel} calls"
        return f"This API key may have {calls} in flight. Try again when one ends."
    unit = "tokens" if facts.get("unit") == "tokens" else "requests"
    return f"This API key may use {facts.get('limit')} {unit} per minute. Try again in {facts.get('seconds')} seconds."


def plan_refusal(admission: Admission) -> tuple[int, str, str]:
    """Status, message and code of a call that the person's plan does not cover (contract A.3)."""
    if admission.outcome == "plan_rate":
        requests = "1 request" if admission.limit_label == "1" else f"{admission.limit_label} requests"
        text = f"Your plan allows {requests} per minute. Try again in a moment."
        return 429, text, "rate_limit_exceeded"
    if admission.outcome == "model_not_in_plan":
        return (
            403,
            f"Your plan does not include the model '{admission.model}'. {_CONTINUE}",
            "model_not_in_plan",
        )
    reset = f"Your limit resets {relative_time(admission.limit_resets_at, now())}."
    if admission.balance > 0:
        left = f"This call costs at least about {admission.minimum} credits, and your plan has {admission.balance} left."
        return 429, f"{left} {reset} {_CONTINUE}", "rate_limit_exceeded"
    text = f"Subscription {admission.limit_label} limit reached. {reset} {_CONTINUE}"
    return 429, text, "rate_limit_exceeded"


def plan_reset(admission: Admission) -> str:
    """When a used up plan of someone without credits resets, as a sentence with a leading space; else empty."""
    if admission.limit_resets_at is None:
        return ""
    return f" Your plan's {admission.limit_label} limit resets {relative_time(admission.limit_resets_at, now())}."


def fallback_note(admission: Admission) -> str:
    """Why an organisation did not pay for the repository instead, as a sentence with a leading space; else empty."""
    if admission.paid_by != "fallback:out_of_credits":
        return ""
    return f" {admission.refusal.get('org', 'The organisation')}, which pays for this repository, is out of credits too."


def _needed(admission: Admission) -> int:
    return max(admission.hold, admission.minimum)
