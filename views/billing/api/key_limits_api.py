"""`GET /v1/key`: what a key has used and may still use, in OpenRouter's shape, with every limit in force and its source."""

from datetime import datetime
from typing import Any, Literal

from flask import Blueprint
from flask.typing import ResponseReturnValue
from pydantic import Field

from models.accounts import scopes
from models.accounts.api_keys import KeyRules, rules_of
from models.accounts.credentials import Credential
from models.accounts.scopes import NAMES
from models.accounts.sessions import NEVER
from models.core.db import db
from models.gateway.dialects.dialect import MissingApiKey
from models.gateway.dialects.error_shapes import model_error
from models.gateway.key_rate_limits import RateLeft
from models.ledger import Account, BudgetLimit, balance, budgets
from models.ledger.budgets import CREDIT_LIMIT
from views.gateway.api.model_calls import DOOR, gateway, json_answer
from views.web import guards
from views.web.fast_path import current_context
from views.web.operation import Operation, ResponseModel

bp = Blueprint("key_limits", __name__, url_prefix="/v1")


class KeyLimit(ResponseModel):
    level: str = Field(description="wallet, account, team, member or key")
    name: str | None = Field(description="Of the organisation, team, person or key")
    source: Literal["balance", "budget", "credit_limit"] = Field(description="What sets it")
    budget_id: str | None
    period: str | None = Field(description="hour, day, week, month or total")
    hard: bool = Field(description="Whether it refuses calls, or only warns")
    limit: int
    raised: int = Field(description="The part of the limit that a raise adds for a time")
    spent: int | None = Field(description="In the current window")
    held: int = Field(description="By calls in flight")
    free: int
    resets_at: datetime | None = Field(description="When the window ends")


class RateLimit(ResponseModel):
    limit: int | None = Field(description="null: no limit")
    remaining: int | None = Field(description="In the last minute; null for calls in flight")


class RateLimits(ResponseModel):
    """Of model calls: `requests` and `tokens` a minute, `parallel` calls in flight."""

    requests: RateLimit
    tokens: RateLimit
    parallel: RateLimit


class KeyDetails(ResponseModel):
    label: str
    key_id: str | None = Field(description="How the key begins; null for the older kind of key")
    environment: Literal["live", "test"] = Field(description="Calls of test keys are never charged")
    scopes: list[str]
    allowed_models: list[str] | None = Field(description="Patterns; null: all")
    allowed_agents: list[str] | None = Field(description="Patterns; null: all calls")
    allowed_ips: list[str] | None = Field(description="Networks; null: all")
    strict: bool = Field(description="Whether calls for which fields would be dropped are refused")
    expires_at: datetime | None = Field(description="null: never")
    rate_limits: RateLimits
    usage: int = Field(description="Credits charged for calls of this key in this calendar month (UTC)")
    limit: int | None = Field(description="The budget with the least left; null if none limits the key")
    limit_remaining: int = Field(
        description="Credits that the key's next calls may use: the least that any limit leaves"
    )
    is_free_tier: bool
    limits: list[KeyLimit] = Field(description="The balance, and every budget in force for the key")


class KeyAnswer(ResponseModel):
    """Amounts are credits."""

    data: KeyDetails


@bp.get("/key")
@Operation(
    tag="API keys",
    caller="key",
    scope=scopes.ANY,
    answers={200: ("The key, and what limits it", KeyAnswer)},
    door=DOOR,
)
@guards.limiter.limit("120/minute")
def key() -> ResponseReturnValue:
    """Get the key's usage and limits.

    Limits are those of calls without a run; a run's budget and those of agents come on top. Calls in flight count as used.
    """
    token = guards.api_key()
    found = guards.key_credential(token) if token else None
    if found is None:
        context = current_context()
        message = "This API key is unknown or expired." if token else MissingApiKey().message
        return json_answer(
            model_error(context.request.headers, context.id, 401, message, "invalid_api_key"), 401
        )
    return json_answer({"data": _facts(found)})


def _facts(found: Credential) -> dict[str, Any]:
    session = found.session
    account = Account.of(session)
    team = budgets.team_of(session.org_id, session.user_id, session.team_id) if session.org_id else None
    limits = budgets.effective_limits(
        account, user_id=session.user_id, key_id=session.session_token, team_id=team
    )
    funds = balance(account)
    free = max(funds.net_balance - funds.held, 0)
    wallet = {
        "level": "wallet",
        "name": None,
        "source": "balance",
        "budget_id": None,
        "period": None,
        "hard": True,
        "limit": funds.net_balance,
        "raised": 0,
        "spent": None,
        "held": funds.held,
        "free": free,
        "resets_at": None,
    }
    hard = sorted((each for each in limits if each.hard), key=lambda each: each.free)
    usage = budgets.key_usage(account, session.session_token)
    db.session.rollback()
    return _rules(found) | {
        "label": session.name or session.token_hint,
        "usage": usage,
        "limit": hard[0].limit if hard else None,
        "limit_remaining": max(min([free, *(each.free for each in hard)]), 0),
        "is_free_tier": False,
        "limits": [wallet, *map(_limit, limits)],
    }


def _rules(found: Credential) -> dict[str, Any]:
    """What the key may do, and what is left of its limits a minute."""
    key, session = found.key, found.session
    rules = rules_of(key) if key else KeyRules(permissions=NAMES)
    requests, tokens = RateLeft(None, None), RateLeft(None, None)
    if key is not None:
        limits = gateway(current_context().app).limits
        requests, tokens = limits.left(key.key_id, key.rpm_limit, key.tpm_limit)
    parallel = RateLeft(rules.concurrency_limit, None)
    return {
        "key_id": key and key.key_id,
        "environment": rules.environment,
        "scopes": list(rules.permissions),
        "allowed_models": rules.allowed_models,
        "allowed_agents": rules.allowed_agents,
        "allowed_ips": rules.allowed_ips,
        "strict": rules.is_strict,
        "expires_at": None if session.expires == NEVER else session.expires.isoformat(),
        "rate_limits": {
            name: each._asdict()
            for name, each in (("requests", requests), ("tokens", tokens), ("parallel", parallel))
        },
    }


def _limit(limit: BudgetLimit) -> dict[str, Any]:
    return {
        "level": limit.level,
        "name": limit.name or None,
        "source": "credit_limit" if limit.budget_id.startswith(CREDIT_LIMIT) else "budget",
        "budget_id": limit.budget_id,
        "period": limit.period,
        "hard": limit.hard,
        "limit": limit.limit,
        "raised": limit.raised,
        "spent": limit.spent,
        "held": limit.held,
        "free": max(limit.free, 0),
        "resets_at": limit.resets_at and limit.resets_at.isoformat(),
    }
