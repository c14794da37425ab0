"""What an export of a user's data holds of their account: profile, ways to sign in, sessions, keys, and their own acts."""

from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Select, case, func, null, select

from models.accounts.api_keys import ApiKey
from models.accounts.data_exports import DataExport
from models.accounts.passkeys import Passkey
from models.accounts.sessions import NEVER, FingerprintUser, Session
from models.accounts.users import EncryptedApiKey, OAuthAccount, User
from models.core.audit_log import AuditLog
from models.core.personal_export import add_csv, add_json_lines, batches

SECRET = frozenset({"password"})
"""Columns of users that no export has."""
_SETTINGS = {
    "id": "your user id",
    "name": "name on pages",
    "email": "address",
    "emailVerified": "when the address was verified",
    "created_at": "when the account was made",
    "theme": "colour scheme of pages",
    "time_zone": "time zone of pages",
    "number_language": "language of numbers",
    "deleted_at": "when you deleted the account",
    "handle": "public handle of referrals",
    "referral_code": "code of your referral link",
    "referral_limit": "people you can refer",
    "next_quota_reset": "when the free credits of the month come",
    "auto_topup_enabled": "whether credits are bought automatically",
    "auto_topup_threshold": "credits below which they are bought",
    "auto_topup_amount": "credits bought at a time",
    "fallback_to_a_la_carte": "whether calls beyond the plan use bought credits",
    "stripe_customer_id": "id at the payment provider",
    "banned": "whether the account is suspended",
    "banned_reason": "why",
}


def _columns() -> dict[str, str]:
    """Every column of a user, so that none is forgotten when one is added."""
    names = [column.name for column in User.__table__.columns if column.name not in SECRET]
    return {
        name: _SETTINGS.get(name, name.replace("_", " "))
        for name in (*_SETTINGS, *sorted(names))
        if name in names
    }


def _profile(user_id: str) -> Iterator[Mapping[str, Any]]:
    query = select(User.__table__).where(User.id == user_id)
    yield from batches(query, User.id)


def _identities(user_id: str) -> Iterator[Mapping[str, Any]]:
    query: Select[*tuple[Any, ...]] = select(
        OAuthAccount.provider, OAuthAccount.type, OAuthAccount.provider_account_id.label("subject")
    ).where(OAuthAccount.user_id == user_id)
    return batches(query, OAuthAccount.provider, OAuthAccount.provider_account_id)


def _passkeys(user_id: str) -> Iterator[Mapping[str, Any]]:
    query: Select[*tuple[Any, ...]] = select(
        Passkey.name,
        Passkey.created_at,
        Passkey.last_used_at,
        Passkey.last_used_ip,
        func.array_to_string(Passkey.transports, " ").label("transports"),
    ).where(Passkey.user_id == user_id)
    return batches(query, Passkey.id)


def _sessions(*types: str) -> Any:
    def rows(user_id: str) -> Iterator[Mapping[str, Any]]:
        query: Select[*tuple[Any, ...]] = select(
            Session.token_hint.label("ends_with"),
            Session.type,
            Session.name,
            Session.created_at,
            Session.last_used_at,
            Session.last_used_ip,
            Session.user_agent,
            Session.fingerprint_id.label("device"),
            Session.org_id.label("organisation"),
            Session.disabled_at,
            case((Session.expires == NEVER, null()), else_=Session.expires).label("expires"),
        ).where(Session.user_id == user_id, Session.type.in_(types))
        return batches(query, Session.session_token)

    return rows


def _permissions(user_id: str) -> Iterator[Mapping[str, Any]]:
    query: Select[*tuple[Any, ...]] = select(
        func.left(ApiKey.key_id, 12).label("begins_with"),
        func.coalesce(Session.name, ApiKey.name).label("name"),
        ApiKey.environment,
        *(
            func.array_to_string(getattr(ApiKey, name), " ").label(name)
            for name in ("permissions", "allowed_models", "allowed_agents", "allowed_ips")
        ),
        ApiKey.org_id.label("organisation"),
        ApiKey.created_at,
        ApiKey.rotated_at,
        ApiKey.revoked_at,
        func.coalesce(Session.last_used_at, func.timezone("utc", ApiKey.last_used_at)).label("last_used_at"),
    ).outerjoin(Session, Session.session_token == ApiKey.key_id)
    return batches(query.where(ApiKey.user_id == user_id), ApiKey.id)


