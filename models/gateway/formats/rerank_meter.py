"""Meters answers of ranking: search units, or tokens."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from models.gateway.chat_format.chat_parsing import strings
from models.gateway.chat_format.reported_numbers import parse_tokens
from models.gateway.formats.passed_meter import PassedMeter
from models.gateway.formats.passed_parsing import text_size

UNIT = "search_units"
UNIT_DOCUMENTS, CHUNK_BYTES = 100, 1_000
"""Documents of a search unit, and the bytes from which a document may count as several: vendors divide at 500 tokens."""


class RerankMeter(PassedMeter):
    """Search units are reported beside the tokens (OpenRouter) or as billed units (Cohere)."""

    def read_content(self, body: Mapping[str, Any]) -> str:
        results = body.get("results") or body.get("data")
        count = len(results) if isinstance(results, list) else 0
        return f"{count} document{'s' if count != 1 else ''} ranked" if count else ""

    def add_usage(self, usage: Mapping[str, Any] | None, units: Mapping[str, int] | None = None) -> None:
        if not usage:
            return
        billed = usage.get("billed_units")
        billed = billed if isinstance(billed, dict) else {}
        count = parse_tokens(usage.get(UNIT, billed.get(UNIT)))
        # the general rules would count them as searches of the web
        rest = {name: value for name, value in usage.items() if name not in (UNIT, "billed_units")}
        if tokens := {name: value for name, value in billed.items() if name != UNIT}:
            rest["billed_units"] = {"output_tokens": 0, **tokens}
        super().add_usage(rest)
        self.raw_usage = usage
        if self.reported is None and count is not None:
            self.reported = self._read_usage({**rest, "prompt_tokens": 0, "completion_tokens": 0})
        if self.reported is not None:
            parts = {**self.reported.parts, **({UNIT: count} if count else {})}
            self.reported = replace(self.reported, parts=parts, raw=usage)
            self.billed = count is not None or self.reported.cost is not None or self.reported.input > 0


def search_units(documents: list[Any], query: str) -> int:
    """The search units of a request: one for a hundred documents, of which long ones count several times."""
    extra = text_size([query])
    chunks = sum(1 + (text_size(list(strings(each))) + extra) // CHUNK_BYTES for each in documents)
    return -(-chunks // UNIT_DOCUMENTS)
