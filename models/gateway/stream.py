"""A stream on its way: a pump owns the provider's connection and feeds a bounded queue, the client's side takes from it.

The pump alone settles, at the end of the answer and before its last chunk leaves, whether or not anybody still listens.
"""

import contextlib
import itertools
import logging
import queue
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import orjson

from models.billing.holds import LedgerUnavailable
from models.db import now
from models.gateway import lenient_json, refusals, sse, tokens
from models.gateway.sse import Event
from models.gateway.ticket import Ticket
from models.gateway.upstream import Answer, Broken, Empty, UpstreamError
from models.gateway.wire import Call, Failure, Meter, Usage, failure_in, failure_of, told_usage

if TYPE_CHECKING:
    from models.gateway.relay import Ask, Gateway

log = logging.getLogger("stoa.gateway")

HEARTBEAT_SECONDS = 30.0
QUEUED_BLOCKS = 256
DRAIN_SECONDS = 300.0
"""How long a provider is read on for a client that has gone."""
LOOK = 512
"""Bytes that an answer grows by at least before its tokens are counted again."""
BOUNDED, UNBOUNDED, DENSE = 6, 3, 2
"""Bytes of text to a token: more than there are, since a bound that the client gave is the provider's to keep, and counting
takes time and 40 MB; as there are in program text; as few as there are in any but odd text."""
STALL_SECONDS = 300.0
"""How long a client may take nothing before it counts as gone."""


class Stopped(UpstreamError):
    """The server was told to end while the answer was on its way."""

    kind = "server_stopping"


class OutOfCredits(UpstreamError):
    """The answer became longer than there are credits for."""

    status = 402
    kind = type = "insufficient_credits"


