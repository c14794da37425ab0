"""Alerts of an organisation: the open and earlier ones, settings, webhooks and their delivery logs."""

from typing import Any

from flask import request, url_for
from flask.typing import ResponseReturnValue
from werkzeug.routing import BuildError

from models.core.db import db
from models.core.errors import DomainError, Invalid
from models.orgs import ALERT_KINDS, OrgAlert, OrgWebhook
from models.orgs.alert_delivery import send_org_mail
from models.orgs.alert_settings import (
    MAIL_ROLES,
    SWITCHES,
    THRESHOLDS,
    alert_settings,
    change_alert_settings,
    parse_thresholds,
)
from models.orgs.alerts import alerts_for, dismiss, earlier_alerts
from models.orgs.webhooks import (
    add_webhook,
    check_url,
    deliveries_of,
    enable_webhook,
    enqueue_delivery,
    remove_webhook,
    rotate_secret,
    send_again,
    webhook_of,
    webhooks_of,
)
from models.usage.alert_watch import watch_org
from views.orgs.pages.orgs_blueprint import bp
from views.web.guards import limiter
from views.web.htmx import render, see_other, toast, wants_fragment
from views.web.org_guards import current_membership, current_org, org_caller, org_page, signed_in

LIMIT = "30 per minute"

UNITS = {"limit_percent": "%", "unusual_factor": "times"}


@bp.get("/orgs/<slug>/alerts")
@org_page()
def alerts() -> ResponseReturnValue:
    """Show the alerts that the member may see; those who manage alerts also their settings and webhooks. Finds what is due
    first (contract 3.8)."""
    watch_org(current_org())
    db.session.commit()
    return _alerts_page()


@bp.post("/orgs/<slug>/alerts/<alert_id>/dismiss")
@org_page()
@limiter.limit(LIMIT, key_func=org_caller)
def dismiss_alert(alert_id: str) -> ResponseReturnValue:
    """Dismiss an alert for the member. Raises NotFound."""
    dismiss(current_membership(), alert_id)
    db.session.commit()
    if wants_fragment():
        return _alerts_page()
    return see_other(url_for("orgs.alerts"))


@bp.post("/orgs/<slug>/alerts/settings")
@org_page("manage_alerts")
@limiter.limit(LIMIT, key_func=org_caller)
def save_alert_settings() -> ResponseReturnValue:
    """Change thresholds, which alerts are raised, which are sent by e-mail and to whom, and the weekly report."""
    form = request.form
    try:
        change_alert_settings(
            current_org(),
            parse_thresholds({name: form.get(name, "") for name in THRESHOLDS}),
            mailed=set(form.getlist("mailed")),
            roles=set(form.getlist("roles")),
            switches={name: name in form for name in SWITCHES},
        )
    except Invalid as invalid:
        return _alerts_page(entered={name: form.get(name, "") for name in THRESHOLDS}, errors=invalid.fields)
    db.session.commit()
    toast("The settings are saved.")
    return see_other(url_for("orgs.alerts"))


@bp.post("/orgs/<slug>/alerts/test-mail")
@org_page("manage_alerts")
@limiter.limit("5 per minute", key_func=org_caller)
def send_test_mail() -> ResponseReturnValue:
    """Send a test e-mail to the viewer."""
    send_org_mail("alert_test", signed_in(), current_org())
    db.session.commit()
    toast(f"A test e-mail is on its way to {signed_in().email}.")
    return see_other(url_for("orgs.alerts"))


@bp.post("/orgs/<slug>/webhooks")
@org_page("manage_alerts")
@limiter.limit(LIMIT, key_func=org_caller)
def create_webhook() -> ResponseReturnValue:
    """Add a webhook and show its secret, once."""
    url = request.form.get("url", "")
    db.session.commit()  # no transaction is open while the host is resolved
    try:
        checked = check_url(url)
        webhook, secret = add_webhook(current_org().id, checked)
    except DomainError as refused:
        return _alerts_page(url=url, errors={"url": refused.message})
    db.session.commit()
    return _webhook_page(webhook, secret)


@bp.get("/orgs/<slug>/webhooks/<webhook_id>")
@org_page("manage_alerts")
def webhook(webhook_id: str) -> ResponseReturnValue:
    """Show a webhook and its latest deliveries."""
    return _webhook_page(webhook_of(current_org().id, webhook_id))


@bp.post("/orgs/<slug>/webhooks/<webhook_id>/secret")
@org_page("manage_alerts")
@limiter.limit(LIMIT, key_func=org_caller)
def rotate_webhook_secret(webhook_id: str) -> ResponseReturnValue:
    """Give a webhook a new secret and show it, once."""
    found = webhook_of(current_org().id, webhook_id)
    secret = rotate_secret(found)
    db.session.commit()
    return _webhook_page(found, secret)


