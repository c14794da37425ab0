"""The events of a conversation as the contract names them, over all of its turns, to be continued after the last one that a client has.

The id of an event is the turn's, the number of the event there, and the number of the last event of deployments: `turn:number+number`.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from sqlalchemy import select, tuple_

from models.conversations.conversation import ProjectConversation
from models.conversations.conversation_access import QUEUED
from models.conversations.conversation_prompts import NEWS
from models.conversations.conversation_wire import PREFIXES
from models.conversations.deploy_events import ToldEvent, deploy_events_after, first_deploy_event
from models.core.db import db
from models.turns import LoggedEvent, Turn, TurnEngine
from models.turns.news_waiters import NewsWaiters

WAIT_SECONDS = 15.0
"""How often a watcher gets None while nothing happens, and is checked."""
AS_THEY_ARE = frozenset(
    {
        *("message_status", "message_complete", "timeline_item", "files_changed", "message_update"),
        *("timeline_summary", "warning", "error", "project_info"),
    }
)
"""Events that turns record with the names of the contract."""


class WireEvent(NamedTuple):
    """An event: its id, to continue after, its name and its data."""

    id: str
    name: str
    data: Mapping[str, Any]


class ConversationNews:
    """Wakes the watchers of conversations in this process when a turn begins anywhere, or a deployment tells something. Made once, for the
    process's engine of turns."""

    def __init__(self, engine: TurnEngine) -> None:
        self._lock = threading.Lock()
        self._waiters = NewsWaiters(engine, NEWS)
        self._turns: dict[str, list[str]] = {}
        """The turns that are watched, one for each watcher, by their threads."""
        self._log = engine.log
        engine.log.on_notice.append(self._hear)

    def wait(self, thread_id: str, seconds: float, ready: Callable[[], bool]) -> None:
        """Wait until there is news of the thread; not at all if `ready` says that there is some, asked once the watcher is listed."""
        with self._waiters.watch(thread_id) as event:
            if not ready():
                event.wait(seconds)

    @contextmanager
    def watching(self, thread_id: str, turn_id: str) -> Iterator[None]:
        """Meanwhile news of the thread wakes the watchers of this turn."""
        with self._lock:
            self._turns.setdefault(thread_id, []).append(turn_id)
        try:
            yield
        finally:
            with self._lock:
                left = self._turns[thread_id]
                left.remove(turn_id)
                if not left:
                    del self._turns[thread_id]

    def _hear(self, payload: str) -> None:
        if not payload.startswith(NEWS):
            return
        thread_id = payload.removeprefix(NEWS)
        with self._lock:
            turns = set(self._turns.get(thread_id, ()))
        for turn_id in turns:
            self._log.nudge(turn_id)


