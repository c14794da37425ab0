"""Who may see, run, edit and delete assistants: the person whose account they belong to, or members of the organisation by role."""

from typing import NamedTuple

from sqlalchemy import select

from models.assistants.assistant import Assistant, AssistantVersion
from models.core.db import db
from models.core.errors import Conflict, Forbidden, NotFound
from models.ledger import Account
from models.orgs import can, membership

FORBIDDEN = {
    "see_assistants": "Your role in the organisation does not show its assistants.",
    "run_assistants": "Your role in the organisation does not run assistants. Ask an admin to make you a member.",
    "edit_assistants": "Your role in the organisation does not change assistants. Ask an admin to make you a member.",
    "delete_assistants": "Only owners, admins and whoever made an assistant delete or restore it.",
    "manage_tools": "Only owners and admins manage the tools and secrets of the organisation.",
}


class AgentDeleted(Conflict):
    """The assistant was deleted: its threads stay readable, and no new turn starts with it (crafely contract 4.3)."""

    code = "agent_deleted"

    def __init__(self) -> None:
        super().__init__(
            "The assistant of this thread was deleted. Restore it, or name another one (agent_id)."
        )


class SavedAssistant(NamedTuple):
    """An assistant and one of its versions, the current one unless another was asked for."""

    assistant: Assistant
    version: AssistantVersion

    @property
    def agent_id(self) -> str:
        """How its runs and calls name it: `private/<id>@<version>` (crafely contract, section 10)."""
        return f"private/{self.version.assistant_id}@{self.version.version}"


def check_capability(user_id: str, account: Account, capability: str) -> None:
    """Raise NotFound unless the account is the user's own or that of an organisation of theirs, and Forbidden unless their role there
    has the capability (`models/orgs/roles.py`)."""
    if not _allowed(user_id, account, capability):
        raise Forbidden(FORBIDDEN[capability])


def readable_assistant(
    user_id: str, account: Account, id: str, version: int | None = None, *, deleted: bool = False
) -> SavedAssistant:
    """An assistant of the account that the user may see, with its current version or this one. `deleted`: also if it is deleted, until it
    is purged. Raises NotFound, Forbidden."""
    check_capability(user_id, account, "see_assistants")
    found = _found(account, id, version)
    if found is None or (found.assistant.deleted_at is not None and not deleted):
        raise not_found()
    return found


def runnable_assistant(user_id: str, account: Account, id: str, version: int | None = None) -> SavedAssistant:
    """An assistant of the account that the user may run, for a turn that the account pays. Raises NotFound, Forbidden and AgentDeleted."""
    check_capability(user_id, account, "run_assistants")
    found = _found(account, id, version)
    if found is not None and found.assistant.deleted_at is None:
        return found
    assistant = _own(account, id)  # a purged one has no versions
    if assistant is not None and assistant.deleted_at is not None:
        raise AgentDeleted
    raise not_found()


def locked_assistant(
    user_id: str, account: Account, id: str, capability: str = "edit_assistants", *, deleted: bool = False
) -> SavedAssistant:
    """An assistant to change, its row locked until the transaction ends. Its creator deletes it without the capability. Raises NotFound,
    Forbidden."""
    check_capability(user_id, account, "see_assistants")
    found = _own(account, id, lock=True)
    if found is None or found.purged_at is not None or (found.deleted_at is not None and not deleted):
        raise not_found()
    made = capability == "delete_assistants" and found.user_id == user_id
    check_capability(user_id, account, "edit_assistants" if made else capability)
    return SavedAssistant(found, db.session.get_one(AssistantVersion, (found.id, found.version)))


def not_found() -> NotFound:
    """The error for an assistant of another account, or none at all."""
    return NotFound("There is no such assistant.")


def _allowed(user_id: str, account: Account, capability: str) -> bool:
    if account.org_id is None:
        if account.user_id != user_id:
            raise not_found()
        return True
    member = membership(user_id, account.org_id)
    if member is None:
        raise not_found()
    return can(member, capability)


def _own(account: Account, id: str, *, lock: bool = False) -> Assistant | None:
    query = select(Assistant).where(Assistant.id == id, Assistant.account_id == account.id)
    if lock:
        query = query.with_for_update().execution_options(populate_existing=True)
    return None if "\0" in id else db.session.scalars(query).one_or_none()


def _found(account: Account, id: str, version: int | None) -> SavedAssistant | None:
    number = Assistant.version if version is None else version
    query = (
        select(Assistant, AssistantVersion)
        .join(AssistantVersion, AssistantVersion.assistant_id == Assistant.id)
        .where(Assistant.id == id, Assistant.account_id == account.id, AssistantVersion.version == number)
    )
    row = None if "\0" in id else db.session.execute(query).one_or_none()
    return SavedAssistant(*row) if row else None
