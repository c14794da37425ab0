"""JSON of usage: what is left and what was used, for browsers and for the command line (contract 2.2 and 2.9)."""

from typing import Any

from flask import Blueprint, jsonify
from flask.typing import ResponseReturnValue

from models.accounts import User
from models.billing import KINDS, Account, Balance, balance, ensure_quota
from models.db import db, now
from models.orgs import membership
from views.api.body import BadBody, BadJson, Body, Missing, read
from views.format import iso
from views.guards import api_key, cookie_user, current_account, key_account, key_user, settings

bp = Blueprint("usage_api", __name__)

UNKNOWN_TOKEN = "Invalid auth token. You may have been logged out from the web portal. Please log in again."  # noqa: S105


class UsageBody(Body):
    fingerprintId: str
    authToken: Missing[str] = None
    orgId: Missing[str] = None


@bp.get("/api/user/usage")
def own_usage() -> ResponseReturnValue:
    """What the signed-in person's account has, and used in this cycle. A due quota cycle is run first (3.6).

    No top-up is tried yet, so `autoTopupTriggered` is false; `autoTopupEnabled` is what is stored.
    """
    user = cookie_user()
    if user is None:
        return jsonify(error="Unauthorized"), 401
    has = _renewed_balance(current_account())
    return jsonify(
        usageThisCycle=has.usage_this_cycle,
        balance={
            "totalRemaining": has.total_remaining,
            "totalDebt": has.total_debt,
            "netBalance": has.net_balance,
            "breakdown": _by_kind(has.breakdown),
            "principals": _by_kind(has.principals),
        },
        nextQuotaReset=iso(has.next_quota_reset),
        autoTopupTriggered=False,
        autoTopupEnabled=user.auto_topup_enabled,
    )


@bp.post("/api/v1/usage")
def usage() -> ResponseReturnValue:
    """The balance for the command line: of the account that pays for the key, or with a person's own key that of an
    organisation they are a member of.

    The key comes in a header, else in the body (clients 1.4). An `orgId` that cannot be had, for whatever reason,
    answers the personal balance. A due quota cycle of the person is run first (3.6).
    """
    try:
        body = read(UsageBody)
    except BadJson:
        return jsonify(message="Invalid JSON in request body"), 400
    except BadBody as bad:
        return jsonify(message="Invalid request body", issues=bad.issues), 400
    token = api_key() or body.authToken
    if not token:
        return jsonify(message="Authentication required"), 401
    user = key_user(token)
    if user is None:
        return jsonify(message=UNKNOWN_TOKEN), 401
    account = key_account(token)
    assert account is not None
    if account.user_id and body.orgId and membership(user.id, body.orgId):
        account = Account(org_id=body.orgId)
    has = _renewed_balance(account)
    return jsonify(_of_person(user, has) if account.user_id else _of_organisation(has))


def _renewed_balance(account: Account) -> Balance:
    moment = now()
    ensure_quota(db.session(), account, settings().stoa_free_credits, now=moment)
    db.session.commit()
    return balance(db.session(), account, now=moment)


def _of_person(user: User, has: Balance) -> dict[str, Any]:
    return {
        "type": "usage-response",
        "usage": has.usage_this_cycle,
        "remainingBalance": has.total_remaining,
        "balanceBreakdown": _by_kind(has.breakdown),
        "next_quota_reset": iso(has.next_quota_reset),
        "autoTopupEnabled": user.auto_topup_enabled,
    }


def _of_organisation(has: Balance) -> dict[str, Any]:
    return {
        "type": "usage-response",
        "usage": has.usage_this_cycle,
        "remainingBalance": has.total_remaining,
        "balanceBreakdown": {},
        "next_quota_reset": None,
    }


def _by_kind(credits: dict[str, int]) -> dict[str, int]:
    """The five kinds that clients know; a newer kind only where there is something of it."""
    return {kind: amount for kind, amount in credits.items() if kind in KINDS or amount}
