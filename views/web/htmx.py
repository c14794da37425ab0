"""One view, page or fragment: rendering, toasts and redirects that work with and without htmx."""

from collections.abc import MutableMapping
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
from models.ledger import balance

Kind = Literal["good", "bad", "info"]


class _Environment(templating.Environment):
    """Templates that have no globals of their own: that they have them is compared at each import of each."""

    def make_globals(self, d: MutableMapping[str, Any] | None) -> MutableMapping[str, Any]:
        return super().make_globals(d) if d else self.globals


def init_app(app: Flask) -> None:
    """Strict templates, and `Vary: HX-Request` on what renders both ways."""
    app.jinja_environment = _Environment
    app.jinja_env.undefined = StrictUndefined
    app.jinja_env.trim_blocks = True
    app.jinja_env.lstrip_blocks = True
    app.context_processor(_person)


def _person() -> dict[str, Any]:
    """What the layouts know of who looks: `viewer` (None: nobody), `credit_chip` (credits to spend), `sees_demo`.

    The chip is not asked for with fragments, which have no bar. Nobody is asked for while a bug is reported, since the
    database may be what broke.
    """
    user: Any = flask_login.current_user
    viewer: User | None = user if not g.get("bug") and user.is_authenticated else None
    chip = None
    if viewer is not None and not wants_fragment():
        from views.web.guards import current_account  # which imports this module

        # the page's own figure where it has one: two readings could differ by a call
        chip = (g.get("balance") or balance(current_account())).available
    return {
        "viewer": viewer,
        "credit_chip": chip,
        "sees_demo": viewer is not None and viewer.id == demo.USER_ID,
    }


def wants_fragment() -> bool:
    """Whether htmx asked for a piece of the page (not a boosted navigation, not a history restore)."""
    htmx = cast(Any, request).htmx
    return bool(htmx) and not htmx.boosted and not htmx.history_restore_request


def render(page: str, *, partial: str | None = None, status: int = 200, **context: Any) -> Response:
    """Render `page`, or `partial` alone for an htmx request of a fragment; toasts ride along out of band."""
    if partial and wants_fragment():
        body = render_template(partial, **context)
        if get_flashed_messages_waiting():
            body += render_template("components/_toasts_oob.html")
    else:
        body = render_template(page, **context)
    return answer(body, status, varies=partial is not None)


def answer(body: str, status: int = 200, *, varies: bool = False) -> Response:
    """A rendered page or piece of one. `varies`: the address answers htmx with something else."""
    response = make_response(body, status)
    if varies:
        response.vary.add("HX-Request")
    response.headers.setdefault("Cache-Control", "no-store" if varies else "no-cache")
    return response


def get_flashed_messages_waiting() -> bool:
    """Whether a toast waits; does not consume it."""
    from flask import session

    return bool(session.get("_flashes"))


def toast(message: str, kind: Kind = "good") -> None:
    """Queue a short message that shows on this response or, after a redirect, on the next."""
    flash(message, kind)


def toasts() -> list[tuple[str, str]]:
    """Take the queued messages: (kind, text)."""
    return cast(list[tuple[str, str]], get_flashed_messages(with_categories=True))


def see_other(location: str) -> Response:
    """303 after a POST; htmx follows by a full navigation."""
    if wants_fragment():
        response = make_response("", 204)
        response.headers["HX-Redirect"] = location
        return response
    return cast(Response, redirect(location, 303))
