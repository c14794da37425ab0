"""A thread itself: making it, changing its name, instructions, model and budget, deleting and restoring it."""

from collections.abc import Callable, Mapping
from typing import Any, TypedDict, Unpack

from sqlalchemy.exc import IntegrityError

from models.assistants.assistant_access import readable_assistant
from models.core.db import db, now
from models.core.errors import Conflict, Invalid
from models.ledger import Account, lock_account
from models.threads.message_content import check_storable, checked_metadata
from models.threads.thread import PROJECT_KIND, Thread
from models.threads.thread_limits import count_written
from models.threads.tree import lock

KINDS = ("thread", "conversation", "assistants", PROJECT_KIND)
MAX_NAME = 255
MAX_INSTRUCTIONS_BYTES = 64 << 10
MAX_MODEL = 200
MAX_STORAGE_ID = 200
MAX_BUDGET = 2**53 - 1
"""Credits; what every JSON reader reads exactly."""


class ThreadSettings(TypedDict, total=False):
    """What may be set of a thread: see `Thread`. `metadata` is at most 16 pairs of text, `budget` credits."""

    name: str
    instructions: str | None
    model: str | None
    assistant_id: str | None
    storage_id: str | None
    metadata: Mapping[str, Any]
    budget: int | None


def create_thread(
    user_id: str, account: Account, *, kind: str = "thread", **settings: Unpack[ThreadSettings]
) -> Thread:
    """A new, empty thread of the person, paid by the account. `name` is required. Locks the account; flushes.

    Raises Invalid, NotFound for an assistant that the account does not have, Forbidden for one that the person's role does not show, Conflict (`storage_id_taken`) for a `storage_id` that
    another thread of the account has, a deleted one included, and WriteLimitExceeded.
    """
    assert kind in KINDS
    count_written(user_id, threads=1)
    lock_account(account)  # makes its row on first use
    thread = Thread(user_id=user_id, account_id=account.id, kind=kind)
    _set(thread, {"name": "", **settings})
    _store(thread)
    return thread


def change_thread(thread: Thread, **settings: Unpack[ThreadSettings]) -> Thread:
    """Change what is given. A budget below what was spent pauses the turns that follow. Locks the thread; flushes. Raises as `create_thread`."""
    thread = lock(thread)
    _set(thread, settings)
    thread.updated_at = now()
    _store(thread)
    return thread


def delete_thread(thread: Thread) -> Thread:
    """Hide the thread from lists and close its links, until it is restored or purged. Locks it; flushes; again, it changes nothing."""
    thread = lock(thread)
    if thread.deleted_at is None:
        thread.deleted_at = thread.updated_at = now()
        db.session.flush()
    return thread


def restore_thread(thread: Thread) -> Thread:
    """Take the deletion back. Locks the thread; flushes. Raises Conflict for a thread that is not deleted."""
    thread = lock(thread)
    if thread.deleted_at is None:
        raise Conflict("This thread is not deleted.", code="not_deleted")
    thread.deleted_at, thread.updated_at = None, now()
    db.session.flush()
    return thread


def _set(thread: Thread, settings: ThreadSettings) -> None:
    """Set what is given, all or nothing. Raises Invalid and NotFound."""
    values: dict[str, Any] = {}
    for field, value in settings.items():
        check_storable(value, field)
        values["metadata_" if field == "metadata" else field] = _CHECKS[field](value)
    if values.get("assistant_id") is not None:
        own = thread.account_id == thread.user_id
        account = Account(user_id=thread.user_id) if own else Account(org_id=thread.account_id)
        readable_assistant(thread.user_id, account, values["assistant_id"])
    for name, value in values.items():
        setattr(thread, name, value)


def _name(name: str) -> str:
    name = name.strip()
    _check(1 <= len(name) <= MAX_NAME, "name", f"Enter a name, with at most {MAX_NAME} characters.")
    return name


def _instructions(instructions: str | None) -> str | None:
    size = len((instructions or "").encode())
    _check(size <= MAX_INSTRUCTIONS_BYTES, "instructions", "The instructions have more than 64 KiB.")
    return instructions or None


def _model(model: str | None) -> str | None:
    _check(len(model or "") <= MAX_MODEL, "model", f"A model's name has at most {MAX_MODEL} characters.")
    return model or None


def _storage_id(id: str | None) -> str | None:
    fits = id is None or 1 <= len(id) <= MAX_STORAGE_ID
    _check(fits, "storage_id", f"A storage_id has 1 to {MAX_STORAGE_ID} characters.")
    return id


def _budget(budget: int | None) -> int | None:
    _check(0 <= (budget or 0) <= MAX_BUDGET, "budget", "A budget is a number of credits from 0, or null.")
    return budget


def _check(fits: bool, field: str, problem: str) -> None:
    if not fits:
        raise Invalid(problem, fields={field: problem})


def _store(thread: Thread) -> None:
    """Flush the thread; what it is to become is undone if another has its `storage_id`."""
    try:
        with db.session.begin_nested():
            db.session.add(thread)
    except IntegrityError as error:
        if "idx_thread_storage" not in str(error.orig):
            raise
        problem = "Another thread of this account has this storage_id; it may be deleted."
        raise Conflict(problem, code="storage_id_taken") from None


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "name": _name,
    "instructions": _instructions,
    "model": _model,
    "assistant_id": lambda id: id,
    "storage_id": _storage_id,
    "metadata": checked_metadata,
    "budget": _budget,
}
