"""`/v1/audio/*`: OpenAI's audio API."""

from typing import Any, Literal

from flask import Blueprint
from pydantic import BaseModel, ConfigDict, Field
from werkzeug import Response

from models.core.strict_models import Missing
from models.gateway.dialects import SPEECH, TRANSCRIPTIONS, TRANSLATIONS
from models.gateway.dialects.speech import MAX_CHARACTERS
from models.gateway.dialects.transcriptions import MAX_FILE_BYTES
from views.gateway.api.model_calls import CALL_ERRORS, CALL_HEADERS, DOOR, call_model
from views.web.fast_path import MAX_UPLOAD_BYTES, RequestContext, fast_route
from views.web.operation import Operation, ResponseModel

bp = Blueprint("gateway_audio", __name__)


class SpeechBody(BaseModel):
    """Documentation only: the dialect parses the body (`models/gateway/dialects`)."""

    model: str = Field(
        min_length=1, description="An id from GET /v1/models", examples=["openai/gpt-4o-mini-tts"]
    )
    input: str = Field(min_length=1, max_length=MAX_CHARACTERS, description="The text to speak")
    voice: str | dict[str, Any]
    instructions: Missing[str] = None
    response_format: Missing[Literal["mp3", "opus", "aac", "flac", "wav", "pcm"]] = None
    speed: Missing[float] = Field(None, ge=0.25, le=4)
    stream_format: Missing[Literal["audio", "sse"]] = Field(
        None, description="sse: events with the audio in base64"
    )


class TranscriptionBody(BaseModel):
    """A multipart form."""

    file: str = Field(
        description=f"The audio file, up to {MAX_FILE_BYTES >> 20} MB: flac, mp3, mp4, m4a, ogg, wav or webm"
    )
    model: str = Field(min_length=1, description="An id from GET /v1/models", examples=["openai/whisper-1"])
    language: Missing[str] = None
    prompt: Missing[str] = None
    response_format: Missing[Literal["json", "text", "srt", "verbose_json", "vtt", "diarized_json"]] = None
    stream: Missing[bool] = Field(None, description="Answer as server-sent events")
    temperature: Missing[float] = None


class TranscribedText(ResponseModel):
    """The provider's response; it may have more fields. Other formats are text."""

    model_config = ConfigDict(extra="allow")

    text: str
    usage: Missing[dict[str, Any]] = None


@fast_route(bp, "/v1/audio/speech", "/api/v1/audio/speech")
@Operation(
    tag="Embeddings and media",
    caller="key",
    scope=SPEECH.scope,
    body=SpeechBody,
    parameters=CALL_HEADERS,
    answers={
        200: "The audio, as it is generated. A connection that closes early says that the rest failed",
        **CALL_ERRORS,
    },
    door=DOOR,
)
def speech(context: RequestContext) -> Response:
    """Generate speech.

    Charged by the characters of the text, or by the tokens that the provider reports.
    """
    return call_model(context, SPEECH)


@fast_route(bp, "/v1/audio/transcriptions", "/api/v1/audio/transcriptions")
@Operation(
    tag="Embeddings and media",
    caller="key",
    scope=TRANSCRIPTIONS.scope,
    body=TranscriptionBody,
    max_bytes=MAX_UPLOAD_BYTES,
    parameters=CALL_HEADERS,
    answers={200: ("The text, or its stream", TranscribedText), **CALL_ERRORS},
    door=DOOR,
)
def transcriptions(context: RequestContext) -> Response:
    """Transcribe audio.

    Charged by the seconds that the provider reports, else those of the file, or by tokens.
    """
    return call_model(context, TRANSCRIPTIONS)


@fast_route(bp, "/v1/audio/translations", "/api/v1/audio/translations")
@Operation(
    tag="Embeddings and media",
    caller="key",
    scope=TRANSLATIONS.scope,
    body=TranscriptionBody,
    max_bytes=MAX_UPLOAD_BYTES,
    parameters=CALL_HEADERS,
    answers={200: ("The text in English", TranscribedText), **CALL_ERRORS},
    door=DOOR,
)
def translations(context: RequestContext) -> Response:
    """Translate audio into English.

    Charged like transcriptions.
    """
    return call_model(context, TRANSLATIONS)
