"""A thread's page: a stretch of the branch that is shown, the turn that goes on, and the composer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from flask import Response, request, url_for
from flask.typing import ResponseReturnValue

from models import index
from models.core.errors import NotFound
from models.store.catalogue.markdown_blocks import blocks_of
from models.threads import Thread
from models.threads.thread_reading import ShownBranch, charged, shown_branch, writing_of
from models.turns import Turn, own_turn
from views.threads.pages.composer import composer_context
from views.threads.pages.shown_messages import ShownMessage, shown_messages
from views.threads.pages.thread_blueprint import thread_page, viewed_thread
from views.threads.pages.thread_list import listed_threads
from views.web.htmx import render
from views.web.org_guards import signed_in, viewed_account

MESSAGES = 40
"""Messages of a page."""


@dataclass(frozen=True)
class TurnState:
    """How a turn stands, in words of the page: `title`, `text`, and what helps, `action`: `retry`, `resume` or `continue`."""

    turn: Turn
    title: str
    text: str
    kind: str = "bad"
    action: str = ""


@dataclass(frozen=True)
class ShownThread:
    """All that the page shows of a thread."""

    thread: Thread
    branch: ShownBranch
    messages: Sequence[ShownMessage]
    writing: ShownMessage | None
    state: TurnState | None
    total: Decimal
    branch_id: str | None
    before: str | None

    @property
    def busy(self) -> bool:
        """Whether an answer is being written."""
        return self.branch.turn is not None and self.branch.turn.state == "running"

    @property
    def earlier_href(self) -> str | None:
        """The page of the messages above."""
        if not self.branch.earlier:
            return None
        query: dict[str, Any] = {"branch": self.branch_id} if self.branch_id else {}
        return url_for("threads.thread", thread_id=self.thread.id, before=self.branch.messages[0].id, **query)

    @property
    def queued(self) -> list[tuple[Turn, str]]:
        """The turns that wait, each with the text of its message."""
        return [(turn, queued_text(turn)) for turn in self.branch.queued]

    @property
    def queues(self) -> bool:
        """Whether a message that is sent now waits for the answer that is being written."""
        messages, turn = self.branch.messages, self.branch.turn
        return turn is None or bool(messages and messages[-1].branch_id == turn.branch_id)


@thread_page("/<thread_id>")
def thread(thread_id: str) -> ResponseReturnValue:
    """Show a thread. Query: `branch`, a message whose branch is shown instead of the one that was chosen last; `before`, a message: those above it.
    With htmx: the thread alone. Raises NotFound."""
    return show_thread(viewed_thread(thread_id, deleted=True))


def show_thread(
    found: Thread,
    *,
    status: int = 200,
    values: Mapping[str, str] | None = None,
    errors: Mapping[str, str] | None = None,
    refused: str = "",
) -> Response:
    """The page of a thread, or its fragment; with what was entered in its composer and why that was refused."""
    return render(
        "threads/thread.html",
        partial="threads/_thread.html",
        status=status,
        listing=listed_threads(found.id),
        **thread_context(found, values=values, errors=errors, refused=refused),
    )


def thread_context(
    found: Thread,
    *,
    values: Mapping[str, str] | None = None,
    errors: Mapping[str, str] | None = None,
    refused: str = "",
) -> dict[str, Any]:
    """What `_thread.html` needs, for a page of the thread's own or one with the thread beside something else."""
    branch_id, before = request.args.get("branch") or None, request.args.get("before") or None
    shown = shown_thread(found, branch_id, before)
    models = [each.model for each in shown.messages if each.role == "assistant" and each.model]
    return {
        "shown": shown,
        "refused": refused,
        "documents": index.documents_of("thread", found.id),
        **composer_context(found, values=values, errors=errors, last_model=models[-1] if models else None),
    }


def shown_thread(found: Thread, branch_id: str | None = None, before: str | None = None) -> ShownThread:
    """What the page shows of a thread. Raises NotFound for messages of another thread."""
    branch = shown_branch(found, branch_id, before=before, limit=MESSAGES)
    if before is not None:
        branch = ShownBranch(branch.messages, branch.tip_id, branch.earlier, None, [], None, None)
    return ShownThread(
        found,
        branch,
        shown_messages(found, branch.messages),
        writing_message(branch.turn),
        state_of(branch.turn or branch.last_turn),
        charged(found),
        branch_id,
        before,
    )


def writing_message(turn: Turn | None) -> ShownMessage | None:
    """The answer that is being written, as far as it is known, for the time until its events come, and for browsers without JavaScript."""
    if turn is None or turn.state != "running":
        return None
    message_id, text = writing_of(turn)
    id = message_id or turn.request.get("answer_id") or turn.id
    return ShownMessage(id=id, role="assistant", blocks=blocks_of(text), writing=True)


def queued_text(turn: Turn) -> str:
    """The text of the message of a turn that waits."""
    inputs = turn.request.get("input") or ()
    texts = [_plain(each.get("content")) for each in inputs if isinstance(each, Mapping)]
    return "\n".join(filter(None, texts))


def _plain(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content or () if part.get("type") == "text")


def state_of(turn: Turn | None) -> TurnState | None:
    """What the page says of a turn that waits, failed or was ended; None for one that runs or is completed."""
    if turn is None:
        return None
    said = turn.error_message or ""
    match turn.state:
        case "paused":
            return TurnState(turn, "Paused", said or "The budget is used up.", "warn", "resume")
        case "requires_action":
            names = [str((call.get("function") or {}).get("name")) for call in _owed(turn)]
            text = f"The answer waits for the results of {', '.join(names) or 'tools'} from the client that asked."
            return TurnState(turn, "Waits for a client", text, "info")
        case "failed":
            return TurnState(turn, "No answer", said or "The turn failed.", "bad", "retry")
        case "interrupted":
            text = "The server stopped while this was written. What was written is kept."
            return TurnState(turn, "Interrupted", text, "warn", "continue")
        case "cancelled":
            return TurnState(turn, "Stopped", "What was written is kept and charged.", "none", "continue")
        case "expired":
            text = "The results of the tools did not come in time."
            return TurnState(turn, "Expired", text, "warn", "retry")
    return None


def _owed(turn: Turn) -> Sequence[Any]:
    return (turn.required_action or {}).get("tool_calls") or ()


def viewed_turn(thread: Thread, turn_id: str, *, lock: bool = False) -> Turn:
    """A turn of the thread. Raises NotFound."""
    turn = None if "\0" in turn_id else own_turn(signed_in().id, viewed_account().id, turn_id, lock=lock)
    if turn is None or turn.subject_id != thread.id:
        raise NotFound("There is no such turn.")
    return turn
