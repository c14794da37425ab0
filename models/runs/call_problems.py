"""Explains why a call was refused, failed or ended early, and what to do about it."""

from dataclasses import dataclass
from typing import Literal

from models.gateway import GatewayCall

Remedy = Literal["billing", "plans", "budgets", "stop", "keys", "docs", "members"]
"""Where the cause can be removed."""


@dataclass(frozen=True)
class CallProblem:
    """`title` says what happened, `text` the reason as given, in full, `advice` what to do, `remedy` where."""

    title: str
    text: str
    advice: str
    remedy: Remedy | None = None


RETRY = "Nothing was charged. Send the call again."
_REFUSED: dict[str, tuple[str, str, Remedy | None]] = {
    "insufficient_credits": (
        "Refused: not enough credits",
        "Add credits, or send less: a shorter prompt or a lower max_tokens.",
        "billing",
    ),
    "credits_held": (
        "Refused: calls in flight held the credits",
        "Try again when they end, request fewer tokens (max_tokens), or add credits.",
        "billing",
    ),
    "budget_exceeded": ("Refused by a budget", "Raise the budget, or wait until it resets.", "budgets"),
    "budget_held": ("Refused by a budget", "Try again when the calls in flight end.", "budgets"),
    "rate_limit_exceeded": ("Refused by the plan", "Wait until the limit resets, or use credits.", "plans"),
    "key_rate": ("Refused by the key’s limit", "Send fewer calls a minute, or raise the limit.", "keys"),
    "key_busy": ("Refused by the key’s limit", "Send fewer calls at once, or raise the limit.", "keys"),
    "ip_not_allowed": ("Refused by the key", "Call from an address that the key allows.", "keys"),
    "insufficient_permissions": ("Refused by the key", "Add the scope to the key, or use another.", "keys"),
    "model_not_allowed": ("Refused by the key", "Use a model that the key allows, or another key.", "keys"),
    "agent_not_allowed": (
        "Refused by the key",
        "Run an agent that the key allows, or use another key.",
        "keys",
    ),
    "fields_dropped": (
        "Refused by the strict key",
        "Leave the fields out, or use a key that is not strict.",
        "keys",
    ),
    "model_not_in_plan": ("Refused by the plan", "Use a model of the plan, or credits.", "plans"),
    "account_stopped": ("Refused: all calls are stopped", "Resume calls when it is safe to.", "stop"),
    "account_suspended": ("Refused: the account is suspended", "Contact support.", None),
    "run_not_found": ("Refused: no such run", "Start a run first, and send its id.", "docs"),
    "run_not_running": ("Refused: the run has ended", "Start a new run, and send its id.", "docs"),
    "org_not_found": ("Refused: no such organisation", "Name one that you belong to.", "docs"),
    "org_conflict": (
        "Refused: another organisation",
        "Use a key of the organisation that is to pay.",
        "keys",
    ),
    "org_role": ("Refused by the role in the organisation", "Ask an admin for another role.", "members"),
    "team_model": ("Refused by the team", "Use a model that the team may use, or ask an admin.", "members"),
    "team_repository": ("Refused by the team", "Send the repository you work in (x-stoa-repo).", "docs"),
    "model_price_missing": (
        "Refused: the model has no price here",
        "Use another model, or ask the operator.",
        "docs",
    ),
    "model_not_chat": ("Refused: not a chat model", "Use a chat model.", "docs"),
    "model_wrong_route": (
        "Refused: another kind of model",
        "Send it to the route that the message names.",
        "docs",
    ),
    "model_not_found": ("Refused: no such model", "Use a model of GET /v1/models.", "docs"),
    "request_too_large": ("Refused: the request is too large", "Send at most 20 MB.", "docs"),
    "invalid_request": ("Refused: the request is invalid", "Change the request as the message says.", "docs"),
    "bad_request": ("Refused: the request is invalid", "Change the request as the message says.", "docs"),
    "ledger_unavailable": ("Refused: the credit ledger was away", RETRY, None),
}
_FAILED: dict[str, tuple[str, str]] = {
    "upstream_unreachable": ("{provider} could not be reached", RETRY),
    "upstream_unavailable": ("{provider} failed too often of late", RETRY),
    "upstream_timeout": ("{provider} did not answer in time", RETRY),
    "upstream_cut": ("{provider} broke off its answer", RETRY),
    "upstream_too_large": ("{provider} sent too large an answer", "Ask for a shorter answer."),
    "upstream_empty": ("{provider} sent an empty answer", RETRY),
    "upstream_error": ("{provider} failed while it answered", RETRY),
    "server_stopping": ("This server was restarted", RETRY),
    "internal": ("This server failed", "Nothing was charged. Tell the operator the request id."),
}


def explain_problem(call: GatewayCall, message: str | None, provider: str | None) -> CallProblem | None:
    """Why the call failed, or ended early; None if it did not. `message` is the stored error in full, if there is one, and
    `provider` the title of the provider."""
    if call.state != "failed" and not call.error:
        return None
    code = call.error or ""
    provider = provider or "The provider"
    text = message or (code if " " in code else "") or "What was said about it was not kept."
    if call.state == "settled":
        if not message and code in _FAILED:
            text = f"{_FAILED[code][0].format(provider=provider)}."
        advice = "What had arrived was charged."
        return CallProblem("The response ended early", text, advice, _remedy(code))
    if code in _REFUSED and (call.provider is None or code not in _FAILED):
        title, advice, remedy = _REFUSED[code]
        return CallProblem(title, text, advice, remedy)
    if code == "upstream_status":
        return _provider_answered(call.http_status or 502, provider, text)
    title, advice = _FAILED.get(code, ("The call failed", RETRY))
    return CallProblem(title.format(provider=provider), text, advice)


def _provider_answered(status: int, provider: str, text: str) -> CallProblem:
    if status == 429:
        advice = "Nothing was charged. Wait a little and send the call again; the provider limits its rate."
    elif status < 500:
        advice = "Nothing was charged. Change the request as the provider says."
    else:
        advice = RETRY
    return CallProblem(f"{provider} answered {status}", text, advice)


def _remedy(code: str) -> Remedy | None:
    return _REFUSED[code][2] if code in _REFUSED else None
