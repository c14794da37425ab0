"""Meters generated and edited images, whole and as streams."""

from collections.abc import Mapping
from typing import Any

from models.gateway.chat_format import Usage, find_failure
from models.gateway.formats.image_requests import image_tokens, unit_of
from models.gateway.formats.passed_meter import PassedMeter


class ImagesMeter(PassedMeter):
    """Counts images by size and quality; they are not kept. All output tokens are images unless the provider says otherwise."""

    def event(self, event: Mapping[str, Any], *, is_error: bool = False) -> bool:
        kind = str(event.get("type"))
        if kind.endswith(".partial_image"):
            self.started = True
        elif kind.endswith(".completed"):
            self._add(1, event)
            return self._add_event_usage(event)
        elif isinstance(event.get("data"), list):
            self.body(event)
            return self.billed
        elif is_error or event.get("error"):
            self.failure = find_failure(event, is_error=True)
        return False

    def read_content(self, body: Mapping[str, Any]) -> str:
        data = body.get("data")
        count = len(data) if isinstance(data, list) else 0
        if count:
            self._add(count, body)
        return self.summary

    def units(self) -> Mapping[str, int]:
        return {self._unit: self._images} if self._images else {}

    def estimate(self) -> Usage | None:
        if not self._images:
            return None
        tokens = self._images * image_tokens(self.call.client_body)
        return Usage(output=tokens, parts={"image_output": tokens}, source="estimated")

    def numbers(self, usage: Mapping[str, Any]) -> Mapping[str, Any]:
        if "output_tokens_details" in usage:
            return usage
        return {**usage, "output_tokens_details": {"image_tokens": usage.get("output_tokens")}}

    _images = 0
    _unit = ""

    def _add(self, count: int, body: Mapping[str, Any]) -> None:
        self.started = self._ended = True
        self._images += count
        self._unit = unit_of(body, self.call.client_body)
        size = " ".join(part for part in self._unit.split(":")[1:] if part != "auto")
        self.summary = f"{self._images} image{'s' if self._images > 1 else ''}{f' ({size})' if size else ''}"

    def _add_event_usage(self, event: Mapping[str, Any]) -> bool:
        """Each image of a stream reports its own tokens."""
        before, usage = self.reported, event.get("usage")
        self.add_usage(usage if isinstance(usage, dict) else None, units={self._unit: 1})
        if before is not None and self.reported is not None:
            self.reported = before + self.reported
        return self.billed
