"""The events of a turn as those of a run of OpenAI's Assistants API."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from models.threads.assistants_api_objects import begun_message, message_object, message_step, tools_step
from models.turns import Turn
from models.turns.event_log import LoggedEvent

Named = tuple[str, Any]
"""The name of an event, and its object."""


class RunEvents:
    """Translates until `over`. `read` returns the turn and its run as they are now; a stream that begins later in the turn says nothing of what was
    before."""

    def __init__(self, read: Callable[[], tuple[Turn, Mapping[str, Any]]]) -> None:
        self.over = False
        self._read = read
        self._begun: set[str] = set()
        self._delivered: dict[str, int] = {}
        self._calling: Mapping[str, Any] | None = None
        self._outputs: dict[str, str] = {}

    def start(self) -> Iterator[Named]:
        """The events of a run that has just been created."""
        _, run = self._read()
        queued = {**run, "status": "queued", "started_at": None}
        yield "thread.run.created", queued
        yield "thread.run.queued", queued
        if run["status"] != "queued":
            yield "thread.run.in_progress", {**run, "status": "in_progress"}

    def translate(self, event: LoggedEvent) -> Iterator[Named]:
        """The events that one of the turn becomes."""
        match event.type:
            case "text.delta":
                yield from self._begin(event.data["message_id"])
                yield self._delta(event.data["message_id"], event.data["text"])
            case "message.completed" if event.data["message"]["role"] == "assistant":
                yield from self._complete(event.data["message"])
            case "tool.completed":
                message = event.data["message"]
                self._outputs[message["tool_call_id"]] = "\n".join(
                    part["text"] for part in message["content"] if part["type"] == "text"
                )
                yield from self._tools_done()
            case "turn.requires_action":
                yield from self._end()
            case "turn.paused":
                yield from self._end()
            case type if type.startswith("turn.") and type != "turn.started":
                yield from self._end()

    def _begin(self, id: str) -> Iterator[Named]:
        """Begin a message, once."""
        if id in self._begun:
            return
        self._begun.add(id)
        turn, run = self._read()
        message = begun_message(id, turn.subject_id, turn.id, run["assistant_id"], run["created_at"])
        whole = {"id": id, "created_at": None, "state": "in_progress", "completed_at": None, "usage": None}
        step = {**message_step(turn, whole, whole=False), "created_at": run["created_at"]}
        yield "thread.run.step.created", step
        yield "thread.run.step.in_progress", step
        yield "thread.message.created", message
        yield "thread.message.in_progress", message

    def _delta(self, id: str, text: str) -> Named:
        self._delivered[id] = self._delivered.get(id, 0) + len(text)
        part = {"index": 0, "type": "text", "text": {"value": text, "annotations": []}}
        return "thread.message.delta", {
            "id": id,
            "object": "thread.message.delta",
            "delta": {"content": [part]},
        }

    def _complete(self, message: Mapping[str, Any]) -> Iterator[Named]:
        turn, run = self._read()
        id, calls = message["id"], message["tool_calls"]
        shown = message_object(message, run["assistant_id"])
        texts = [part["text"]["value"] for part in shown["content"] if part["type"] == "text"]
        if texts or not calls:
            yield from self._begin(id)
            if texts and not self._delivered.get(id):
                yield self._delta(id, texts[0])
            ended = "completed" if message["state"] == "completed" else "incomplete"
            yield f"thread.message.{ended}", shown
            step = message_step(turn, message, whole=True)
            yield f"thread.run.step.{step['status']}", step
        if calls:
            self._calling, self._outputs = message, {}
            step = tools_step(turn, message, {})
            yield (
                "thread.run.step.created",
                {**step, "step_details": {"type": "tool_calls", "tool_calls": []}},
            )
            yield (
                "thread.run.step.in_progress",
                {**step, "step_details": {"type": "tool_calls", "tool_calls": []}},
            )
            numbered = [
                {"index": number, **call} for number, call in enumerate(step["step_details"]["tool_calls"])
            ]
            details = {"type": "tool_calls", "tool_calls": numbered}
            yield (
                "thread.run.step.delta",
                {"id": step["id"], "object": "thread.run.step.delta", "delta": {"step_details": details}},
            )

    def _tools_done(self) -> Iterator[Named]:
        """The step of tool calls, once all of them have their outputs."""
        calling = self._calling
        if calling is not None and all(call["id"] in self._outputs for call in calling["tool_calls"]):
            self._calling = None
            turn, _ = self._read()
            yield "thread.run.step.completed", tools_step(turn, calling, self._outputs)

    def resume(self, calling: Mapping[str, Any], outputs: Mapping[str, str]) -> None:
        """The stream goes on with a turn whose message `calling` waits for the outputs of its calls, of which some are known."""
        self._calling, self._outputs = calling, dict(outputs)

    def _end(self) -> Iterator[Named]:
        turn, run = self._read()
        self.over = True
        if self._calling is not None and run["status"] != "requires_action":
            step = tools_step(turn, self._calling, self._outputs)
            if step["status"] in ("failed", "cancelled", "expired"):
                yield f"thread.run.step.{step['status']}", step
        yield f"thread.run.{run['status']}", run
