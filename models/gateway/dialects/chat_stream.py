"""A stream of chat completion chunks: passed on unchanged, except for what some client could not read, or translated from another format.

The last chunk with usage is held until the call is billed, so that a client that asked for usage gets the billed one.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from models.gateway import call_errors, lenient_json, sse
from models.gateway.bill import Bill
from models.gateway.chat_format import Call, ProviderFailure, find_failure, parse_failure
from models.gateway.dialects.format_stream import FormatStream
from models.gateway.dialects.translation import TranslatedAnswer
from models.gateway.formats.chat_answer import ChatWriter, custom_tools
from models.gateway.route import Route
from models.gateway.sse import SseEvent


class ChatStream:
    """Translates one stream; see `StreamTranslator`. `client_usage` formats a bill's usage for the client; `object` is the type of
    each chunk."""

    object = "chat.completion.chunk"

    def __init__(
        self,
        request_id: str,
        call: Call,
        route: Route,
        client_usage: Callable[[Bill], Mapping[str, Any]],
        *,
        wants_usage: bool,
    ) -> None:
        self.meter = route.provider.meter(call)
        self.done = False
        self._request_id = request_id
        self._call = call
        self._route = route
        self._client_usage = client_usage
        self._wants_usage = wants_usage
        self._parser = sse.SseParser(route.provider.title)
        self._sent_usage: Any = None
        self._sent_failure: ProviderFailure | None = None
        # the last chunk with usage so far, held for the bill
        self._held: tuple[dict[str, Any], bytes] | None = None

    def feed(self, chunk: bytes) -> bytes:
        return self._translate(self._parser.feed(chunk))

    def end(self, *, cut: bool = False) -> bytes:
        out = self._translate(self._parser.end())
        meter = self.meter
        if cut or self.done or not meter.empty or meter.failure is not None:
            return out
        # not an event stream: a web page, or an error in JSON
        meter.failure = parse_failure(self._parser.stray)
        return out + self._failure(meter.failure, {}, self._parser.stray) if meter.failure else out

    def final_chunk(self, bill: Bill | None) -> bytes:
        held, self._held = self._held, None
        last = b"" if held is None else self._final(*held, bill)
        return last + self._usage_event(bill)

    def end_event(self) -> bytes:
        return sse.DONE

    def error(self, message: str, code: str, kind: str) -> bytes:
        return error_event(message, code, kind)

    # -- events ----------------------------------------------------------------------------------------------

    def _translate(self, events: list[SseEvent]) -> bytes:
        out: list[bytes] = []
        for event in events:
            if self.done:
                break
            if event.data is None:
                out.append(self._redacted(event.text))
            else:
                self._event(event.data, event, out)
        return b"".join(out)

    def _event(self, data: bytes, event: SseEvent, out: list[bytes]) -> None:
        """Meter an event and translate it."""
        text = event.text
        try:
            chunk = orjson.loads(data)
        except orjson.JSONDecodeError:
            if sse.is_done(data):
                self.done = True
                return
            try:
                chunk, read = lenient_json.read(data)
            except lenient_json.NotJson:
                if objects := lenient_json.split(data):
                    for each in objects:
                        if not self.done:
                            self._event(each, SseEvent(each, sse.frame(each, event.name), event.name), out)
                    return
                # clients would raise on it, and lose the rest of the answer
                out.append(self._redacted(sse.comment(data)))
                return
            text = sse.frame(read, event.name)
        if not isinstance(chunk, dict):
            self._non_object(data, chunk, event, out)
            return
        meter = self.meter
        reported = meter.event(chunk, is_error=event.name == b"error")
        if meter.failure is not self._sent_failure and meter.failure is not None:
            out.append(self._failure(meter.failure, chunk, text))
            return
        held = self._held
        if held is not None and held[0].get("choices"):
            # not the last one
            self._held = None
            out.append(self._interim(*held))
        if not isinstance(chunk.get("choices"), list):
            if event.name == b"ping" or chunk.get("type") == "ping":
                out.append(self._redacted(sse.comment(data)))
                return
            # clients index into the list without checking
            chunk["choices"] = []
            meter.amended = True
        if meter.amended:
            meter.amended = False
            chunk["object"] = self.object
            text = sse.frame(lenient_json.write(chunk), event.name)
        usage = chunk.get("usage")
        if usage is not None and not isinstance(usage, dict):
            chunk["usage"] = dict(meter.raw_usage or {}) if reported else None
            text = sse.frame(lenient_json.write(chunk), event.name)
        if reported or isinstance(usage, dict):
            if meter.finished or not chunk.get("choices"):
                self._held = (chunk, text)
                return
            text = self._interim(chunk, text)
        out.append(text)

    def _non_object(self, data: bytes, value: Any, event: SseEvent, out: list[bytes]) -> None:
        """Translate JSON that is not an object: a quoted `[DONE]`, an error in a list, or data that clients cannot use."""
        if sse.is_done(data):
            self.done = True
            return
        failure = find_failure(value, is_error=event.name == b"error")
        if failure is None:
            out.append(self._redacted(sse.comment(data)))
        else:
            self.meter.failure = failure
            out.append(self._failure(failure, {}, event.text))

    def _redacted(self, text: bytes) -> bytes:
        return call_errors.redact_keys(text, self._route)

    def _failure(self, failure: ProviderFailure, chunk: dict[str, Any], text: bytes) -> bytes:
        """Format an error inside the stream: unchanged if it has the form that clients know, else converted to it."""
        self._sent_failure = failure
        route = self._route
        redacted = call_errors.redact_keys(text, route)
        if redacted != text:
            found = parse_failure(redacted.split(b"data: ", 1)[-1])
            failure = failure if found is None else found
        client_failure = call_errors.client_error(failure, failure.status or 502, route, None).failure
        error = chunk.get("error")
        if isinstance(error, dict) and client_failure is failure and error.get("message") == failure.message:
            return redacted
        return sse.frame(lenient_json.write({"error": call_errors.error_object(client_failure)}))

    # -- usage -----------------------------------------------------------------------------------------------

    def _interim(self, chunk: dict[str, Any], text: bytes) -> bytes:
        """Format a chunk whose usage is not final; without the usage unless the client asked for it."""
        if not isinstance(chunk.get("usage"), dict):
            return text
        if self._wants_usage:
            self._sent_usage = chunk["usage"]
            return text
        return _without_usage(chunk)

    def _final(self, chunk: dict[str, Any], text: bytes, bill: Bill | None) -> bytes:
        """Format the last chunk with usage, with the billed usage."""
        if not isinstance(chunk.get("usage"), dict):
            return text
        if not self._wants_usage or bill is None:
            return _without_usage(chunk)
        usage = self._sent_usage = self._client_usage(bill)
        if usage is chunk["usage"]:
            return text
        return sse.frame(lenient_json.write({**chunk, "usage": usage}))

    def _usage_event(self, bill: Bill | None) -> bytes:
        """A chunk of our own with the billed usage, unless it was sent already."""
        if not self._wants_usage or bill is None:
            return b""
        usage = self._client_usage(bill)
        if usage == self._sent_usage:
            return b""
        self._sent_usage = usage
        event = {
            "id": self.meter.id or self._request_id,
            "object": self.object,
            "created": self.meter.created or int(time.time()),
            "model": self.meter.model or self._call.model,
            "choices": [],
            "usage": usage,
        }
        return sse.frame(lenient_json.write(event))


def _without_usage(chunk: dict[str, Any]) -> bytes:
    if not chunk.get("choices"):
        return b""
    return sse.frame(lenient_json.write({key: value for key, value in chunk.items() if key != "usage"}))


def error_event(message: str, code: str, kind: str) -> bytes:
    """The event that ends a stream with an error."""
    error = {"message": message, "type": kind, "code": code, "param": None}
    return sse.frame(orjson.dumps({"error": error}))


class TranslatedChatStream(FormatStream):
    """The events of another format as chunks of chat completions. `client_usage` formats a bill's usage for the client."""

    def __init__(
        self,
        request_id: str,
        call: Call,
        route: Route,
        client_usage: Callable[[Bill], Mapping[str, Any]],
        *,
        wants_usage: bool,
    ) -> None:
        super().__init__(request_id, call, route)
        self._client_usage = client_usage
        self._wants_usage = wants_usage
        self._reader = TranslatedAnswer(call)
        self._writer = ChatWriter(f"chatcmpl-{request_id}", custom_tools(call.client_body))

    def end_event(self) -> bytes:
        return sse.DONE

    def error(self, message: str, code: str, kind: str) -> bytes:
        return error_event(message, code, kind)

    def _event(self, value: dict[str, Any], event: SseEvent) -> bytes:
        out = self._writer.start(self.meter.model or self._call.model)
        return out + b"".join(self._writer.write(each) for each in self._reader.read(value))

    def final_chunk(self, bill: Bill | None) -> bytes:
        if not self._complete():
            return b""
        self._reader.end()
        out = self._writer.start(self.meter.model or self._call.model) + self._writer.finish()
        return out + (self._writer.usage(self._client_usage(bill)) if bill and self._wants_usage else b"")
