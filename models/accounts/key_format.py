"""The format of API keys: `sk_live_` or `sk_test_`, 24 characters that stay with the key, 43 of its secret, and 6 of checksum.

The first 32 characters are the key's public id, in the records of its calls and in the audit log. Keys of the older kind
(`cb-pat-…`), and browser and command line tokens, have no such id: theirs is the SHA-256 of the whole token.
"""

import hashlib
import re
import secrets
import string
import zlib
from typing import NamedTuple

from models.core.errors import DomainError

LIVE, TEST = "live", "test"
ENVIRONMENTS = (LIVE, TEST)
KEY = "sk_"
ID_LENGTH = 32
LAST = 4
_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_FORMAT = re.compile(r"sk_(?:live|test)_[0-9A-Za-z]{73}")
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
_STABLE, _SECRET, _CHECKSUM = 24, 43, 6


class MistypedKey(DomainError):
    """The key cannot exist: its length, its characters or its checksum are wrong."""

    status = 401
    code = "invalid_api_key"

    def __init__(self) -> None:
        super().__init__("This API key is mistyped or incomplete. Copy it again, or create a new one.")


class PresentedKey(NamedTuple):
    """A key or token as a request shows it: its public id (`session.sessionToken`), and the SHA-256 of the whole, for keys with
    an id of their own."""

    id: str
    secret: str | None

    @property
    def is_test(self) -> bool:
        """Whether it is a key of the test environment."""
        return is_test_key(self.id)


def is_test_key(key_id: str | None) -> bool:
    """Whether the public id is that of a test key, whose calls are never billed."""
    return key_id is not None and key_id.startswith("sk_test_")


def check_typing(token: str) -> None:
    """Raise MistypedKey if the token begins like a key and cannot be one."""
    if token.startswith(KEY) and not (
        _FORMAT.fullmatch(token) and _checksum(token[:-_CHECKSUM]) == token[-_CHECKSUM:]
    ):
        raise MistypedKey


def present(token: str) -> PresentedKey:
    """The public id and the secret's hash of a key or token. Raises MistypedKey."""
    check_typing(token)
    digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
    return PresentedKey(token[:ID_LENGTH], digest) if token.startswith(KEY) else PresentedKey(digest, None)


def new_id(environment: str) -> str:
    """A new public id."""
    return f"{KEY}{environment}_{_random(_STABLE)}"


def new_secret(key_id: str) -> str:
    """A new key with this public id: 256 random bits, and the checksum."""
    text = key_id + _random(_SECRET)
    return text + _checksum(text)


def key_hint(token: str) -> str:
    """A key without its secret: how it begins and ends."""
    return f"{token[:12]}...{token[-LAST:]}"


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def _checksum(text: str) -> str:
    pairs, value = len(_PAIRS), zlib.crc32(text.encode())
    return _PAIRS[value // pairs**2] + _PAIRS[value // pairs % pairs] + _PAIRS[value % pairs]
