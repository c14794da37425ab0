"""A whole answer read from the provider as a stream: its hold starts small and grows, and the answer ends with the credits."""

import time

from models.gateway.call_errors import ProviderError
from models.gateway.chat_format import Call
from models.gateway.dialects.dialect import Dialect, WholeAnswer
from models.gateway.hold_growth import GrowingHold
from models.gateway.in_flight import HoldNotGrown, InFlightCall, OutOfCredits
from models.gateway.route import Route
from models.gateway.upstream import ProviderResponse, UpstreamError

WHOLE_ONLY_SECONDS = 3600.0
"""How long a model whose provider refused to stream it is asked for whole answers only."""
MAX_WHOLE_ONLY = 1_000
_REFUSALS = (400, 404, 405, 422, 501)
"""Statuses with which providers refuse to stream."""


class AnswerEnded(Exception):
    """The answer was ended before it was complete, because of `error`. `answer` is what was received."""

    def __init__(self, error: UpstreamError, answer: WholeAnswer) -> None:
        super().__init__(str(error))
        self.error = error
        self.answer = answer


class WholeOnlyModels:
    """Models whose providers do not stream them, as learned by this process."""

    def __init__(self) -> None:
        self._until: dict[tuple[str, str], float] = {}

    def add(self, route: Route) -> None:
        """Ask for whole answers of the route's model from now on."""
        if len(self._until) >= MAX_WHOLE_ONLY:
            self._until.clear()
        self._until[route.provider.name, route.model] = time.monotonic() + WHOLE_ONLY_SECONDS

    def clear(self) -> None:
        """Forget them."""
        self._until.clear()

    def __contains__(self, route: Route) -> bool:
        return self._until.get((route.provider.name, route.model), 0.0) > time.monotonic()


def can_stream(dialect: Dialect, call: Call) -> bool:
    """Whether a stream carries everything that the whole answer would. Not several choices, whose usage is ambiguous;
    not audio or images; not JSON that OpenRouter repairs when it is complete."""
    body = call.body
    plugins = body.get("plugins")
    repaired = isinstance(plugins, list) and any(
        isinstance(plugin, dict) and plugin.get("id") == "response-healing" for plugin in plugins
    )
    text_only = body.get("modalities") in (None, ["text"]) and body.get("audio") is None
    return dialect.collects and call.n == call.answers == 1 and text_only and not repaired


def refuses_to_stream(error: ProviderError) -> bool:
    """Whether a provider's error is about the stream that it was asked for."""
    words = f"{error.failure.param} {error.failure.message}".lower()
    return error.status in _REFUSALS and "stream" in words


def read_whole_stream(
    dialect: Dialect,
    call: Call,
    in_flight: InFlightCall,
    response: ProviderResponse,
    held_output: int,
    start: bytes,
) -> WholeAnswer:
    """Read the answer to its end. `start` is what was already read of the response. Raises ProviderError, UpstreamError;
    AnswerEnded when the hold cannot grow, or the call is stopped."""
    collector = dialect.collector(call, in_flight.route, response.headers)
    meter = collector.meter
    hold = GrowingHold(call, in_flight, meter, held_output)
    in_flight.abort_with(response.abort)
    try:
        collector.feed(start)
        for chunk in response.blocks():
            collector.feed(chunk)
            if not collector.done:
                hold.cover()
    except (OutOfCredits, HoldNotGrown) as error:
        raise AnswerEnded(error, collector.partial()) from error
    except UpstreamError as error:
        if in_flight.stop_error is None and not (meter.finished or meter.billed):
            error.arrived = meter.answer or None
            raise
    if (stopped := in_flight.stop_error) and not (meter.finished or meter.billed):
        raise AnswerEnded(stopped, collector.partial())
    return collector.answer()
