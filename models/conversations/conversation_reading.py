"""What pages show of conversations: how each of a list stands, the turns of one, and pages of its timeline."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import select, tuple_

from models.conversations.conversation import ProjectConversation, TimelineItem
from models.conversations.conversation_access import QUEUED, FoundConversation
from models.core.db import db
from models.core.errors import NotFound
from models.projects.project_ids import fits
from models.projects.project_listing import Before
from models.turns import Turn


@dataclass(frozen=True)
class ListedConversation:
    """A conversation of a list, and how its turn stands: `running`, `requires_action`, `paused` or `queued`; None if nothing goes on."""

    found: FoundConversation
    state: str | None

    @property
    def credits(self) -> int:
        """What its turns that ended have cost."""
        return self.found.thread.spent


def with_states(rows: Iterable[FoundConversation]) -> list[ListedConversation]:
    """Conversations with the states of their open turns."""
    rows = list(rows)
    states = _open_states([row.thread.id for row in rows])
    return [ListedConversation(row, states.get(row.thread.id)) for row in rows]


def turn_in(conversation: ProjectConversation, id: str, *, lock: bool = False) -> Turn:
    """A turn of the conversation. Raises NotFound."""
    query = select(Turn).where(Turn.id == id, Turn.subject_id == conversation.thread_id)
    if lock:
        query = query.with_for_update()
    found = (
        db.session.scalars(query.execution_options(populate_existing=True)).one_or_none()
        if fits(id)
        else None
    )
    if found is None:
        raise NotFound("There is no such turn.")
    return found


def timeline_page(
    conversation: ProjectConversation, limit: int, before: Before = None
) -> Sequence[TimelineItem]:
    """The items of the timeline, newest first, before the one with this time and id."""
    key = TimelineItem.created_at, TimelineItem.id
    query = select(TimelineItem).where(TimelineItem.conversation_id == conversation.id)
    if before is not None:
        query = query.where(tuple_(*key) < tuple_(*before))
    return db.session.scalars(query.order_by(key[0].desc(), key[1].desc()).limit(limit)).all()


def _open_states(thread_ids: Sequence[str]) -> Mapping[str, str]:
    """By thread: the state of the active turn, else `queued`."""
    query = select(Turn.subject_id, Turn.state).where(Turn.subject_id.in_(thread_ids), Turn.state.in_(QUEUED))
    found: dict[str, str] = {}
    for subject_id, state in db.session.execute(query):
        if found.get(subject_id, "queued") == "queued":
            found[subject_id] = state
    return found
