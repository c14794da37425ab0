"""Meters transcriptions: seconds of audio, or tokens."""

from collections.abc import Mapping
from math import ceil
from typing import Any

from models.gateway import tokens
from models.gateway.chat_format import Usage, find_failure
from models.gateway.formats.audio_files import usual_seconds
from models.gateway.formats.passed_meter import PassedMeter

UNIT = "seconds"
TOKENS_PER_SECOND, MOST_TOKENS_PER_SECOND = 10, 25
"""Tokens of a second of audio, usual and most."""
OUTPUT_PER_SECOND, EXTRA_OUTPUT = 10, 512
"""The most tokens of text said in a second, and those of a text without speech."""
SILENCE = "(no speech)"


class TranscriptionMeter(PassedMeter):
    """Seconds are the provider's, else the file's."""

    _text = ""
    _seconds: int | None = None

    def event(self, event: Mapping[str, Any], *, is_error: bool = False) -> bool:
        kind = event.get("type")
        if is_error or event.get("error"):
            self.failure = find_failure(event, is_error=True)
        elif kind == "transcript.text.delta":
            delta = event.get("delta")
            self.started = True
            self.add({"content": delta if isinstance(delta, str) else ""})
            self._text = self.output.text.joined()
            self.summary = self._text
        elif kind == "transcript.text.done" or "text" in event:
            self.body(event)
        return self.billed

    def read_content(self, body: Mapping[str, Any]) -> str:
        text = body.get("text")
        if not isinstance(text, str):
            return ""
        self._text = text
        duration = body.get("duration")
        if isinstance(duration, int | float | str):
            self._seconds = _seconds(duration)
        return text or SILENCE

    def read_text(self, text: str, seconds: int) -> None:
        """Read text or subtitles, the last of which ends after this many seconds; 0: unknown."""
        self._text, self.summary = text, text.strip() or SILENCE
        if seconds > self._file_seconds:
            self._seconds = seconds
        self.started = self._ended = True
        self.add_usage(None)

    def add_usage(self, usage: Mapping[str, Any] | None, units: Mapping[str, int] | None = None) -> None:
        if usage and usage.get("type") == "duration":
            self._seconds = _seconds(usage.get("seconds")) or self._seconds
            super().add_usage(None, units)
            self.raw_usage = usage
        else:
            super().add_usage(usage, units)

    def numbers(self, usage: Mapping[str, Any]) -> Mapping[str, Any]:
        details = usage.get("input_token_details")
        return usage if details is None else {**usage, "input_tokens_details": details}

    def units(self) -> Mapping[str, int]:
        return {UNIT: self._seconds or self._file_seconds}

    @property
    def unit_source(self) -> str:
        if self._seconds:
            return "provider"
        return "counted" if all(file.seconds for file in self.call.files) else "estimated"

    def estimate(self) -> Usage | None:
        audio = (self._seconds or self._file_seconds) * TOKENS_PER_SECOND
        prompt = tokens.count(str(self.call.body.get("prompt") or ""))
        output = tokens.count(self._text)
        return Usage(
            uncached_input=audio + prompt, output=output, parts={"audio_input": audio}, source="estimated"
        )

    @property
    def _file_seconds(self) -> int:
        return sum(map(usual_seconds, self.call.files))


def _seconds(value: Any) -> int | None:
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return ceil(found) if 0 < found < 1e7 else None
