"""`/admin`: what needs an operator, and the search of accounts; `/admin/calls`: calls and models to review, and how reviews end."""

from datetime import timedelta
from typing import Any

from flask import current_app, redirect, request, url_for
from flask.typing import ResponseReturnValue

from models import ledger
from models.admin.account_search import LONGEST_TEXT, AccountMatch, find_accounts
from models.admin.attention import Attention, attention
from models.core.db import db, now
from models.core.errors import Invalid
from models.gateway.gateway_call import flagged_calls, refused_names
from models.gateway.lost_calls import dismiss_lost_call
from models.ledger.call_records import LostHold
from views.admin.pages.account_acts import Act
from views.admin.pages.admin_blueprint import bp, entered_reason, operating_user
from views.admin.pages.proof_pages import summaries
from views.gateway.api.model_calls import gateway
from views.server import database_heads, release_heads
from views.web import format
from views.web.guards import OWN_KEY, admin_required, audit, limiter, operator_required
from views.web.htmx import render, see_other, toast

REVIEWED = timedelta(days=30)
SHOWN = 100
WHOLE_KEY = 43
"""Characters of the shortest token; ids of calls and runs are 36 and shorter."""


@bp.get("")
@admin_required
def overview() -> ResponseReturnValue:
    """What needs an operator now. Query: `q` finds an account by address, name, id, the ending of a key, the id of a call or a run;
    one match opens."""
    text = request.args.get("q", "").replace("\0", "").strip()
    error = None
    if len(text) >= WHOLE_KEY and OWN_KEY.fullmatch(text):
        error, text = "Never enter a whole key. Its last eight characters find it.", ""
    elif len(text) > LONGEST_TEXT:
        error, text = f"Enter at most {LONGEST_TEXT} characters.", ""
    matches, more = find_accounts(text)
    if len(matches) == 1 and not more:
        return redirect(match_address(matches[0]))
    return render(
        "admin/overview.html",
        query=text,
        error=error,
        matches=matches,
        more=more,
        match_address=match_address,
        attention=[] if text or error else needs_attention(),
        attention_address=attention_address,
        proofs=[] if text or error else summaries(),
        status=422 if error else 200,
    )


@bp.get("/calls")
@admin_required
def calls_to_review() -> ResponseReturnValue:
    """Charged calls whose bill is in doubt, models without a price, and calls that neither settled nor failed."""
    since = now() - REVIEWED
    return render(
        "admin/calls.html",
        days=REVIEWED.days,
        flagged=flagged_calls(since, SHOWN),
        refused=refused_names(since),
        lost=ledger.lost_holds(limit=SHOWN),
        unsettled=gateway(current_app).spool.calls()[:SHOWN],
        limit=SHOWN,
    )


@bp.post("/calls/settlements")
@admin_required
@limiter.limit("10 per minute")
def settle_calls() -> ResponseReturnValue:
    """Try again to settle this machine's calls that the ledger did not accept yet."""
    spool = gateway(current_app).spool
    calls = len(spool.calls())
    db.session.rollback()  # settling uses connections of its own
    settled = spool.settle_all()
    if settled:
        audit("billing.settled", "calls", user=operating_user(), after={"settled": settled, "of": calls})
        db.session.commit()
    if settled is None:
        toast("A worker is settling them now.", "info")
    else:
        toast(
            f"{format.number(settled)} of {format.number(calls)} settled.",
            "good" if settled == calls else "info",
        )
    return see_other(url_for(".calls_to_review", _anchor="unsettled"))


@bp.get("/calls/<request_id>/dismissal")
@operator_required
def ask_dismissal(request_id: str) -> ResponseReturnValue:
    """The form to dismiss a lost call."""
    return _dismissal(_lost(request_id))


@bp.post("/calls/<request_id>/dismissal")
@operator_required
@limiter.limit("60 per minute")
def dismiss(request_id: str) -> ResponseReturnValue:
    """Take a lost call off the list. Form: `reason`."""
    found = _lost(request_id)
    try:
        reason = entered_reason()
    except Invalid as invalid:
        return _dismissal(found, invalid.fields)
    lost = dismiss_lost_call(gateway(current_app).spool, request_id)
    before = {"amount": lost.amount, "model": lost.model, "lost_at": lost.lost_at.isoformat()}
    audit("billing.dismiss_lost", request_id, user=operating_user(), before=before, after={"reason": reason})
    db.session.commit()
    toast("The call is off the list.")
    return see_other(url_for(".calls_to_review", _anchor="lost"))


def needs_attention() -> list[Attention]:
    """What needs an operator now."""
    return attention(
        now(), unsettled=gateway(current_app).spool.count(), migrated=database_heads() == release_heads()
    )


def attention_address(found: Attention) -> str | None:
    """The page where an operator sees to it."""
    endpoint, values = _PLACES.get(found.kind, ("", {}))
    return url_for(endpoint, **values) if endpoint else None


_PLACES: dict[str, tuple[str, dict[str, Any]]] = {
    "unsettled": ("admin.calls_to_review", {"_anchor": "unsettled"}),
    "lost": ("admin.calls_to_review", {"_anchor": "lost"}),
    "flagged": ("admin.calls_to_review", {"_anchor": "flagged"}),
    "unpriced": ("admin.calls_to_review", {"_anchor": "refused"}),
    "jobs": ("admin.job_list", {}),
    "events": ("admin_billing.events", {}),
    "purchases": ("admin_billing.purchases", {"state": "doubt"}),
    "failures": ("admin_billing.overview", {"_anchor": "failures"}),
    "reconciliation": ("admin.proofs", {"_anchor": "stripe"}),
    "webhooks": ("admin.webhook_list", {}),
    "providers": ("admin.provider_list", {"window": "1h"}),
    "disk": ("admin.storage", {}),
    "ledger": ("admin.proofs", {"_anchor": "ledger"}),
    "store": ("admin.proofs", {"_anchor": "store"}),
}


def _lost(request_id: str) -> LostHold:
    return ledger.lost_hold(request_id)


def _dismissal(lost: LostHold, errors: dict[str, str] | None = None) -> ResponseReturnValue:
    text = (
        f"A call of {lost.email} to {lost.model} that held {format.number(lost.amount)} credits until its worker died. Nothing was charged. Check"
        " that no machine still has it in flask billing unsettled; if its usage arrives later, it is charged all the same."
    )
    return render(
        "admin/account_act.html",
        partial="admin/_account_act.html",
        act=Act("dismiss", "Dismiss this lost call?", text, "Dismiss"),
        address=url_for(".dismiss", request_id=lost.request_id),
        back=url_for(".calls_to_review", _anchor="lost"),
        values={"reason": request.form.get("reason", "")},
        errors=errors or {},
        status=422 if errors else 200,
    )


def match_address(match: AccountMatch) -> str:
    """The page of the account that was found, with the call or the run that was searched for."""
    return url_for("admin.account", id=match.account.id, call=match.request_id, run=match.run_id)
