"""The tools that an account registers for its assistants: list, add, change, remove."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from models.assistants.assistant_access import check_capability
from models.assistants.assistant_fields import (
    MAX_TOOLS_BYTES,
    TOOL_NAME,
    checked_headers,
    checked_schema,
    checked_url,
    contains_nul,
    wrong,
)
from models.assistants.builtin_tools import BUILTIN_TOOLS
from models.assistants.tool import METHODS, Tool
from models.assistants.tool_secrets import host_of, secret_hosts
from models.core.db import db, now
from models.core.errors import Conflict, NotFound
from models.ledger import Account, lock_account
from models.orgs import record_org

MAX_REGISTERED = 200
MAX_DESCRIPTION = 4_000
DEFAULTS: dict[str, Any] = {
    "description": "",
    "parameters": {"type": "object", "properties": {}},
    "method": "POST",
    "headers": {},
    "timeout_seconds": 30,
    "retries": 0,
}


def tools(user_id: str, account: Account) -> list[Tool]:
    """The account's tools by name. Raises NotFound, Forbidden."""
    check_capability(user_id, account, "see_assistants")
    return list(db.session.scalars(select(Tool).where(Tool.account_id == account.id).order_by(Tool.name)))


def tool(user_id: str, account: Account, id: str) -> Tool:
    """One of them. Raises NotFound, Forbidden."""
    check_capability(user_id, account, "see_assistants")
    query = select(Tool).where(Tool.id == id, Tool.account_id == account.id)
    found = None if "\0" in id else db.session.scalars(query).one_or_none()
    if found is None:
        raise NotFound("There is no such tool.")
    return found


def add_tool(user_id: str, account: Account, raw: Mapping[str, Any]) -> Tool:
    """Register a tool. Locks the account, flushes. Raises NotFound, Forbidden, Invalid (422) with the field, and Conflict (409) for a name
    that is taken or too many."""
    check_capability(user_id, account, "manage_tools")
    for field in ("name", "url"):
        if raw.get(field) is None:
            raise wrong(field, f"Send '{field}'.")
    fields = {**DEFAULTS, **_checked(raw)}
    _check_headers(account, fields["headers"], fields["url"])
    lock_account(account)
    if (db.session.scalar(select(func.count()).where(Tool.account_id == account.id)) or 0) >= MAX_REGISTERED:
        raise Conflict(f"An account has at most {MAX_REGISTERED} tools. Remove one first.")
    row = Tool(account_id=account.id, created_by=user_id, **fields)
    db.session.add(row)
    _flush(row.name)
    db.session.refresh(row)
    _record(account, "added", row)
    return row


def change_tool(user_id: str, account: Account, id: str, raw: Mapping[str, Any]) -> Tool:
    """Change the sent fields of a tool. Flushes. Raises as `add_tool` does."""
    check_capability(user_id, account, "manage_tools")
    row = tool(user_id, account, id)
    db.session.refresh(row, with_for_update=True)
    fields = _checked(raw)
    _check_headers(account, fields.get("headers", row.headers), fields.get("url", row.url))
    for field, value in fields.items():
        setattr(row, field, value)
    row.updated_at = now()
    _flush(fields.get("name", ""))
    _record(account, "changed", row)
    return row


def remove_tool(user_id: str, account: Account, id: str) -> None:
    """Remove a tool: assistants that name it do without. Flushes. Raises NotFound, Forbidden."""
    check_capability(user_id, account, "manage_tools")
    row = tool(user_id, account, id)
    _record(account, "removed", row)
    db.session.delete(row)
    db.session.flush()


def registered(account_id: str, names: Collection[str]) -> dict[str, Tool]:
    """Those of these names that the account has registered."""
    if not names:
        return {}
    query = select(Tool).where(Tool.account_id == account_id, Tool.name.in_(names))
    return {row.name: row for row in db.session.scalars(query)}


def check_references(account: Account, fields: Mapping[str, Any]) -> None:
    """Check that an assistant's tools and secrets exist, and that secrets are sent to their own hosts. Raises Invalid (422)."""
    names = {each for each in fields.get("tools", ()) if isinstance(each, str)} - BUILTIN_TOOLS.keys()
    if missing := names - registered(account.id, names).keys():
        known = ", ".join(BUILTIN_TOOLS)
        raise wrong(
            "tools",
            f"There is no tool '{min(missing)}'. Register it (POST /api/v1/tools), send a function definition, or use {known}.",
        )
    for server in fields.get("mcp_servers", ()):
        _check_headers(account, server["headers"], server["url"], "mcp_servers")


# -- parts ---------------------------------------------------------------------------------------------------


def _check_headers(account: Account, headers: Mapping[str, str], url: str, field: str = "headers") -> None:
    if not headers:
        return
    hosts, host = secret_hosts(account.id, set(headers.values())), host_of(url)
    for name in headers.values():
        if name not in hosts:
            raise wrong(field, f"There is no secret '{name}'. Add it first (POST /api/v1/tool-secrets).")
        if hosts[name] != host:
            raise wrong(field, f"The secret '{name}' is for {hosts[name]}, and is not sent to {host}.")


def _checked(raw: Mapping[str, Any]) -> dict[str, Any]:
    checks: dict[str, Callable[[Any], Any]] = {
        "name": _name,
        "description": _description,
        "parameters": lambda value: checked_schema(value, "parameters", "parameters"),
        "url": lambda value: checked_url(value, "url"),
        "method": _method,
        "headers": lambda value: checked_headers(value, "headers"),
        "timeout_seconds": lambda value: _number("timeout_seconds", value, 1, 120),
        "retries": lambda value: _number("retries", value, 0, 3),
    }
    fields = {field: check(raw[field]) for field, check in checks.items() if field in raw}
    if "parameters" in fields:
        # as text, because integers may have more than 64 bits
        if len(str(fields["parameters"]).encode(errors="replace")) > MAX_TOOLS_BYTES:
            raise wrong("parameters", f"'parameters' has more than {MAX_TOOLS_BYTES >> 10} KiB. Shorten it.")
        if contains_nul(fields["parameters"]):
            raise wrong("parameters", "'parameters' contains a NUL character. Remove it.")
    return fields


def _name(value: Any) -> str:
    if not isinstance(value, str) or not TOOL_NAME.fullmatch(value) or "__" in value:
        raise wrong(
            "name", "Use at most 64 letters, digits, _ and -, without __, which names tools of MCP servers."
        )
    if value in BUILTIN_TOOLS:
        raise wrong("name", f"'{value}' is a tool of this server. Choose another name.")
    return value


def _description(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_DESCRIPTION or "\0" in value:
        raise wrong("description", f"Enter text of at most {MAX_DESCRIPTION:,} characters.")
    return value.strip()


def _method(value: Any) -> str:
    if value not in METHODS:
        raise wrong("method", f"Use {', '.join(METHODS)}.")
    return str(value)


def _number(field: str, value: Any, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise wrong(field, f"Use a whole number from {low} to {high}.")
    return value


def _flush(name: str) -> None:
    try:
        db.session.flush()
    except IntegrityError:
        raise Conflict(f"There is a tool named '{name}' already.") from None


def _record(account: Account, action: str, row: Tool) -> None:
    if account.org_id:
        record_org(account.org_id, f"tool.{action}", row.name, after={"url": row.url, "headers": row.headers})
