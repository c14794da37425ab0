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

from models.gateway import tokens
from models.gateway.bill import Bill, Biller
from models.gateway.chat_format import Call
from models.gateway.dialects.dialect import CallRequest
from models.gateway.in_flight import InFlightCall
from models.gateway.upstream import BrokenConnection, EmptyAnswer, ProviderResponse, UpstreamError
from models.ledger.holds import LedgerUnavailable

log = logging.getLogger("stoa.gateway")

HEARTBEAT_SECONDS = 30.0
QUEUED_BLOCKS = 256
FULL_PAUSE = 0.05
"""Seconds between two looks at a full queue."""
DRAIN_SECONDS = 300.0
"""How long a provider is read on for a client that has gone."""
LOOK = 512
"""Bytes that an answer grows by at least before its tokens are counted again."""
BOUNDED, UNBOUNDED, DENSE = 6, 3, 2
"""Bytes of text to a token: more than there are, since a bound that the client gave is the provider's to keep, and counting
takes time and 40 MB; as there are in program text; as few as there are in any but odd text."""
STALL_SECONDS = 300.0
"""How long a client may take nothing before it counts as gone."""


class ServerStopping(UpstreamError):
    """The server was told to end while the answer was on its way."""

    kind = "server_stopping"


class AnswerStream:
    """Iterate for the client's bytes; `close` when the client has what it wanted, or is gone. While its provider is read it
    is in `live`; `begun` is what was read of the answer before."""

    def __init__(
        self,
        request: CallRequest,
        call: Call,
        ticket: InFlightCall,
        answer: ProviderResponse,
        biller: Biller,
        live: set["AnswerStream"],
        begun: bytes = b"",
    ) -> None:
        self.ticket = ticket
        self.gone = False
        self.dropped: tuple[str, ...] = ()
        self._live = live
        self._dialect = request.dialect
        self._call = call
        self._answer = answer
        self._biller = biller
        self._pieces = itertools.chain([begun] if begun else [], answer.blocks())
        self._translator = request.dialect.translator(request, call, ticket.route)
        self._meter = self._translator.meter
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._greeting = request.dialect.greeting()
        self._ended = False
        self._gone_at = 0.0
        self._stopping = False
        # the client has been told how its answer ended
        self._over = False
        self._bill: Bill | None = None
        # tokens of output that the hold covers, and the size at which they are counted next
        self._covered = ticket.route.expected_output(call, call.n)
        self._look_at = self._covered * (UNBOUNDED if call.max_output is None else BOUNDED)

    def start(self) -> None:
        """Begin to read the provider."""
        self._live.add(self)
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
            greeting, self._greeting = self._greeting, b""
            return greeting
        if self._ended:
            raise StopIteration
        try:
            block = self._queue.get(timeout=HEARTBEAT_SECONDS)
        except queue.Empty:
            if self.gone:
                raise StopIteration from None
            return self._dialect.heartbeat()
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
                for out in self._translated():
                    self._take(out)
                    if self.gone and time.monotonic() - self._gone_at > DRAIN_SECONDS:
                        break
                self._finish()
            except UpstreamError as error:
                self._cut(error)
            except LedgerUnavailable as error:
                self._tell(error.message, error.code)
            except BaseException:
                log.exception("relaying call %s failed", self.ticket.admission.request_id)
                self._cut(BrokenConnection("The answer could not be relayed to its end."))
                raise
        except LedgerUnavailable as error:
            self._tell(error.message, error.code)
        finally:
            self._answer.close()
            self.ticket.close()
            self._live.discard(self)
            self._put(None)

    def _translated(self) -> Iterator[bytes]:
        """What the client is sent of each piece of the answer, as it comes; of its last event too, when its end is missing."""
        translator = self._translator
        try:
            for piece in self._pieces:
                yield translator.feed(piece)
        except UpstreamError:
            yield translator.end(cut=True)
            raise
        yield translator.end()

    def _take(self, out: bytes) -> None:
        if self.ticket.ttft_ms is None and self._meter.started:
            self.ticket.first_token()
        self._give(out)
        if self._over:
            return
        if self._translator.done:
            self._end()
        elif self._may_exceed() and not self.ticket.over and not self.ticket.route.byok:
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
            self._covered = self.ticket.cover(self._call, delivered)
        self._look_at = self._meter.output.size + max((self._covered - delivered) * DENSE, LOOK)

    # -- the end ---------------------------------------------------------------------------------------------

    def _end(self) -> None:
        """The answer is complete: settle, then pass on its last words and the end."""
        self._settle()
        meter = self._meter
        if meter.empty and not meter.finished and meter.failure is None:
            self._tell_empty()
        else:
            self._give(self._translator.last_words(self._bill) + self._translator.closing())
        self._over = True

    def _settle(self, error: str | None = None, *, complete: bool = True) -> None:
        """Charge what was used, once: the last usage that was reported for a complete answer, else what was delivered,
        and no less than was reported on the way. What produced nothing and reported nothing costs nothing."""
        if self.ticket.over:
            return
        meter = self._meter
        if meter.failure and not error:
            error, complete = "upstream_error", meter.finished or meter.billed
        if meter.empty:
            self.ticket.fail(error or EmptyAnswer.kind, None, client_gone=self.gone)
            return
        self._bill = bill = self._biller.bill(self.ticket.route, [meter], complete=complete)
        self.ticket.settle(
            bill.usage,
            bill.cost,
            bill.price,
            model=meter.model,
            message_id=meter.id,
            response=meter.answer,
            reasoning=meter.reasoning,
            client_gone=self.gone,
            error=error,
        )

    def _finish(self) -> None:
        """The provider has nothing more to say, or is not listened to any longer."""
        if self._over:
            return
        meter = self._meter
        if meter.finished or meter.billed or meter.ended:
            self._end()
        elif meter.failure or self.gone:
            self._settle(complete=False)
        elif meter.empty:
            self._settle()
            self._tell_empty()
        else:
            title = self.ticket.route.provider.title
            self._cut(BrokenConnection(f"{title} ended the connection before its answer was complete."))

    def _cut(self, error: UpstreamError) -> None:
        """The provider broke off: bill what was delivered, and say so to the client."""
        if self._over:
            return
        if self._stopping:
            error = ServerStopping("This server is stopping; the answer ends here. Ask again in a moment.")
        if self._meter.finished or self._meter.billed:
            self._end()
            return
        self._settle(error.kind, complete=False)
        if not self._meter.failure:
            self._give(self._translator.last_words(self._bill))
            self._tell(str(error), error.kind, error.type)

    def _tell_empty(self) -> None:
        title = self.ticket.route.provider.title
        self._tell(f"{title} sent an empty answer. Nothing was charged; try again.", EmptyAnswer.kind)

    def _tell(self, message: str, code: str, kind: str = UpstreamError.type) -> None:
        self._give(self._translator.error(message, code, kind))

    def _give(self, block: bytes) -> None:
        if block:
            self._put(block)

    def _put(self, block: bytes | None) -> None:
        """Queue a block, once the client has taken so many that there is room."""
        # the pump alone puts, so the bound holds; a queue that keeps it by itself takes several times as long
        full_since = time.monotonic()
        while self._queue.qsize() >= QUEUED_BLOCKS and not self.gone:
            time.sleep(FULL_PAUSE)
            if time.monotonic() - full_since >= STALL_SECONDS:
                self._leave()
        if not self.gone:
            self._queue.put(block)

    def _leave(self) -> None:
        self._gone_at = time.monotonic()
        self.gone = True
