"""Registering and signing in with a passkey (WebAuthn Level 3): challenges, options and the verification of answers.

A challenge is not stored: it carries its expiry and a MAC over its purpose and the session or browser it was made for. Only an
answered one is stored, so that it is answered once.
"""

import hashlib
import hmac
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any, Literal
from urllib.parse import urlsplit

import webauthn
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from webauthn.helpers import base64url_to_bytes, parse_client_data_json
from webauthn.helpers.exceptions import WebAuthnException
from webauthn.helpers.options_to_json_dict import options_to_json_dict
from webauthn.helpers.structs import (
    AttestationConveyancePreference,
    AuthenticatorSelectionCriteria,
    AuthenticatorTransport,
    PublicKeyCredentialDescriptor,
    ResidentKeyRequirement,
    UserVerificationRequirement,
)

from models.accounts import bans
from models.accounts.credentials import lock_browser
from models.accounts.passkeys import (
    MOST_PASSKEYS,
    Passkey,
    SpentChallenge,
    checked_name,
    lock_ways,
    passkeys_of,
)
from models.accounts.sessions import Session
from models.accounts.users import User
from models.core.db import db
from models.core.errors import Conflict, DomainError, Forbidden, Invalid

LIFETIME = timedelta(minutes=5)
RECENT = timedelta(minutes=15)
"""How long after a sign-in a passkey can be added."""
MAX_ANSWER = 32_000
"""Characters of an authenticator's answer."""
_NONCE, _EXPIRY, _MAC = 16, 8, 32  # bytes
_TRANSPORTS = frozenset(each.value for each in AuthenticatorTransport)

# What the library and the decoders beneath it raise for answers that are not well-formed.
_MALFORMED = (WebAuthnException, ValueError, LookupError, TypeError, AttributeError, RecursionError)

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
        content, challenge = _parsed(answer)
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


def registration_options(party: RelyingParty, user: User, challenge: bytes) -> dict[str, Any]:
    """Options for `navigator.credentials.create()`, as JSON: a discoverable credential with user verification."""
    options = webauthn.generate_registration_options(
        rp_id=party.id,
        rp_name="Stoa",
        user_id=user.id.encode(),
        user_name=user.email,
        user_display_name=user.display_name,
        challenge=challenge,
        timeout=int(LIFETIME.total_seconds() * 1000),
        attestation=AttestationConveyancePreference.NONE,
        authenticator_selection=AuthenticatorSelectionCriteria(
            resident_key=ResidentKeyRequirement.REQUIRED,
            user_verification=UserVerificationRequirement.REQUIRED,
        ),
        exclude_credentials=[_descriptor(row) for row in passkeys_of(user)],
    )
    return options_to_json_dict(options)


def sign_in_options(party: RelyingParty, challenge: bytes) -> dict[str, Any]:
    """Options for `navigator.credentials.get()`, as JSON: any passkey of this server."""
    options = webauthn.generate_authentication_options(
        rp_id=party.id,
        challenge=challenge,
        timeout=int(LIFETIME.total_seconds() * 1000),
        user_verification=UserVerificationRequirement.REQUIRED,
    )
    return options_to_json_dict(options)


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


def add_passkey(
    party: RelyingParty, user: User, answer: PasskeyAnswer, *, name: str, by: Session, now: datetime
) -> Passkey:
    """Store the passkey that an authenticator made for the user. Flushes.

    Raises Invalid with field `name`, PasskeyRefused, Conflict for a known credential, and what `check_addable` raises.
    """
    check_addable(user, by, now)
    name = checked_name(name)
    try:
        made = webauthn.verify_registration_response(
            credential=answer.content,
            expected_challenge=answer.challenge,
            expected_rp_id=party.id,
            expected_origin=party.origin,
            require_user_verification=True,
        )
    except _MALFORMED:
        raise PasskeyRefused("The passkey could not be verified, so it was not added. Try again.") from None
    row = Passkey(
        user_id=user.id,
        credential_id=made.credential_id,
        public_key=made.credential_public_key,
        sign_count=made.sign_count,
        transports=_transports(answer.content),
        name=name,
        created_at=now,
    )
    db.session.add(row)
    try:
        db.session.flush()
    except IntegrityError:
        raise Conflict("This passkey is connected already. Use another device or password manager.") from None
    return row


def sign_in_passkey(
    party: RelyingParty, answer: PasskeyAnswer, *, now: datetime, ip: str | None
) -> tuple[User, Passkey]:
    """The user whose passkey answered. Locks the passkey and records its use. Flushes.

    Raises PasskeyRefused, PasskeyCloned after a valid signature whose counter did not rise, and AccountSuspended.
    """
    row = _by_credential(answer.content)
    if row is None:
        raise PasskeyRefused("This passkey is not known here: it may have been removed. Sign in another way.")
    if _user_handle(answer.content) != row.user_id.encode():
        raise PasskeyRefused("This passkey belongs to another account. Sign in another way.")
    try:
        verified = webauthn.verify_authentication_response(
            credential=answer.content,
            expected_challenge=answer.challenge,
            expected_rp_id=party.id,
            expected_origin=party.origin,
            credential_public_key=row.public_key,
            # compared below: the library compares it before it verifies the signature
            credential_current_sign_count=0,
            require_user_verification=True,
        )
    except _MALFORMED:
        raise PasskeyRefused(
            "The passkey could not be verified. Try again, or sign in another way."
        ) from None
    count = verified.new_sign_count
    if (count or row.sign_count) and count <= row.sign_count:
        raise PasskeyCloned(row, count)
    user = db.session.get_one(User, row.user_id)
    bans.raise_if_banned(user)
    row.sign_count, row.last_used_at, row.last_used_ip = count, now, ip
    db.session.flush()
    return user, row


def _parsed(answer: str) -> tuple[dict[str, Any], bytes]:
    """The answer and the challenge in it. Raises PasskeyRefused."""
    try:
        if len(answer) > MAX_ANSWER:
            raise ValueError
        content = json.loads(answer)
        client_data = parse_client_data_json(base64url_to_bytes(content["response"]["clientDataJSON"]))
        return content, client_data.challenge
    except _MALFORMED:
        raise PasskeyRefused("Your browser sent no passkey. Reload the page and try again.") from None


def _by_credential(content: dict[str, Any]) -> Passkey | None:
    raw = _decoded(content.get("rawId"))
    query = select(Passkey).where(Passkey.credential_id == raw).with_for_update()
    return None if raw is None else db.session.scalars(query).one_or_none()


def _user_handle(content: dict[str, Any]) -> bytes | None:
    return _decoded(content["response"].get("userHandle"))


def _decoded(value: Any) -> bytes | None:
    try:
        return base64url_to_bytes(value)
    except _MALFORMED:
        return None


def _transports(content: dict[str, Any]) -> list[str]:
    sent = content["response"].get("transports")
    return (
        sorted({each for each in sent if isinstance(each, str)} & _TRANSPORTS)
        if isinstance(sent, list)
        else []
    )


def _descriptor(row: Passkey) -> PublicKeyCredentialDescriptor:
    transports: Sequence[str] = row.transports
    return PublicKeyCredentialDescriptor(
        id=row.credential_id, transports=[AuthenticatorTransport(each) for each in transports]
    )


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
