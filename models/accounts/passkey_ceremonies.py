"""Registering and signing in with a passkey (WebAuthn Level 3): options, and the verification of answers."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import webauthn
from sqlalchemy import select
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
from models.accounts.passkeys import Passkey, checked_name, passkeys_of
from models.accounts.relying_party import (
    LIFETIME,
    PasskeyAnswer,
    PasskeyCloned,
    PasskeyRefused,
    RelyingParty,
    check_addable,
)
from models.accounts.sessions import Session
from models.accounts.users import User
from models.core.db import db
from models.core.errors import Conflict

MAX_ANSWER = 32_000
"""Characters of an authenticator's answer."""
_TRANSPORTS = frozenset(each.value for each in AuthenticatorTransport)

# What the library and the decoders beneath it raise for answers that are not well-formed.
_MALFORMED = (WebAuthnException, ValueError, LookupError, TypeError, AttributeError, RecursionError)


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


def parsed(answer: str) -> tuple[dict[str, Any], bytes]:
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
