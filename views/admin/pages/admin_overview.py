"""`/admin`: find a person or an organisation; `/admin/calls`: calls and models that an operator should review."""

from datetime import timedelta

from flask import redirect, request, url_for
from flask.typing import ResponseReturnValue

from models import ledger
from models.admin.account_search import LONGEST_TEXT, AccountMatch, find_accounts
from models.core.db import now
from models.gateway.gateway_call import flagged_calls, refused_names
from views.admin.pages.admin_blueprint import bp
from views.web.guards import OWN_KEY, admin_required
from views.web.htmx import render

REVIEWED = timedelta(days=30)
SHOWN = 100
WHOLE_KEY = 43
"""Characters of the shortest token; ids of calls and runs are 36 and shorter."""


@bp.get("")
@admin_required
def overview() -> ResponseReturnValue:
    """Find an account. Query: `q`, by address, name, id, the ending of a key, the id of a call or a run. One match opens."""
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
        limit=SHOWN,
    )


def match_address(match: AccountMatch) -> str:
    """The page of the account that was found, with the call or the run that was searched for."""
    return url_for("admin.account", id=match.account.id, call=match.request_id, run=match.run_id)
