"""Keys at providers that a client of projects sets for its user: one for each provider, which its command lines may read back (fastest
contract 2.6). Those at Anthropic, OpenAI and Google pay for the user's calls as their other provider keys do."""

from datetime import datetime
from typing import NamedTuple

from sqlalchemy import select

from models.core.db import db, extension
from models.core.errors import Conflict, Invalid
from models.core.sealing import SealBroken, open_sealed
from models.gateway import provider_keys
from models.gateway.provider_keys import PURPOSE, ProviderKey, ProviderKeyForm, key_context
from models.ledger import Account

VARIABLES = {
    "anthropic": "ANTHROPIC_API_KEY",
    "openai": "OPENAI_API_KEY",
    "google": "GOOGLE_GENERATIVE_AI_API_KEY",
    "azure": "AZURE_OPENAI_API_KEY",
    "aws": "AWS_ACCESS_KEY_ID",
    "groq": "GROQ_API_KEY",
    "mistral": "MISTRAL_API_KEY",
}
"""The environment variable of each provider."""
_STORED = {"google": "gemini"}
"""Providers that we call by another name."""
_NAMES = {_STORED.get(name, name): name for name in VARIABLES}
BULLETS = "\u2022" * 20


class ClientKey(NamedTuple):
    """A key, and its secret: None if it was sealed with another STOA_SECRET_KEY. Never log it."""

    row: ProviderKey
    provider: str
    """As clients call it."""
    secret: str | None

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return VARIABLES[self.provider]

    @property
    def shown(self) -> str:
        """Twenty bullets and its last four characters, or four more bullets for one that cannot be read."""
        return BULLETS + (self.row.hint if self.secret is not None else BULLETS[:4])


def client_keys(user_id: str) -> list[ClientKey]:
    """The user's keys by provider."""
    query = select(ProviderKey).where(ProviderKey.user_id == user_id, ProviderKey.from_client)
    rows = db.session.scalars(query.order_by(ProviderKey.provider))
    return [ClientKey(row, _NAMES[row.provider], _secret(row)) for row in rows if row.provider in _NAMES]


def client_secrets(user_id: str) -> dict[str, str]:
    """The user's keys by environment variable. Raises Conflict for one that cannot be read."""
    found = {}
    for key in client_keys(user_id):
        if key.secret is None:
            message = f"The key of '{key.provider}' cannot be read: the secret key of this server changed. Set it again."
            raise Conflict(message, code="decryption_failed")
        found[key.variable] = key.secret
    return found


def set_client_key(user_id: str, provider: str, secret: str, now: datetime) -> None:
    """Set the user's key at a provider, in place of the one that a client set before. It is not checked there. Locks the user, flushes.
    Raises Invalid (422), and Conflict at the limit of keys."""
    stored = stored_provider(provider)
    form = ProviderKeyForm(stored, VARIABLES[provider], secret)
    provider_keys.put_client_key(Account(user_id=user_id), user_id, form, now)


def remove_client_key(user_id: str, provider: str) -> None:
    """Remove the user's key at a provider if a client set one. Flushes. Raises Invalid (422) for an unknown provider."""
    row = provider_keys.client_key(user_id, stored_provider(provider))
    if row is not None:
        provider_keys.remove_provider_key(row)


def stored_provider(provider: str) -> str:
    """What the provider is called in the table. Raises Invalid (422) for an unknown one."""
    if provider not in VARIABLES:
        raise Invalid(f"'provider' must be one of {', '.join(VARIABLES)}.")
    return _STORED.get(provider, provider)


def _secret(row: ProviderKey) -> str | None:
    context = key_context(row.account.id, row.provider)
    try:
        return open_sealed(extension("settings").secret_key, PURPOSE, row.sealed, context=context).decode()
    except SealBroken:
        return None
