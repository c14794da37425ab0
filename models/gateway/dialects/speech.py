"""OpenAI's speech API (`/v1/audio/speech`)."""

import binascii
from base64 import b64decode
from typing import Any

from models.accounts.scopes import AUDIO
from models.gateway import tokens
from models.gateway.bill import Bill
from models.gateway.chat_format import BadCall, Call, UsageMeter
from models.gateway.chat_format.chat_parsing import BYTES_PER_TOKEN
from models.gateway.dialects.dialect import CallRequest, IncomingRequest, StreamTranslator
from models.gateway.dialects.passed_stream import PassedStream
from models.gateway.dialects.passing import PassingDialect
from models.gateway.dialects.reading import passed_meter
from models.gateway.formats.body_checks import object_of
from models.gateway.formats.passed_parsing import read_choice, read_model, read_text, text_size
from models.gateway.formats.speech_meter import UNIT, SpeechMeter, spoken_text
from models.gateway.route import Route
from models.gateway.sse import SseEvent

MAX_CHARACTERS = 100_000
EVENTS = "sse"
CONTENT_TYPES = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}


class SpeechStream:
    """Speech as bytes: passed on as they come, the last of them after it was billed. Has no way to say that something failed but
    to break off."""

    def __init__(self, call: Call, route: Route) -> None:
        meter = passed_meter(call, route)
        assert isinstance(meter, SpeechMeter)
        self.meter: UsageMeter = meter
        self.done = False
        self._speech = meter
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        out, self._held = self._held, chunk
        self._speech.add_speech(len(chunk))
        return out

    def end(self, *, cut: bool = False) -> bytes:
        if not cut:
            self._speech.end()
        return b""

    def final_chunk(self, bill: Bill | None) -> bytes:
        held, self._held = self._held, b""
        return held

    def end_event(self) -> bytes:
        return b""

    def error(self, message: str, code: str, kind: str) -> bytes:
        return b""


class SpokenEvents(PassedStream):
    """Events of speech, which report their tokens, for a client that wants the bytes."""

    def error(self, message: str, code: str, kind: str) -> bytes:
        return b""

    def passed(self, value: dict[str, Any], event: SseEvent) -> bytes:
        audio = value.get("audio")
        if value.get("type") != "speech.audio.delta" or not isinstance(audio, str):
            return b""
        try:
            return b64decode(audio)
        except binascii.Error:
            return b""


class SpeechDialect(PassingDialect):
    """A text in, speech out, streamed as it is generated."""

    door = "speech"
    scope = AUDIO

    def parse(self, received: IncomingRequest) -> Call:
        body = object_of(received.body)
        model = read_model(body)
        read_text(body, "input", MAX_CHARACTERS)
        read_choice(body, "stream_format", ("audio", EVENTS))
        read_choice(body, "response_format", tuple(CONTENT_TYPES))
        if body.get("instructions") is not None and not isinstance(body["instructions"], str):
            raise BadCall("'instructions' must be a text.", param="instructions")
        speed = body.get("speed")
        if speed is not None and (type(speed) not in (int, float) or not 0.25 <= speed <= 4):
            raise BadCall("'speed' must be a number from 0.25 to 4.", param="speed")
        size = text_size([spoken_text(body)])
        return Call(
            model=model,
            stream=True,
            n=1,
            max_output=0,
            input_tokens=size // BYTES_PER_TOKEN + 1,
            text_bytes=size,
            body=body,
            format="speech",
        )

    def inputs(self, call: Call) -> list[str]:
        return [spoken_text(call.client_body)]

    def count_input(self, call: Call) -> tuple[int, dict[str, int]]:
        body = call.client_body
        return tokens.count(spoken_text(body)), {UNIT: len(body["input"])}

    def stream_type(self, call: Call) -> str:
        body = call.client_body
        if body.get("stream_format") == EVENTS:
            return super().stream_type(call)
        return CONTENT_TYPES[body.get("response_format") or "mp3"]

    def translator(self, request: CallRequest, call: Call, route: Route) -> StreamTranslator:
        if call.client_body.get("stream_format") == EVENTS:
            return PassedStream(request.request_id, call, route)
        if route.provider.speaks_in_events(route.model):
            return SpokenEvents(request.request_id, call, route)
        return SpeechStream(call, route)

    def heartbeat(self) -> bytes:
        return b""
