"""`/admin/billing`: reconciliation, webhooks, purchases in doubt, frozen buyers and the ledger proof."""

from typing import Any

from flask import Blueprint, Response, request, url_for
from flask.typing import ResponseReturnValue

from models import billing
from models.billing import stripe_api
from models.billing.payments import customers, stripe_events
from models.billing.payments.purchase import RESOLVED_AFTER, Purchase
from models.billing.payments.purchase import STATES as PURCHASE_STATES
from models.billing.payments.purchase_history import operator_record
from models.billing.payments.stripe_events import TROUBLED
from models.core import jobs
from models.core.db import db, now
from models.core.errors import Conflict, NotFound
from models.ledger import Account
from models.ledger.heads import recent_heads
from views.billing.pages.billing_blueprint import money_page
from views.ledger.commands import account_of_name
from views.web.guards import admin_required, audit, cookie_user, limiter
from views.web.htmx import see_other, toast, wants_fragment
from views.web.keyset import Cursor, cursor, cursor_text

bp = Blueprint("admin_billing", __name__, url_prefix="/admin/billing")

SHOWN = 10
"""Rows of each list on the overview."""
PAGE = 50
"""Rows of a page of a list."""
FINDINGS = 20


@bp.get("")
@admin_required
def overview() -> ResponseReturnValue:
    """Everything that needs an operator. Each list shows its newest rows and links to the rest."""
    return _overview()


@bp.get("/reconciliation")
@admin_required
def reconciliation() -> ResponseReturnValue:
    """The last reconciliation with Stripe; the overview polls it while one is queued or running."""
    return _card("reconciliation")


@bp.post("/reconciliation")
@admin_required
@limiter.limit("10 per minute")
def reconcile() -> ResponseReturnValue:
    """Enqueue a reconciliation with Stripe."""
    stripe_api.client()
    jobs.run_now(jobs.reconcile_purchases)
    return _requested("reconciliation", "billing.reconcile", "Reconciliation requested.")


@bp.get("/proof")
@admin_required
def proof() -> ResponseReturnValue:
    """The last ledger proof; the overview polls it while one is queued or running."""
    return _card("proof")


@bp.post("/proof")
@admin_required
@limiter.limit("10 per minute")
def prove() -> ResponseReturnValue:
    """Enqueue a ledger proof."""
    jobs.run_now(jobs.prove_ledger)
    return _requested("proof", "billing.prove", "Ledger proof requested.")


@bp.get("/events")
@admin_required
def events() -> ResponseReturnValue:
    """Stripe's events that need attention. Query: `state` (waiting, failed, ignored; default all three), `before`
    (cursor)."""
    state = request.args.get("state") or None
    if state is not None and state not in TROUBLED:
        raise NotFound("There is no such list.")
    rows = stripe_events.stripe_events(troubled=True, state=state, before=cursor(), limit=PAGE + 1)
    page, more = _page_of(rows, [(row.received_at, row.id) for row in rows])
    return money_page(
        "admin/events.html",
        partial="admin/_events.html",
        events=page,
        about=stripe_events.purchases_of_events(page),
        counts=stripe_events.count_troubled(),
        state=state,
        more=url_for(".events", state=state, before=more) if more else None,
    )


@bp.post("/events/<id>/attempts")
@admin_required
@limiter.limit("60 per minute")
def retry_event(id: str) -> ResponseReturnValue:
    """Retry the handling of an event that is not handled."""
    if not stripe_events.retry_event(id):
        raise NotFound("There is no event with this id that is not handled.")
    audit("billing.retry_event", id, user=cookie_user())
    db.session.commit()
    if wants_fragment():
        event = stripe_events.stripe_event(id)
        about = stripe_events.purchases_of_events([event])
        return money_page("admin/_events.html", events=[event], about=about, more=None)
    toast("The event is being handled again.")
    return see_other(url_for(".events"))


@bp.get("/purchases")
@admin_required
def purchases() -> ResponseReturnValue:
    """Purchases of all accounts, newest first. Query: `account` (an e-mail address, an organisation's slug, or an
    account id), `state` (a purchase state, or `doubt`), `before` (cursor)."""
    name, state = request.args.get("account", "").strip(), request.args.get("state", "")
    account, error = _named(name)
    rows = []
    if error is None:
        rows = billing.listed_purchases(
            account=account,
            state=state if state in PURCHASE_STATES else None,
            in_doubt=state == "doubt",
            before=cursor(),
            limit=PAGE + 1,
        )
    page, more = _page_of(rows, [(each.created_at, each.id) for each, _ in rows])
    return money_page(
        "admin/purchases.html",
        partial="admin/_purchases.html",
        status=422 if error else 200,
        purchases=page,
        name=name,
        state=state,
        error=error,
        state_options=[(each, each.replace("_", " ").capitalize()) for each in PURCHASE_STATES],
        more=url_for(".purchases", account=name or None, state=state or None, before=more) if more else None,
    )


@bp.get("/purchases/<id>")
@admin_required
def purchase(id: str) -> ResponseReturnValue:
    """A purchase of any account, with all stored details."""
    record, email = operator_record(id)
    return money_page(
        "admin/purchase.html", record=record, email=email, at_stripe=_at_stripe(record.purchase)
    )


