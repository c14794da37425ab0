"""Rendering, toasts and redirects that work with and without htmx."""

from collections.abc import MutableMapping
from datetime import datetime
from typing import Any, Literal, cast

import flask_login
from flask import (
    Flask,
    Response,
    flash,
    g,
    get_flashed_messages,
    make_response,
    redirect,
    render_template,
    templating,
)
from htmx_flask import request
from jinja2 import StrictUndefined

from models import demo
from models.accounts import User
from models.ledger import Account, Balance, balance

Kind = Literal["good", "bad", "info"]


class _Environment(templating.Environment):
    """Skips the per-template globals, which Jinja compares on every import."""

    def make_globals(self, d: MutableMapping[str, Any] | None) -> MutableMapping[str, Any]:
        return super().make_globals(d) if d else self.globals


def init_app(app: Flask) -> None:
    """Configure Jinja (StrictUndefined, trimmed blocks) and the template context."""
    app.jinja_environment = _Environment
    app.jinja_env.undefined = StrictUndefined
    app.jinja_env.trim_blocks = True
    app.jinja_env.lstrip_blocks = True
    app.context_processor(_viewer_context)


def _viewer_context() -> dict[str, Any]:
    """Template context of the layouts: `viewer` (None: signed out), `credit_chip` (credits available to the page's account), `sees_demo`, `operates`
    (sees operators' pages), `read_only` (as an auditor), `place` (the end of titles: the organisation of the page, and Stoa).

    Fragments have no navigation bar and skip the balance. Error pages skip the user, because the database may have failed.
    """
    user: Any = flask_login.current_user
    viewer: User | None = user if not g.get("bug") and user.is_authenticated else None
    chip = None
    operates = read_only = False
    org = g.get("org")
    if viewer is not None:
        from views.web.guards import current_account, is_admin, is_auditor  # circular import

        read_only = is_auditor(viewer)
        operates = read_only or is_admin(viewer)
    if viewer is not None and not wants_fragment():
        account = Account(org_id=org.id) if org else current_account()
        chip = (g.get("balance") or balance(account)).available
    return {
        "viewer": viewer,
        "credit_chip": chip,
        "operates": operates,
        "read_only": read_only,
        "place": f"{org.name} · Stoa" if org else "Stoa",
        "sees_demo": viewer is not None and viewer.id == demo.USER_ID,
    }


def page_balance(account: Account, *, now: datetime | None = None) -> Balance:
    """The balance of the account that the page is about. The navigation bar shows the same: two queries could differ by a call."""
    g.balance = balance(account, now=now)
    return cast(Balance, g.balance)


def wants_fragment() -> bool:
    """Whether htmx requested a fragment, not a boosted navigation or a history restore."""
    htmx = cast(Any, request).htmx
    return bool(htmx) and not htmx.boosted and not htmx.history_restore_request


def render(page: str, *, partial: str | None = None, status: int = 200, **context: Any) -> Response:
    """Render `page`, or only `partial` for an htmx fragment request, with queued toasts out of band."""
    if partial and wants_fragment():
        body = render_template(partial, **context)
        if get_flashed_messages_waiting():
            body += render_template("components/_toasts_oob.html")
    else:
        body = render_template(page, **context)
    return answer(body, status, varies=partial is not None)


def answer(body: str, status: int = 200, *, varies: bool = False) -> Response:
    """Response for a rendered page or fragment. `varies`: the URL returns a fragment to htmx."""
    response = make_response(body, status)
    if varies:
        response.vary.add("HX-Request")
    response.headers.setdefault("Cache-Control", "no-store" if varies else "no-cache")
    return response


def get_flashed_messages_waiting() -> bool:
    """Whether toasts are queued; does not consume them."""
    from flask import session

    return bool(session.get("_flashes"))


def toast(message: str, kind: Kind = "good") -> None:
    """Queue a toast for this response or, after a redirect, the next."""
    flash(message, kind)


def toasts() -> list[tuple[str, str]]:
    """Consume the queued toasts: (kind, text)."""
    return cast(list[tuple[str, str]], get_flashed_messages(with_categories=True))


def see_other(location: str) -> Response:
    """Redirect with 303 after a POST; with htmx, navigate to the page."""
    if wants_fragment():
        response = make_response("", 204)
        response.headers["HX-Redirect"] = location
        return response
    return cast(Response, redirect(location, 303))
