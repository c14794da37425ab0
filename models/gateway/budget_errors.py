"""What a caller is told when a budget refuses a call: which one, how much of it is left, when it resets, who can raise it."""

from datetime import UTC
from typing import Any

from models.core.db import now
from models.core.errors import DomainError
from models.gateway.call_errors import relative_time
from models.ledger.holds import Admission, BudgetRefusal

RUN_BUDGET = "x-stoa-run-budget"
"""Header with the credits of a run's envelope."""
RUN_BUDGET_LEFT = "X-Stoa-Run-Budget-Remaining"
"""Header of an answer with the credits that the envelope leaves."""

_PERIODS = {"hour": "an hour", "day": "a day", "week": "a week", "month": "a month", "total": "in total"}


def read_run_budget(text: str | None) -> int | None:
    """The credits of a run's envelope as sent in the header. Raises DomainError."""
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 12:
        raise DomainError(f"'{RUN_BUDGET}' must be a whole number of credits.")
    return int(text)


def budget_message(refusal: BudgetRefusal, base_url: str = "") -> str:
    """One paragraph of plain text, for terminals."""
    held = f", calls in flight hold {refusal.held:,}" if refusal.held else ""
    text = (
        f"{_title(refusal)} is {refusal.credits:,} credits {_PERIODS[refusal.period]}: {refusal.spent:,} are spent{held},"
        f" {max(refusal.free, 0):,} are free, and this call needs up to {refusal.needed:,}."
    )
    return " ".join(filter(None, [text, _reset(refusal), _remedy(refusal, base_url)]))


def budget_details(admission: Admission, base_url: str) -> dict[str, Any]:
    """The `details` of the error: the level that refused, and the chain of all budgets in force. Amounts are credits."""
    refusal = admission.budget
    assert refusal is not None
    return {
        **_level(refusal.chain[0]),
        "needed": refusal.needed,
        "raised_by": refusal.approvers,
        "request_url": request_url(refusal, base_url),
        "chain": [
            {
                "level": "wallet",
                "limit": admission.balance,
                "held": admission.held,
                "free": max(admission.available, 0),
            },
            *map(_level, refusal.chain),
        ],
    }


def request_url(refusal: BudgetRefusal, base_url: str) -> str | None:
    """The page to ask for more of the budget on; None for the envelope of a run."""
    return refusal.budget_id and f"{base_url}/budgets/{refusal.budget_id}"


def _level(limit: dict[str, Any]) -> dict[str, Any]:
    return {
        "level": limit["level"],
        "name": limit["name"] or None,
        "budget_id": limit["budget_id"],
        "period": limit["period"],
        "hard": limit["hard"],
        "limit": limit["credits"],
        "spent": limit["spent"],
        "held": limit["held"],
        "free": max(limit["free"], 0),
        "resets_at": limit["resets_at"],
    }


def _title(refusal: BudgetRefusal) -> str:
    name = refusal.chain[0]["name"]
    match refusal.level:
        case "account":
            return f"The budget of {name}" if name else "The budget of your account"
        case "key":
            return f"The budget of the key '{name}'"
        case "member":
            return f"The budget of the member {name}"
        case level:
            return f"The budget of the {level} {name}"


def _reset(refusal: BudgetRefusal) -> str:
    resets = refusal.resets
    if resets is None:
        return ""
    return f"It resets {relative_time(resets, now())}, at {resets.astimezone(UTC):%Y-%m-%d %H:%M} UTC."


def _remedy(refusal: BudgetRefusal, base_url: str) -> str:
    if refusal.free + refusal.held >= refusal.needed:
        return "Try again when the calls in flight end, or request fewer tokens (max_tokens)."
    if refusal.budget_id is None:
        return f"Start a run with a larger {RUN_BUDGET}, or request fewer tokens (max_tokens)."
    where = f" at {request_url(refusal, base_url)}" if base_url else ""
    if not refusal.approvers:
        return f"You can raise it{where}."
    *others, last = refusal.approvers
    who = f"{', '.join(others)} or {last}" if others else last
    return f"{who} can raise it: ask for more{where}." if where else f"{who} can raise it."
