"""Runs the tools that the server has for a turn: those of one answer at the same time, each with a limit of time, until the turn is stopped."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from models.assistants.tool_requests import ToolFailed
from models.core.errors import DomainError
from models.core.job_queue import Context

log = logging.getLogger("stoa.turns")

MAX_RESULT = 64 << 10
"""Characters of a result that the model gets."""
MAX_CALLS = 32
"""Server tools of one answer that run; the model is told that the others did not."""
STOPPED = "The turn was stopped before this tool had ended."


Run = Callable[[str, str], str]
"""Runs a tool: its name, and the model's arguments as it wrote them."""


def run_tools(
    calls: Sequence[Mapping[str, Any]],
    run: Run,
    context: Context,
    seconds: float,
    on_stop: Callable[[Callable[[], None] | None], None],
) -> list[str]:
    """The results of these tool calls, in their order. `on_stop` is told what ends the waiting: the results that are there by then are returned, and the
    others say so. What still runs after `seconds` is left behind; its result is lost. Never raises."""
    found: dict[int, str] = {}
    done: queue.SimpleQueue[tuple[int, str] | None] = queue.SimpleQueue()
    for place, call in enumerate(calls[:MAX_CALLS]):
        threading.Thread(
            target=lambda place=place, call=call: done.put((place, _result(call, run, context))),
            name="stoa-turn-tool",
            daemon=True,
        ).start()
    on_stop(lambda: done.put(None))
    missing = f"The tool did not answer within {seconds:g} seconds."
    try:
        end = time.monotonic() + seconds
        while len(found) < min(len(calls), MAX_CALLS):
            each = done.get(timeout=max(end - time.monotonic(), 0.001))
            if each is None:
                missing = STOPPED
                break
            found[each[0]] = each[1]
    except queue.Empty:
        pass
    finally:
        on_stop(None)
    too_many = f"This tool was not run: at most {MAX_CALLS} run at once."
    return [found.get(place, missing if place < MAX_CALLS else too_many) for place in range(len(calls))]


def _result(call: Mapping[str, Any], run: Run, context: Context) -> str:
    name = call["function"]["name"]
    try:
        with context():
            text = run(name, call["function"]["arguments"])
    except ToolFailed as failed:
        text = failed.message
    except DomainError as error:
        text = f"Error: {error.message}"
    except Exception:
        log.exception("the tool %s failed", name[:80])
        text = "Error: the tool failed."
    text = text.replace("\x00", "").encode("utf-8", "replace").decode()
    return text if len(text) <= MAX_RESULT else f"{text[:MAX_RESULT]}\n[cut]"
