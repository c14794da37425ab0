"""Finds out what became of the model call of a turn that was taken over, so that it is charged once, and none is made beside it."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from models.core.errors import DomainError
from models.gateway.killed_calls import CallState, release_killed, settle_killed, state_of_call
from models.ledger.call_records import LedgerUnavailable
from models.turns.engine import LeaseLost, TurnHandle

log = logging.getLogger("stoa.turns")

POLL_SECONDS = 0.2
STALLED_SECONDS = 2.0
"""How long a worker that lives may take to end its call, when what it has written is known: it lost its lease, so it ends it at once if it can."""
SILENT_SECONDS = 60.0
"""The same, when nothing is known: until it has ended it, or let its hold expire."""
STOP_SECONDS = 0.5
"""The same, once the turn is to end."""


class RecoveryDelayed(LeaseLost):
    """How the call ended cannot be found out now, since the ledger does not answer. The turn is left: its lease ends, and a worker takes it over
    once more."""


class RecoveredCall(NamedTuple):
    """How the call ended. `free`: it was charged nothing and gave nothing, so it may be made again. `credits` is None if another process still
    settles it. `text` and `thinking` are all that it is known to have written."""

    free: bool
    message_id: str | None = None
    credits: int | None = None
    text: str = ""
    thinking: str = ""


@contextmanager
def keeping_the_turn(handle: TurnHandle) -> Iterator[None]:
    """Log what goes wrong while a turn that failed is to keep its text, so that it ends without it. Raises LeaseLost."""
    try:
        yield
    except LeaseLost:
        raise
    except Exception:
        log.exception("turn %s was ended without its text", handle.id)


@contextmanager
def _delayed_by_the_ledger() -> Iterator[None]:
    try:
        yield
    except LedgerUnavailable as error:
        raise RecoveryDelayed from error


@_delayed_by_the_ledger()
def recover_call(
    handle: TurnHandle,
    call_id: str | None,
    body: Callable[[], Mapping[str, Any]],
    *,
    text: str = "",
    thinking: str = "",
) -> RecoveredCall:
    """Wait until the call of the worker that had the turn before has ended, and say how; end it if that worker is dead, or stalled. `text` and
    `thinking` are what it told, `body` is what it was asked. Holds no transaction. Raises RecoveryDelayed."""
    written = bool(text or thinking)
    if call_id is None:
        return RecoveredCall(not written, None, 0, text, thinking)
    state = _ended(handle, call_id, STALLED_SECONDS if written else SILENT_SECONDS)
    if state.state in ("absent", "failed"):
        return RecoveredCall(not written, None, 0, text, thinking)
    if state.state == "settled":
        # the worker may have read more than it could tell
        stored = _text_of(state.response)
        whole = stored if stored.startswith(text) else text
        return RecoveredCall(False, state.message_id, state.credits, whole, thinking)
    if not written:
        if state.state == "lost":
            release_killed(handle.gateway, call_id)
            return RecoveredCall(True, None, 0)
        return RecoveredCall(False)
    try:
        call = settle_killed(handle.gateway, call_id, body(), text=text, thinking=thinking)
    except DomainError as error:
        if error.status >= 500:
            raise
        # the model has gone; its hold is on the operators' list of lost calls
        return RecoveredCall(False, None, None, text, thinking)
    return RecoveredCall(False, call.message_id, call.credits, text, thinking)


def _ended(handle: TurnHandle, call_id: str, seconds: float) -> CallState:
    """How the call stands once it has ended, or `seconds` have passed."""
    started = time.monotonic()
    while True:
        state = state_of_call(handle.gateway, call_id)
        waited = time.monotonic() - started
        if state.state != "open" or waited >= (STOP_SECONDS if handle.stopped else seconds):
            return state
        time.sleep(POLL_SECONDS)


def _text_of(response: Any) -> str:
    """The text in what is stored of an answer: text, or a message with tool calls."""
    found = response.get("content") if isinstance(response, dict) else response
    return found.replace("\x00", "") if isinstance(found, str) else ""
