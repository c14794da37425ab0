"""The events of a turn for its page: pieces of HTML to put in place, block by block, as the answer is written.

`put` is an element to replace, or to add below the messages; `blocks` are the blocks of a message that became final, and what follows them as it looks now;
`grow` is text to add to the code block at its end; `end` says how the turn ended, and where the events of the next one are. A connection
begins with all that is known, so that one which is opened late, again, or on another device shows the same.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

import orjson
from flask import Response, copy_current_request_context, g, get_template_attribute, url_for
from flask.typing import ResponseReturnValue

from models.core.db import db
from models.core.job_queue import Context
from models.gateway import sse
from models.store.catalogue.markdown_blocks import GrowingMarkdown, MarkdownBlock
from models.threads import Thread, ThreadMessage, message_of
from models.threads.thread_reading import charged, open_turns_of, turn_after
from models.turns import LAST, LoggedEvent, Turn
from views.threads.pages.shown_messages import ShownMessage, shown_messages
from views.threads.pages.thread_blueprint import thread_page, viewed_thread
from views.threads.pages.thread_page import MESSAGES, queued_text, state_of, viewed_turn
from views.turns.api import EVENTS, last_event_id, turn_engine
from views.web.open_streams import stream_room
from views.web.viewer_locale import viewer_locale

FRAME_SECONDS = 0.08
"""The least time between two changes of the same message."""
SLOW_BLOCK = 4_000
"""Characters of a growing block from which on it is shown less often."""

Frame = bytes


@thread_page("/<thread_id>/turns/<turn_id>/events")
def turn_events(thread_id: str, turn_id: str) -> ResponseReturnValue:
    """Stream the changes of the page while a turn runs, as server-sent events. `Last-Event-ID` leaves out messages that were whole by then. Raises NotFound, TooManyStreams."""
    found = viewed_thread(thread_id, deleted=True)
    turn = viewed_turn(found, turn_id)
    room = stream_room(found.user_id)
    stream = TurnStream(found.id, turn.id, last_event_id())
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    viewer_locale()  # read once, for the figures
    completed, changed, ended = (
        in_request(stream.completed),
        in_request(stream.changed),
        in_request(stream.ended),
    )
    frames = stream.frames(
        turn_engine().log.watch_batches(turn.id), turn_engine().context, completed, changed, ended
    )
    db.session.rollback()
    return Response(room.stream(frames), content_type=EVENTS, headers=headers)


class TurnStream:
    """One connection to one turn."""

    def __init__(self, thread_id: str, turn_id: str, after: int) -> None:
        self._thread_id = thread_id
        self._turn_id = turn_id
        self._after = after
        self._writing: dict[str, WrittenMessage] = {}

    def frames(
        self,
        batches: Iterator[Sequence[LoggedEvent]],
        context: Context,
        completed: Callable[..., list[Frame]],
        changed: Callable[[], list[Frame]],
        ended: Callable[[], list[Frame]],
    ) -> Iterator[Frame]:
        """The stream. `context` is for templates; the functions read the database, each in a context of its own."""
        yield sse.comment(b"events")
        for batch in batches:
            if not batch:
                yield sse.comment(b"waiting")
                continue
            for event in batch:
                yield from self._event(event, completed, changed, ended)
            growing = list(self._writing.values())
            with context():
                changes = [frame for message in growing for frame in message.changes()]
            yield from changes
            yield b"id: %d\n: \n\n" % batch[-1].seq
            if growing:
                # what comes meanwhile is shown together
                time.sleep(max(each.pause for each in growing))

    def _event(
        self,
        event: LoggedEvent,
        completed: Callable[..., list[Frame]],
        changed: Callable[[], list[Frame]],
        ended: Callable[[], list[Frame]],
    ) -> Iterator[Frame]:
        data = event.data
        match event.type:
            case "message.started":
                self._writing[data["message_id"]] = WrittenMessage(data["message_id"])
                if event.seq > self._after and data.get("parent_id"):
                    # of a message that waited; others are there already
                    yield from completed(data["parent_id"], new=True)
                yield from changed()
            case "text.delta" | "thinking.delta":
                if written := self._writing.get(data["message_id"]):
                    written.add(event.type, data["text"])
            case "message.completed" | "tool.completed":
                id = data["message"]["id"]
                self._writing.pop(id, None)
                if event.seq > self._after:
                    yield from completed(id)
            case "turn.paused" | "turn.requires_action":
                yield from changed()
            case type if type in LAST:
                yield from ended()

    # -- what needs the database -----------------------------------------------------------------------------

    def completed(self, message_id: str, *, new: bool = False) -> list[Frame]:
        """A message as it is stored; the result of a tool is shown in the message that called it. `new`: only where it is not shown yet."""
        thread = db.session.get(Thread, self._thread_id)
        message = db.session.get(ThreadMessage, message_id)
        if thread is None or message is None:
            return []
        around = [message]
        if message.role == "tool" and message.parent_id:
            around = self._round_of(thread, message)
        frames = [put(article(shown, thread), new=new) for shown in shown_messages(thread, around)]
        db.session.rollback()
        return frames

    def _round_of(self, thread: Thread, message: ThreadMessage) -> list[ThreadMessage]:
        """The message that called tools, and their results so far."""
        around = [message]
        while around[0].role == "tool" and around[0].parent_id and len(around) < MESSAGES:
            around.insert(0, message_of(thread, around[0].parent_id))
        return around

    def changed(self) -> list[Frame]:
        """What the page says of the turn, and the messages that wait."""
        thread, turn = db.session.get(Thread, self._thread_id), db.session.get(Turn, self._turn_id)
        if thread is None or turn is None:
            return []
        queued = [(each, queued_text(each)) for each in open_turns_of(thread) if each.state == "queued"]
        state = put(_part("turn_state", thread, state_of(turn), queued))
        total = put(_part("total", charged(thread)))
        db.session.rollback()
        return [state, total]

    def ended(self) -> list[Frame]:
        """How the turn ended, and the next one."""
        turn = db.session.get(Turn, self._turn_id)
        if turn is None:
            return [sse.frame(b"{}", b"end")]
        end: dict[str, Any] = {"state": turn.state}
        if following := turn_after(turn):
            ids: dict[str, Any] = {"thread_id": self._thread_id, "turn_id": following.id}
            end |= {"next": url_for("threads.turn_events", **ids), "turn": following.id}
        return [*self.changed(), sse.frame(orjson.dumps(end), b"end")]


class WrittenMessage:
    """A message while it is written, as one connection has shown it."""

    def __init__(self, id: str) -> None:
        self.id = id
        self._text = GrowingMarkdown()
        self._thinking = ""
        self._fresh: set[str] = {"begin"}
        self._code: str | None = None
        self._size = 0

    @property
    def pause(self) -> float:
        """Seconds until it is shown again: long blocks cost more to parse and to send."""
        return FRAME_SECONDS * (1 + self._size / SLOW_BLOCK)

    def add(self, type: str, text: str) -> None:
        """A piece of its text or of its reasoning."""
        self._fresh.add(type)
        if type == "text.delta":
            self._text.add(text)
        else:
            self._thinking += text

    def changes(self) -> Iterator[Frame]:
        """What changed since the last call."""
        fresh, self._fresh = self._fresh, set()
        if "begin" in fresh:
            yield put(article(self._begun(), None))
            return
        if "thinking.delta" in fresh:
            text, self._thinking = self._thinking, ""
            yield sse.frame(orjson.dumps({"id": self.id, "text": text}), b"thinking")
        if "text.delta" in fresh:
            yield from self._blocks()

    def _begun(self) -> ShownMessage:
        final, growing = self._take()
        thinking, self._thinking = self._thinking, ""
        return ShownMessage(
            id=self.id, role="assistant", blocks=final, tail=growing, thinking=thinking, writing=True
        )

    def _blocks(self) -> Iterator[Frame]:
        code = self._code
        final, growing = self._take()
        if not final and code is not None and (self._code or "").startswith(code):
            # the end of an open block of code may be half a line of its fence: then it is shown anew
            if more := (self._code or "")[len(code) :]:
                yield sse.frame(orjson.dumps({"id": self.id, "text": more}), b"grow")
        else:
            done = {"id": self.id, "final": _html(final), "tail": _html(growing)}
            yield sse.frame(orjson.dumps(done), b"blocks")

    def _take(self) -> tuple[list[MarkdownBlock], list[MarkdownBlock]]:
        final, growing = self._text.take()
        self._code = growing[0].code if len(growing) == 1 else None
        self._size = sum(len(block.html) + len(block.code or "") for block in growing)
        return final, growing


def put(html: str, *, new: bool = False) -> Frame:
    """An element of the page, by its id; `new`: not if it is there."""
    return sse.frame(orjson.dumps({"html": html, "new": new}), b"put")


def article(shown: ShownMessage, thread: Thread | None) -> str:
    """A message of the page."""
    return _part("message", shown, thread)


def in_request(read: Callable[..., list[Frame]]) -> Callable[..., list[Frame]]:
    """The function in a copy of this request, for links that stay with its organisation."""
    slug = g.org.slug if "org" in g else None

    @copy_current_request_context
    def within(*args: Any, **more: Any) -> list[Frame]:
        if slug is not None:
            g.org = SimpleNamespace(slug=slug)
        return read(*args, **more)

    return within


def _html(blocks: Sequence[MarkdownBlock]) -> str:
    return "".join(_part("block", each) for each in blocks)


def _part(name: str, *values: Any) -> str:
    """A macro of `_parts.html`, without the context of pages, which reads the database."""
    return cast(str, get_template_attribute("threads/_parts.html", name)(*values))
