"""Usage API: balance and usage for browsers and command line clients (contract 2.2 and 2.9)."""

import logging
from datetime import datetime
from typing import Any, Literal

from flask import Blueprint, jsonify
from flask.typing import ResponseReturnValue
from pydantic import ConfigDict, Field

from models import billing
from models.accounts import User, scopes
from models.core.db import db, now
from models.core.errors import DomainError
from models.ledger import KINDS, Account, Balance, QuotaCycle, balance, cycle, ensure_quota
from models.orgs import membership
from views.web import error_bodies
from views.web.body import BadJson, Body, InvalidBody, Missing, read
from views.web.error_bodies import BAD_BODY, BAD_JSON, MessageError, door
from views.web.format import iso
from views.web.guards import api_key, current_account, key_account, key_user, require_cookie_user, settings
from views.web.operation import Operation, ResponseModel

log = logging.getLogger("stoa.billing")

bp = Blueprint("usage_api", __name__)

UNKNOWN_TOKEN = "Invalid auth token. You may have been logged out from the web portal. Please log in again."  # noqa: S105


class UsageBody(Body):
    fingerprintId: str
    authToken: Missing[str] = Field(None, description="A key, instead of the header")
    orgId: Missing[str] = Field(
        None, description="Return the balance of this organisation; you must be a member"
    )


class CreditsByKind(ResponseModel):
    model_config = ConfigDict(extra="allow")  # other kinds are included if not zero

    free: int
    referral: int
    purchase: int
    admin: int
    organization: int


class BalanceFigures(ResponseModel):
    totalRemaining: int
    totalDebt: int
    netBalance: int
    breakdown: CreditsByKind
    principals: CreditsByKind


class BillingPeriod(ResponseModel):
    status: str = Field(description="Stripe's status")
    billingPeriodEnd: datetime
    cancelAtPeriodEnd: bool


class OwnUsage(ResponseModel):
    usageThisCycle: int
    balance: BalanceFigures
    nextQuotaReset: datetime | None
    autoTopupTriggered: bool = Field(description="Whether this request charged an automatic top-up")
    autoTopupEnabled: bool
    subscription: Missing[BillingPeriod] = Field(None, description="Only while there is one")


class UsageAnswer(ResponseModel):
    type: Literal["usage-response"]
    usage: int = Field(description="Credits used since the last reset")
    remainingBalance: int
    balanceBreakdown: dict[str, int] = Field(description="By grant type; empty for an organisation")
    next_quota_reset: datetime | None
    autoTopupEnabled: Missing[bool] = Field(None, description="Personal accounts only")


class UsageBodyError(MessageError):
    issues: Missing[list[dict[str, Any]]] = Field(None, description="Validation errors with their paths")


def _error_response(error: Exception) -> ResponseReturnValue | None:
    match error:
        case BadJson():
            return jsonify(message=BAD_JSON), 400
        case InvalidBody():
            return jsonify(message=BAD_BODY, issues=error.issues), 400
        case DomainError():
            return jsonify(message=error.message), error.status
    return error_bodies.format_error(error)


@bp.get("/api/user/usage")
@Operation(tag="Usage", caller="cookie", answers={200: ("The balance by kind", OwnUsage)}, door=door())
def own_usage() -> ResponseReturnValue:
    """Return the balance and usage of the signed-in user's account.

    Runs a due quota cycle and a due automatic top-up first. What a plan's windows leave is not part of the balance.
    """
    user = require_cookie_user()
    account = current_account()
    current, quota, topped_up = _renewed(account)
    answer = {
        "usageThisCycle": quota.used,
        "balance": {
            "totalRemaining": current.total_remaining,
            "totalDebt": current.total_debt,
            "netBalance": current.net_balance,
            "breakdown": _by_kind(current.breakdown),
            "principals": _by_kind(current.principals),
        },
        "nextQuotaReset": iso(quota.ends),
        "autoTopupTriggered": topped_up,
        "autoTopupEnabled": user.auto_topup_enabled,
    }
    if subscription := billing.live_subscription(account):
        answer["subscription"] = {
            "status": subscription.status,
            "billingPeriodEnd": iso(subscription.billing_period_end),
            "cancelAtPeriodEnd": subscription.cancel_at_period_end,
        }
    return jsonify(answer)


@bp.post("/api/v1/usage")
@Operation(
    tag="Usage",
    caller="key",
    scope=scopes.USAGE_READ,
    body=UsageBody,
    answers={200: ("The balance", UsageAnswer)},
    door=door(_error_response, error=MessageError, body_error=UsageBodyError),
)
def usage() -> ResponseReturnValue:
    """Return the balance and usage of the account that pays for a key.

    With a personal key and the orgId of one of their organisations, returns that organisation's balance; an unknown
    orgId returns the personal balance. Runs a due quota cycle and a due automatic top-up of the person first.
    """
    body = read(UsageBody)
    token = api_key() or body.authToken
    if not token:
        raise DomainError("Authentication required", status=401)
    user = key_user(token)
    if user is None:
        raise DomainError(UNKNOWN_TOKEN, status=401)
    account = key_account(token)
    assert account is not None
    if account.user_id and body.orgId and membership(user.id, body.orgId):
        account = Account(org_id=body.orgId)
    current, quota, _ = _renewed(account)
    return jsonify(_personal(user, current, quota) if account.user_id else _organisation(current, quota))


def _renewed(account: Account) -> tuple[Balance, QuotaCycle, bool]:
    """Balance and cycle after a due quota cycle and top-up, and whether a top-up was charged."""
    ensure_quota(account, settings().stoa_free_credits, now=now())
    db.session.commit()
    topped_up = account.user_id is not None and _topped_up(account)
    moment = now()
    return balance(account, now=moment), cycle(account, now=moment), topped_up


def _topped_up(account: Account) -> bool:
    try:
        return billing.top_up(account)
    except Exception:
        # errors of payments never break a usage read (contract 3.7)
        log.exception("the top-up of account %s failed", account.id)
        db.session.rollback()
        return False


def _personal(user: User, balance: Balance, cycle: QuotaCycle) -> dict[str, Any]:
    return {
        "type": "usage-response",
        "usage": cycle.used,
        "remainingBalance": balance.total_remaining,
        "balanceBreakdown": _by_kind(balance.breakdown),
        "next_quota_reset": iso(cycle.ends),
        "autoTopupEnabled": user.auto_topup_enabled,
    }


def _organisation(balance: Balance, cycle: QuotaCycle) -> dict[str, Any]:
    return {
        "type": "usage-response",
        "usage": cycle.used,
        "remainingBalance": balance.total_remaining,
        "balanceBreakdown": {},
        "next_quota_reset": None,
    }


def _by_kind(credits: dict[str, int]) -> dict[str, int]:
    """The five kinds that clients know, and other kinds if they are not zero."""
    return {kind: amount for kind, amount in credits.items() if kind in KINDS or amount}
