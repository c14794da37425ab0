"""Reasoning of one format in the signature of another's.

A client returns the reasoning of earlier answers. Where that came from a provider with another format, the signature that the client
gets says which, and carries what the provider needs back. It proves nothing to anyone: it is only read to be passed on.
"""

import base64
import binascii
from dataclasses import replace

import orjson

from models.gateway.conversation import ReasoningPart

PREFIX = "stoa1."
MAX_SIGNATURE = 1 << 20
"""Characters of a signature that is read."""


def sign(part: ReasoningPart) -> str:
    """The signature for a client of another format."""
    facts = {"o": part.origin, "s": part.signature, "e": part.encrypted, "i": part.id}
    known = {name: value for name, value in facts.items() if value}
    return PREFIX + base64.urlsafe_b64encode(orjson.dumps(known)).decode().rstrip("=")


def restore(text: str, signature: object) -> ReasoningPart | None:
    """The reasoning part that `sign` was given, with the text that the client returned; None for any other signature."""
    if not isinstance(signature, str) or not signature.startswith(PREFIX) or len(signature) > MAX_SIGNATURE:
        return None
    encoded = signature[len(PREFIX) :]
    try:
        facts = orjson.loads(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
    except (binascii.Error, orjson.JSONDecodeError, ValueError):
        return None
    if not isinstance(facts, dict) or not all(isinstance(value, str) for value in facts.values()):
        return None
    part = ReasoningPart(text, origin=facts.get("o", ""), id=facts.get("i"))
    return replace(part, signature=facts.get("s"), encrypted=facts.get("e"))
