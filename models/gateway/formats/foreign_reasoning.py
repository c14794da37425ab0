"""Reasoning of one format in the signature of another's, and summaries of conversations in the content of a compaction.

A client returns the reasoning of earlier answers. Where that came from a provider with another format, the signature that the client
gets says which, and carries what the provider needs back. It proves nothing to anyone: it is only read to be passed on.
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import replace

import orjson

from models.gateway.conversation import ReasoningPart

PREFIX = "stoa1."
MAX_SIGNATURE = 1 << 20
"""Characters of a signature that is read."""


def sign(part: ReasoningPart) -> str:
    """The signature for a client of another format."""
    return _written({"o": part.origin, "s": part.signature, "e": part.encrypted, "i": part.id})


def restore(text: str, signature: object) -> ReasoningPart | None:
    """The reasoning part that `sign` was given, with the text that the client returned; None for any other signature."""
    facts = _read(signature)
    if facts is None or "c" in facts:
        return None
    part = ReasoningPart(text, origin=facts.get("o", ""), id=facts.get("i"))
    return replace(part, signature=facts.get("s"), encrypted=facts.get("e"))


def seal_summary(text: str) -> str:
    """The summary of a conversation as the content of a compaction."""
    return _written({"c": text})


def open_summary(content: object) -> str | None:
    """The summary that `seal_summary` was given; None for any other content."""
    facts = _read(content)
    return facts.get("c") if facts else None


def _written(facts: Mapping[str, str | None]) -> str:
    known = {name: value for name, value in facts.items() if value}
    return PREFIX + base64.urlsafe_b64encode(orjson.dumps(known)).decode().rstrip("=")


def _read(signature: object) -> dict[str, str] | None:
    if not isinstance(signature, str) or not signature.startswith(PREFIX) or len(signature) > MAX_SIGNATURE:
        return None
    encoded = signature[len(PREFIX) :]
    try:
        facts = orjson.loads(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
    except (binascii.Error, orjson.JSONDecodeError, ValueError):
        return None
    if not isinstance(facts, dict) or not all(isinstance(value, str) for value in facts.values()):
        return None
    return facts
