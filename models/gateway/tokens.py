"""Token counting for calls without reported usage. The vocabulary is part of the installed package; nothing is fetched."""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from models.core.cooperative import TimeSlices
from models.gateway.chat_format.output import GeneratedOutput, parts_of

CHUNK = 32_768
"""Characters per tokenizer call, so that other calls get the interpreter in between."""

MAX_COUNTED = 1 << 20
"""Characters that are tokenized. The rest is extrapolated."""

IMAGE_INPUT_TOKENS = 1_600
"""Tokens per image, or other media except audio, in a request."""

MAX_CACHE = 50_000

_OPENAI = re.compile(r"(^|/)(gpt-|o\d|chatgpt|text-embedding|codex|stoa/)")


def has_vocabulary(model: str) -> bool:
    """Whether the model uses this vocabulary. Otherwise a count is an estimate."""
    return bool(_OPENAI.search(model)) or model.startswith("stoa/")


def count(text: str) -> int:
    """Tokens of `text` in OpenAI's `o200k_base`. Special tokens count as plain text."""
    if not text:
        return 0
    tokenizer = _tokenizer()
    head = text[:MAX_COUNTED]
    tokens, slices = 0, TimeSlices()
    for start in range(0, len(head), CHUNK):
        tokens += len(tokenizer.encode_ordinary(head[start : start + CHUNK]))
        slices.pause()
    _limit_cache(tokenizer, len(head))
    return tokens if len(text) == len(head) else tokens * len(text) // len(head)


_unchecked = 0
"""Characters since the size of the cache was asked for, which takes a hundred times as long as counting a line."""


def _limit_cache(tokenizer: Any, characters: int) -> None:
    global _unchecked
    _unchecked += characters
    if _unchecked >= CHUNK:
        _unchecked = 0
        if tokenizer.cache_len > MAX_CACHE:
            tokenizer.clear_cache()


def count_output(output: GeneratedOutput) -> tuple[int, int]:
    """All generated tokens, and how many of them are reasoning."""
    return output.tokens(count)


def count_messages(messages: Iterable[Any], tools: Any = None, system: Any = None) -> int:
    """Input tokens of a conversation in chat or Codebuff format: texts, tool calls, and a few per message."""
    parts = [text for message in messages for text in ("\n\n", *texts(message))]
    for extra in (tools, system):
        if extra is not None:
            parts += texts(extra)
    return 3 + count("\n".join(parts))


def count_input(messages: Iterable[Any], tools: Any = None) -> tuple[int, dict[str, int]]:
    """Input tokens of a request, and those of them that are audio and images, by conservative estimates."""
    media, plain = GeneratedOutput(), []
    for message in messages:
        content = message.get("content")
        if isinstance(content, list):
            media_parts: list[Any] = []
            text_parts: list[Any] = []
            for part in content:
                (media_parts if _is_media_part(part) else text_parts).append(part)
            if media_parts:
                media.add(0, {"content": media_parts}, whole=True)
                message = {**message, "content": text_parts}
        plain.append(message)
    found = {"audio_input": media.audio_tokens, "image_input": media.media_count * IMAGE_INPUT_TOKENS}
    text = count_messages(plain, tools) + count(media.text.joined())
    return text + sum(found.values()), {name: tokens for name, tokens in found.items() if tokens}


def _is_media_part(part: Any) -> bool:
    return any(kind in ("audio", "media") for kind, _ in parts_of(part))


def texts(value: Any) -> Iterator[str]:
    """All strings in a JSON value, with a placeholder for each base64-encoded image or audio."""
    stack = [value]
    while stack:
        node = stack.pop()
        if isinstance(node, str):
            yield _PLACEHOLDER if _is_media(node) else node
        elif isinstance(node, Mapping):
            stack.extend(reversed(list(node.values())))
        elif isinstance(node, list):
            stack.extend(reversed(node))


def _is_media(text: str) -> bool:
    """Whether a string is long base64 data, bare or as a data URL."""
    if len(text) <= 512 or not _MEDIA.match(text):
        return False
    start = text.index(",") + 1 if text.startswith("data:") else 0
    rest = text[start:].rstrip("=\r\n")
    return not rest.encode("utf-8", "surrogatepass").translate(None, _BASE64 + (b"\r\n" if start else b""))


_MEDIA = re.compile(r"data:[\w.+/-]{1,200};base64,|[A-Za-z0-9+/]{512}")
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_PLACEHOLDER = " picture" * 1000


@lru_cache(maxsize=1)
def _tokenizer() -> Any:
    from splintr import Tokenizer

    return Tokenizer.from_pretrained("o200k_base")
