"""Sign-in through an organisation's identity provider, and the owners' way in when it fails."""

from typing import Any

from authlib.integrations.flask_client import FlaskIntegration, FlaskOAuth2App
from authlib.integrations.requests_client import OAuth2Session
from flask import g, redirect, render_template, request, session, url_for
from flask.typing import ResponseReturnValue

from models.accounts.signing_in import Identity
from models.accounts.users import User
from models.core import mail, outgoing
from models.core.audit_log import AuditActor
from models.core.db import db, now
from models.core.errors import DomainError, Forbidden, Invalid, NotFound
from models.core.mail import Email
from models.orgs import Org, OrgSso, membership, org_by_id
from models.orgs.single_sign_on import mark_session, open_in_emergency, sso_by_slug, sso_of
from models.orgs.sso_sign_in import SsoArrival, arrive, emergency_contacts
from views.accounts.pages.oauth import (
    FAILURES,
    PKCE,
    authorization_url,
    failure_message,
    openid_claims,
    openid_identity,
)
from views.accounts.pages.sign_in import destination
from views.orgs.pages.orgs_blueprint import bp
from views.web.guards import (
    audit,
    cookie_user,
    current_session,
    limiter,
    login_required,
    request_id,
    settings,
    sign_in_browser,
)
from views.web.htmx import see_other, toast
from views.web.org_guards import signed_in

SCOPE = "openid email profile"
MAX_GROUPS = 1000


class GuardedOAuth2Session(OAuth2Session):
    """Reaches the addresses only that `outgoing` allows: owners choose the issuer."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
        outgoing.guarded(self, settings())


class _OrgOAuth2App(FlaskOAuth2App):
    client_cls = GuardedOAuth2Session


def metadata_url(issuer: str) -> str:
    """Where an issuer describes itself."""
    return f"{issuer.rstrip('/')}/.well-known/openid-configuration"


def _client(sso: OrgSso) -> Any:
    name = f"sso_{sso.org_id}"
    return _OrgOAuth2App(  # type: ignore[no-untyped-call]
        FlaskIntegration(name),
        name=name,
        client_id=sso.client_id,
        client_secret=sso.secret(settings().secret_key),
        server_metadata_url=metadata_url(sso.issuer),
        client_kwargs={"scope": SCOPE, **PKCE},
    )


def callback_url(org_id: str) -> str:
    """The redirect URI to register at the identity provider. It outlives a change of the slug, and no other organisation
    has it: an answer of another provider cannot be mistaken for one of this."""
    return settings().base_url + url_for("orgs.sso_callback", org_id=org_id)


@bp.get("/login/sso/<slug>")
@limiter.limit("30/minute")
def start_sso(slug: str) -> ResponseReturnValue:
    """Redirect to the organisation's identity provider."""
    org, sso = sso_by_slug(slug)
    client, callback = _client(sso), callback_url(org.id)
    hint = request.args.get("login_hint", "")[:320]
    next_path = destination(request.args.get("next"), url_for("orgs.overview", slug=org.slug))
    db.session.commit()  # no connection is held while the provider answers
    try:
        url = authorization_url(client, callback, next_path, **({"login_hint": hint} if hint else {}))
        _check_issuer(client, sso)
    except FAILURES as error:
        return _failed(org, error)
    return redirect(url, 302)


def _check_issuer(client: Any, sso: OrgSso) -> None:
    found = client.load_server_metadata().get("issuer")
    if not isinstance(found, str) or found.rstrip("/") != sso.issuer.rstrip("/"):
        raise ValueError("the issuer describes another one")


