"""Fails the test whose transaction locks an organisation before its credit account: two of them in opposite orders deadlock."""

import re
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine

_ORG = re.compile(r'UPDATE "?org"? |FROM org\b.* FOR (NO KEY )?UPDATE', re.DOTALL)
_FOLLOWED = re.compile(r"UPDATE org SET .*\b(credit_limit|time_zone)=")
"""Changes of which the trigger `budget_follow_org` locks the account."""
_ACCOUNT = re.compile(
    r"credit_(account_lock|grant|charge|take_back)\(|FROM credit_account\b.* FOR UPDATE", re.DOTALL
)


def watch() -> None:
    """Watch the transactions of all SQLAlchemy engines of this process."""
    event.listen(Engine, "begin", _begin)
    event.listen(Engine, "before_cursor_execute", _check)


def _begin(connection: Connection) -> None:
    connection.info["first_lock"] = None


def _check(
    connection: Connection, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool
) -> None:
    first = connection.info.get("first_lock")
    if first == "account" or ("credit_" not in statement and "org" not in statement):
        return
    account = _ACCOUNT.search(statement) and _of_organisation(parameters)
    if _FOLLOWED.match(statement) or (account and first == "org"):
        raise AssertionError(f"lock the credit account before the organisation: {statement}")
    if account:
        connection.info["first_lock"] = "account"
    elif _ORG.search(statement):
        connection.info["first_lock"] = "org"


def _of_organisation(parameters: Any) -> bool:
    """Whether the statement is about an organisation's account: those of people are another matter."""
    return not isinstance(parameters, dict) or "user" not in parameters or parameters.get("org") is not None
