"""OpenAI's Images API (`/v1/images/generations`, `/v1/images/edits`)."""

from typing import Any

import orjson

from models.accounts.scopes import IMAGES
from models.gateway import sse, tokens
from models.gateway.chat_format import BadCall, Call
from models.gateway.chat_format.chat_parsing import BYTES_PER_TOKEN, whole_number
from models.gateway.dialects.dialect import CallRequest, IncomingRequest
from models.gateway.dialects.passed_stream import PassedStream
from models.gateway.dialects.passing import PassingDialect
from models.gateway.formats.body_checks import object_of
from models.gateway.formats.image_requests import INPUT_IMAGE_TOKENS, MAX_IMAGES
from models.gateway.formats.passed_parsing import (
    read_flag,
    read_form_values,
    read_model,
    read_text,
    text_size,
)
from models.gateway.route import Route
from models.gateway.sse import SseEvent
from models.gateway.upstream import MAX_STREAM

MAX_PROMPT = 32_000
MAX_FILES = 17
"""Sixteen images and a mask."""
NUMBERS = ("n", "partial_images", "output_compression", "frame_count")


class ImageStream(PassedStream):
    """A provider that does not stream sends all images at once: each becomes an event."""

    def passed(self, value: dict[str, Any], event: SseEvent) -> bytes:
        data = value.get("data")
        if not isinstance(data, list):
            return super().passed(value, event)
        kind = "image_edit" if self._call.format == "image_edits" else "image_generation"
        head = {name: each for name, each in value.items() if name not in ("data", "created")}
        found = {"type": f"{kind}.completed", "created_at": value.get("created"), **head}
        events = ({**found, **item} for item in data if isinstance(item, dict))
        return b"".join(sse.frame(orjson.dumps(each), f"{kind}.completed".encode()) for each in events)


class ImagesDialect(PassingDialect):
    """A prompt, and images to edit as files of a form or as addresses in JSON. `format`: images or image_edits."""

    door = "images"
    scope = IMAGES
    max_answer = MAX_STREAM
    form_limit = MAX_FILES

    def __init__(self, format: str = "images") -> None:
        self.format = format

    def parse(self, received: IncomingRequest) -> Call:
        body = object_of(received.body)
        if received.files or received.is_form:
            body = read_form_values(body, NUMBERS, ("stream",))
        body = _sized(body)
        model = read_model(body)
        prompt = read_text(body, "prompt", MAX_PROMPT)
        for key in ("size", "quality"):
            if body.get(key) is not None and not isinstance(body[key], str):
                raise BadCall(f"'{key}' must be a text.", param=key)
        whole_number(body, "n", MAX_IMAGES)
        whole_number(body, "frame_count", 16)
        if body.get("partial_images") not in (None, 0):
            whole_number(body, "partial_images", 3)
        if self.format == "image_edits" and not (received.files or body.get("images") or body.get("image")):
            raise BadCall("'image' must be one or several image files.", param="image")
        size = text_size([prompt])
        return Call(
            model=model,
            stream=read_flag(body, "stream"),
            n=1,
            max_output=0,
            input_tokens=size // BYTES_PER_TOKEN + 1,
            text_bytes=size,
            body=body,
            format=self.format,
            files=received.files,
        )

    def inputs(self, call: Call) -> list[str]:
        return [call.body["prompt"], *(f"[image: {file.name}]" for file in call.files)]

    def count_input(self, call: Call) -> tuple[int, dict[str, int]]:
        images = len(call.files) * INPUT_IMAGE_TOKENS
        return tokens.count(call.body["prompt"]) + images, {"image_input": images} if images else {}

    def translator(self, request: CallRequest, call: Call, route: Route) -> ImageStream:
        return ImageStream(request.request_id, call, route)


def _sized(body: dict[str, Any]) -> dict[str, Any]:
    """The body with `size` in place of a width and a height."""
    width, height = body.get("width"), body.get("height")
    if width is None or height is None or body.get("size") is not None:
        return body
    sides = [whole_number(body, key, 10_000) for key in ("width", "height")]
    rest = {key: value for key, value in body.items() if key not in ("width", "height")}
    return {**rest, "size": f"{sides[0]}x{sides[1]}"}
