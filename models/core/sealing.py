"""Encryption of secrets at rest: AES-GCM with a key derived from STOA_SECRET_KEY, one for each purpose."""

import base64
import hashlib
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM


class SealBroken(Exception):
    """The text was encrypted with another STOA_SECRET_KEY or for another purpose, or is damaged."""


def seal(secret_key: str, purpose: str, secret: bytes) -> str:
    """Encrypt a secret for storage. The purpose, at most 11 letters, selects the key and starts the text."""
    nonce, prefix = secrets.token_bytes(12), _prefix(purpose)
    encrypted = _key(secret_key, purpose).encrypt(nonce, secret, prefix.encode())
    return prefix + base64.b64encode(nonce + encrypted).decode()


def open_sealed(secret_key: str, purpose: str, sealed: str) -> bytes:
    """Decrypt what `seal` returned. Raises SealBroken."""
    prefix = _prefix(purpose)
    try:
        raw = base64.b64decode(sealed.removeprefix(prefix))
        return _key(secret_key, purpose).decrypt(raw[:12], raw[12:], prefix.encode())
    except (InvalidTag, ValueError):
        raise SealBroken from None


def _prefix(purpose: str) -> str:
    # the version of the encryption; also its associated data
    return f"{purpose}1:"


def _key(secret_key: str, purpose: str) -> AESGCM:
    person = f"stoa-{purpose}".encode()
    return AESGCM(hashlib.blake2b(secret_key.encode(), digest_size=32, person=person).digest())
