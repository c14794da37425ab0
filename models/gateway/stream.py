"""A streamed answer: a pump thread reads the provider and fills a bounded queue, from which the client's side reads.

Only the pump settles: at the end of the answer, before its last chunk is sent, and also when the client has disconnected.
"""

import contextlib
import errno
import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping

from models.gateway.bill import Bill, Biller
from models.gateway.call_errors import ProviderError
from models.gateway.chat_format import Call
from models.gateway.dialects.dialect import CallRequest
from models.gateway.failover import is_fault
from models.gateway.hold_growth import GrowingHold
from models.gateway.idempotency import EVENT_STREAM, AnswerRecorder
from models.gateway.in_flight import InFlightCall
from models.gateway.upstream import BrokenConnection, EmptyAnswer, ProviderResponse, UpstreamError
from models.ledger.holds import LedgerUnavailable
from models.ledger.idempotent_calls import StoredAnswer

log = logging.getLogger("stoa.gateway")

HEARTBEAT_SECONDS = 30.0
QUEUED_BLOCKS = 256
FULL_PAUSE = 0.05
"""Seconds between checks of a full queue."""
DRAIN_SECONDS = 300.0
"""How long the pump reads on after the client has disconnected."""
UNFINISHED = "The client disconnected, and the answer was not read to its end."
STALL_SECONDS = 300.0
"""How long a client may read nothing before it counts as disconnected."""


