"""Referrals API: your code and the people you referred, redeeming a code, and looking a code up (contract 2.10)."""

import logging
from typing import Any

from flask import Blueprint, jsonify
from flask.typing import ResponseReturnValue
from pydantic import Field
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.exceptions import InternalServerError

from models.accounts import User, scopes
from models.billing.referral_program import referral_pages, referrals
from models.billing.referral_program.referral_pages import Invitation, ReferredUser
from models.core.db import db
from models.core.errors import DomainError
from views.web import error_bodies
from views.web.body import BadJson, Body, InvalidBody, Missing, read, read_json
from views.web.error_bodies import BAD_BODY, ApiError, door
from views.web.guards import (
    api_key,
    caller_address,
    cookie_user,
    known_user,
    limiter,
    personal_key_user,
    require_cookie_user,
    settings,
)
from views.web.operation import Operation, ResponseModel

bp = Blueprint("referrals_api", __name__)
log = logging.getLogger("stoa.referrals")

FAILED = "Failed to apply referral code. Please try again later."


class RedeemBody(Body):
    referralCode: str
    authToken: Missing[str] = Field(None, description="A key, instead of the cookie or the header")


class ReferralPerson(ResponseModel):
    id: str
    name: str | None
    email: str
    credits: int = Field(description="Earned by each side; 0 while the reward waits")


class OwnReferrals(ResponseModel):
    referralCode: str
    referrals: list[ReferralPerson]
    referredBy: Missing[ReferralPerson] = None
    referralLimit: int


class Redeemed(ResponseModel):
    message: str
    credits_redeemed: int = Field(description="0 while the reward waits for your first purchase")


class InvitationDetails(ResponseModel):
    referralCount: Missing[int] = None
    msg: Missing[str] = None


class InvitationStatus(ResponseModel):
    referralLink: Missing[str] = None
    reason: Missing[str] = Field(None, description="Why the code cannot be redeemed; left out when it can")
    details: InvitationDetails


class InvitationAnswer(ResponseModel):
    referrerName: str | None
    isSameUser: bool
    status: InvitationStatus


def _error_response(error: Exception) -> ResponseReturnValue | None:
    match error:
        case BadJson() | InvalidBody():
            return jsonify(error=BAD_BODY), 400
        case InternalServerError():
            return jsonify(error="Internal server error"), 500
    return error_bodies.format_error(error)


DOOR = door(_error_response, body_error=ApiError)


def _rate_limit_key() -> str:
    user = known_user()
    return user.id if user else caller_address()


def referral_link(code: str) -> str:
    """The invitation URL of a referral code."""
    return f"{settings().base_url}/referrals/{code}"


@bp.get("/api/referrals")
@Operation(
    tag="Credits",
    caller="cookie",
    answers={200: ("Your code, limit and referrals", OwnReferrals), 500: "You have no code"},
    door=DOOR,
)
def own_referrals() -> ResponseReturnValue:
    """List the people that you referred.

    Those without a name and those whose reward is void are left out.
    """
    user = require_cookie_user()
    if user.referral_code is None:
        raise DomainError("Internal Server Error", status=500)
    brought = referral_pages.referred_users(user, limit=user.referral_limit, void=False)
    referrer = referral_pages.referred_by(user)
    answer: dict[str, Any] = {
        "referralCode": user.referral_code,
        "referrals": [_person(each) for each in brought if each.name],
        "referralLimit": user.referral_limit,
    }
    if referrer:
        answer["referredBy"] = _person(referrer)
    return jsonify(answer)


@bp.post("/api/referrals")
@limiter.limit("20/minute;200/day", key_func=_rate_limit_key)
@Operation(
    tag="Credits",
    caller="cookie or key",
    scope=scopes.ORG_ADMIN,
    body=RedeemBody,
    answers={
        200: ("Redeemed", Redeemed),
        400: "Your own code, a self-referral, or the referrer is at their limit",
        403: "The key belongs to an organisation",
        404: "No such code",
        409: "You were referred before, or you referred the code's owner",
        500: "Nothing was redeemed",
    },
    door=DOOR,
)
def redeem() -> ResponseReturnValue:
    """Redeem a referral code: both sides get credits."""
    user = cookie_user()
    if user is not None:
        return _redeemed(user, _cookie_code(), "Internal server error")
    body = read(RedeemBody)
    token = api_key() or body.authToken
    user = personal_key_user(token) if token else None
    if user is None:
        raise DomainError("Unauthorized", status=401)
    return _redeemed(user, body.referralCode, FAILED)


@bp.get("/api/referrals/<code>")
@Operation(
    tag="Credits",
    answers={
        200: ("The owner of the code, and whether it can be redeemed", InvitationAnswer),
        400: "No such code",
    },
    door=DOOR,
)
def invitation(code: str) -> ResponseReturnValue:
    """Look up a referral code."""
    found = referral_pages.invitation(code)
    if found is None:
        raise DomainError("Invalid referral code")
    viewer = cookie_user()
    return jsonify(
        referrerName=None if found.suspended else found.name,
        isSameUser=viewer is not None and viewer.id == found.owner_id,
        status=_status(found),
    )


def _cookie_code() -> str:
    data = read_json()
    code = data.get("referralCode") if isinstance(data, dict) else None
    if not isinstance(code, str) or not code:
        raise DomainError("Missing referral code")
    return code


def _redeemed(user: User, code: str, failure: str) -> ResponseReturnValue:
    try:
        referral = referrals.redeem(
            user.id,
            code,
            reward=settings().stoa_referral_reward,
            free_credits=settings().stoa_free_credits,
        )
        credits = referral.credits
        db.session.commit()
    except SQLAlchemyError as error:
        log.error("a referral code was not redeemed: %s", error)
        raise DomainError(failure, status=500) from error
    return jsonify(message="Referral applied successfully!", credits_redeemed=credits)


def _status(found: Invitation) -> dict[str, Any]:
    if found.suspended:
        return {"reason": "Referrer Not Found", "details": {"msg": "This referral link is no longer valid."}}
    if found.is_full:
        message = "The owner of this link has referred as many people as they can."
        return {
            "reason": "Referral Limit Reached",
            "details": {"referralCount": found.count, "msg": message},
        }
    return {"referralLink": referral_link(found.code), "details": {"referralCount": found.count}}


def _person(side: ReferredUser) -> dict[str, Any]:
    return {"id": side.id, "name": side.name, "email": side.email, "credits": side.referral.credits}
