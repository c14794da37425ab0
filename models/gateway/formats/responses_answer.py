"""Answers in the format of OpenAI's Responses API: events and whole responses, written from the normal form and read into it."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from models.gateway import sse
from models.gateway.chat_format import Usage
from models.gateway.conversation import (
    Answer,
    AnswerEvent,
    AnswerStop,
    ReasoningDelta,
    ReasoningPart,
    ReasoningProof,
    TextDelta,
    TextPart,
    ToolCallDelta,
    ToolCallPart,
)
from models.gateway.conversation.answers import StopReason
from models.gateway.formats.chat_request import free_text
from models.gateway.formats.responses_request import (
    NAME,
    custom_tools_of,
    namespaces_of,
    reasoning_item,
)

_INCOMPLETE: Mapping[StopReason, str] = {
    "length": "max_output_tokens",
    "context": "max_output_tokens",
    "refusal": "content_filter",
}
_ARGUMENTS = ("response.function_call_arguments.delta", "response.custom_tool_call_input.delta")
_ECHOED: Mapping[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "reasoning": None,
    "store": False,
    "temperature": None,
    "text": None,
    "tool_choice": "auto",
    "tools": [],
    "top_p": None,
    "truncation": "disabled",
    "user": None,
    "metadata": {},
    "prompt_cache_key": None,
}
"""Keys of the request that the response repeats, and their values if they are not given."""


def response_usage(usage: Usage | None) -> dict[str, Any]:
    """Usage in this format: cached tokens are part of the input, reasoning of the output."""
    usage = usage or Usage()
    return {
        "input_tokens": usage.input,
        "input_tokens_details": {"cached_tokens": usage.cache_read},
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.tokens,
    }


@dataclass(slots=True)
class ResponseHead:
    """What a response says about its request: `body` as sent by the client."""

    id: str
    model: str
    body: Mapping[str, Any] = field(repr=False)
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What the response says about where it is kept."""
    created: int = field(default_factory=lambda: int(time.time()))

    def response(self, status: str, output: list[Any], **more: Any) -> dict[str, Any]:
        """The response object."""
        echoed = {
            key: self.body[key] if self.body.get(key) is not None else default
            for key, default in _ECHOED.items()
        }
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "model": self.model,
            "output": output,
            **echoed,
            "usage": None,
            **self.facts,
            **more,
        }

    def ended(self, output: list[Any], stop: AnswerStop, usage: Usage | None) -> dict[str, Any]:
        """The response object of an ended answer."""
        reason = _INCOMPLETE.get(stop.reason)
        details = {"incomplete_details": {"reason": reason}} if reason else {}
        return self.response(
            "incomplete" if reason else "completed", output, **details, usage=response_usage(usage)
        )


class ItemWriter:
    """Writes the items of one response, with the client's names of tools."""

    def __init__(self, head: ResponseHead) -> None:
        self._id = head.id.removeprefix("resp_")
        self._namespaces = namespaces_of(head.body)
        self._custom = custom_tools_of(head.body)
        self._count = 0

    def next_id(self, prefix: str) -> str:
        """The id of the next item."""
        self._count += 1
        return f"{prefix}_{self._id}_{self._count}"

    def is_custom(self, name: str) -> bool:
        """Whether the client's tool of this name takes free text."""
        return name in self._custom

    def message(self, id: str, text: str, status: str = "completed") -> dict[str, Any]:
        """A message of the model; empty while it is in progress."""
        content = [] if status != "completed" else [text_part(text)]
        return {"id": id, "type": "message", "status": status, "role": "assistant", "content": content}

    def call(self, id: str, call: ToolCallPart, status: str = "completed") -> dict[str, Any]:
        """A call of a tool."""
        namespace, name = self._namespaces.get(call.name, ("", call.name))
        head = {"id": id, "status": status, "call_id": call.id, "name": name}
        if namespace:
            head["namespace"] = namespace
        if call.custom or self.is_custom(call.name):
            return {**head, "type": "custom_tool_call", "input": free_text(call)}
        return {**head, "type": "function_call", "arguments": call.arguments}

    def item(self, part: TextPart | ReasoningPart | ToolCallPart) -> dict[str, Any]:
        """A whole part."""
        match part:
            case TextPart():
                return self.message(self.next_id("msg"), part.text)
            case ReasoningPart():
                return reasoning_item(self.next_id("rs"), part)
        return self.call(self.next_id("fc"), part)


