"""OpenAI's transcription API (`/v1/audio/transcriptions`, `/v1/audio/translations`)."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from models.accounts.scopes import AUDIO
from models.gateway import tokens
from models.gateway.bill import Bill
from models.gateway.chat_format import BadCall, Call, UploadedFile
from models.gateway.chat_format.chat_parsing import BYTES_PER_TOKEN
from models.gateway.dialects.dialect import CallRequest, IncomingRequest, Reply, WholeAnswer
from models.gateway.dialects.passed_stream import PassedStream
from models.gateway.dialects.passing import PassingDialect
from models.gateway.dialects.reading import passed_meter, read_passed_answer
from models.gateway.formats.audio_files import file_seconds, usual_seconds
from models.gateway.formats.body_checks import object_of
from models.gateway.formats.passed_parsing import (
    read_choice,
    read_flag,
    read_form_values,
    read_model,
    text_size,
)
from models.gateway.formats.transcription_meter import TOKENS_PER_SECOND, UNIT, TranscriptionMeter
from models.gateway.route import Route

MAX_FILE_BYTES = 25 << 20
FORMATS = ("json", "text", "srt", "verbose_json", "vtt", "diarized_json")
TEXT_FORMATS = ("srt", "vtt", "text")
"""Formats that are no JSON. Plain text is taken from JSON, which reports the usage, if the provider sends it."""
PLAIN = "text/plain; charset=utf-8"


class TranscriptionsDialect(PassingDialect):
    """An audio file in a form. `format`: transcriptions or translations."""

    door = "transcriptions"
    scope = AUDIO
    form_limit = 1

    def __init__(self, format: str = "transcriptions") -> None:
        self.format = format

    def parse(self, received: IncomingRequest) -> Call:
        body = read_form_values(object_of(received.body), ("temperature",), ("stream",))
        model = read_model(body)
        read_choice(body, "response_format", FORMATS)
        prompt = body.get("prompt")
        if prompt is not None and not isinstance(prompt, str):
            raise BadCall("'prompt' must be a text.", param="prompt")
        file = _audio_file(received)
        size = text_size([prompt or ""])
        return Call(
            model=model,
            stream=read_flag(body, "stream"),
            n=1,
            max_output=0,
            input_tokens=size // BYTES_PER_TOKEN + 1,
            text_bytes=size,
            body=body,
            format=self.format,
            files=(file,),
        )

    def inputs(self, call: Call) -> list[str]:
        (file,) = call.files
        length = "of unknown length" if file.seconds is None else f"{file.seconds} seconds"
        return [f"[audio: {file.name[:200]}, {length}]", *filter(None, [call.body.get("prompt")])]

    def count_input(self, call: Call) -> tuple[int, dict[str, int]]:
        seconds = usual_seconds(call.files[0])
        audio = seconds * TOKENS_PER_SECOND
        return tokens.count(call.body.get("prompt") or "") + audio, {"audio_input": audio, UNIT: seconds}

    def read_answer(self, raw: bytes, call: Call, route: Route, headers: Mapping[str, str]) -> WholeAnswer:
        meter = passed_meter(call, route)
        is_json = "json" in (headers.get("Content-Type") or headers.get("content-type") or "")
        if call.body.get("response_format") in TEXT_FORMATS and not is_json:
            text = raw.decode("utf-8", "replace")
            assert isinstance(meter, TranscriptionMeter)
            meter.read_text(text, _last_second(text))
            return WholeAnswer(raw, text, meter)
        return read_passed_answer(raw, route, headers, meter)

    def reply(self, call: Call, answers: Sequence[WholeAnswer], bill: Bill) -> Reply:
        answer, format = answers[0], call.client_body.get("response_format")
        if isinstance(answer.value, str):
            return Reply(answer.raw, PLAIN)
        if format == "text" and isinstance(answer.value.get("text"), str):
            return Reply(f"{answer.value['text']}\n".encode("utf-8", "replace"), PLAIN)
        return Reply(answer.raw)

    def translator(self, request: CallRequest, call: Call, route: Route) -> PassedStream:
        return PassedStream(request.request_id, call, route)


def _audio_file(received: IncomingRequest) -> UploadedFile:
    file = next((each for each in received.files if each.key == "file"), None)
    if file is None or not file.data:
        raise BadCall("'file' must be an audio file, in a multipart form.", param="file")
    if len(file.data) > MAX_FILE_BYTES:
        raise BadCall(f"'file' has more than {MAX_FILE_BYTES >> 20} MB. Compress or divide it.", param="file")
    return replace(file, seconds=file_seconds(file))


_TIME = re.compile(r"(?:(\d{1,3}):)?(\d{2}):(\d{2})[.,]\d{3}")


def _last_second(subtitles: str) -> int:
    """The end of the last subtitle, in seconds."""
    times = (
        (int(hours or 0), int(minutes), int(seconds)) for hours, minutes, seconds in _TIME.findall(subtitles)
    )
    return max((hours * 3600 + minutes * 60 + seconds + 1 for hours, minutes, seconds in times), default=0)
