"""This server as authenticators of passkeys know it (WebAuthn Level 3), and its challenges.

A challenge is not stored: it carries its expiry and a MAC over its purpose and the session or browser it was made for. Only an
answered one is stored, so that it is answered once.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any, Literal
from urllib.parse import urlsplit

from sqlalchemy.dialects.postgresql import insert

from models.accounts.credentials import lock_browser
from models.accounts.passkeys import MOST_PASSKEYS, Passkey, SpentChallenge, lock_ways, passkeys_of
from models.accounts.sessions import Session
from models.accounts.users import User
from models.core.db import db
from models.core.errors import Conflict, DomainError, Forbidden, Invalid

LIFETIME = timedelta(minutes=5)
RECENT = timedelta(minutes=15)
"""How long after a sign-in a passkey can be added."""
_NONCE, _EXPIRY, _MAC = 16, 8, 32  # bytes

Purpose = Literal["add", "sign-in"]


class PasskeyRefused(Invalid):
    """The answer of the authenticator does not sign anybody in, or adds nothing. `code` says why."""

    code = "passkey_refused"


class PasskeyCloned(DomainError):
    """The passkey's counter went back: a copy of it may exist. `passkey` is its row, `seen` the counter that it sent."""

    status = 403
    code = "passkey_cloned"

    def __init__(self, passkey: Passkey, seen: int) -> None:
        self.passkey, self.seen = passkey, seen
        super().__init__(
            "This passkey may have been copied, so it was refused. Sign in another way, then remove it and add a new one."
        )


@dataclass(frozen=True)
class RelyingParty:
    """This server as authenticators know it."""

    id: str
    origin: str
    secret: str

    def challenge(self, purpose: Purpose, binding: str, now: datetime) -> bytes:
        """A challenge for one answer in five minutes, from the session or browser that `binding` names."""
        body = secrets.token_bytes(_NONCE) + int((now + LIFETIME).timestamp() * 1000).to_bytes(_EXPIRY)
        return body + self._mac(body, purpose, binding)

    def spend(self, answer: str, purpose: Purpose, binding: str, now: datetime) -> "PasskeyAnswer":
        """Check the challenge of an authenticator's answer (JSON) and mark it as spent, whether or not the answer is right.

        The caller commits before it verifies the answer. Raises PasskeyRefused. Of concurrent repetitions, one passes.
        """
        from models.accounts.passkey_ceremonies import parsed  # loads a library that few requests need

        content, challenge = parsed(answer)
        body, mac = challenge[:-_MAC], challenge[-_MAC:]
        own = len(body) == _NONCE + _EXPIRY and hmac.compare_digest(mac, self._mac(body, purpose, binding))
        if not own:
            raise PasskeyRefused(
                "This answer belongs to another browser or server. Reload the page and try again."
            )
        expires = datetime.fromtimestamp(int.from_bytes(body[_NONCE:]) / 1000, UTC)
        if expires <= now:
            raise PasskeyRefused("This took longer than five minutes. Try again.")
        row = {"challenge_hash": hashlib.sha256(challenge).hexdigest(), "expires_at": expires}
        fresh = (
            insert(SpentChallenge).values(row).on_conflict_do_nothing().returning(SpentChallenge.expires_at)
        )
        if db.session.execute(fresh).first() is None:
            raise PasskeyRefused("This answer was used already. Try again.")
        return PasskeyAnswer(content, challenge)

    def _mac(self, body: bytes, purpose: Purpose, binding: str) -> bytes:
        key = hashlib.blake2b(self.secret.encode(), digest_size=32, person=b"stoa-passkey").digest()
        return hmac.digest(key, f"{purpose}\0{binding}\0".encode() + body, "sha256")


@dataclass(frozen=True)
class PasskeyAnswer:
    """An authenticator's answer whose challenge was ours, and is spent."""

    content: dict[str, Any]
    challenge: bytes


def relying_party(base_url: str, secret: str) -> RelyingParty | None:
    """This server as a relying party. None if browsers offer no passkeys there: they need a name, and https except on localhost."""
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    local = host == "localhost" or host.endswith(".localhost")
    if not host or _is_address(host) or not (parts.scheme == "https" or local):
        return None
    return RelyingParty(host, f"{parts.scheme}://{parts.netloc}", secret)


def signed_in_recently(session: Session, now: datetime) -> bool:
    """Whether this browser session began in the last 15 minutes."""
    return session.type == "web" and session.created_at > now - RECENT


def check_addable(user: User, by: Session, now: datetime) -> None:
    """Raise Forbidden if the session did not sign in recently or is no browser's, Conflict for a user with 20 passkeys.

    Locks the session and the user's row.
    """
    lock_browser(by)
    if not signed_in_recently(by, now):
        raise Forbidden("Sign in again before you add a passkey.")
    lock_ways(user)
    if len(passkeys_of(user)) >= MOST_PASSKEYS:
        raise Conflict(
            f"You have {MOST_PASSKEYS} passkeys. Remove one that you do not use, then add another."
        )


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