class AnswerStream:
    """Iterates over the bytes for the client; `close` it when the client is done or disconnected. It is in `live` while it
    reads from its provider. `held_output`: output tokens that the call's hold covers. `start` is what was already read of
    the response."""

    def __init__(
        self,
        request: CallRequest,
        call: Call,
        in_flight: InFlightCall,
        response: ProviderResponse,
        biller: Biller,
        live: set["AnswerStream"],
        held_output: int,
        start: bytes = b"",
    ) -> None:
        self.in_flight = in_flight
        self.content_type = request.dialect.stream_type(call)
        self.client_gone = False
        self.dropped: tuple[str, ...] = ()
        self.run_left: int | None = None
        self.balance: int | None = None
        self.limits: Mapping[str, str] = {}
        self.served: str | None = None
        self._live = live
        self._dialect = request.dialect
        self._response = response
        self._biller = biller
        self._chunks = itertools.chain([start] if start else [], response.blocks())
        self._translator = request.dialect.translator(request, call, in_flight.route)
        self._meter = self._translator.meter
        self._kept = call.answer
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._greeting = request.dialect.greeting()
        self._recorder = AnswerRecorder() if in_flight.admission.claimed else None
        self._ended = False
        self._client_gone_at = 0.0
        # whether the end of the answer was sent
        self._end_sent = False
        self._failed = False
        self._bill: Bill | None = None
        self._hold = GrowingHold(call, in_flight, self._meter, held_output)

    def start(self) -> None:
        """Start the pump."""
        self._live.add(self)
        self.in_flight.abort_with(self._response.abort)
        threading.Thread(target=self._pump, name="stoa-pump", daemon=True).start()

    # -- the client's side -----------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._greeting:
            greeting, self._greeting = self._greeting, b""
            return greeting
        if self._ended:
            raise StopIteration
        try:
            block = self._queue.get(timeout=HEARTBEAT_SECONDS)
        except queue.Empty:
            if self.client_gone:
                raise StopIteration from None
            return self._dialect.heartbeat()
        if block is None:
            self._ended = True
            if self._broken:
                # nothing else tells the client that this is not all; the server closes the connection, as after a reset
                raise ConnectionResetError(errno.ECONNRESET, "the answer broke off")
            raise StopIteration
        return block

    def close(self) -> None:
        """Stop sending to the client. The pump reads on for the bill."""
        if self._ended or self.client_gone:
            return
        self._mark_gone()
        with contextlib.suppress(queue.Empty):
            while True:
                self._queue.get_nowait()

    # -- the provider's side ---------------------------------------------------------------------------------

    def _pump(self) -> None:
        try:
            try:
                for out in self._translated():
                    self._forward(out)
                    if self.client_gone and time.monotonic() - self._client_gone_at > DRAIN_SECONDS:
                        break
                self._finish()
            except UpstreamError as error:
                self._break_off(error)
            except LedgerUnavailable as error:
                self._send_error(error.message, error.code)
            except BaseException:
                log.exception("relaying call %s failed", self.in_flight.admission.request_id)
                self._break_off(BrokenConnection("The answer could not be relayed to its end."))
                raise
        except LedgerUnavailable as error:
            self._send_error(error.message, error.code)
        finally:
            self._response.close()
            self.in_flight.close()
            self._live.discard(self)
            self._enqueue(None)

    def _translated(self) -> Iterator[bytes]:
        """Translate the response chunk by chunk, including its last event when the response breaks off."""
        translator = self._translator
        try:
            for chunk in self._chunks:
                yield translator.feed(chunk)
        except UpstreamError:
            yield translator.end(cut=True)
            raise
        yield translator.end()

    def _forward(self, out: bytes) -> None:
        if self.in_flight.ttft_ms is None and self._meter.started:
            self.in_flight.first_token()
        self._send(out)
        if self._end_sent:
            return
        if self._translator.done:
            self._end()
        elif not self.in_flight.ended:
            self._hold.cover()

    # -- the end ---------------------------------------------------------------------------------------------

    def _end(self) -> None:
        """Complete the answer: settle, then send the final chunk and the end event."""
        meter, translator = self._meter, self._translator
        if meter.empty and not meter.finished and meter.failure is None:
            self._settle()
            self._send_empty_error()
        else:
            self._settle(last=lambda bill: translator.final_chunk(bill) + translator.end_event())
        self._end_sent = True

    def _settle(
        self,
        error: str | None = None,
        message: str | None = None,
        *,
        complete: bool = True,
        last: Callable[[Bill | None], bytes] = lambda bill: b"",
    ) -> None:
        """Charge the usage, once, and send what `last` makes of the bill: of a complete answer the last reported usage, else what
        was delivered, and no less than was reported on the way. An answer without content and without usage is not charged.
        `message`: the error in full."""
        if self.in_flight.ended:
            self._send(last(self._bill))
            return
        meter = self._meter
        if meter.failure and not error:
            error, complete = "upstream_error", meter.finished or meter.billed
            message = ProviderError(200, meter.failure).full_text
        if meter.empty:
            # the client got the head of the stream
            self.in_flight.fail(
                error or EmptyAnswer.kind, 200, message or self._empty_text, client_gone=self.client_gone
            )
            self._send(last(None))
            return
        self._bill = bill = self._biller.bill(self.in_flight.route, [meter], complete=complete)
        end = last(bill)
        self.in_flight.settle(
            bill.usage,
            bill.cost,
            bill.price,
            model=meter.model,
            message_id=meter.id,
            response=meter.answer,
            reasoning=meter.reasoning,
            client_gone=self.client_gone,
            error=error,
            error_message=message,
            answer=self._recorded(end),
        )
        if error is None and self._kept is not None:
            self._kept.keep()
        self._send(end)

    def _recorded(self, end: bytes) -> StoredAnswer | None:
        """What a retry with the call's idempotency key gets."""
        if self._recorder is None or self._broken:
            return None
        self._recorder.add(end)
        return self._recorder.stored(self.content_type, headers=self.in_flight.route_headers())

    def _finish(self) -> None:
        """Finish after the response ended, or the time to read on for a disconnected client has passed."""
        if self._end_sent:
            return
        meter = self._meter
        if meter.finished or meter.billed or meter.ended:
            self._end()
        elif meter.failure:
            self._settle(complete=False)
        elif self.client_gone:
            self._settle(complete=False, last=lambda bill: self._error(UNFINISHED, "client_gone"))
        elif meter.empty:
            self._settle()
            self._send_empty_error()
        else:
            title = self.in_flight.route.provider.title
            self._break_off(
                BrokenConnection(f"{title} closed the connection before its response was complete.")
            )

    def _break_off(self, error: UpstreamError) -> None:
        """End an incomplete answer: bill what was delivered and send the client an error."""
        if self._end_sent:
            return
        call = self.in_flight
        if call.breaker is not None and call.stop_error is None and is_fault(error):
            call.breaker.broke_off(error.kind)
        error = call.stop_error or error
        if self._meter.finished or self._meter.billed:
            self._end()
            return

        def last(bill: Bill | None) -> bytes:
            if self._meter.failure:
                return b""
            return self._translator.final_chunk(bill) + self._error(str(error), error.kind, error.type)

        self._settle(error.kind, str(error), complete=False, last=last)

    @property
    def _empty_text(self) -> str:
        title = self.in_flight.route.provider.title
        return f"{title} sent an empty answer. Nothing was charged; try again."

    def _send_empty_error(self) -> None:
        self._send_error(self._empty_text, EmptyAnswer.kind)

    def _send_error(self, message: str, code: str) -> None:
        self._send(self._error(message, code))

    def _error(self, message: str, code: str, kind: str = UpstreamError.type) -> bytes:
        self._failed = True
        return self._translator.error(message, code, kind)

    @property
    def _broken(self) -> bool:
        """Whether the answer failed in a format that cannot say so."""
        return self.content_type != EVENT_STREAM and (self._failed or self._meter.failure is not None)

    def _send(self, block: bytes) -> None:
        if block:
            if self._recorder is not None and not self.in_flight.ended:
                self._recorder.add(block)
            self._enqueue(block)

    def _enqueue(self, block: bytes | None) -> None:
        """Queue a block; waits while the queue is full."""
        # only the pump puts, so the bound holds; queue.Queue(maxsize) takes several times as long
        full_since = time.monotonic()
        while self._queue.qsize() >= QUEUED_BLOCKS and not (self.client_gone or self.in_flight.stop_error):
            time.sleep(FULL_PAUSE)
            if time.monotonic() - full_since >= STALL_SECONDS:
                self._mark_gone()
        if not self.client_gone:
            self._queue.put(block)

    def _mark_gone(self) -> None:
        self._client_gone_at = time.monotonic()
        self.client_gone = True
