"""Encryption of secrets at rest: AES-GCM with a key derived from STOA_SECRET_KEY, one for each purpose."""

import base64
import hashlib
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM


class SealBroken(Exception):
    """The text was encrypted with another STOA_SECRET_KEY, for another purpose or another context, or is damaged."""


def seal(secret_key: str, purpose: str, secret: bytes, *, context: str = "") -> str:
    """Encrypt a secret for storage. The purpose, at most 11 letters, selects the key and starts the text. Whoever can write to the
    database cannot use the text in another `context`, such as that of another owner."""
    nonce, prefix = secrets.token_bytes(12), _prefix(purpose, context)
    encrypted = _key(secret_key, purpose).encrypt(nonce, secret, (prefix + context).encode())
    return prefix + base64.b64encode(nonce + encrypted).decode()


def open_sealed(secret_key: str, purpose: str, sealed: str, *, context: str = "") -> bytes:
    """Decrypt what `seal` returned for the same purpose and context. Raises SealBroken."""
    prefix = _prefix(purpose, context)
    try:
        raw = base64.b64decode(sealed.removeprefix(prefix))
        return _key(secret_key, purpose).decrypt(raw[:12], raw[12:], (prefix + context).encode())
    except (InvalidTag, ValueError):
        raise SealBroken from None


def has_context(purpose: str, sealed: str) -> bool:
    """Whether a sealed text is bound to a context."""
    return sealed.startswith(_prefix(purpose, "any"))


def _prefix(purpose: str, context: str) -> str:
    # the version of the encryption; also associated data, before the context
    return f"{purpose}{2 if context else 1}:"


def _key(secret_key: str, purpose: str) -> AESGCM:
    person = f"stoa-{purpose}".encode()
    return AESGCM(hashlib.blake2b(secret_key.encode(), digest_size=32, person=person).digest())
