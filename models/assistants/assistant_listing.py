"""Lists of assistants and of their versions, and the rows of exports."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import or_, select, tuple_
from sqlalchemy.orm import defer

from models.assistants.assistant import Assistant, AssistantVersion
from models.assistants.assistant_access import SavedAssistant, check_capability, readable_assistant
from models.core.db import db
from models.ledger import Account

PAGE, MAX_PAGE = 20, 100
MAX_SEARCH = 200


def assistants_page(
    user_id: str,
    account: Account,
    *,
    search: str = "",
    deleted: bool = False,
    only_deleted: bool = False,
    before: tuple[datetime, str] | None = None,
    limit: int = PAGE,
) -> list[SavedAssistant]:
    """Assistants of the account, newest first, from the one after `before` (its time of creation and id), without their context.

    `search` finds parts of names and descriptions; `deleted`: those too that are deleted and not purged, `only_deleted`: those
    alone. Raises NotFound, Forbidden."""
    check_capability(user_id, account, "see_assistants")
    query = (
        select(Assistant, AssistantVersion)
        .join(AssistantVersion, AssistantVersion.assistant_id == Assistant.id)
        .where(AssistantVersion.version == Assistant.version)
        .where(Assistant.account_id == account.id, Assistant.purged_at.is_(None))
        .options(defer(AssistantVersion.context))
    )
    if only_deleted:
        query = query.where(Assistant.deleted_at.is_not(None))
    elif not deleted:
        query = query.where(Assistant.deleted_at.is_(None))
    if search := search.replace("\0", "").strip()[:MAX_SEARCH]:
        found = (Assistant.name, AssistantVersion.description)
        query = query.where(or_(*(each.icontains(search, autoescape=True) for each in found)))
    if before:
        query = query.where(tuple_(Assistant.created_at, Assistant.id) < tuple_(*before))
    query = query.order_by(Assistant.created_at.desc(), Assistant.id.desc()).limit(limit)
    return [SavedAssistant(*row) for row in db.session.execute(query)]


def versions_page(
    user_id: str, account: Account, id: str, *, before: int | None = None, limit: int = PAGE
) -> Sequence[AssistantVersion]:
    """Versions of an assistant that the user may see, newest first, from the one below `before`, without instructions and context. Raises
    NotFound, Forbidden."""
    assistant = readable_assistant(user_id, account, id).assistant
    query = select(AssistantVersion).where(AssistantVersion.assistant_id == assistant.id)
    if before is not None:
        query = query.where(AssistantVersion.version < before)
    query = query.options(
        *(defer(each) for each in (AssistantVersion.context, AssistantVersion.instructions))
    ).execution_options(populate_existing=True)
    return db.session.scalars(query.order_by(AssistantVersion.version.desc()).limit(limit)).all()
