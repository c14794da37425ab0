"""Names of what an organisation's usage is grouped by: members, keys, teams, repositories, models, agents."""

from collections import Counter
from collections.abc import Iterable

from sqlalchemy import select

from models.accounts import Session, User
from models.core.db import db
from models.orgs import Org, OrgTeam

NOTHING = {
    "member": "Unknown",
    "key": "No key",
    "team": "No team",
    "repository": "No repository",
    "agent": "No agent",
    "version": "No agent",
}
"""The name of an empty key."""


def labels_of(org: Org, dimension: str, keys: Iterable[str]) -> dict[str, str]:
    """A name for each key of a dimension, all different."""
    known = [key for key in keys if key]
    found: dict[str, tuple[str, str]] = {}
    if dimension == "member":
        users = select(User.id, User.name, User.email).where(User.id.in_(known))
        found = {id: (name or email, email) for id, name, email in db.session.execute(users)}
    elif dimension == "key":
        found = _keys(known)
    elif dimension == "team":
        teams = select(OrgTeam.id, OrgTeam.name).where(OrgTeam.org_id == org.id, OrgTeam.id.in_(known))
        found = {id: (name, id[:8]) for id, name in db.session.execute(teams)}
    elif dimension in ("model", "agent", "version"):
        found = {key: (key, "") for key in known}
    else:
        found = {key: (key.removeprefix("https://"), key) for key in known}
    missing = {key: (f"Deleted {dimension}", key[:8]) for key in known}
    return _unique({"": (NOTHING.get(dimension, "Unknown"), ""), **missing, **found})


def people(user_ids: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Name and e-mail address of users by id, `Unknown` if they have none (contract 2.8)."""
    users = select(User.id, User.name, User.email).where(User.id.in_(set(user_ids)))
    return {id: (name or "Unknown", email or "Unknown") for id, name, email in db.session.execute(users)}


def _keys(known: list[str]) -> dict[str, tuple[str, str]]:
    query = select(Session.session_token, Session.name, Session.token_hint, Session.type)
    rows = db.session.execute(query.where(Session.session_token.in_(known)))
    kinds = {"pat": "API key", "cli": "Command line", "web": "Browser"}
    return {id: (name or f"{kinds.get(type, 'Key')} {hint}", hint) for id, name, hint, type in rows}


def _unique(found: dict[str, tuple[str, str]]) -> dict[str, str]:
    """The names, with what tells them apart added to those that several share."""
    times = Counter(name for name, _ in found.values())
    return {
        key: f"{name} ({rest or key[:8]})" if times[name] > 1 and key else name
        for key, (name, rest) in found.items()
    }
