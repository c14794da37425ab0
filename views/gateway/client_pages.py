"""The page `/docs/clients`: how to set up each client with this server's address, a model of it, and one's own key."""

import re

from flask import Blueprint, current_app, request
from flask.typing import ResponseReturnValue

from models.accounts import Session, credentials
from models.core.db import now
from models.core.errors import NotFound
from models.orgs import memberships
from views.gateway.api.model_calls import gateway
from views.gateway.pages import models_are_public
from views.web.assets import site
from views.web.client_guide import KEY, MODEL, guide
from views.web.guards import cookie_user, to_login
from views.web.htmx import render

bp = Blueprint("clients", __name__)

PLAIN_NAME = re.compile(r"[\w./:@-]+", re.ASCII)
"""A model's name that needs no quoting in any of the languages of the examples."""


@bp.get("/docs/clients")
def page() -> ResponseReturnValue:
    """Show the guide. `model`: one of the listed models, by default the first other than the demo. `key`: the id of one of the
    user's keys, whose name and ends are shown, never the secret. Raises NotFound for other models and keys."""
    user, key_id = cookie_user(), request.args.get("key", "")
    if user is None and key_id:
        return to_login()
    rows = [each for each in credentials.keys(user) if each.expires > now()] if user else []
    key = _own_key(rows, key_id) if key_id else None
    names = _model_names() if user or models_are_public() else [MODEL]
    model = request.args.get("model") or (names[1] if len(names) > 1 else MODEL)
    if model not in names:
        raise NotFound("This server does not list this model.")
    return render(
        "docs/clients.html",
        sections=guide(site()["url"], model, key.token_hint or KEY if key else KEY),
        model=model,
        models=[(name, name) for name in names],
        key=key,
        keys=[(each.session_token, _label(each)) for each in rows],
        payers={org.id: org.name for org, _ in memberships(user.id)} if user else {},
    )


def _own_key(rows: list[Session], identifier: str) -> Session:
    key = next((each for each in rows if each.session_token == identifier), None)
    if key is None:
        raise NotFound("This key does not exist, or has expired.")
    return key


def _label(key: Session) -> str:
    return f"{key.name} ({key.token_hint})" if key.name else key.token_hint or "No name"


def _model_names() -> list[str]:
    """The listed models, the demo first."""
    names = (each.requested for each in gateway(current_app).routes.models())
    return [name for name in names if PLAIN_NAME.fullmatch(name)]
