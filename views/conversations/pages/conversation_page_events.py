"""The events of a turn for the page of its conversation: as those of threads, with questions and the timeline."""

from collections.abc import Callable, Iterator
from typing import Any, cast

import orjson
from flask import Response, get_template_attribute, url_for
from flask.typing import ResponseReturnValue

from models.conversations import FoundConversation, ProjectConversation
from models.conversations.conversation_messages import open_questions
from models.conversations.conversation_reading import turn_in
from models.core.db import db
from models.gateway import sse
from models.projects import Project, Workspace
from models.threads import Thread, ThreadMessage
from models.threads.thread_reading import charged, open_turns_of, turn_after
from models.turns import LAST, LoggedEvent, Turn
from views.conversations.pages.conversation_blueprint import conversation_page, viewed_conversation
from views.conversations.pages.conversation_page import conversation_state, shown_timeline
from views.projects.pages.project_blueprint import viewer_may
from views.threads.pages.shown_messages import shown_messages
from views.threads.pages.thread_page import queued_text
from views.threads.pages.thread_stream import Frame, TurnStream, in_request, put
from views.turns.api import EVENTS, last_event_id, turn_engine
from views.web.open_streams import stream_room
from views.web.org_guards import signed_in
from views.web.viewer_locale import viewer_locale

SHOWN = ("message.started", "text.delta", "thinking.delta", "message.completed", "tool.completed")
"""Events that streams of threads show; after any other the page says anew how the turn stands."""
QUIET = ("tool.started", "run.started", "turn.started")


@conversation_page("/<conversation_id>/turns/<turn_id>/events")
def turn_events(project_id: str, conversation_id: str, turn_id: str) -> ResponseReturnValue:
    """Stream the changes of the page while a turn runs, as server-sent events. Raises NotFound, Forbidden, TooManyStreams."""
    found = viewed_conversation(project_id, conversation_id)
    turn = turn_in(found.conversation, turn_id)
    room = stream_room(signed_in().id)
    stream = ConversationPageStream(found, turn.id, last_event_id(), viewer_may("edit_projects"))
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    viewer_locale()  # read once, for the figures
    frames = stream.frames(
        turn_engine().log.watch_batches(turn.id),
        turn_engine().context,
        in_request(stream.completed),
        in_request(stream.changed),
        in_request(stream.ended),
    )
    db.session.rollback()
    return Response(room.stream(frames), content_type=EVENTS, headers=headers)


class ConversationPageStream(TurnStream):
    """One connection to one turn of a conversation."""

    def __init__(self, found: FoundConversation, turn_id: str, after: int, may_edit: bool) -> None:
        super().__init__(found.thread.id, turn_id, after)
        self._id = found.conversation.id
        self._may_edit = may_edit

    def _event(
        self,
        event: LoggedEvent,
        completed: Callable[..., list[Frame]],
        changed: Callable[[], list[Frame]],
        ended: Callable[[], list[Frame]],
    ) -> Iterator[Frame]:
        yield from super()._event(event, completed, changed, ended)
        if event.type not in (*SHOWN, *QUIET, *LAST) and event.seq > self._after:
            yield from changed()

    def completed(self, message_id: str, *, new: bool = False) -> list[Frame]:
        """A message as it is stored."""
        thread, message = db.session.get(Thread, self._thread_id), db.session.get(ThreadMessage, message_id)
        if thread is None or message is None:
            return []
        around = self._round_of(thread, message) if message.role == "tool" else [message]
        frames = [put(_part("said", shown), new=new) for shown in shown_messages(thread, around)]
        db.session.rollback()
        return frames

    def changed(self) -> list[Frame]:
        """What the page says of the turn: its state, its questions, the prompts that wait, and the costs."""
        frames = self._state()
        db.session.rollback()
        return frames

    def ended(self) -> list[Frame]:
        """How the turn ended, what it changed, and the next one."""
        frames = self._state()
        turn, found = db.session.get(Turn, self._turn_id), self._found()
        end: dict[str, Any] = {"state": turn.state if turn else "failed"}
        if found is not None and turn is not None:
            frames.append(put(_part("timeline", found, shown_timeline(found), self._may_edit)))
            if following := turn_after(turn):
                href = url_for(
                    "conversations.turn_events",
                    project_id=found.project.id,
                    conversation_id=self._id,
                    turn_id=following.id,
                )
                end |= {"next": href, "turn": following.id}
        db.session.rollback()
        return [*frames, sse.frame(orjson.dumps(end), b"end")]

    def _state(self) -> list[Frame]:
        found, turn = self._found(), db.session.get(Turn, self._turn_id)
        if found is None or turn is None:
            return []
        queued = [(each, queued_text(each)) for each in open_turns_of(found.thread) if each.state == "queued"]
        questions = open_questions(found)
        state = _part("turn_state", found, conversation_state(turn), questions, queued, self._may_edit)
        return [put(state), put(_part("total", charged(found.thread)))]

    def _found(self) -> FoundConversation | None:
        """The conversation as it is now. Who may see it was asked when the stream began."""
        row = db.session.get(ProjectConversation, self._id)
        thread = db.session.get(Thread, self._thread_id)
        if row is None or thread is None:
            return None
        project = db.session.get(Project, row.project_id)
        workspace = db.session.get(Workspace, row.workspace_id)
        if project is None or workspace is None:
            return None
        return FoundConversation(row, project, workspace, thread)


def _part(name: str, *values: Any) -> str:
    """A macro of `_parts.html`."""
    return cast(str, get_template_attribute("conversations/_parts.html", name)(*values))