@bp.post("/purchases/<id>/checks")
@admin_required
@limiter.limit("60 per minute")
def check_purchase(id: str) -> ResponseReturnValue:
    """Fetch the purchase's payment from Stripe again, in a job."""
    stripe_api.client()
    record, _ = operator_record(id)
    if record.purchase.open and record.purchase.created_at > now() - RESOLVED_AFTER:
        raise Conflict("This purchase is still being processed. Wait two minutes.")
    jobs.enqueue(jobs.sync_purchase, purchase_id=record.purchase.id)
    audit("billing.check_purchase", id, user=cookie_user())
    db.session.commit()
    toast("The payment is being fetched from Stripe. Reload the page in a few seconds.", "info")
    return see_other(url_for(".purchase", id=id))


@bp.post("/failures/<id>/attempts")
@admin_required
@limiter.limit("60 per minute")
def retry_failure(id: str) -> ResponseReturnValue:
    """Retry a change that Stripe did not accept up to five more times."""
    customers.retry_failure(id)
    audit("billing.retry_failure", id, user=cookie_user())
    db.session.commit()
    toast("It is retried within five minutes, up to five times.")
    return see_other(url_for(".overview", _anchor="failures"))


@bp.post("/freezes/<account_id>/clearance")
@admin_required
@limiter.limit("60 per minute")
def clear_freeze(account_id: str) -> ResponseReturnValue:
    """Lift the buying freeze of an account with open or lost disputes."""
    account = customers.account_by_id(account_id)
    cleared = billing.clear_freeze(account) if account else 0
    if not cleared:
        raise NotFound("This account is not frozen.")
    audit("billing.unfreeze", account_id, user=cookie_user(), after={"disputes": cleared})
    db.session.commit()
    toast("The account may buy again.")
    return see_other(url_for(".overview", _anchor="buyers"))


def _overview() -> Response:
    troubled = stripe_events.stripe_events(troubled=True, limit=SHOWN)
    doubtful = billing.listed_purchases(account=None, state=None, in_doubt=True, limit=SHOWN + 1)
    return money_page(
        "admin/billing.html",
        **_reconciliation(),
        **_proof(),
        events=troubled,
        about=stripe_events.purchases_of_events(troubled),
        counts=stripe_events.count_troubled(),
        refusals=stripe_events.webhook_refusals(limit=2 * SHOWN),
        webhook_open=billing.enabled() and stripe_api.billing_settings().webhook_secret is not None,
        purchases=doubtful[:SHOWN],
        more_doubtful=len(doubtful) > SHOWN,
        failures=customers.sync_failures(limit=2 * SHOWN),
        max_tries=customers.MAX_TRIES,
        frozen=billing.frozen_buyers(limit=2 * SHOWN),
        banned=billing.banned_buyers(limit=2 * SHOWN),
        more=None,
    )


def _card(name: str) -> Response:
    context = _reconciliation() if name == "reconciliation" else _proof()
    if not wants_fragment():
        return _overview()
    return money_page(f"admin/_{name}.html", **context)


def _requested(name: str, action: str, message: str) -> ResponseReturnValue:
    audit(action, name, user=cookie_user())
    db.session.commit()
    if wants_fragment():
        return _card(name)
    toast(message)
    return see_other(url_for(".overview", _anchor=name))


def _reconciliation() -> dict[str, Any]:
    last = billing.last_reconciliation()
    findings = sorted(last.findings, key=lambda each: each["repaired"]) if last else []
    return {
        "reconciled": last,
        "reconciling": jobs.pending_state(jobs.reconcile_purchases),
        "findings": findings[:FINDINGS],
        "known": billing.existing_purchases([each["purchase_id"] for each in findings[:FINDINGS]]),
        "more_findings": len(findings) - FINDINGS,
    }


def _proof() -> dict[str, Any]:
    heads = recent_heads(1)
    return {
        "proved": billing.last_proof(),
        "proving": jobs.pending_state(jobs.prove_ledger),
        "head": heads[0] if heads else None,
    }


def _named(name: str) -> tuple[Account | None, str | None]:
    """The account of an e-mail address, slug or id, and the error if there is none."""
    if not name:
        return None, None
    try:
        return customers.account_by_id(name) or account_of_name(name)[0], None
    except NotFound as error:
        return None, error.message


def _page_of(rows: list[Any], places: list[Cursor]) -> tuple[list[Any], str | None]:
    """The rows of a page, and the cursor of the next one."""
    more = len(rows) > PAGE
    at, id = places[PAGE - 1] if more else (None, "")
    return rows[:PAGE], cursor_text(at, id) if at else None


def _at_stripe(bought: Purchase) -> str | None:
    """The payment's URL in Stripe's dashboard; None for the simulator."""
    if not billing.enabled() or bought.stripe_payment_intent_id is None:
        return None
    if stripe_api.billing_settings().stripe_api_base != "https://api.stripe.com":
        return None
    mode = "test/" if billing.test_mode() else ""
    return f"https://dashboard.stripe.com/{mode}payments/{bought.stripe_payment_intent_id}"
