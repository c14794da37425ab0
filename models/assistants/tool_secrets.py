"""Secrets that tools and MCP servers send: written once, stored encrypted, never shown, each for one host."""

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert

from models.assistants.assistant_access import check_capability
from models.assistants.assistant_fields import SECRET_NAME, wrong
from models.assistants.tool import ToolSecret
from models.core.db import db, extension
from models.core.errors import Conflict, NotFound
from models.core.outgoing import OutgoingRefused, host_and_port
from models.core.sealing import SealBroken, open_sealed, seal
from models.ledger import Account, lock_account
from models.orgs import record_org

PURPOSE = "tool"
MAX_SECRETS = 100
_VALUE = re.compile(r"[ -~]{8,4096}")


@dataclass(frozen=True, slots=True)
class OpenedSecret:
    """A secret's value, and the only host that it is sent to. Never log it."""

    value: str = field(repr=False)
    host: str


def tool_secrets(user_id: str, account: Account) -> list[ToolSecret]:
    """The account's secrets by name, for showing their names, hosts and hints. Raises NotFound, Forbidden."""
    check_capability(user_id, account, "see_assistants")
    query = select(ToolSecret).where(ToolSecret.account_id == account.id)
    return list(db.session.scalars(query.order_by(ToolSecret.name)))


def add_secret(user_id: str, account: Account, name: str, host: str, value: str) -> ToolSecret:
    """Store a secret for this host (`api.example.com`, or with a port). Locks the account, flushes. Raises NotFound, Forbidden, Invalid (422)
    with the field, and Conflict (409) for a name that is taken or too many."""
    check_capability(user_id, account, "manage_tools")
    if not SECRET_NAME.fullmatch(name):
        raise wrong("name", "Use at most 64 letters, digits, _ . and -.")
    host, value = _checked_host(host), value.strip()
    if not _VALUE.fullmatch(value):
        raise wrong(
            "value", "Enter the value of the header, such as 'Bearer …': 8 to 4,096 ASCII characters."
        )
    lock_account(account)
    count = select(func.count()).where(ToolSecret.account_id == account.id)
    if (db.session.scalar(count) or 0) >= MAX_SECRETS:
        raise Conflict(f"An account has at most {MAX_SECRETS} secrets. Remove one first.")
    sealed = seal(
        extension("settings").secret_key, PURPOSE, value.encode(), context=_context(account.id, name, host)
    )
    row = db.session.scalars(
        insert(ToolSecret)
        .values(
            account_id=account.id,
            name=name,
            host=host,
            sealed=sealed,
            hint=value[-4:] if len(value) >= 16 else "",
            created_by=user_id,
        )
        .on_conflict_do_nothing()
        .returning(ToolSecret)
    ).one_or_none()
    if row is None:
        raise Conflict(f"There is a secret named '{name}' already. Remove it first, or choose another name.")
    _record(account, "added", row)
    return row


def remove_secret(user_id: str, account: Account, name: str) -> None:
    """Delete a secret: tools that name it fail from now on. Flushes. Raises NotFound, Forbidden."""
    check_capability(user_id, account, "manage_tools")
    row = None if "\0" in name else db.session.get(ToolSecret, (account.id, name))
    if row is None:
        raise NotFound("There is no such secret.")
    _record(account, "removed", row)
    db.session.delete(row)
    db.session.flush()


def secret_hosts(account_id: str, names: Collection[str]) -> dict[str, str]:
    """The host of each of these secrets that exists."""
    query = select(ToolSecret.name, ToolSecret.host).where(
        ToolSecret.account_id == account_id, ToolSecret.name.in_(names)
    )
    return {row.name: row.host for row in db.session.execute(query)}


def opened_secrets(account_id: str, names: Collection[str]) -> dict[str, OpenedSecret]:
    """The values of these secrets, without those that do not exist or were encrypted with another STOA_SECRET_KEY."""
    if not names:
        return {}
    query = select(ToolSecret).where(ToolSecret.account_id == account_id, ToolSecret.name.in_(names))
    found, key = {}, extension("settings").secret_key
    for row in db.session.scalars(query):
        try:
            value = open_sealed(key, PURPOSE, row.sealed, context=_context(account_id, row.name, row.host))
        except SealBroken:
            continue
        found[row.name] = OpenedSecret(value.decode(), row.host)
    return found


def host_of(url: str) -> str:
    """The host of a URL as secrets name it: in lower case, with its port unless that is the usual one. Raises OutgoingRefused."""
    host, port = host_and_port(url)
    usual = 80 if urlsplit(url).scheme == "http" else 443
    return host.lower() if port == usual else f"{host.lower()}:{port}"


def _checked_host(text: str) -> str:
    try:
        if not re.fullmatch(r"[A-Za-z0-9.\-:\[\]]{1,260}", text):
            raise OutgoingRefused
        return host_of(f"https://{text}/")
    except OutgoingRefused:
        raise wrong("host", "Enter the host that the secret is sent to, such as api.example.com.") from None


def _context(account_id: str, name: str, host: str) -> str:
    return f"{account_id}:{name}:{host}"


def _record(account: Account, action: str, row: ToolSecret) -> None:
    if account.org_id:
        record_org(account.org_id, f"tool_secret.{action}", row.name, after={"host": row.host})
