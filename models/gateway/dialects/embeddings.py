"""OpenAI's Embeddings API (`/v1/embeddings`)."""

import binascii
import sys
from array import array
from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import Any

from models.accounts.scopes import EMBEDDINGS
from models.core.cooperative import in_slices
from models.gateway import tokens
from models.gateway.bill import Bill
from models.gateway.chat_format import Call
from models.gateway.chat_format.chat_parsing import BYTES_PER_TOKEN, whole_number
from models.gateway.dialects.dialect import IncomingRequest, Reply, WholeAnswer
from models.gateway.dialects.passing import PassingDialect
from models.gateway.formats.body_checks import object_of
from models.gateway.formats.passed_parsing import (
    prompt_size,
    prompt_texts,
    read_choice,
    read_model,
    read_prompts,
)
from models.gateway.lenient_json import write
from models.gateway.upstream import MAX_STREAM

MAX_INPUTS = 2_048
MAX_DIMENSIONS = 65_536
ENCODINGS = ("float", "base64")


class EmbeddingsDialect(PassingDialect):
    """Texts or tokens into vectors. A provider that ignores `encoding_format` has its vectors converted."""

    door = "embeddings"
    scope = EMBEDDINGS
    max_answer = MAX_STREAM

    def parse(self, received: IncomingRequest) -> Call:
        body = object_of(received.body)
        model = read_model(body)
        prompts = read_prompts(body.get("input"), "input", MAX_INPUTS)
        read_choice(body, "encoding_format", ENCODINGS)
        whole_number(body, "dimensions", MAX_DIMENSIONS)
        size, numbers = prompt_size(prompts)
        return Call(
            model=model,
            stream=False,
            n=1,
            max_output=0,
            input_tokens=size // BYTES_PER_TOKEN + numbers + 1,
            text_bytes=size + numbers,
            body=body,
            format="embeddings",
            inputs=len(prompts),
        )

    def inputs(self, call: Call) -> list[str]:
        return prompt_texts(read_prompts(call.body["input"], "input", MAX_INPUTS))

    def count_input(self, call: Call) -> tuple[int, dict[str, int]]:
        prompts = read_prompts(call.body["input"], "input", MAX_INPUTS)
        texts = [each for each in prompts if isinstance(each, str)]
        return sum(map(tokens.count, in_slices(texts))) + prompt_size(prompts)[1], {}

    def reply(self, call: Call, answers: Sequence[WholeAnswer], bill: Bill) -> Reply:
        answer = answers[0]
        encoded = call.body.get("encoding_format") == "base64"
        convert, kind = (_encode, list) if encoded else (_decode, str)
        data = answer.value.get("data")
        items = [item for item in data if isinstance(item, dict)] if isinstance(data, list) else []
        if not any(isinstance(item.get("embedding"), kind) for item in items):
            return Reply(answer.raw)
        found = [
            {**item, "embedding": convert(item["embedding"])}
            if isinstance(item.get("embedding"), kind)
            else item
            for item in in_slices(items)
        ]
        return Reply(write({**answer.value, "data": found}))


def _encode(vector: list[Any]) -> Any:
    """Numbers as base64 of little-endian 32-bit floats; unchanged if they are none."""
    try:
        numbers = array("f", vector)
    except (TypeError, OverflowError):
        return vector
    return b64encode(_little(numbers).tobytes()).decode()


def _decode(vector: str) -> Any:
    try:
        raw = b64decode(vector, validate=True)
        numbers = array("f", raw)
    except (binascii.Error, ValueError):
        return vector
    return _little(numbers).tolist()


def _little(numbers: "array[float]") -> "array[float]":
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
