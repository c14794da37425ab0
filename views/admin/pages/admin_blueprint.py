"""The blueprint of the operators' pages of accounts, calls and takedowns, and what they share."""

from typing import cast

from flask import Blueprint, request

from models.accounts.bans import MAX_REASON_LENGTH
from models.accounts.users import User
from models.core.errors import Invalid
from views.web.guards import cookie_user

bp = Blueprint("admin", __name__, url_prefix="/admin")


def operating_user() -> User:
    """The operator or auditor. Only for views with `admin_required`."""
    return cast(User, cookie_user())


def entered_reason() -> str:
    """The reason of an act, from the form. Raises Invalid with the field `reason`."""
    reason = " ".join(request.form.get("reason", "").split())
    if not reason or len(reason) > MAX_REASON_LENGTH or not reason.isprintable():
        message = f"Use at most {MAX_REASON_LENGTH} ordinary characters." if reason else "Enter a reason."
        raise Invalid(message, fields={"reason": message})
    return reason