def _devices(user_id: str) -> Iterator[Mapping[str, Any]]:
    query: Select[*tuple[Any, ...]] = select(
        FingerprintUser.fingerprint_id.label("device"), FingerprintUser.created_at
    ).where(FingerprintUser.user_id == user_id)
    return batches(query, FingerprintUser.fingerprint_id)


def _provider_keys(user_id: str) -> Iterator[Mapping[str, Any]]:
    query: Select[*tuple[Any, ...]] = select(EncryptedApiKey.type.label("provider")).where(
        EncryptedApiKey.user_id == user_id
    )
    return batches(query, EncryptedApiKey.type)


def _acts(user_id: str) -> Iterator[Mapping[str, Any]]:
    query = select(AuditLog.__table__).where(AuditLog.actor_id == user_id)
    return batches(query, AuditLog.id)


def _exports(user_id: str) -> Iterator[Mapping[str, Any]]:
    query: Select[*tuple[Any, ...]] = select(
        DataExport.created_at,
        DataExport.state,
        DataExport.finished_at,
        DataExport.bytes,
    ).where(DataExport.user_id == user_id)
    return batches(query, DataExport.created_at, DataExport.id)


_SESSION = {
    "ends_with": "the last characters of the token; keys also have the first",
    "type": "web (browser), cli (command line) or pat (API key)",
    "name": "name of the key",
    "created_at": "sign-in, or creation of the key",
    "last_used_at": "last use, exact to five minutes",
    "last_used_ip": "address of the last use",
    "user_agent": "browser",
    "device": "id of the command line device",
    "organisation": "id of the organisation that a key acts for",
    "disabled_at": "when the key was switched off",
    "expires": "expiry; empty: never",
}

add_json_lines("profile.jsonl", "Your account and its settings.", _columns(), _profile)
add_csv(
    "sign_ins.csv",
    "Accounts at other providers that sign you in.",
    {"provider": "provider", "type": "protocol", "subject": "your id there"},
    _identities,
)
add_csv(
    "passkeys.csv",
    "Passkeys that sign you in.",
    {
        "name": "name",
        "created_at": "when it was added",
        "last_used_at": "last use",
        "last_used_ip": "address of the last use",
        "transports": "how the device is reached",
    },
    _passkeys,
)
add_csv("sessions.csv", "Browsers and command lines that are signed in.", _SESSION, _sessions("web", "cli"))
add_csv("keys.csv", "API keys, without their secrets.", _SESSION, _sessions("pat"))
add_csv(
    "key_permissions.csv",
    "What API keys may do, also those that were revoked.",
    {
        "begins_with": "the first characters of the key",
        "name": "name of the key",
        "environment": "live, or test: never charged",
        "permissions": "scopes",
        "allowed_models": "models that it may use; empty: all",
        "allowed_agents": "agents whose runs it may be used in; empty: all calls",
        "allowed_ips": "networks that it may be used from; empty: all",
        "organisation": "id of the organisation that it acts for",
        "created_at": "creation",
        "rotated_at": "last change of its secret",
        "revoked_at": "when it ended",
        "last_used_at": "last use, exact to five minutes",
    },
    _permissions,
)
add_csv(
    "devices.csv",
    "Command line devices you signed in on.",
    {"device": "id of the device", "created_at": "first sign-in"},
    _devices,
)
add_csv(
    "provider_keys.csv",
    "Providers whose keys of yours are stored, without the keys.",
    {"provider": "provider"},
    _provider_keys,
)
add_json_lines(
    "audit.jsonl",
    "What you did, sign-ins included.",
    {
        "at": "when",
        "action": "what",
        "subject": "what it was done to",
        "before": "values before",
        "after": "values after",
        "ip": "your address",
        "request_id": "id of the request",
        "org_id": "id of the organisation it happened in",
    },
    _acts,
)
add_csv(
    "exports.csv",
    "Exports like this one.",
    {
        "created_at": "when it was requested",
        "state": "what became of it",
        "finished_at": "when it was ready",
        "bytes": "size in bytes",
    },
    _exports,
)
