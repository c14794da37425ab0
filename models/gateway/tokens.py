"""Counting tokens of text when no provider did: a real vocabulary that ships inside the wheel, nothing fetched."""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from models.core.cooperative import TimeSlices
from models.gateway.chat_format.output import GeneratedOutput, parts_of

PIECE = 32_768
"""Characters given to the tokenizer at a time, so that no other call waits long for the interpreter."""

COUNTED = 1 << 20
"""Characters that are truly counted; the rest is reckoned at the same rate."""

PICTURE_READ = 1_600
"""Tokens of a picture, or another medium that is not sound, in a request."""

CACHE = 50_000

_OPENAI = re.compile(r"(^|/)(gpt-|o\d|chatgpt|text-embedding|codex|stoa/)")


def knows(model: str) -> bool:
    """Whether the vocabulary used here is this model's own; otherwise a count is an estimate."""
    return bool(_OPENAI.search(model)) or model.startswith("stoa/")


def count(text: str) -> int:
    """Tokens of `text` in OpenAI's `o200k_base`. Special tokens in it count as the plain text they are."""
    if not text:
        return 0
    tokenizer = _tokenizer()
    head = text[:COUNTED]
    tokens, slices = 0, TimeSlices()
    for start in range(0, len(head), PIECE):
        tokens += len(tokenizer.encode_ordinary(head[start : start + PIECE]))
        slices.pause()
    if tokenizer.cache_len > CACHE:
        tokenizer.clear_cache()
    return tokens if len(text) == len(head) else tokens * len(text) // len(head)


def count_output(output: GeneratedOutput) -> tuple[int, int]:
    """Tokens of everything that was generated, and how many of them were reasoning."""
    return output.tokens(count)


def count_messages(messages: Iterable[Any], tools: Any = None, system: Any = None) -> int:
    """Input tokens of a conversation in chat or Codebuff form: texts, tool calls, and a few for each message."""
    parts = [text for message in messages for text in ("\n\n", *texts(message))]
    for extra in (tools, system):
        if extra is not None:
            parts += texts(extra)
    return 3 + count("\n".join(parts))


def count_input(messages: Iterable[Any], tools: Any = None) -> tuple[int, dict[str, int]]:
    """Input tokens of a request, and how many of them are sound and pictures, by cautious rates."""
    media, plain = GeneratedOutput(), []
    for message in messages:
        content = message.get("content")
        if isinstance(content, list):
            seen: list[Any] = []
            read: list[Any] = []
            for part in content:
                (seen if _is_medium(part) else read).append(part)
            if seen:
                media.take(0, {"content": seen}, whole=True)
                message = {**message, "content": read}
        plain.append(message)
    found = {"audio_input": media.audio_tokens, "image_input": media.pictures * PICTURE_READ}
    text = count_messages(plain, tools) + count(media.text.joined())
    return text + sum(found.values()), {name: tokens for name, tokens in found.items() if tokens}


def _is_medium(part: Any) -> bool:
    return any(kind in ("audio", "picture") for kind, _ in parts_of(part))


def texts(value: Any) -> Iterator[str]:
    """Every text in a JSON value, but not encoded pictures or sound. Each of those is one short stand-in."""
    waiting = [value]
    while waiting:
        node = waiting.pop()
        if isinstance(node, str):
            yield _PICTURE if _is_media(node) else node
        elif isinstance(node, Mapping):
            waiting.extend(reversed(list(node.values())))
        elif isinstance(node, list):
            waiting.extend(reversed(node))


def _is_media(text: str) -> bool:
    """Whether a text is nothing but base64, a data URL or bare, and longer than any word."""
    if len(text) <= 512 or not _MEDIA.match(text):
        return False
    start = text.index(",") + 1 if text.startswith("data:") else 0
    rest = text[start:].rstrip("=\r\n")
    return not rest.encode("utf-8", "surrogatepass").translate(None, _BASE64 + (b"\r\n" if start else b""))


_MEDIA = re.compile(r"data:[\w.+/-]{1,200};base64,|[A-Za-z0-9+/]{512}")
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_PICTURE = " picture" * 1000


@lru_cache(maxsize=1)
def _tokenizer() -> Any:
    from splintr import Tokenizer

    return Tokenizer.from_pretrained("o200k_base")
