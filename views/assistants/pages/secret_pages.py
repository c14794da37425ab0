"""The secrets that tools and MCP servers send: written once, listed by name and last four characters, removed."""

from collections.abc import Mapping

from flask import url_for
from flask.typing import ResponseReturnValue

from models.assistants import check_capability
from models.assistants.tool import ToolSecret
from models.assistants.tool_secrets import add_secret, remove_secret, tool_secrets
from models.core.db import db
from models.core.errors import Conflict, Invalid, NotFound
from views.assistants.pages.assistant_blueprint import (
    assistant_action,
    assistant_page,
    form_text,
    problems_of,
    viewer_may,
)
from views.web.htmx import render, see_other, toast
from views.web.org_guards import signed_in, viewed_account


@assistant_page("/secrets")
def secret_list() -> ResponseReturnValue:
    """List the secrets, without their values, with the form for a new one. Raises Forbidden."""
    return _page({"name": "", "host": ""}, {})


@assistant_action("/secrets", "30/minute;200/day")
def new_secret() -> ResponseReturnValue:
    """Store a secret. 422 without its value if it cannot be stored. Raises Forbidden."""
    entered = {name: form_text(name).strip() for name in ("name", "host")}
    try:
        row = add_secret(signed_in().id, viewed_account(), **entered, value=form_text("value"))
    except (Invalid, Conflict) as error:
        db.session.rollback()
        return _page(entered, problems_of(error, "name"))
    db.session.commit()
    toast(f"“{row.name}” is stored. It is sent to {row.host} only.")
    return see_other(url_for("assistants.secret_list"))


@assistant_page("/secrets/<name>/removal")
def ask_secret_removal(name: str) -> ResponseReturnValue:
    """Ask whether to remove a secret. Raises NotFound, Forbidden."""
    return render(
        "assistants/secret_removal.html", partial="assistants/_secret_removal.html", secret=_own(name)
    )


@assistant_action("/secrets/<name>/removal")
def drop_secret(name: str) -> ResponseReturnValue:
    """Remove a secret. Raises NotFound, Forbidden."""
    remove_secret(signed_in().id, viewed_account(), name)
    db.session.commit()
    toast(f"“{name}” is removed.")
    return see_other(url_for("assistants.secret_list"))


def _own(name: str) -> ToolSecret:
    check_capability(signed_in().id, viewed_account(), "manage_tools")
    found = {each.name: each for each in tool_secrets(signed_in().id, viewed_account())}
    if name not in found:
        raise NotFound("There is no such secret.")
    return found[name]


def _page(values: Mapping[str, str], errors: Mapping[str, str]) -> ResponseReturnValue:
    response = render(
        "assistants/secrets.html",
        partial="assistants/_secret_form.html" if errors else None,
        status=422 if errors else 200,
        rows=tool_secrets(signed_in().id, viewed_account()),
        values=values,
        errors=errors,
        may_manage=viewer_may("manage_tools"),
    )
    response.headers["Cache-Control"] = "no-store"
    return response
