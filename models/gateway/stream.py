"""A stream on its way: a pump owns the provider's connection and feeds a bounded queue, the client's side takes from it.

The pump alone settles, before the line that carries the usage leaves, whether or not anybody still listens.
"""

import contextlib
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
from models.gateway import tokens
from models.gateway.ticket import Ticket
from models.gateway.upstream import Answer, Broken, UpstreamError
from models.gateway.wire import Call, Meter, Usage, usage_object

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
        self, gateway: "Gateway", ask: "Ask", call: Call, ticket: Ticket, answer: Answer, meter: Meter
    ) -> None:
        self.ticket = ticket
        self.gone = False
        self.dropped: tuple[str, ...] = ()
        self._gateway = gateway
        self._ask = ask
        self._call = call
        self._answer = answer
        self._meter = meter
        self._queue: queue.Queue[bytes | None] = queue.Queue(QUEUED_BLOCKS)
        self._greeting = ask.greeting
        self._ended = False
        self._gone_at = 0.0
        self._stopping = False
        # the client's side of the format
        self._wants_usage = ask.show_cost or call.wants_usage
        self._told_usage = False
        self._done = False
        self._skip_blank = False
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
                for block in self._answer.blocks():
                    self._take(block)
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

    def _take(self, block: bytes) -> None:
        out: list[bytes] = []
        for line in block.splitlines(keepends=True) if b"\r" in block else _lines(block):
            kept = self._line(line, out)
            if not line.endswith(b"\n"):
                self._told_usage = (
                    False  # a last line that is not ended is metered and dropped (contract 5.4)
                )
            elif kept is not None:
                out.append(kept)
        self._flush(out)
        if self._meter.size > self._look_at and not self.ticket.over and not self.ticket.route.byok:
            self._look()

    def _look(self) -> None:
        """Count what was delivered, and let the hold grow when it is more than that covers."""
        delivered = tokens.count(self._meter.delivered)
        if delivered > self._covered:
            self._covered = self._gateway.cover(self.ticket, self._call, delivered)
        self._look_at = self._meter.size + max((self._covered - delivered) * DENSE, LOOK)

    def _line(self, line: bytes, out: list[bytes]) -> bytes | None:
        """Meter a line; what the client gets of it. `out` is sent first where that must not wait for the ledger."""
        bare = line.strip()
        if not bare:
            skip, self._skip_blank = self._skip_blank, False
            return None if skip else line
        self._skip_blank = False
        if not bare.startswith(b"data:"):
            return line
        payload = bare[5:].strip()
        if payload == b"[DONE]":
            self._flush(out)
            self._settle()
            if not self._told_usage:
                self._flush([self._usage_event()])
            self._done = True
            return line
        event = _event(payload)
        if event is None:
            return line
        self._meter.event(event)
        if self._meter.started and self.ticket.ttft_ms is None:
            self.ticket.first_token()
        if not isinstance(event.get("usage"), dict):
            return line
        if self._meter.billed and not self.ticket.over:
            self._flush(out)
            self._settle()
        return self._usage_line(event, line)

    def _usage_line(self, event: dict[str, Any], line: bytes) -> bytes | None:
        """The chunk with the usage as the client may see it: left out when it did not ask, with our figures where
        the provider's are missing or were not believed."""
        if not self._wants_usage:
            if event.get("choices"):
                return line
            self._skip_blank = True
            return None
        if self._usage is None:
            return line
        self._told_usage = True
        shown = event["usage"] if self._usage.source == "provider" else usage_object(self._usage)
        if self._ask.show_cost:
            shown = self._gateway.with_cost(shown, self._usage, self._cost)
        if shown is event["usage"]:
            return line
        return b"data: " + orjson.dumps({**event, "usage": shown}) + b"\n"

    def _usage_event(self) -> bytes:
        """A chunk of our own with the usage, for a provider that sent none."""
        if not self._wants_usage or self._usage is None or self._told_usage:
            return b""
        self._told_usage = True
        shown = usage_object(self._usage)
        if self._ask.show_cost:
            shown = self._gateway.with_cost(shown, self._usage, self._cost)
        event = {
            "id": self._meter.id or self.ticket.admission.request_id,
            "object": "chat.completion.chunk",
            "created": self._meter.created or int(time.time()),
            "model": self._meter.model or self._call.model,
            "choices": [],
            "usage": shown,
        }
        return b"data: " + orjson.dumps(event) + b"\n\n"

    def _settle(self, error: str | None = None) -> None:
        """Charge what was used, once. What produced nothing and reported nothing costs nothing."""
        if self.ticket.over:
            return
        meter, route = self._meter, self.ticket.route
        error = error or ("upstream_error" if meter.failure else None)
        usage = meter.usage()
        if usage is None and not meter.started and not meter.finished:
            self.ticket.fail(error or "upstream_error", None, client_gone=self.gone)
            return
        if usage is None or (error and not meter.billed):
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
        if self.gone or self._meter.finished or self._meter.billed:
            self._settle()
            self._flush([self._usage_event(), b"data: [DONE]\n\n"])
        elif self._meter.failure:
            self._settle()
        else:
            title = self.ticket.route.provider.title
            self._cut(Broken(f"{title} ended the connection before its answer was complete."))

    def _cut(self, error: UpstreamError) -> None:
        """The provider broke off: bill what was delivered, and say so to the client."""
        if self._stopping:
            error = Stopped("This server is stopping; the answer ends here. Ask again in a moment.")
        complete = self._meter.finished or self._meter.billed
        self._settle(None if complete else error.kind)
        if complete and not self._done:
            self._flush([b"\n", self._usage_event(), b"data: [DONE]\n\n"])
        elif not self._meter.failure and not self._done:
            self._tell(str(error), error.kind, error.type)

    def _tell(self, message: str, code: str, kind: str = UpstreamError.type) -> None:
        error = {"message": message, "type": kind, "code": code, "param": None}
        self._flush([b"\ndata: " + orjson.dumps({"error": error}) + b"\n\n"])

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


def _lines(block: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(block):
        end = block.find(b"\n", start) + 1 or len(block)
        yield block[start:end]
        start = end


def _event(payload: bytes) -> dict[str, Any] | None:
    try:
        event = orjson.loads(payload)
    except orjson.JSONDecodeError:
        try:
            event = orjson.loads(payload.decode("utf-8", "replace"))
        except orjson.JSONDecodeError:
            return None
    return event if isinstance(event, dict) else None


def _iso() -> str:
    return now().strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
