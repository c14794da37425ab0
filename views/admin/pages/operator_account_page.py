"""`/admin/accounts/<id>`: what operators and auditors see of a person or an organisation."""

from flask import request, url_for
from flask.typing import ResponseReturnValue

from models import billing, ledger
from models.admin.account_review import (
    LISTED,
    call_of_account,
    credentials_listed,
    hold_of_account,
    holds_in_flight,
    membership_rows,
    publishers_listed,
    reviewed_account,
    view_is_due,
)
from models.core.db import db, now
from models.runs.call_search import calls_page
from models.runs.call_sources import CallFilter
from models.runs.history import RunFilter, find_run, runs_of
from views.admin.pages.admin_blueprint import bp, operating_user
from views.billing.pages.billing_blueprint import money_page
from views.web.guards import admin_required, audit, is_admin, is_auditor

NEWEST = 10
"""Calls, runs and purchases on the page."""


@bp.get("/accounts/<id>")
@admin_required
def account(id: str) -> ResponseReturnValue:
    """Balance, holds, calls, runs, credentials, purchases and memberships of an account. Query: `call` or `run`, an id to show.

    Writes to the audit log that the operator looked, at most once an hour.
    """
    found, viewer = reviewed_account(id), operating_user()
    if view_is_due(id, viewer.id, now()):
        audit("account.viewed", id, user=viewer)
        db.session.commit()
    shown, moment = found.account, now()
    return money_page(
        "admin/account.html",
        reviewed=found,
        balance=ledger.balance(shown),
        cycle=ledger.cycle(shown),
        grants=ledger.grants_of(shown),
        holds=holds_in_flight(id, moment),
        stop=ledger.current_stop(shown),
        calls=calls_page(id, CallFilter(), limit=NEWEST).calls,
        runs=runs_of(id, RunFilter(spawned=True), limit=NEWEST).runs,
        credentials=credentials_listed(shown),
        memberships=membership_rows(shown),
        publishers=publishers_listed(shown),
        purchases=billing.listed_purchases(account=shown, state=None, limit=NEWEST),
        role="Operator" if is_admin(found.user) else "Auditor" if is_auditor(found.user) else None,
        call=call_of_account(id, request.args.get("call", "")),
        hold=hold_of_account(id, request.args.get("call", "")),
        run=find_run(id, request.args.get("run", "")),
        now=moment,
        listed=LISTED,
        log=url_for("admin_audit.everything", subject=id),
        own=viewer.id == id,
        more=None,
    )
