"""Who calls the routes of assistants, for which account, and how their errors look."""

from datetime import datetime
from typing import NamedTuple

from flask import request
from flask.typing import ResponseReturnValue

from models.assistants import StaleVersion
from models.core.errors import Invalid, NotFound
from models.ledger import Account
from models.orgs import member_org
from models.orgs.sso_keys import check_key
from views.web.body import InvalidBody
from views.web.error_bodies import MANAGEMENT, ServerError
from views.web.error_handlers import answer
from views.web.format import iso
from views.web.guards import require_key
from views.web.operation import Answers, ErrorFormat, header, path, query

LIMIT = "60/minute;2000/day"
"""Of changes."""
ORG = query(
    "org_id", "Id or slug of an organisation: its assistants; by default those of the account of the key"
)
ASSISTANT_ID = path("id", "The id, `agnt_…`")
NUMBER = path("number", "The number of a version, from 1")
IF_MATCH = header("If-Match", "The version that you have read, such as `3`; without it any is changed")
ERRORS: Answers = {
    403: "Your role in the organisation does not allow it",
    404: "The account has no such assistant, or you belong to no such organisation",
}
STALE: Answers = {
    409: "Somebody changed it meanwhile (`version_conflict`): `details` and the header ETag have the current version"
}


class AssistantCaller(NamedTuple):
    """The user of the key, and the account whose assistants they manage."""

    user_id: str
    account: Account


def assistant_caller(org_key: str | None = None) -> AssistantCaller:
    """The caller, for the account of the key, or of the organisation `org_key`, else `?org_id=`. Raises DomainError (401), NotFound and
    Forbidden (`org_sso`)."""
    caller = require_key()
    org_key = org_key or request.args.get("org_id")
    if not org_key:
        return AssistantCaller(caller.user.id, Account.of(caller.session))
    org, _ = member_org(caller.user.id, org_key.replace("\0", ""))
    if caller.session.org_id is None:
        check_key(org, caller.session)
    elif caller.session.org_id != org.id:
        raise NotFound("Organization not found")
    return AssistantCaller(caller.user.id, Account(org_id=org.id))


def expected_version() -> int | None:
    """The version in `If-Match`; None if any may be changed. Raises Invalid."""
    text = request.headers.get("If-Match", "*").strip()
    if text == "*":
        return None
    text = text.removeprefix("W/").strip('"')
    if not is_number(text):
        raise Invalid("'If-Match' must be the version that you have read, such as 3.")
    return int(text)


def version_number(text: str) -> int:
    """The number of a version in the path. Raises NotFound."""
    if not is_number(text):
        raise NotFound("There is no such assistant.")
    return int(text)


def is_number(text: str) -> bool:
    """Whether a text is a number of at most nine digits."""
    return text.isascii() and text.isdigit() and len(text) <= 9


def flag(name: str) -> bool:
    """A query parameter that is true or false; false without it. Raises Invalid."""
    text = request.args.get(name, "false")
    if text not in ("true", "false"):
        raise Invalid(f"'{name}' must be true or false.")
    return text == "true"


def moment_text(moment: datetime | None) -> str | None:
    """A time of an answer."""
    return iso(moment) if moment else None


def _error_response(error: Exception) -> ResponseReturnValue | None:
    if isinstance(error, StaleVersion):
        response = answer(409, error.message, error.code, details=error.details)
        response.headers["ETag"] = f'"{error.current}"'
        return response
    if isinstance(error, InvalidBody) or (isinstance(error, Invalid) and error.fields):
        return MANAGEMENT.format(error)
    return None


DOOR = ErrorFormat(_error_response, ServerError, ServerError, ServerError, ServerError)