def text_part(text: str) -> dict[str, Any]:
    """The text of a message."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def response_body(head: ResponseHead, answer: Answer, usage: Usage | None) -> dict[str, Any]:
    """A whole response."""
    items = ItemWriter(head)
    return head.ended([items.item(part) for part in answer.parts], answer.stop or AnswerStop("stop"), usage)


class ResponsesWriter:
    """Writes the events of one stream: one item is open at a time, each is closed, and events are numbered."""

    def __init__(self, head: ResponseHead) -> None:
        self.head = head
        self._items = ItemWriter(head)
        self._sequence = 0
        self._started = False
        self._output: list[dict[str, Any]] = []
        self._open = ""
        self._item_id = ""
        self._texts: list[str] = []
        self._call: ToolCallPart | None = None
        self._call_index: int | None = None
        self._waiting: dict[int, list[ToolCallDelta]] = {}
        self._stop = AnswerStop("stop")
        self.response: dict[str, Any] | None = None
        """The whole response, once it has ended."""

    def start(self, model: str) -> bytes:
        """The first events, once."""
        if self._started:
            return b""
        self._started = True
        self.head.model = model
        response = self.head.response("in_progress", [])
        return self._event("response.created", response=response) + self._event(
            "response.in_progress", response=response
        )

    def write(self, event: AnswerEvent) -> bytes:
        """The events for one of the answer."""
        match event:
            case TextDelta(text=text):
                out = b"" if self._open == "message" else self._begin_message()
                return out + self._delta("response.output_text.delta", text, content_index=0, logprobs=[])
            case ReasoningDelta(text=text):
                out = b"" if self._open == "reasoning" else self._begin_reasoning()
                return out + self._delta("response.reasoning_summary_text.delta", text, summary_index=0)
            case ReasoningProof():
                return self._proof(event)
            case ToolCallDelta():
                if self._call_index is not None and event.index != self._call_index:
                    # calls may arrive interleaved, items may not
                    self._waiting.setdefault(event.index, []).append(event)
                    return b""
                return self._show_call(event)
            case AnswerStop():
                self._stop = event
        return b""

    def finish(self, usage: Usage | None) -> bytes:
        """The end of the response, with its output and the usage."""
        out = self._close() + self._queued()
        response = self.response = self.head.ended(self._output, self._stop, usage)
        return out + self._event(f"response.{response['status']}", response=response)

    def fail(self, code: str, message: str) -> bytes:
        """The end of a response that failed. Open items are closed: clients wait for them."""
        out = self.start(self.head.model) + self._close() + self._queued()
        error = {"code": code, "message": message}
        return out + self._event(
            "response.failed", response=self.head.response("failed", self._output, error=error)
        )

    def follow(self, event: Mapping[str, Any]) -> None:
        """Take note of an event that was passed on, so that one of ours can follow it."""
        self._started = True
        number, response = event.get("sequence_number"), event.get("response")
        if type(number) is int:
            self._sequence = number + 1
        if isinstance(response, dict) and isinstance(response.get("id"), str):
            self.head.id = response["id"]

    # -- items -----------------------------------------------------------------------------------------------

    def _begin(self, kind: str, item: dict[str, Any]) -> bytes:
        out = self._close()
        if kind != "call":
            out += self._queued()
        self._open, self._item_id, self._texts = kind, item["id"], []
        return out + self._event("response.output_item.added", output_index=len(self._output), item=item)

    def _begin_message(self) -> bytes:
        item = self._items.message(self._items.next_id("msg"), "", "in_progress")
        out = self._begin("message", item)
        return out + self._inside("response.content_part.added", content_index=0, part=text_part(""))

    def _begin_reasoning(self) -> bytes:
        out = self._begin("reasoning", {"id": self._items.next_id("rs"), "type": "reasoning", "summary": []})
        part = {"type": "summary_text", "text": ""}
        return out + self._inside("response.reasoning_summary_part.added", summary_index=0, part=part)

    def _proof(self, proof: ReasoningProof) -> bytes:
        part = ReasoningPart("", proof.signature, proof.encrypted, proof.origin, proof.id)
        if self._open == "reasoning":
            return self._close(part)
        # reasoning that nobody can read
        item = reasoning_item(self._items.next_id("rs"), part)
        out = self._begin("", {**item, "summary": []})
        return out + self._done(item)

    def _show_call(self, delta: ToolCallDelta) -> bytes:
        out = b""
        if self._call is None:
            id = self._items.next_id("fc")
            call = ToolCallPart(delta.id or f"call_{id}", delta.name or "", "", delta.custom)
            out = self._begin("call", self._items.call(id, call, "in_progress"))
            self._call, self._call_index = call, delta.index
        if not delta.arguments:
            return out
        if self._is_custom(self._call):
            # its text is inside the arguments, which are sent whole
            self._texts.append(delta.arguments)
            return out
        return out + self._delta("response.function_call_arguments.delta", delta.arguments)

    def _is_custom(self, call: ToolCallPart) -> bool:
        return call.custom or self._items.is_custom(call.name)

    def _queued(self) -> bytes:
        out = b""
        for index in sorted(self._waiting):
            for delta in self._waiting.pop(index):
                out += self._show_call(delta)
            out += self._close()
        return out

    def _close(self, proof: ReasoningPart | None = None) -> bytes:
        """End the open item."""
        kind, text = self._open, "".join(self._texts)
        self._open, self._texts = "", []
        if kind == "message":
            part = text_part(text)
            out = self._inside("response.output_text.done", content_index=0, text=text, logprobs=[])
            out += self._inside("response.content_part.done", content_index=0, part=part)
            return out + self._done(self._items.message(self._item_id, text))
        if kind == "reasoning":
            part = {"type": "summary_text", "text": text}
            out = self._inside("response.reasoning_summary_text.done", summary_index=0, text=text)
            out += self._inside("response.reasoning_summary_part.done", summary_index=0, part=part)
            whole = replace(proof or ReasoningPart(origin="chat"), text=text)
            return out + self._done(reasoning_item(self._item_id, whole))
        if kind == "call":
            assert self._call is not None
            call, self._call, self._call_index = replace(self._call, arguments=text), None, None
            item = self._items.call(self._item_id, call)
            if item["type"] == "custom_tool_call":
                out = self._inside("response.custom_tool_call_input.delta", delta=item["input"])
                out += self._inside("response.custom_tool_call_input.done", input=item["input"])
            else:
                out = self._inside("response.function_call_arguments.done", arguments=text, name=item["name"])
            return out + self._done(item)
        return b""

    def _done(self, item: dict[str, Any]) -> bytes:
        self._open = ""
        out = self._event("response.output_item.done", output_index=len(self._output), item=item)
        self._output.append(item)
        return out

    def _delta(self, kind: str, text: str, **more: Any) -> bytes:
        self._texts.append(text)
        return self._inside(kind, delta=text, **more)

    def _inside(self, kind: str, **more: Any) -> bytes:
        return self._event(kind, item_id=self._item_id, output_index=len(self._output), **more)

    def _event(self, kind: str, **more: Any) -> bytes:
        event = {"type": kind, "sequence_number": self._sequence, **more}
        self._sequence += 1
        return sse.frame(orjson.dumps(event), kind.encode())


# -- reading -------------------------------------------------------------------------------------------------


class ResponsesAnswerReader:
    """Reads the events of one stream, or a whole response. Items are read when they begin and end: what lies between are deltas."""

    def __init__(self) -> None:
        self._calls: dict[str, int] = {}
        self._streamed: set[str] = set()

    def read(self, event: Mapping[str, Any]) -> list[AnswerEvent]:
        """The events of one event."""
        return [*self._read(event)]

    def read_whole(self, response: Mapping[str, Any]) -> list[AnswerEvent]:
        """The events of a whole response."""
        output = response.get("output")
        found: list[AnswerEvent] = []
        for item in output if isinstance(output, list) else ():
            if isinstance(item, dict):
                found += self._ended(item)
        return [*found, *self._stop(response)]

    def _read(self, event: Mapping[str, Any]) -> Iterator[AnswerEvent]:
        kind, item, delta = str(event.get("type")), event.get("item"), event.get("delta")
        id = str(event.get("item_id") or "")
        if kind == "response.output_item.added" and isinstance(item, dict):
            if str(item.get("type")) in ("function_call", "custom_tool_call"):
                yield self._call(item, "")
        elif kind == "response.output_item.done" and isinstance(item, dict):
            yield from self._ended(item)
        elif isinstance(delta, str) and delta:
            self._streamed.add(id)
            if kind in ("response.output_text.delta", "response.refusal.delta"):
                yield TextDelta(delta)
            elif kind in ("response.reasoning_summary_text.delta", "response.reasoning_text.delta"):
                yield ReasoningDelta(delta)
            elif kind in _ARGUMENTS and id in self._calls:
                yield ToolCallDelta(self._calls[id], arguments=delta)
        elif kind in ("response.completed", "response.incomplete") and isinstance(
            event.get("response"), dict
        ):
            yield from self._stop(event["response"])

    def _ended(self, item: Mapping[str, Any]) -> Iterator[AnswerEvent]:
        """What an ended item holds beyond its deltas."""
        kind, id = item.get("type"), str(item.get("id") or "")
        streamed = bool(id) and id in self._streamed
        if kind == "message" and not streamed:
            for part in item.get("content") or ():
                if isinstance(part, dict) and (text := part.get("text") or part.get("refusal")):
                    yield TextDelta(str(text))
        elif kind == "reasoning":
            if not streamed:
                for key in ("summary", "content"):
                    for part in item.get(key) or ():
                        if isinstance(part, dict) and part.get("text"):
                            yield ReasoningDelta(str(part["text"]))
            if item.get("encrypted_content"):
                yield ReasoningProof(encrypted=str(item["encrypted_content"]), origin=NAME, id=id or None)
        elif kind in ("function_call", "custom_tool_call") and not streamed:
            arguments = item.get("input" if kind == "custom_tool_call" else "arguments")
            if id in self._calls:
                yield ToolCallDelta(self._calls[id], arguments=str(arguments or ""))
            else:
                yield self._call(item, str(arguments or ""))

    def _call(self, item: Mapping[str, Any], arguments: str) -> ToolCallDelta:
        id = str(item.get("id") or item.get("call_id") or len(self._calls))
        number = self._calls.setdefault(id, len(self._calls))
        custom = item.get("type") == "custom_tool_call"
        return ToolCallDelta(number, item.get("call_id"), item.get("name"), arguments, custom)

    def _stop(self, response: Mapping[str, Any]) -> Iterator[AnswerEvent]:
        details = response.get("incomplete_details")
        reason = details.get("reason") if isinstance(details, dict) else None
        if reason == "content_filter":
            yield AnswerStop("refusal")
        elif response.get("status") == "incomplete":
            yield AnswerStop("length")
        else:
            yield AnswerStop("tool_calls" if self._calls else "stop")
