"""OpenAI's older Completions API (`/v1/completions`): plain text, continued."""

from typing import Any

from models.gateway import tokens
from models.gateway.chat_format import BadCall, Call
from models.gateway.chat_format.chat_parsing import BYTES_PER_TOKEN, MAX_CHOICES, whole_number
from models.gateway.dialects.chat import ChatDialect
from models.gateway.dialects.chat_stream import ChatStream
from models.gateway.dialects.dialect import CallRequest, IncomingRequest, newest_messages
from models.gateway.dialects.reading import read_request
from models.gateway.formats.body_checks import object_of
from models.gateway.formats.passed_parsing import (
    prompt_size,
    prompt_texts,
    read_flag,
    read_model,
    read_prompts,
    text_size,
)
from models.gateway.providers.provider import Provider
from models.gateway.route import Route
from models.gateway.routing import Router

MAX_OUTPUT_TOKENS = 1 << 31


class CompletionStream(ChatStream):
    """Chunks with a text in each choice."""

    object = "text_completion"


class CompletionsDialect(ChatDialect):
    """One or several prompts, each continued `n` times."""

    door = format = "completions"
    collects = False

    def read(self, received: IncomingRequest) -> CallRequest:
        return read_request(self, received, parse_completions)

    def route(self, routes: Router, request: CallRequest, call: Call) -> Route:
        return routes.find(call.model, byok=request.byok, task=call.format)

    def adapt(self, call: Call, provider: Provider) -> Call:
        return call

    def stored_input(self, call: Call, size: int) -> tuple[Any, dict[str, Any] | None]:
        texts = prompt_texts(_prompts(call.body))
        return newest_messages([{"role": "user", "content": text} for text in texts], size), None

    def count_text(self, call: Call) -> int:
        texts = [each for each in (*_prompts(call.body), call.body.get("suffix")) if isinstance(each, str)]
        return tokens.count("\n".join(texts)) + prompt_size(_prompts(call.body))[1]

    def count_input(self, call: Call) -> tuple[int, dict[str, int]]:
        return self.count_text(call), {}

    def translator(self, request: CallRequest, call: Call, route: Route) -> CompletionStream:
        return CompletionStream(
            request.request_id, call, route, self.client_usage, wants_usage=call.wants_usage
        )


def parse_completions(received: IncomingRequest) -> Call:
    """Parse a body into a call. Raises BadCall."""
    body = object_of(received.body)
    model = read_model(body)
    prompts = _prompts(body)
    suffix, options = body.get("suffix"), body.get("stream_options")
    if suffix is not None and not isinstance(suffix, str):
        raise BadCall("'suffix' must be a text.", param="suffix")
    if options is not None and not isinstance(options, dict):
        raise BadCall("'stream_options' must be an object.", param="stream_options")
    choices = (whole_number(body, "n", MAX_CHOICES) or 1) * len(prompts)
    if choices > MAX_CHOICES:
        raise BadCall(f"'n' times the prompts is {choices}; at most {MAX_CHOICES} are allowed.", param="n")
    size, numbers = prompt_size(prompts)
    size += text_size([suffix or ""])
    return Call(
        model=model,
        stream=read_flag(body, "stream"),
        n=choices,
        max_output=whole_number(body, "max_tokens", MAX_OUTPUT_TOKENS),
        input_tokens=size // BYTES_PER_TOKEN + numbers + 1,
        text_bytes=size + numbers,
        body=body,
        wants_usage=bool((options or {}).get("include_usage")),
        format="completions",
        inputs=len(prompts),
    )


def _prompts(body: dict[str, Any]) -> list[str | list[int]]:
    return read_prompts(body.get("prompt"), "prompt", MAX_CHOICES)
