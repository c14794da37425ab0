"""Settings of Claude Code that an organisation manages for its members' clients, which fetch them from the gateway."""

import hashlib
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import ForeignKey, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import NOW, Base, db
from models.core.errors import Invalid
from models.orgs.audit import record_org
from models.orgs.org import Org, OrgMember, lock_org

MAX_BYTES = 64 << 10
MAX_DEPTH = 20


class OrgClientSettings(Base):
    """The settings of an organisation, an object. `checksum` is what clients compare."""

    __tablename__ = "org_client_settings"

    org_id: Mapped[str] = mapped_column(ForeignKey("org.id", ondelete="CASCADE"), primary_key=True)
    settings: Mapped[dict[str, Any]] = mapped_column(JSONB)
    checksum: Mapped[str]
    updated_by: Mapped[str | None] = mapped_column(ForeignKey("user.id", ondelete="SET NULL"))
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW)


def client_settings(org: Org) -> OrgClientSettings | None:
    """The organisation's settings; None if it manages none."""
    return db.session.get(OrgClientSettings, org.id)


def settings_for(user_id: str, org_id: str | None) -> OrgClientSettings | None:
    """The settings for a person's client: of the organisation of their key, or else (None) of the first that they joined which has
    settings. None if there are none."""
    query = (
        select(OrgClientSettings)
        .join(Org, Org.id == OrgClientSettings.org_id)
        .join(OrgMember, OrgMember.org_id == Org.id)
        .where(OrgMember.user_id == user_id, Org.deleted_at.is_(None))
        .order_by(OrgMember.joined_at, Org.id)
    )
    if org_id is not None:
        query = query.where(Org.id == org_id)
    return db.session.scalars(query.limit(1)).first()


def save_client_settings(org: Org, by_id: str, text: str, now: datetime) -> OrgClientSettings | None:
    """Store settings written as JSON; a blank text removes them. Locks the organisation, flushes. Raises Invalid with what is wrong.
    The audit log names the changed keys, not their values, which may be secret."""
    settings = _read(text) if text.strip() else None
    lock_org(org.id)
    row = client_settings(org)
    before = row.settings if row else None
    if settings == before:
        return row
    if settings is None:
        assert row is not None, "differs from nothing"
        db.session.delete(row)
        db.session.flush()
        record_org(org.id, "client_settings.removed", org.slug, before=_audited(row))
        return None
    old = _audited(row) if row else None
    if row is None:
        row = OrgClientSettings(org_id=org.id)
        db.session.add(row)
    row.settings, row.checksum = settings, checksum(settings)
    row.updated_by, row.updated_at = by_id, now
    db.session.flush()
    changed = sorted(
        key for key in {*(before or {}), *settings} if (before or {}).get(key) != settings.get(key)
    )
    record_org(
        org.id, "client_settings.changed", org.slug, before=old, after={**_audited(row), "changed": changed}
    )
    return row


def checksum(settings: dict[str, Any]) -> str:
    """What clients compute of the settings they have: of JSON with sorted keys and without spaces."""
    return f"sha256:{hashlib.sha256(orjson.dumps(settings, option=orjson.OPT_SORT_KEYS)).hexdigest()}"


def _read(text: str) -> dict[str, Any]:
    if len(text.encode(errors="replace")) > MAX_BYTES:
        raise _invalid(f"Use at most {MAX_BYTES >> 10} KiB.")
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise _invalid(
            f"This is not valid JSON: {error.msg}, line {error.lineno}, column {error.colno}."
        ) from None
    if not isinstance(found, dict):
        raise _invalid('Enter a JSON object, such as {"model": "…"}.')
    settings: dict[str, Any] = _checked(found, 1)
    env = settings.get("env", {})
    if not isinstance(env, dict) or not all(isinstance(value, str) for value in env.values()):
        raise _invalid("The values of 'env' must be texts: put them in quotes.")
    return settings


def _checked(value: Any, depth: int) -> Any:
    """The value as PostgreSQL and clients keep it: whole numbers without a fraction."""
    if depth > MAX_DEPTH:
        raise _invalid(f"Nest objects and lists at most {MAX_DEPTH} levels deep.")
    match value:
        case dict():
            return {_checked(key, depth): _checked(inner, depth + 1) for key, inner in value.items()}
        case list():
            return [_checked(inner, depth + 1) for inner in value]
        case str() if "\x00" in value:
            raise _invalid("Texts cannot contain the character NUL.")
        case float() if value.is_integer():
            return int(value)
    return value


def _invalid(problem: str) -> Invalid:
    return Invalid(problem, fields={"settings": problem})


def _audited(row: OrgClientSettings) -> dict[str, Any]:
    return {"checksum": row.checksum, "keys": sorted(row.settings)}
