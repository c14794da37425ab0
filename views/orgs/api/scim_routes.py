"""The routes of SCIM 2.0 for directories of organisations, and who calls them.

What they do is imported with the first request: the models of the protocol take a sixth of the application's start.
"""

from collections.abc import Callable
from typing import cast

from flask import Blueprint, g, request
from flask.typing import ResponseReturnValue
from flask_limiter import RateLimitExceeded
from pydantic import ValidationError

from models.core.audit_log import AuditActor
from models.core.db import now
from models.core.errors import DomainError
from models.orgs import Org
from models.orgs.directory import scim_caller
from views.web.body import BadJson, allow_anonymous
from views.web.guards import limiter, request_id

bp = Blueprint("scim", __name__, url_prefix="/scim/v2/<key>")

MAX_BYTES = 4 << 20
ROUTES = (
    ("/ServiceProviderConfig", ("GET",), "service"),
    ("/ResourceTypes", ("GET",), "resource_types"),
    ("/ResourceTypes/<id>", ("GET",), "resource_type"),
    ("/Schemas", ("GET",), "schemas"),
    ("/Schemas/<id>", ("GET",), "schema"),
    ("/Users", ("GET",), "users"),
    ("/Users/.search", ("POST",), "search_users"),
    ("/Users", ("POST",), "create_user"),
    ("/Users/<id>", ("GET",), "user"),
    ("/Users/<id>", ("PUT",), "replace_user"),
    ("/Users/<id>", ("PATCH",), "patch_user"),
    ("/Users/<id>", ("DELETE",), "delete_user"),
    ("/Groups", ("GET",), "groups"),
    ("/Groups/.search", ("POST",), "search_groups"),
    ("/Groups", ("POST",), "create_group"),
    ("/Groups/<id>", ("GET",), "group"),
    ("/Groups/<id>", ("PUT",), "replace_group"),
    ("/Groups/<id>", ("PATCH",), "patch_group"),
    ("/Groups/<id>", ("DELETE",), "delete_group"),
    ("/.search", ("POST",), "search_everything"),
    ("/<path:rest>", ("GET", "POST", "PUT", "PATCH", "DELETE"), "nothing"),
)
"""Address, methods, and the function of `scim` that answers."""


def scim_org() -> Org:
    """The organisation of the caller's token."""
    return cast(Org, g.scim_org)


def _view(name: str) -> Callable[..., ResponseReturnValue]:
    """Authenticate the token of the organisation `<key>`, then run the function `name` under the service's rules. Raises
    DomainError (401)."""

    def view(key: str, **values: str) -> ResponseReturnValue:
        g.scim_key = key
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        found = scim_caller(key, token.strip(), now()) if scheme.lower() == "bearer" else None
        if found is None:
            raise DomainError(
                "Send a valid token of this organisation as Authorization: Bearer …", status=401
            )
        g.scim_org, row = found
        g.audit_actor = AuditActor(f"directory {row.hint}", None, request.remote_addr, request_id())
        return _answer(name, values)

    view.__name__ = name  # limits are counted by it
    # the function reads the body only after the caller is known
    return limiter.limit("6000/minute")(allow_anonymous(MAX_BYTES)(view))


for _rule, _methods, _name in ROUTES:
    bp.add_url_rule(_rule, _name, _view(_name), methods=_methods)


def _answer(name: str, values: dict[str, str]) -> ResponseReturnValue:
    from scim2_models import SCIMException

    from views.orgs.api import scim
    from views.orgs.api.scim_protocol import PROVIDER

    try:
        with PROVIDER:
            return cast(ResponseReturnValue, getattr(scim, name)(**values))
    except SCIMException as error:
        return _refused(error)


def _refused(error: Exception) -> ResponseReturnValue:
    from views.orgs.api.scim_protocol import refusal

    return refusal(error)


for _error in (ValidationError, DomainError, BadJson, RateLimitExceeded):
    bp.register_error_handler(_error, _refused)