class ConversationStream:
    """One watcher of one conversation. `allowed` says, in a context, whether it may still see it."""

    def __init__(
        self,
        engine: TurnEngine,
        news: ConversationNews,
        conversation: ProjectConversation,
        allowed: Callable[[], bool],
    ) -> None:
        self._engine, self._news, self._allowed = engine, news, allowed
        self._id, self._thread_id = conversation.id, conversation.thread_id
        self._place = ":0"
        """The turn and the number of the last event of it that was told."""
        self._deployed = 0
        """The number of the last event of deployments that was told."""
        self._begun: set[str] = set()
        """Messages whose beginning was told."""
        self._pieces: set[str] = set()
        """Messages of which pieces were told."""

    def events(self, after: str = "") -> Iterator[WireEvent | None]:
        """The events after the one with this id, or from the beginning of the turn in progress and of deployments under way; then those that
        follow, until the watcher goes; None now and then while nothing happens. Holds no connection while it waits."""
        turn, seq = self._start(after)
        while True:
            if turn is not None:
                self._place = f"{_short(turn)}:{seq}"
            yield from self._deployments()
            if turn is not None:
                with self._news.watching(self._thread_id, turn.id):
                    yield from self._deployments()
                    yield from self._of_turn(turn, seq)
            following = self._following(turn)
            if following is not None:
                turn, seq = following, 0
                continue
            yield from self._deployments()
            seq = int(self._place.partition(":")[2])
            if not self._checked():
                return
            waited: Turn | None = turn
            self._news.wait(
                self._thread_id,
                WAIT_SECONDS,
                lambda last=waited: self._following(last) is not None or bool(self._told_next()),  # type: ignore[misc]
            )
            yield None

    def _of_turn(self, turn: Turn, after: int) -> Iterator[WireEvent | None]:
        checked = time.monotonic()
        for batch in self._engine.log.watch_batches(turn.id, after):
            if time.monotonic() - checked >= WAIT_SECONDS:
                checked = time.monotonic()
                if not self._checked():
                    return
            if not batch:
                yield None
                yield from self._deployments()
            for event in batch:
                self._place = f"{_short(turn)}:{event.seq}"
                for name, data in self._wire(turn, event):
                    yield WireEvent(self._event_id(), name, data)

    def _deployments(self) -> Iterator[WireEvent]:
        """What deployments told since the last time."""
        while told := self._told_next():
            for event in told:
                self._deployed = event.id
                yield WireEvent(self._event_id(), event.name, event.data)

    def _told_next(self) -> Sequence[ToldEvent]:
        with self._engine.context():
            return deploy_events_after(self._id, self._deployed)

    def _event_id(self) -> str:
        return f"{self._place}+{self._deployed}"

    def _wire(self, turn: Turn, event: LoggedEvent) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """What an event of the turn is in the contract."""
        id = turn.id.removeprefix(PREFIXES["assistant"])
        data = event.data
        if event.type in AS_THEY_ARE:
            yield event.type, data
            return
        match event.type:
            case "turn.started":
                yield "message_start", {"messageId": id}
                yield "message_status", {"messageId": id, "status": "running"}
                return
            case "text.delta":
                self._pieces.add(data["message_id"])
                yield "content_delta", {"messageId": id, "content": data["text"]}
                return
            case "message.started":
                self._begun.add(data["message_id"])
            case "message.completed":
                message = data["message"]
                text = "\n".join(each["text"] for each in message["content"] if each["type"] == "text")
                if text and message["id"] in self._begun and message["id"] not in self._pieces:
                    yield "content_delta", {"messageId": id, "content": text}
        yield "opencode_event", {"messageId": id, "event": {"type": event.type, "properties": data}}

    def _start(self, after: str) -> tuple[Turn | None, int]:
        """The turn to begin with, and the number after which its events are told."""
        turn_id, _, rest = after.partition(":")
        number, _, told = rest.partition("+")
        with self._engine.context():
            known = told.isascii() and told.isdigit() and len(told) < 19
            self._deployed = int(told) if known else first_deploy_event(self._id)
            if known and not turn_id:
                return None, 0  # there was no turn yet: all of them follow
            if turn_id and number.isascii() and number.isdigit() and len(number) < 10 and "\0" not in turn_id:
                found = db.session.get(Turn, PREFIXES["assistant"] + turn_id)
                if found is not None and found.subject_id == self._thread_id:
                    return found, int(number)
            query = select(Turn).where(Turn.subject_id == self._thread_id)
            active = query.where(Turn.state.in_(QUEUED)).order_by(
                Turn.state == "queued", Turn.created_at, Turn.id
            )
            newest = query.order_by(Turn.created_at.desc(), Turn.id.desc())
            found = db.session.scalars(active.limit(1)).one_or_none()
            if found is not None:
                return found, 0
            last = db.session.scalars(newest.limit(1)).one_or_none()
            return (last, last.last_seq) if last is not None else (None, 0)

    def _following(self, turn: Turn | None) -> Turn | None:
        with self._engine.context():
            query = select(Turn).where(Turn.subject_id == self._thread_id)
            if turn is not None:
                query = query.where(tuple_(Turn.created_at, Turn.id) > tuple_(turn.created_at, turn.id))
            return db.session.scalars(query.order_by(Turn.created_at, Turn.id).limit(1)).one_or_none()

    def _checked(self) -> bool:
        with self._engine.context():
            return self._allowed()


def _short(turn: Turn) -> str:
    """The turn's id as the API gives it."""
    return turn.id.removeprefix(PREFIXES["assistant"])
