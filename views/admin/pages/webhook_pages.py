"""`/admin/webhooks`: Stripe's events in short, and the outgoing webhooks of organisations."""

from flask import request, url_for
from flask.typing import ResponseReturnValue

from models import billing
from models.admin import webhook_review
from models.billing.payments import stripe_events
from models.core.db import db
from models.core.errors import NotFound
from views.admin.pages.admin_blueprint import bp, operating_user
from views.web.guards import admin_required, audit, limiter
from views.web.htmx import render, see_other, toast
from views.web.keyset import cursor, cursor_text

PAGE = 50


@bp.get("/webhooks")
@admin_required
def webhook_list() -> ResponseReturnValue:
    """Stripe's events by state, webhooks in trouble, and deliveries. Query: `state` (`webhook_review.STATES`, default failed),
    `before` (cursor)."""
    state, before = request.args.get("state") or "failed", cursor()
    if state not in webhook_review.STATES:
        raise NotFound("There is no such list.")
    rows = webhook_review.open_deliveries(state, before=before, limit=PAGE + 1)
    more = None
    if len(rows) > PAGE:
        last = rows[PAGE - 1].delivery
        more = url_for(".webhook_list", state=state, before=cursor_text(last.created_at, last.id))
    if before is not None:
        return render(
            "admin/more_deliveries.html", partial="admin/_deliveries.html", deliveries=rows[:PAGE], more=more
        )
    return render(
        "admin/webhooks.html",
        selling=billing.enabled(),
        events=stripe_events.count_troubled(),
        webhooks=webhook_review.troubled_webhooks(),
        deliveries=rows[:PAGE],
        more=more,
        state=state,
    )


@bp.post("/webhooks/deliveries/<id>/attempts")
@admin_required
@limiter.limit("60 per minute")
def redeliver(id: str) -> ResponseReturnValue:
    """Send a delivery once more."""
    org_id, webhook_id = webhook_review.redeliver(id)
    audit("webhook.redelivered", webhook_id, user=operating_user(), after={"delivery": id}, org_id=org_id)
    db.session.commit()
    toast("The delivery is being sent again.")
    return see_other(url_for(".webhook_list"))
