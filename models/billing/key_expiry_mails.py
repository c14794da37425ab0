"""E-mails before API keys expire, 7 days and 1 day: to the key's owner, of an organisation's key also to its owner and admins."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Interval, literal, select, tuple_

from models.accounts.sessions import Session
from models.accounts.users import SERVICE_DOMAIN, User
from models.billing import mails
from models.billing.mails import BillingMail
from models.core.db import db
from models.core.mail import moment_text
from models.orgs import Org, OrgMember
from models.orgs.roles import CAN

NOTICES = (timedelta(days=7), timedelta(days=1))
"""How long before. A key that lasts less than twice as long has no such notice."""
LATE = timedelta(days=1)
"""How late a notice may be, after a pause of the worker."""
BATCH = 500


class _Expiring(NamedTuple):
    key: Session
    owner: User
    org: Org | None


def announce_expiring(now: datetime) -> int:
    """Enqueue the e-mails of keys that expire in 7 days or 1 day, once for each key, date and reader. Returns how many are new.

    Keys that are switched off, and keys of suspended or deleted owners and of deleted organisations, have none. Flushes; a repetition
    does nothing.
    """
    return sum(
        _announce(batch, notice, now) for notice in NOTICES for batch in _expiring(now + notice, 2 * notice)
    )


def _expiring(until: datetime, lifetime: timedelta) -> Iterator[Sequence[_Expiring]]:
    """Keys of at least this lifetime that expire in the day before `until`, in batches by expiry."""
    query = (
        select(Session, User, Org)
        .join(User, User.id == Session.user_id)
        .outerjoin(Org, Org.id == Session.org_id)
        .where(
            Session.type == "pat",
            Session.expires > until - LATE,
            Session.expires <= until,
            Session.expires >= Session.created_at + literal(lifetime, Interval),
            Session.disabled_at.is_(None),
            Session.kept_expires.is_(None),
            User.deleted_at.is_(None),
            User.banned.is_(False),
        )
        .order_by(Session.expires, Session.session_token)
        .limit(BATCH)
    )
    rows = [_Expiring(*row) for row in db.session.execute(query)]
    while rows:
        yield rows
        last = rows[-1].key
        after = tuple_(Session.expires, Session.session_token) > (last.expires, last.session_token)
        rows = [_Expiring(*row) for row in db.session.execute(query.where(after))]


def _announce(rows: Sequence[_Expiring], notice: timedelta, now: datetime) -> int:
    managers = _managers({row.org.id for row in rows if row.org})
    wanted = {}
    for row in rows:
        readers = set(managers[row.org.id]) if row.org else set()
        if not row.owner.email.endswith(f"@{SERVICE_DOMAIN}"):
            readers.add(row.owner.id)
        cause = f"key-expires-{row.key.session_token}-{int(row.key.expires.timestamp())}-{notice.days}"
        wanted.update({f"{cause}-{reader}": (row, reader) for reader in readers})
    done = set(db.session.scalars(select(BillingMail.id).where(BillingMail.id.in_(wanted))))
    new = [(id, row, reader) for id, (row, reader) in wanted.items() if id not in done]
    return sum(mails.enqueue("key_expires", id, reader, _facts(row, reader, now)) for id, row, reader in new)


def _managers(org_ids: set[str]) -> dict[str, list[str]]:
    """Who manages the keys of each organisation."""
    found: dict[str, list[str]] = defaultdict(list)
    query = select(OrgMember.org_id, OrgMember.user_id).where(
        OrgMember.org_id.in_(org_ids), OrgMember.role.in_(CAN["manage_keys"])
    )
    for org_id, user_id in db.session.execute(query) if org_ids else ():
        found[org_id].append(user_id)
    return found


def _facts(row: _Expiring, reader: str, now: datetime) -> dict[str, object]:
    name = "".join(char if char.isprintable() else " " for char in row.key.name or "").strip()
    return {
        "key": name or row.key.token_hint,
        "hint": row.key.token_hint,
        "expires": moment_text(row.key.expires),
        "in_days": max(round((row.key.expires - now) / timedelta(days=1)), 1),
        "owner": None if reader == row.owner.id else row.owner.display_name,
        "organisation": row.org.name if row.org else None,
        "organisation_slug": row.org.slug if row.org else None,
    }
