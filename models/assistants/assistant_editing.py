"""Create, change, duplicate, delete, restore and purge assistants. Each change makes a new version; earlier ones are kept.

Functions flush and never commit. Changes lock the assistant's row; creation locks the account's. Those of an organisation are recorded
in its audit log.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import orjson
from blinker import Signal
from sqlalchemy import delete, func, select, update

from models.accounts import write_limits
from models.accounts.write_limits import DAY, WriteLimit
from models.assistants.assistant import Assistant, AssistantVersion
from models.assistants.assistant_access import (
    SavedAssistant,
    check_capability,
    locked_assistant,
    readable_assistant,
)
from models.assistants.assistant_fields import (
    FIELDS,
    MAX_NAME,
    checked_budget,
    checked_fields,
    new_fields,
    wrong,
)
from models.assistants.tool_registry import check_references
from models.core.db import db, now
from models.core.errors import Conflict
from models.core.settings import Settings
from models.ledger import Account, lock_account
from models.orgs import record_org
from models.turns.turn_stops import stop_turns_with

PURGED_AT_ONCE = 500

assistant_budget_changed = Signal()
"""Sent with the assistant when its budget changed, in the transaction that changes it: turns that it paused may resume."""


class StaleVersion(Conflict):
    """Somebody else changed the assistant since the caller read it; `current` is its version now."""

    code = "version_conflict"

    def __init__(self, current: int) -> None:
        super().__init__(
            f"The assistant was changed meanwhile: its version is {current}. Read it again, then repeat your change.",
            details=f"current_version={current}",
        )
        self.current = current


def create_assistant(
    user_id: str, account: Account, raw: Mapping[str, Any], limits: Settings, *, budget: Any = None
) -> SavedAssistant:
    """Save a new assistant from `FIELDS`. Raises NotFound and Forbidden for the account, Invalid (422) with the field, and WriteLimitExceeded
    (409 for the number of assistants, 413 or 429 for bytes a day)."""
    check_capability(user_id, account, "edit_assistants")
    fields, credits = new_fields(raw), checked_budget(budget)
    check_references(account, fields)
    return _create(user_id, account, fields, limits, credits)


def update_assistant(
    user_id: str,
    account: Account,
    id: str,
    raw: Mapping[str, Any],
    limits: Settings,
    *,
    expected: int | None = None,
    budget: Any = False,
) -> SavedAssistant:
    """Change the sent fields in a new version; the others stay. `expected` is the version that the caller has read (None: whichever);
    `budget` False leaves it, and a change of it alone makes no version.

    Raises NotFound, Forbidden, StaleVersion, Invalid (422) with the field, WriteLimitExceeded."""
    check_capability(user_id, account, "edit_assistants")
    readable_assistant(user_id, account, id)  # before the fields: whose it is comes first
    fields = checked_fields(raw)
    check_references(account, fields)
    if not fields and budget is False:
        raise wrong("", "Send at least one field to change.")
    if fields:
        _consume(user_id, fields, limits)
    found = locked_assistant(user_id, account, id)
    _check_expected(found.assistant, expected)
    if budget is not False:
        _set_budget(found.assistant, checked_budget(budget))
    if not fields:
        return found
    return _next_version(user_id, account, found, {**_content(found.version), **fields}, "changed")


def restore_version(
    user_id: str, account: Account, id: str, number: int, limits: Settings, *, expected: int | None = None
) -> SavedAssistant:
    """Make a new version with the content of version `number`. Raises as `update_assistant` does."""
    check_capability(user_id, account, "edit_assistants")
    fields = _content(readable_assistant(user_id, account, id, number).version)
    _consume(user_id, fields, limits)
    found = locked_assistant(user_id, account, id)
    _check_expected(found.assistant, expected)
    return _next_version(user_id, account, found, fields, "version_restored")


def duplicate_assistant(
    user_id: str, account: Account, id: str, limits: Settings, name: str | None = None
) -> SavedAssistant:
    """A new assistant of the same account with the current content of this one, without its budget. Raises as `create_assistant` does."""
    fields = _content(readable_assistant(user_id, account, id).version)
    fields["name"] = name if name is not None else f"{fields['name'][: MAX_NAME - 7]} (copy)"
    check_capability(user_id, account, "edit_assistants")
    return _create(user_id, account, new_fields(fields), limits)


def delete_assistant(user_id: str, account: Account, id: str) -> SavedAssistant:
    """Delete the assistant softly: it can be restored until it is purged. Its threads stay readable, its turns are stopped. Raises NotFound, also if
    it is deleted, and Forbidden."""
    readable_assistant(user_id, account, id)
    # before the assistant is locked, as those do that run them; what is not allowed below is undone
    stop_turns_with(id)
    found = locked_assistant(user_id, account, id, "delete_assistants")
    found.assistant.deleted_at = now()
    db.session.flush()
    _record(account, "deleted", found.assistant)
    return found


def restore_assistant(user_id: str, account: Account, id: str, limits: Settings) -> SavedAssistant:
    """Undo `delete_assistant`. Raises NotFound, Forbidden, Conflict (409) if it is not deleted, and WriteLimitExceeded (409)."""
    check_capability(user_id, account, "see_assistants")
    lock_account(account)
    found = locked_assistant(user_id, account, id, "delete_assistants", deleted=True)
    if found.assistant.deleted_at is None:
        raise Conflict("The assistant is not deleted.", code="not_deleted")
    _check_count(account, limits)
    found.assistant.deleted_at = None
    db.session.flush()
    _record(account, "restored", found.assistant)
    return found


def purge_assistants(moment: datetime, days: int) -> int:
    """Remove the versions and the names of assistants that were deleted `days` ago; returns of how many, at most 500. Skips those whose rows
    are locked."""
    due = (
        select(Assistant.id)
        .where(Assistant.deleted_at < moment - timedelta(days=days), Assistant.purged_at.is_(None))
        .order_by(Assistant.deleted_at)
        .limit(PURGED_AT_ONCE)
        .with_for_update(skip_locked=True)
    )
    ids = list(db.session.scalars(due))
    if ids:
        db.session.execute(delete(AssistantVersion).where(AssistantVersion.assistant_id.in_(ids)))
        rows = update(Assistant).where(Assistant.id.in_(ids))
        db.session.execute(rows.values(purged_at=moment, name="", published_as=None))
    return len(ids)


# -- parts ---------------------------------------------------------------------------------------------------


def _create(
    user_id: str, account: Account, fields: Mapping[str, Any], limits: Settings, budget: int | None = None
) -> SavedAssistant:
    lock_account(account)
    _check_count(account, limits)
    _consume(user_id, fields, limits)
    assistant = Assistant(account_id=account.id, user_id=user_id, name=fields["name"], budget=budget)
    db.session.add(assistant)
    db.session.flush()
    version = _add_version(assistant, 1, user_id, fields)
    db.session.refresh(assistant)
    _record(account, "created", assistant)
    return SavedAssistant(assistant, version)


def _next_version(
    user_id: str, account: Account, found: SavedAssistant, fields: Mapping[str, Any], action: str
) -> SavedAssistant:
    assistant = found.assistant
    assistant.version += 1
    assistant.name, assistant.updated_at = fields["name"], now()
    version = _add_version(assistant, assistant.version, user_id, fields)
    _record(account, action, assistant)
    return SavedAssistant(assistant, version)


def _add_version(
    assistant: Assistant, number: int, user_id: str, fields: Mapping[str, Any]
) -> AssistantVersion:
    values = {_column(field): fields[field] for field in FIELDS}
    version = AssistantVersion(assistant_id=assistant.id, version=number, created_by=user_id, **values)
    db.session.add(version)
    db.session.flush()
    db.session.refresh(version)
    return version


def _content(version: AssistantVersion) -> dict[str, Any]:
    return {field: getattr(version, _column(field)) for field in FIELDS}


def _column(field: str) -> str:
    return "metadata_" if field == "metadata" else field


def _set_budget(assistant: Assistant, credits: int | None) -> None:
    if assistant.budget != credits:
        assistant.budget, assistant.updated_at = credits, now()
        db.session.flush()
        assistant_budget_changed.send(assistant)


def _check_expected(assistant: Assistant, expected: int | None) -> None:
    if expected is not None and expected != assistant.version:
        raise StaleVersion(assistant.version)


def _check_count(account: Account, limits: Settings) -> None:
    """Call under the account's lock."""
    living = select(func.count()).where(Assistant.account_id == account.id, Assistant.deleted_at.is_(None))
    count, limit = db.session.scalar(living) or 0, limits.stoa_assistants_per_account
    if count >= limit:
        remedy, setting = "Delete one first", "STOA_ASSISTANTS_PER_ACCOUNT"
        raise write_limits.limit_reached(count, "Assistants of this account", limit, remedy, setting)


def _consume(user_id: str, fields: Mapping[str, Any], limits: Settings) -> None:
    size = len(orjson.dumps(dict(fields), default=str))
    most, setting = limits.stoa_assistant_bytes_per_day, "STOA_ASSISTANT_BYTES_PER_DAY"
    write_limits.consume(
        user_id, (WriteLimit("assistant bytes a day", "bytes of assistants", most, DAY, setting), size)
    )


def _record(account: Account, action: str, assistant: Assistant) -> None:
    if account.org_id:
        after = {"name": assistant.name, "version": assistant.version}
        record_org(account.org_id, f"assistant.{action}", assistant.id, after=after)