@bp.get("/login/sso/<org_id>/callback")
@limiter.limit("30/minute")
def sso_callback(org_id: str) -> ResponseReturnValue:
    """Handle the answer of the identity provider: sign the user in, or confirm the signed-in one; add the membership."""
    org, sso = org_by_id(org_id), sso_of(org_id)
    if org is None or sso is None or org.deleted_at is not None:
        raise NotFound("No organisation with this id has single sign-on.")
    client = _client(sso)
    state = client.framework.get_state_data(session, request.args.get("state")) or {}
    next_path = destination(state.get("where"), url_for("orgs.overview", slug=org.slug))
    user = cookie_user()
    db.session.commit()
    try:
        claims = openid_claims(client)
        _check_issuer(client, sso)
        identity = _identity(sso, claims)
        g.audit_actor = AuditActor(identity.email.lower(), None, request.remote_addr, request_id())
        arrival = arrive(
            org,
            sso,
            identity,
            groups_of(claims, sso.group_claim),
            signed_in=user,
            now=now(),
            free_credits=settings().stoa_free_credits,
        )
    except (*FAILURES, DomainError) as error:
        db.session.rollback()
        return _failed(org, error)
    return _complete(org, arrival, user, next_path)


def _identity(sso: OrgSso, claims: dict[str, Any]) -> Identity:
    if not claims.get("email"):
        # Microsoft sends the address here. The organisation chose the provider, and its domains are proven.
        claims = {**claims, "email": claims.get("preferred_username") or claims.get("upn") or ""}
    return openid_identity(sso.provider, claims, with_issuer=True)


def groups_of(claims: dict[str, Any], claim: str | None) -> frozenset[str]:
    """The user's groups in validated claims: a list, or one name. Anything else is no group."""
    value = claims.get(claim) if claim else None
    values = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    return frozenset(each for each in values[:MAX_GROUPS] if isinstance(each, str))


def _complete(org: Org, arrival: SsoArrival, before: User | None, next_path: str) -> ResponseReturnValue:
    """Mark the browser's session, or a new one if somebody else or nobody was signed in. Commits."""
    user, current = arrival.user, current_session()
    if current is None or current.type != "web" or before is None or before.id != user.id:
        current = sign_in_browser(user)
        if arrival.new:
            audit("user.created", user.id, user=user, after={"by": "sso", "organisation": org.slug})
        audit("user.signed_in", user.id, user=user, after={"by": "sso", "organisation": org.slug})
    mark_session(org.id, current, now())
    db.session.commit()
    if arrival.joined:
        toast(f"You are now a member of {org.name}.")
        if next_path.startswith("/invites/"):  # taken up
            next_path = url_for("orgs.overview", slug=org.slug)
    return see_other(next_path)


def _failed(org: Org, error: Exception) -> ResponseReturnValue:
    if isinstance(error, DomainError) and not isinstance(error, Invalid):
        toast(error.message, "bad")
    elif isinstance(error, outgoing.OutgoingRefused):
        toast(f"The identity provider of {org.name} cannot be reached from here: {error}.", "bad")
    else:
        toast(failure_message(f"sso of {org.slug}", error), "bad")
    # A signed-in user would be led away from the sign-in page, and back to the page that refused them.
    return see_other(url_for("orgs.orgs") if cookie_user() else url_for("accounts.login", way="link"))


# -- in an emergency -----------------------------------------------------------------------------------------


@bp.post("/orgs/<slug>/sso/emergency")
@login_required
@limiter.limit("5/hour")
def enter_in_emergency(slug: str) -> ResponseReturnValue:
    """Let an owner in for an hour without the identity provider. The other owners and admins are told by mail."""
    org = sso_by_slug(slug)[0]
    member, current, user = membership(signed_in().id, org.id), current_session(), signed_in()
    if member is None or current is None:
        raise NotFound("Organization not found")
    if org.sso_enforced_at is None:
        raise Forbidden("Single sign-on is not enforced: the organisation is open.")
    until = open_in_emergency(org, member.role, current, now())
    for email in emergency_contacts(org.id):
        context = {"org": org, "user": user, "until": until, "url": settings().base_url}
        text = render_template("emails/sso_bypassed.txt", **context)
        message = Email(
            to=email, subject=f"{user.email} entered {org.name} without single sign-on", text=text
        )
        mail.send(settings(), message)
    db.session.commit()
    toast("You are in for an hour. The owners and admins were notified.", "info")
    return see_other(url_for("orgs.overview", slug=org.slug))
