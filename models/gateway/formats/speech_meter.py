"""Meters generated speech: characters of the text, or the tokens that a stream of events reports."""

from collections.abc import Mapping
from math import ceil
from typing import Any

from models.gateway import tokens
from models.gateway.chat_format import Usage, find_failure
from models.gateway.formats.passed_meter import PassedMeter

UNIT = "characters"
TOKENS_PER_CHARACTER = 1.5
"""Tokens of speech: twenty per second, in which fifteen characters are said."""
MOST_TOKENS_PER_CHARACTER, EXTRA_TOKENS = 6, 256
"""The most that is held, at ordinary speed."""
SLOWEST = 0.25


class SpeechMeter(PassedMeter):
    """Speech itself is not kept."""

    size = 0
    """Bytes of the speech."""

    def event(self, event: Mapping[str, Any], *, is_error: bool = False) -> bool:
        kind = event.get("type")
        if is_error or event.get("error"):
            self.failure = find_failure(event, is_error=True)
        elif kind == "speech.audio.delta":
            self.add_speech(len(str(event.get("audio"))) * 3 // 4)
        elif kind == "speech.audio.done":
            usage = event.get("usage")
            self.end(usage if isinstance(usage, dict) else None)
        return self.billed

    def body(self, body: Mapping[str, Any]) -> None:
        """JSON in place of speech is an error."""
        self.failure = find_failure(body, is_error=True)

    def add_speech(self, size: int) -> None:
        """Add bytes of speech. What it costs is known at once; whether more follows is not."""
        if not size:
            return
        if not self.started:
            self.add_usage(None)
            self.billed = False
        self.started = True
        self.size += size
        self.summary = f"{self.size:,} bytes of speech"

    def end(self, usage: Mapping[str, Any] | None = None) -> None:
        """The speech is complete."""
        if self.started:
            self._ended = True
            self.add_usage(usage)

    def units(self) -> Mapping[str, int]:
        return {UNIT: len(self.call.client_body["input"])}

    def estimate(self) -> Usage | None:
        body = self.call.client_body
        output = ceil(len(body["input"]) * TOKENS_PER_CHARACTER / speed_of(body))
        text = tokens.count(spoken_text(body))
        return Usage(uncached_input=text, output=output, parts={"audio_output": output}, source="estimated")

    def numbers(self, usage: Mapping[str, Any]) -> Mapping[str, Any]:
        if "output_tokens_details" in usage:
            return usage
        return {**usage, "output_tokens_details": {"audio_tokens": usage.get("output_tokens")}}


def spoken_text(body: Mapping[str, Any]) -> str:
    """The text, and how to say it."""
    return "\n".join(body[key] for key in ("input", "instructions") if body.get(key))


def speed_of(body: Mapping[str, Any]) -> float:
    """The speed of a request; slower speech is longer."""
    speed = body.get("speed")
    return min(max(float(speed), SLOWEST), 4.0) if isinstance(speed, int | float) else 1.0


def most_tokens(body: Mapping[str, Any]) -> int:
    """The most tokens of the speech."""
    return ceil(len(body["input"]) * MOST_TOKENS_PER_CHARACTER / min(speed_of(body), 1.0)) + EXTRA_TOKENS
