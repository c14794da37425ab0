"""The keys of requests that are passed on whose value affects the price of a call, and the reader of each, by format."""

from collections.abc import Mapping
from typing import Any

from models.gateway.formats import rerank_meter, speech_meter, transcription_meter
from models.gateway.formats.audio_files import most_seconds
from models.gateway.formats.image_requests import INPUT_IMAGE_TOKENS, image_count, image_tokens, unit_of
from models.gateway.price_factors import (
    FactorReader,
    KeyReader,
    free,
    limits,
    only,
    read_part,
    read_provider,
    read_tier,
)

EMBEDDINGS: Mapping[str, KeyReader] = {
    **dict.fromkeys(
        ("model", "encoding_format", "dimensions", "user", "input_type", "truncate", "task"), free
    ),
    "input": limits,
    "provider": read_provider,
}


def _classified(key: str, given: Any, reader: FactorReader) -> None:
    for index, part in enumerate(given if isinstance(given, list) else ()):
        if isinstance(part, dict):
            read_part(f"{key}[{index}]", part, reader)


MODERATIONS: Mapping[str, KeyReader] = {"model": free, "input": _classified}


def _documents(key: str, documents: Any, reader: FactorReader) -> None:
    reader.add_units(rerank_meter.UNIT, rerank_meter.search_units(documents, reader.call.body["query"]), key)


RERANK: Mapping[str, KeyReader] = {
    **dict.fromkeys(
        ("model", "top_n", "return_documents", "rank_fields", "max_tokens_per_doc", "truncation"), free
    ),
    "query": limits,
    "documents": _documents,
    "provider": read_provider,
}


def _images(key: str, prompt: Any, reader: FactorReader) -> None:
    """All of what the images of a request may cost: generated at most at the size and quality requested."""
    body = reader.call.body
    count = image_count(body)
    reader.add_units(unit_of(body), count, "size")
    reader.factors.output += count * image_tokens(body)
    if files := len(reader.call.files):
        reader.add("image_input", files * INPUT_IMAGE_TOKENS, files * INPUT_IMAGE_TOKENS // 2)


def _edited(key: str, images: Any, reader: FactorReader) -> None:
    for index, image in enumerate(images if isinstance(images, list) else [images]):
        if isinstance(image, dict) and image.get("file_id"):
            raise reader.refuse(
                f"{key}[{index}].file_id",
                "it refers to a file in the account of the server. Send the data instead.",
            )
        reader.add("image_input", INPUT_IMAGE_TOKENS, INPUT_IMAGE_TOKENS // 2)


IMAGES: Mapping[str, KeyReader] = {
    **dict.fromkeys(
        (
            *(
                "model",
                "stream",
                "background",
                "moderation",
                "output_compression",
                "output_format",
                "complexity",
            ),
            *(
                "response_format",
                "style",
                "user",
                "safety_identifier",
                "input_fidelity",
                "frame_duration_ms",
                "seed",
            ),
        ),
        free,
    ),
    **dict.fromkeys(("n", "size", "quality", "partial_images", "frame_count"), limits),
    "prompt": _images,
    **dict.fromkeys(("images", "image", "mask"), _edited),
    # a vector is drawn by another model, at its own price
    "svg": only(),
}


def _spoken(key: str, text: Any, reader: FactorReader) -> None:
    reader.add_units(speech_meter.UNIT, len(text), key)
    reader.factors.output += speech_meter.most_tokens(reader.call.body)
    reader.factors.audio = True


SPEECH: Mapping[str, KeyReader] = {
    **dict.fromkeys(("model", "voice", "response_format", "stream_format"), free),
    **dict.fromkeys(("instructions", "speed"), limits),
    "input": _spoken,
}


def _transcribed(key: str, model: Any, reader: FactorReader) -> None:
    seconds = sum(map(most_seconds, reader.call.files))
    reader.add_units(transcription_meter.UNIT, seconds, "file")
    most, usual = transcription_meter.MOST_TOKENS_PER_SECOND, transcription_meter.TOKENS_PER_SECOND
    reader.add("audio_input", seconds * most, seconds * usual)
    reader.factors.output += (
        seconds * transcription_meter.OUTPUT_PER_SECOND + transcription_meter.EXTRA_OUTPUT
    )


TRANSCRIPTIONS: Mapping[str, KeyReader] = {
    **dict.fromkeys(("stream", "language", "response_format", "temperature", "include[]", "include"), free),
    "model": _transcribed,
    "prompt": limits,
    "service_tier": read_tier,
}

PASSED_FORMATS: Mapping[str, Mapping[str, KeyReader]] = {
    "embeddings": EMBEDDINGS,
    "moderations": MODERATIONS,
    "rerank": RERANK,
    "images": IMAGES,
    "image_edits": IMAGES,
    "speech": SPEECH,
    "transcriptions": TRANSCRIPTIONS,
    "translations": TRANSCRIPTIONS,
}
