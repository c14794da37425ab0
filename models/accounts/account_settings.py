"""What a user sets about their own account: the name, how pages look to them, and the external identities that sign them in."""

from collections.abc import Sequence

from sqlalchemy import select

from models.accounts.credentials import NAME_LENGTH, hash_token
from models.accounts.passkeys import keep_a_way, lock_ways
from models.accounts.users import NUMBER_LANGUAGES, THEMES, OAuthAccount, User
from models.core.db import db
from models.core.errors import Invalid, NotFound
from models.core.time_zones import time_zones

OF_ORGANISATION = "sso:"
"""Start of the providers that are an organisation's single sign-on, which the user cannot disconnect."""


def save_settings(
    user: User, *, name: str, theme: str, time_zone: str, number_language: str
) -> dict[str, str | None]:
    """Set the name, without which the first part of the address is shown, the theme, the time zone (empty: what the browser says)
    and the language of numbers. Returns what changed. Flushes.

    Raises Invalid with a message per field.
    """
    name, time_zone, fields = name.strip(), time_zone.strip(), {}
    if len(name) > NAME_LENGTH or not name.isprintable():
        fields["name"] = f"Use at most {NAME_LENGTH} ordinary characters."
    if theme not in THEMES:
        fields["theme"] = "Choose one of the themes."
    if time_zone and time_zone not in time_zones():
        fields["time_zone"] = "Unknown time zone. Choose one of the list, such as Europe/Berlin."
    if number_language not in NUMBER_LANGUAGES:
        fields["number_language"] = "Choose one of the languages."
    if fields:
        raise Invalid("Some fields are wrong.", fields=fields)
    new: dict[str, str | None] = {
        "name": name or None,
        "theme": theme,
        "time_zone": time_zone or None,
        "number_language": number_language,
    }
    changed = {field: value for field, value in new.items() if getattr(user, field) != value}
    for field, value in changed.items():
        setattr(user, field, value)
    db.session.flush()
    return changed


def identities_of(user: User) -> Sequence[OAuthAccount]:
    """The external identities that sign the user in, by provider."""
    query = select(OAuthAccount).where(OAuthAccount.user_id == user.id)
    return db.session.scalars(query.order_by(OAuthAccount.provider, OAuthAccount.provider_account_id)).all()


def identity_id(identity: OAuthAccount) -> str:
    """The id of an identity in addresses: subjects may contain any character."""
    return hash_token(f"{identity.provider} {identity.provider_account_id}")[:24]


def own_identity(user: User, id: str) -> OAuthAccount:
    """The user's identity with this `identity_id`. Raises NotFound, also for an organisation's single sign-on."""
    for each in identities_of(user):
        if identity_id(each) == id and not each.provider.startswith(OF_ORGANISATION):
            return each
    raise NotFound("No such sign-in is connected.")


def disconnect(user: User, id: str) -> OAuthAccount:
    """Disconnect an identity: it no longer signs the user in. Their sessions stay. Flushes. Returns the deleted row.

    Locks the user's row. Raises NotFound, and Conflict for the last way to sign in (`keep_a_way`).
    """
    lock_ways(user)
    identity = own_identity(user, id)
    keep_a_way(user)
    db.session.delete(identity)
    db.session.flush()
    return identity
