"""Grows the hold of a call while its answer arrives."""

from models.gateway import tokens
from models.gateway.chat_format import Call, UsageMeter
from models.gateway.in_flight import InFlightCall
from models.gateway.route import MAX_OUTPUT

RECOUNT_BYTES = 512
"""Bytes of output between two token counts, at least."""
BOUNDED_RATIO, DENSE_RATIO = 6, 2
"""Bytes of text per token that decide when to count. If the hold covers the client's limit: more than real text has, since
the provider keeps the limit and counting costs time and 40 MB. Else as in dense text."""


class GrowingHold:
    """The hold of a call whose answer `meter` reads. `held_output`: output tokens that it covers."""

    def __init__(self, call: Call, in_flight: InFlightCall, meter: UsageMeter, held_output: int) -> None:
        self._call = call
        self._in_flight = in_flight
        self._meter = meter
        self._covered = held_output
        self._limit = in_flight.route.held_output(call, call.n, MAX_OUTPUT)
        bounded = call.max_output is not None and held_output >= self._limit
        # the output size at which to count next
        self._recount_at = held_output * (BOUNDED_RATIO if bounded else DENSE_RATIO)

    def cover(self) -> None:
        """Grow the hold if the output so far may exceed it; call this after each chunk of the unfinished answer. Raises
        OutOfCredits, HoldNotGrown."""
        if self._may_exceed() and not self._in_flight.route.byok:
            self._recount()

    def _may_exceed(self) -> bool:
        meter = self._meter
        if meter.output.size > self._recount_at:
            return True
        return meter.reported is not None and meter.reported.output > self._covered and not meter.finished

    def _recount(self) -> None:
        """Count the output so far, and grow the hold if that, or the reported output, may exceed what it covers before the
        next count."""
        delivered, _ = tokens.count_output(self._meter.output)
        if self._meter.reported is not None:
            delivered = max(delivered, self._meter.reported.output)
        # a provider keeps the limit
        needed = max(delivered, min(delivered + RECOUNT_BYTES // DENSE_RATIO, self._limit))
        if needed > self._covered:
            self._covered = self._in_flight.hold_for_output(self._call, needed)
        self._recount_at = self._meter.output.size + max(
            (self._covered - delivered) * DENSE_RATIO, RECOUNT_BYTES
        )
