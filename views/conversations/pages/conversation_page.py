"""A conversation's page: its messages, the turn that goes on, what it asks, and the timeline beside them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, cast

from flask import Response, current_app, request, url_for
from flask.typing import ResponseReturnValue

from models.conversations import ConversationQuestion, FoundConversation, TimelineItem
from models.conversations.conversation_messages import open_questions
from models.conversations.conversation_reading import timeline_page
from models.projects import Workspace
from models.projects.project_listing import undone_among, workspaces_named
from models.runners import Level, level_state
from models.threads.thread_reading import ShownBranch, charged, shown_branch
from models.turns import Turn
from views.conversations.pages.conversation_blueprint import (
    conversation_page,
    viewed_conversation,
)
from views.conversations.pages.conversation_words import LEVEL_NAMES, engine_words
from views.gateway.api.model_calls import gateway
from views.projects.pages.project_blueprint import viewer_may
from views.threads.pages.composer import MAX_SUGGESTED
from views.threads.pages.shown_messages import ShownMessage, shown_messages
from views.threads.pages.thread_page import MESSAGES, TurnState, queued_text, state_of, writing_message
from views.web.htmx import render
from views.web.org_guards import may_spend

ITEMS = 30
"""Items of the timeline beside a conversation."""


@dataclass(frozen=True)
class ShownTimeline:
    """The newest items of a timeline, with the workspaces that they name; `undone` are the operations that were taken back."""

    changes: Sequence[TimelineItem]
    workspaces: Mapping[str, Workspace]
    undone: frozenset[str]
    more: bool


@dataclass(frozen=True)
class ShownConversation:
    """All that the page shows of a conversation."""

    found: FoundConversation
    branch: ShownBranch
    messages: Sequence[ShownMessage]
    writing: ShownMessage | None
    state: TurnState | None
    questions: Sequence[ConversationQuestion]
    total: Decimal
    before: str | None

    @property
    def turn(self) -> Turn | None:
        """The turn that goes on."""
        return self.branch.turn

    @property
    def busy(self) -> bool:
        """Whether an answer is being written."""
        return self.turn is not None and self.turn.state == "running"

    @property
    def queued(self) -> list[tuple[Turn, str]]:
        """The turns that wait, each with the text of its prompt."""
        return [(turn, queued_text(turn)) for turn in self.branch.queued]

    def href(self, **query: Any) -> str:
        """The address of the page."""
        return conversation_href(self.found, **query)


def conversation_href(found: FoundConversation, **query: Any) -> str:
    """The address of a conversation's page."""
    ids: dict[str, Any] = {"project_id": found.project.id, "conversation_id": found.conversation.id}
    return url_for("conversations.conversation", **ids, **query)


@conversation_page("/<conversation_id>")
def conversation(project_id: str, conversation_id: str) -> ResponseReturnValue:
    """Show a conversation. Query: `before`, a message: those above it. With htmx: the conversation alone. Raises NotFound, Forbidden."""
    return show_conversation(viewed_conversation(project_id, conversation_id))


def show_conversation(
    found: FoundConversation,
    *,
    status: int = 200,
    values: Mapping[str, str] | None = None,
    errors: Mapping[str, str] | None = None,
    refused: str = "",
) -> Response:
    """The page of a conversation, or its fragment; with what was entered and why that was refused."""
    shown = shown_conversation(found, request.args.get("before") or None)
    names = [each.requested for each in gateway(current_app).routes.models()]
    row = found.conversation
    return render(
        "conversations/conversation.html",
        partial="conversations/_conversation.html",
        status=status,
        project=found.project,
        shown=shown,
        timeline=shown_timeline(found),
        engine=engine_words(row),
        level=LEVEL_NAMES[row.level],
        level_state=level_state(cast(Level, row.level), found.project.account_id),
        models=names[:MAX_SUGGESTED],
        values={"content": "", "model": row.model or "", **(values or {})},
        errors=errors or {},
        refused=refused,
        may_edit=viewer_may("edit_projects"),
        may_say=viewer_may("edit_projects") and may_spend(),
    )


def shown_conversation(found: FoundConversation, before: str | None = None) -> ShownConversation:
    """What the page shows. Raises NotFound for a message of another conversation."""
    branch = shown_branch(found.thread, before=before, limit=MESSAGES)
    if before is not None:
        branch = ShownBranch(branch.messages, branch.tip_id, branch.earlier, None, [], None, None)
    return ShownConversation(
        found,
        branch,
        shown_messages(found.thread, branch.messages),
        writing_message(branch.turn),
        conversation_state(branch.turn or branch.last_turn),
        () if before is not None else open_questions(found),
        charged(found.thread),
        before,
    )


def shown_timeline(found: FoundConversation) -> ShownTimeline:
    """The newest items beside the conversation."""
    rows = timeline_page(found.conversation, ITEMS + 1)
    return timeline_shown(found, rows[:ITEMS], more=len(rows) > ITEMS)


def timeline_shown(
    found: FoundConversation, items: Sequence[TimelineItem], *, more: bool = False
) -> ShownTimeline:
    """Items with what they name; `more`: there are older ones."""
    return ShownTimeline(
        items,
        workspaces_named(found.project.id, {each.workspace_id for each in items}),
        undone_among(found.project.id, [each.operation_id for each in items if each.operation_id]),
        more,
    )


def conversation_state(turn: Turn | None) -> TurnState | None:
    """What the page says of a turn that waits or did not end well; of one that asks, its questions say it."""
    if turn is not None and turn.state == "requires_action":
        return None
    if turn is not None and turn.state == "paused" and turn.error_code == "loop_guard":
        return TurnState(turn, "Paused", turn.error_message or "The agent makes no progress.", "warn")
    return state_of(turn)
