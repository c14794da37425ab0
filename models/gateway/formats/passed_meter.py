"""The base of meters of answers that are passed on: usage by the provider's rules, nothing counted."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from models.gateway.chat_format import Call, Usage, find_failure
from models.gateway.chat_format.chat_parsing import MAX_MODEL
from models.gateway.chat_format.vendor_usage import find_usage
from models.gateway.formats.format_meter import FormatMeter
from models.gateway.served_ways import served_ways

UsageReader = Callable[[Mapping[str, Any]], Usage | None]


class PassedMeter(FormatMeter):
    """See `UsageMeter`. `read_usage` reads a usage object by the provider's rules. Subclasses say what an answer contains, and
    what it counts beside tokens. `by_tokens`: the model is priced by tokens, so those that are not reported are estimated."""

    by_tokens = True

    def __init__(self, read_usage: UsageReader, call: Call) -> None:
        super().__init__()
        self.call = call
        self.summary = ""
        """What is stored of the answer."""
        self._read_usage = read_usage
        self._ended = False

    @property
    def finished(self) -> bool:
        return self._ended

    @property
    def answer(self) -> Any:
        return self.summary

    @property
    def cost(self) -> Decimal | None:
        return self.reported.cost if self.reported else None

    def event(self, event: Mapping[str, Any], *, is_error: bool = False) -> bool:
        raise NotImplementedError(f"{type(self).__name__} reads no stream")

    def body(self, body: Mapping[str, Any]) -> None:
        self.read_head(body)
        self.summary = self.read_content(body)
        self.started = self._ended = bool(self.summary)
        if not self.started:
            self.failure = find_failure(body)
        self.add_usage(find_usage(body))

    def read_content(self, body: Mapping[str, Any]) -> str:
        """Describe a whole answer; empty if it has no content."""
        raise NotImplementedError

    def units(self) -> Mapping[str, int]:
        """What the answer counts in units with a price each."""
        return {}

    def read_head(self, body: Mapping[str, Any]) -> None:
        """Read the id, the model and the service tier of an answer or event."""
        self.served = served_ways(body) or self.served
        for name in ("id", "model"):
            value = body.get(name)
            if getattr(self, name) is None and isinstance(value, str) and value:
                setattr(self, name, value[:MAX_MODEL])

    @property
    def unit_source(self) -> str:
        """Where the units come from (`Usage.source`)."""
        return "counted"

    def estimate(self) -> Usage | None:
        """The tokens of an answer that reports none; None: the relay counts them."""
        return None

    def numbers(self, usage: Mapping[str, Any]) -> Mapping[str, Any]:
        """The usage object as the provider's rules read it."""
        return usage

    def add_usage(self, usage: Mapping[str, Any] | None, units: Mapping[str, int] | None = None) -> None:
        """Read the usage object, which may lack the output, and add the units: by default those of the whole answer."""
        parsed = self._read_usage({"completion_tokens": 0, **self.numbers(usage)}) if usage else None
        if usage:
            self.raw_usage = usage
            self.served = served_ways(usage) or self.served
        units = {name: count for name, count in (self.units() if units is None else units).items() if count}
        estimated = self.estimate() if self.by_tokens and parsed is None else None
        found = parsed or estimated or (Usage(source=self.unit_source) if units else None)
        if found is not None:
            self.reported = replace(found, raw=usage, parts={**found.parts, **units})
        self.billed = self.reported is not None
