"""Short-lived access tokens of signed-in clients: a session's token, encrypted with the time until which it may be used that way.

So an access token is the same credential as its session's row, with the same id, limits and revocation, and is checked without a
query: every door reads keys after `session_token` replaced it.
"""

import base64
import binascii
from datetime import datetime, timedelta

from models.core.sealing import SealBroken, open_sealed, seal

PREFIX = "stoa-at-"
LIFETIME = timedelta(hours=1)
PURPOSE = "access"
_SEALED = f"{PURPOSE}1:"


def access_token(secret_key: str, token: str, now: datetime) -> str:
    """The access token of the session with this (raw) token, for LIFETIME."""
    until = int((now + LIFETIME).timestamp())
    sealed = seal(secret_key, PURPOSE, f"{until}.{token}".encode()).removeprefix(_SEALED)
    return PREFIX + base64.urlsafe_b64encode(base64.b64decode(sealed)).decode().rstrip("=")


def session_token(secret_key: str, access: str, now: datetime) -> str | None:
    """The raw token of an access token's session; None if it has expired or is not one of this server's."""
    try:
        raw = base64.urlsafe_b64decode(access.removeprefix(PREFIX) + "==")
        text = open_sealed(secret_key, PURPOSE, _SEALED + base64.b64encode(raw).decode()).decode()
    except (SealBroken, binascii.Error, ValueError):
        return None
    until, _, token = text.partition(".")
    return token if int(until) > now.timestamp() else None
