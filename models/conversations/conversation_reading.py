"""What pages show of conversations: how each of a list stands, one with its questions, and its timeline."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import select, tuple_

from models.conversations.conversation import ConversationQuestion, ProjectConversation, TimelineItem
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


def open_questions(conversation: ProjectConversation) -> Sequence[ConversationQuestion]:
    """What waits for an answer, the oldest first."""
    query = select(ConversationQuestion).where(
        ConversationQuestion.conversation_id == conversation.id, ConversationQuestion.state == "open"
    )
    query = query.order_by(ConversationQuestion.created_at, ConversationQuestion.id).limit(20)
    return db.session.scalars(query.execution_options(populate_existing=True)).all()


def timeline_page(
    conversation: ProjectConversation, limit: int, before: Before = None
) -> Sequence[TimelineItem]:
    """The items of the timeline, newest first, before the one with this time and id."""
    key = TimelineItem.created_at, TimelineItem.id
    query = select(TimelineItem).where(TimelineItem.conversation_id == conversation.id)
    if before is not None:
        query = query.where(tuple_(*key) < tuple_(*before))
    return db.session.scalars(query.order_by(key[0].desc(), key[1].desc()).limit(limit)).all()


def item_in(conversation: ProjectConversation, id: str) -> TimelineItem:
    """An item of the conversation's timeline. Raises NotFound."""
    query = select(TimelineItem).where(TimelineItem.id == id, TimelineItem.conversation_id == conversation.id)
    found = db.session.scalars(query).one_or_none() if fits(id) else None
    if found is None:
        raise NotFound("There is no such change.")
    return found


def _open_states(thread_ids: Sequence[str]) -> Mapping[str, str]:
    """By thread: the state of the active turn, else `queued`."""
    query = select(Turn.subject_id, Turn.state).where(Turn.subject_id.in_(thread_ids), Turn.state.in_(QUEUED))
    found: dict[str, str] = {}
    for subject_id, state in db.session.execute(query):
        if found.get(subject_id, "queued") == "queued":
            found[subject_id] = state
    return found
