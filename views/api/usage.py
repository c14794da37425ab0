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
from views.guards import api_key, cookie_user, key_user, settings

bp = Blueprint("usage_api", __name__)

UNKNOWN_TOKEN = "Invalid auth token. You may have been logged out from the web portal. Please log in again."  # noqa: S105


class UsageBody(Body):
    fingerprintId: str
    authToken: Missing[str] = None
    orgId: Missing[str] = None


@bp.get("/api/user/usage")
def own_usage() -> ResponseReturnValue:
    """The signed-in person's balance and use in this cycle. A due quota cycle is run first (3.6).

    No top-up is tried yet, so `autoTopupTriggered` is false; `autoTopupEnabled` is what is stored.
    """
    user = cookie_user()
    if user is None:
        return jsonify(error="Unauthorized"), 401
    has = _renewed_balance(user)
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
    """The balance for the command line: the caller's own, or that of an organisation they are a member of.

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
    if body.orgId and membership(user.id, body.orgId):
        return jsonify(_of_organisation(balance(db.session(), Account(org_id=body.orgId))))
    return jsonify(_of_person(user, _renewed_balance(user)))


def _renewed_balance(user: User) -> Balance:
    moment = now()
    ensure_quota(db.session(), user.id, settings().stoa_free_credits, now=moment)
    db.session.commit()
    return balance(db.session(), Account(user_id=user.id), now=moment)


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