@bp.post("/orgs/<slug>/webhooks/<webhook_id>/test")
@org_page("manage_alerts")
@limiter.limit("5 per minute", key_func=org_caller)
def test_webhook(webhook_id: str) -> ResponseReturnValue:
    """Send a test event to a webhook."""
    found = webhook_of(current_org().id, webhook_id)
    enqueue_delivery(found, "test", {"organization": {"id": current_org().id, "slug": current_org().slug}})
    db.session.commit()
    toast("A test event is on its way. Its answer appears below.")
    return _to_webhook(found)


@bp.post("/orgs/<slug>/webhooks/<webhook_id>/enable")
@org_page("manage_alerts")
@limiter.limit(LIMIT, key_func=org_caller)
def switch_webhook_on(webhook_id: str) -> ResponseReturnValue:
    """Switch a webhook on again."""
    found = webhook_of(current_org().id, webhook_id)
    enable_webhook(found)
    db.session.commit()
    toast("The webhook is on.")
    return _to_webhook(found)


@bp.post("/orgs/<slug>/webhooks/<webhook_id>/delete")
@org_page("manage_alerts")
@limiter.limit(LIMIT, key_func=org_caller)
def delete_webhook(webhook_id: str) -> ResponseReturnValue:
    """Remove a webhook with its log."""
    remove_webhook(webhook_of(current_org().id, webhook_id))
    db.session.commit()
    toast("The webhook is removed.")
    return see_other(url_for("orgs.alerts"))


@bp.post("/orgs/<slug>/webhooks/<webhook_id>/deliveries/<delivery_id>")
@org_page("manage_alerts")
@limiter.limit(LIMIT, key_func=org_caller)
def repeat_delivery(webhook_id: str, delivery_id: str) -> ResponseReturnValue:
    """Send a delivery again."""
    found = webhook_of(current_org().id, webhook_id)
    send_again(found, delivery_id)
    db.session.commit()
    toast("The delivery is on its way.")
    return _to_webhook(found)


def _to_webhook(found: OrgWebhook) -> ResponseReturnValue:
    return see_other(url_for("orgs.webhook", webhook_id=found.id))


def _webhook_page(found: OrgWebhook, secret: str | None = None) -> ResponseReturnValue:
    response = render("orgs/webhook.html", webhook=found, secret=secret, deliveries=deliveries_of(found))
    response.headers["Cache-Control"] = "no-store"
    return response


def _alerts_page(
    *, entered: dict[str, str] | None = None, errors: dict[str, str] | None = None, url: str = ""
) -> ResponseReturnValue:
    org, member = current_org(), current_membership()
    stored = alert_settings(org.id)
    return render(
        "orgs/alerts.html",
        partial="orgs/_alerts.html",
        status=422 if errors else 200,
        alerts=alerts_for(member),
        earlier=earlier_alerts(member)[:20],
        kinds=ALERT_KINDS,
        alert_href=_alert_href,
        settings=stored,
        thresholds=[
            (name, label, (entered or {}).get(name) or getattr(stored, name), UNITS.get(name, "credits"))
            for name, (label, *_) in THRESHOLDS.items()
        ],
        mail_roles=MAIL_ROLES,
        weekly_reports=org.weekly_reports,
        errors=errors or {},
        url=url,
        webhooks=webhooks_of(org.id),
    )


_TARGETS: dict[str, tuple[str, dict[str, str]]] = {
    "high_usage": ("orgs.usage", {}),
    "unusual_spend": ("orgs.usage", {"member": "user_id"}),
    "budget_warned": ("billing.budget_list", {}),
    "budget_stopped": ("billing.budget_list", {}),
    "credit_limit_reached": ("orgs.usage", {}),
    "low_balance": ("billing.organisation_billing", {}),
    "auto_topup_failed": ("billing.organisation_billing", {}),
    "card_expiring": ("billing.organisation_billing", {}),
    "invite_expiring": ("orgs.team", {}),
    "webhook_disabled": ("orgs.webhook", {"webhook_id": "webhook_id"}),
}
"""The page where an alert is mended, and its arguments from the alert's facts."""


def _alert_href(alert: OrgAlert) -> str | None:
    endpoint, arguments = _TARGETS[alert.kind]
    values: dict[str, Any] = {name: alert.facts.get(fact) for name, fact in arguments.items()}
    try:
        return url_for(endpoint, slug=current_org().slug, **values)
    except BuildError:
        return None
