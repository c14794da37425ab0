"""The page of a new API key: the key, once, commands to try it, and its first call as soon as it arrives."""

from decimal import Decimal

from flask import redirect, request, url_for
from flask.typing import ResponseReturnValue

from models.accounts import Session, credentials
from models.core.db import now
from models.core.errors import NotFound
from models.gateway import GatewayCall
from models.orgs import memberships, org_keys
from models.runs.history import find_run
from models.usage.first_call import first_call, is_recent
from views.runs.pages import call_address
from views.usage.pages.own_usage import bp
from views.web.htmx import render, wants_fragment
from views.web.new_key import pop_new_key
from views.web.org_guards import account_page, current_membership, signed_in, viewed_account

REASONS = {
    "insufficient_credits": "There were no credits to pay for it.",
    "credits_held": "Other calls in progress hold all credits.",
    "budget_exceeded": "A budget does not allow it.",
    "model_price_missing": "This server does not serve the model, or has no price for it.",
    "account_stopped": "All calls of this account are stopped.",
    "run_not_found": "It named a run that does not exist.",
    "rate_limit_exceeded": "The limit of the plan is reached.",
    "upstream_status": "The provider rejected it.",
}


@bp.get("/profile/keys/<key_id>/first-call")
@bp.get("/orgs/<slug>/keys/<key_id>/first-call")
@account_page
def new_key(key_id: str) -> ResponseReturnValue:
    """The new key with its first call; htmx gets only the call, if it is not the one `seen`."""
    key, account, moment = _key(key_id), viewed_account(), now()
    if key.org_id and not account.org_id:
        slug = next((org.slug for org, _ in memberships(signed_in().id) if org.id == key.org_id), None)
        if slug is None:
            raise NotFound("This key does not exist.")
        return redirect(url_for("usage.new_key", key_id=key_id, slug=slug), 303)
    call = first_call(key)
    waits = (call is None or call.state == "failed") and is_recent(key, moment)
    seen = call.request_id if call else ""
    if wants_fragment() and waits and request.args.get("seen") == seen:
        return "", 204  # unchanged: nothing to announce
    response = render(
        "usage/new_key.html",
        partial="usage/_first_call.html",
        key=key,
        secret=None if wants_fragment() else pop_new_key(key.session_token),
        list_address=url_for("orgs.keys") if account.org_id else url_for("profile.profile", tab="api-keys"),
        call=call,
        address=call and _address(account.id, call),
        reason=call and call.error and REASONS.get(call.error, call.error),
        credits=call and _fraction(call.micro_credits),
        here=url_for("usage.new_key", key_id=key_id),
        poll=url_for("usage.new_key", key_id=key_id, seen=seen),
        waits=waits,
    )
    response.headers["Cache-Control"] = "no-store"
    return response


def _key(key_id: str) -> Session:
    if viewed_account().org_id:
        return org_keys.org_key(current_membership(), key_id).key
    key = credentials.find_owned(signed_in(), key_id, ("pat",))
    if key is None:
        raise NotFound("This key does not exist.")
    return key


def _address(account_id: str, call: GatewayCall) -> str:
    run = call.run_id if call.run_id and find_run(account_id, call.run_id) else None
    return call_address(run, call.request_id)


def _fraction(micro_credits: int) -> str:
    """Credits with as many decimals as a small call needs: `0.4`, `0.0012`, `12.5`."""
    value = Decimal(micro_credits) / 1_000_000
    rounded = (
        value.quantize(Decimal("0.1")) if value >= 1 else round(value, 1 - value.adjusted() if value else 0)
    )
    return f"{rounded.normalize():f}"
