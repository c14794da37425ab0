"""A new API key on its way to the page that shows it once: encrypted in the flow cookie, for five minutes."""

import base64
import hashlib

from cryptography.fernet import Fernet, InvalidToken
from flask import session

from models.accounts.key_format import present
from views.web.guards import settings

SECONDS = 300


def keep_new_key(token: str) -> None:
    """Keep the raw key for the next page."""
    session["new_key"] = _fernet().encrypt(token.encode()).decode()


def pop_new_key(key_id: str) -> str | None:
    """The raw key with this id, if it was just created, once."""
    encrypted = session.pop("new_key", None)
    try:
        token = _fernet().decrypt(encrypted, ttl=SECONDS).decode() if encrypted else None
    except InvalidToken:
        return None
    return token if token and present(token).id == key_id else None


def _fernet() -> Fernet:
    # The flow cookie is signed but not encrypted, and browsers store it on disk.
    key = hashlib.blake2b(settings().secret_key.encode(), digest_size=32, person=b"stoa-new-key").digest()
    return Fernet(base64.urlsafe_b64encode(key))
