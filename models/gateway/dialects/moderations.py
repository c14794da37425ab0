"""OpenAI's Moderations API (`/v1/moderations`)."""

from typing import Any

from models.gateway import tokens
from models.gateway.chat_format import BadCall, Call
from models.gateway.chat_format.chat_parsing import BYTES_PER_TOKEN
from models.gateway.dialects.dialect import IncomingRequest
from models.gateway.dialects.passing import PassingDialect
from models.gateway.formats.body_checks import object_of
from models.gateway.formats.passed_parsing import read_model, text_size

DEFAULT_MODEL = "omni-moderation-latest"
MAX_INPUTS = 2_048


class ModerationsDialect(PassingDialect):
    """Texts, or texts and images, classified. OpenAI's own is free."""

    door = "moderations"

    def parse(self, received: IncomingRequest) -> Call:
        body = object_of(received.body)
        model = read_model(body, DEFAULT_MODEL)
        _check(body.get("input"))
        size = text_size(_texts(body["input"]))
        return Call(
            model=model,
            stream=False,
            n=1,
            max_output=0,
            input_tokens=size // BYTES_PER_TOKEN + 1,
            text_bytes=size,
            body=body,
            format="moderations",
            inputs=len(body["input"]) if isinstance(body["input"], list) else 1,
        )

    def inputs(self, call: Call) -> list[str]:
        given = call.body["input"]
        images = sum(not isinstance(each, str) and each.get("type") == "image_url" for each in given)
        return [*_texts(given), *(["[image]"] * images)]

    def count_input(self, call: Call) -> tuple[int, dict[str, int]]:
        return tokens.count("\n".join(_texts(call.body["input"]))), {}


def _check(given: Any) -> None:
    if isinstance(given, str):
        return
    if not isinstance(given, list) or not given:
        raise BadCall("'input' must be a text, a list of texts, or a list of parts.", param="input")
    if len(given) > MAX_INPUTS:
        raise BadCall(f"'input' has {len(given):,} items; at most {MAX_INPUTS:,} are allowed.", param="input")
    for index, part in enumerate(given):
        if isinstance(part, str):
            continue
        if not isinstance(part, dict) or part.get("type") not in ("text", "image_url"):
            raise BadCall(
                "'input' must be a text, a list of texts, or a list of parts.", param=f"input[{index}]"
            )
        if part["type"] == "text" and not isinstance(part.get("text"), str):
            raise BadCall(f"'input[{index}].text' must be a text.", param=f"input[{index}].text")


def _texts(given: Any) -> list[str]:
    if isinstance(given, str):
        return [given]
    return [
        each if isinstance(each, str) else each["text"]
        for each in given
        if isinstance(each, str) or "text" in each
    ]