class Stream:
    """Iterate for the client's bytes; `close` when the client has what it wanted, or is gone."""

    def __init__(
        self,
        gateway: "Gateway",
        ask: "Ask",
        call: Call,
        ticket: Ticket,
        answer: Answer,
        meter: Meter,
        begun: bytes = b"",
    ) -> None:
        self.ticket = ticket
        self.gone = False
        self.dropped: tuple[str, ...] = ()
        self._gateway = gateway
        self._ask = ask
        self._call = call
        self._answer = answer
        self._pieces = itertools.chain([begun] if begun else [], answer.blocks())
        self._parser = sse.Parser(ticket.route.provider.title)
        self._meter = meter
        self._queue: queue.Queue[bytes | None] = queue.Queue(QUEUED_BLOCKS)
        self._greeting = ask.greeting
        self._ended = False
        self._gone_at = 0.0
        self._stopping = False
        # the client's side of the format
        self._wants_usage = ask.show_cost or call.wants_usage
        self._told_usage: Any = None
        self._told_failure: Failure | None = None
        self._done = False
        # the chunk that is the last one with usage unless more comes: it waits for the bill
        self._held: tuple[dict[str, Any], bytes] | None = None
        self._usage: Usage | None = None
        self._cost = Decimal(0)
        # tokens of output that the hold covers, and the size at which they are counted next
        self._covered = ticket.route.expected_output(call, call.n)
        self._look_at = self._covered * (BOUNDED if call.max_output else UNBOUNDED)

    def start(self) -> None:
        """Begin to read the provider."""
        self._gateway.streams.add(self)
        threading.Thread(target=self._pump, name="stoa-pump", daemon=True).start()

    def stop(self) -> None:
        """End it here, because the server ends: what was delivered is billed, and the client told."""
        self._stopping = True
        self._answer.abort()

    # -- the client's side -----------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._greeting:
            self._greeting = False
            return f": connected {_iso()}\n".encode()
        if self._ended:
            raise StopIteration
        try:
            block = self._queue.get(timeout=HEARTBEAT_SECONDS)
        except queue.Empty:
            if self.gone:
                raise StopIteration from None
            return f": heartbeat {_iso()}\n\n".encode()
        if block is None:
            self._ended = True
            raise StopIteration
        return block

    def close(self) -> None:
        """The client takes no more. The pump reads on for the bill."""
        if self._ended or self.gone:
            return
        self._leave()
        with contextlib.suppress(queue.Empty):
            while True:
                self._queue.get_nowait()

    # -- the provider's side ---------------------------------------------------------------------------------

    def _pump(self) -> None:
        try:
            try:
                for events in self._events():
                    self._take(events)
                    if self.gone and time.monotonic() - self._gone_at > DRAIN_SECONDS:
                        break
                self._finish()
            except UpstreamError as error:
                self._cut(error)
            except LedgerUnavailable as error:
                self._tell(error.message, error.code)
            except BaseException:
                log.exception("relaying call %s failed", self.ticket.admission.request_id)
                self._cut(Broken("The answer could not be relayed to its end."))
                raise
        except LedgerUnavailable as error:
            self._tell(error.message, error.code)
        finally:
            self._answer.close()
            self.ticket.close()
            self._gateway.streams.discard(self)
            self._give(None)

    def _events(self) -> Iterator[list[Event]]:
        """What the provider sends, as it comes; the last event too, when its end is missing."""
        try:
            for piece in self._pieces:
                if events := self._parser.feed(piece):
                    yield events
        except UpstreamError:
            yield self._parser.end()
            raise
        yield self._parser.end()

    def _take(self, events: list[Event]) -> None:
        out: list[bytes] = []
        for event in events:
            if self._done:
                break
            if event.data is None:
                out.append(self._harmless(event.text))
            else:
                self._event(event.data, event, out)
        self._flush(out)
        if self._may_exceed() and not self.ticket.over and not self.ticket.route.byok:
            self._look()

    def _may_exceed(self) -> bool:
        """Whether the answer may be longer than its hold covers, and goes on."""
        meter = self._meter
        if meter.output.size > self._look_at:
            return True
        return meter.reported is not None and meter.reported.output > self._covered and not meter.finished

    def _look(self) -> None:
        """Count what was delivered, and let the hold grow when it, or what was reported of it, is more than that covers."""
        delivered, _ = tokens.count_output(self._meter.output)
        if self._meter.reported is not None:
            delivered = max(delivered, self._meter.reported.output)
        if delivered > self._covered:
            self._covered = self._gateway.cover(self.ticket, self._call, delivered)
        self._look_at = self._meter.output.size + max((self._covered - delivered) * DENSE, LOOK)

    def _event(self, data: bytes, event: Event, out: list[bytes]) -> None:
        """Meter an event, and pass it on. `out` is sent first where that must not wait for the ledger."""
        text = event.text
        try:
            chunk = orjson.loads(data)
        except orjson.JSONDecodeError:
            if sse.is_done(data):
                self._flush(out)
                self._end()
                return
            try:
                chunk, read = lenient_json.read(data)
            except lenient_json.NotJson:
                if pieces := lenient_json.split(data):
                    for piece in pieces:
                        if not self._done:
                            self._event(piece, Event(piece, sse.frame(piece, event.name), event.name), out)
                    return
                # no client could read it either: it would raise, and the rest of the answer were lost
                out.append(self._harmless(sse.comment(data)))
                return
            text = sse.frame(read, event.name)
        if not isinstance(chunk, dict):
            self._odd(data, chunk, event, out)
            return
        meter = self._meter
        reported = meter.event(chunk, is_error=event.name == b"error")
        if meter.failure is not self._told_failure and meter.failure is not None:
            out.append(self._failure(meter.failure, chunk, text))
            return
        if meter.started and self.ticket.ttft_ms is None:
            self.ticket.first_token()
        held = self._held
        if held is not None and held[0].get("choices"):
            # more came, so it was not the last one
            self._held = None
            out.append(self._interim(*held))
        if not isinstance(chunk.get("choices"), list):
            if event.name == b"ping" or chunk.get("type") == "ping":
                out.append(self._harmless(sse.comment(data)))
                return
            # clients read the list without looking
            chunk["choices"] = []
            meter.amended = True
        if meter.amended:
            meter.amended = False
            chunk["object"] = "chat.completion.chunk"
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

    def _odd(self, data: bytes, value: Any, event: Event, out: list[bytes]) -> None:
        """JSON that is no object: the end in quotes, an error in a list, or nothing that a client could use."""
        if sse.is_done(data):
            self._flush(out)
            self._end()
            return
        failure = failure_of(value, refused=event.name == b"error")
        if failure is None:
            out.append(self._harmless(sse.comment(data)))
        else:
            self._meter.failure = failure
            out.append(self._failure(failure, {}, event.text))

    def _harmless(self, text: bytes) -> bytes:
        return refusals.without_keys(text, self.ticket.route)

    def _failure(self, failure: Failure, chunk: dict[str, Any], text: bytes) -> bytes:
        """An error inside the stream: as it came where it has the form that clients know, else in that form."""
        self._told_failure = failure
        route = self.ticket.route
        said = refusals.without_keys(text, route)
        if said != text:
            found = failure_in(said.split(b"data: ", 1)[-1])
            failure = failure if found is None else found
        told = refusals.told(failure, failure.status or 502, route, None).failure
        error = chunk.get("error")
        usual = isinstance(error, dict) and error.get("message") == told.message and told is failure
        return said if usual else sse.frame(lenient_json.write({"error": refusals.error_object(told)}))

    def _interim(self, chunk: dict[str, Any], text: bytes) -> bytes:
        """A chunk with a usage that is not the bill: with it for who asked, else without."""
        if not isinstance(chunk.get("usage"), dict):
            return text
        if self._wants_usage:
            self._told_usage = chunk["usage"]
            return text
        return self._without_usage(chunk)

    def _without_usage(self, chunk: dict[str, Any]) -> bytes:
        if not chunk.get("choices"):
            return b""
        return sse.frame(lenient_json.write({key: value for key, value in chunk.items() if key != "usage"}))

    # -- the end ---------------------------------------------------------------------------------------------

    def _end(self) -> None:
        """The answer is complete: settle, then pass on its last chunk and the end."""
        self._settle()
        meter = self._meter
        if meter.empty and not meter.finished and meter.failure is None:
            self._tell_empty()
        else:
            self._flush([*self._last_words(), sse.DONE])
        self._done = True

    def _last_words(self) -> list[bytes]:
        """The chunk that waited, and the usage that was billed for who wants to know it."""
        held, self._held = self._held, None
        words = [] if held is None else [self._final(*held)]
        return [*words, self._usage_event()]

    def _final(self, chunk: dict[str, Any], text: bytes) -> bytes:
        """The last chunk with usage, with the usage that was billed."""
        if not isinstance(chunk.get("usage"), dict):
            return text
        if not self._wants_usage or self._usage is None:
            return self._without_usage(chunk)
        shown = self._told_usage = self._shown(self._usage)
        if shown is chunk["usage"]:
            return text
        return sse.frame(lenient_json.write({**chunk, "usage": shown}))

    def _shown(self, usage: Usage) -> Any:
        """The usage as the client reads it: the provider's own, unless that is not what was billed."""
        shown: Any = told_usage(usage)
        return self._gateway.with_cost(shown, usage, self._cost) if self._ask.show_cost else shown

    def _usage_event(self) -> bytes:
        """A chunk of our own with the usage, where no other told it."""
        if not self._wants_usage or self._usage is None:
            return b""
        shown = self._shown(self._usage)
        if shown == self._told_usage:
            return b""
        self._told_usage = shown
        event = {
            "id": self._meter.id or self.ticket.admission.request_id,
            "object": "chat.completion.chunk",
            "created": self._meter.created or int(time.time()),
            "model": self._meter.model or self._call.model,
            "choices": [],
            "usage": shown,
        }
        return sse.frame(lenient_json.write(event))

    def _settle(self, error: str | None = None, *, complete: bool = True) -> None:
        """Charge what was used, once: the last usage that was reported for a complete answer, else what was delivered,
        and no less than was reported on the way. What produced nothing and reported nothing costs nothing."""
        if self.ticket.over:
            return
        meter, route = self._meter, self.ticket.route
        if meter.failure and not error:
            error, complete = "upstream_error", meter.finished or meter.billed
        if meter.empty:
            self.ticket.fail(error or Empty.kind, None, client_gone=self.gone)
            return
        usage = meter.usage() if complete else None
        if usage is None:
            usage = self._gateway.counted(self._call, meter, route.model)
        self._usage = usage
        self._cost, price = self._gateway.routes.cost(route, usage, meter.model)
        self.ticket.settle(
            usage,
            self._cost,
            price,
            model=meter.model,
            message_id=meter.id,
            response=meter.answer,
            reasoning=meter.reasoning,
            client_gone=self.gone,
            error=error,
        )

    def _finish(self) -> None:
        """The provider has nothing more to say, or is not listened to any longer."""
        if self._done:
            return
        meter = self._meter
        if meter.empty and meter.failure is None and (failure := failure_in(self._parser.stray)):
            # a body that is no event stream at all: a web page, an error in JSON
            meter.failure = failure
            self._flush([self._failure(failure, {}, self._parser.stray)])
        if meter.finished or meter.billed or meter.ended:
            self._end()
        elif meter.failure or self.gone:
            self._settle(complete=False)
        elif meter.empty:
            self._settle()
            self._tell_empty()
        else:
            title = self.ticket.route.provider.title
            self._cut(Broken(f"{title} ended the connection before its answer was complete."))

    def _cut(self, error: UpstreamError) -> None:
        """The provider broke off: bill what was delivered, and say so to the client."""
        if self._done:
            return
        if self._stopping:
            error = Stopped("This server is stopping; the answer ends here. Ask again in a moment.")
        if self._meter.finished or self._meter.billed:
            self._end()
            return
        self._settle(error.kind, complete=False)
        if not self._meter.failure:
            self._flush(self._last_words())
            self._tell(str(error), error.kind, error.type)

    def _tell_empty(self) -> None:
        title = self.ticket.route.provider.title
        self._tell(f"{title} sent an empty answer. Nothing was charged; try again.", Empty.kind)

    def _tell(self, message: str, code: str, kind: str = UpstreamError.type) -> None:
        error = {"message": message, "type": kind, "code": code, "param": None}
        self._flush([sse.frame(orjson.dumps({"error": error}))])

    def _flush(self, out: list[bytes]) -> None:
        block = b"".join(out)
        out.clear()
        if block:
            self._give(block)

    def _give(self, block: bytes | None) -> None:
        stalled = 0.0
        while not self.gone:
            try:
                self._queue.put(block, timeout=1)
                return
            except queue.Full:
                stalled += 1
                if stalled >= STALL_SECONDS:
                    self._leave()

    def _leave(self) -> None:
        self._gone_at = time.monotonic()
        self.gone = True


def _iso() -> str:
    return now().strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
