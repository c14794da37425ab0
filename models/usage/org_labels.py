"""Names of what usage is grouped by: members, keys, teams, repositories, models, agents, errors, runs."""

from collections import Counter
from collections.abc import Iterable

from sqlalchemy import ColumnElement, and_, or_, select

from models.accounts import Session, User
from models.core.db import db
from models.gateway import GatewayCall
from models.ledger.message import Message
from models.orgs import Org, OrgMember, OrgTeam

NOTHING = {
    "member": "Unknown",
    "key": "No key",
    "team": "No team",
    "repository": "No repository",
    "agent": "No agent",
    "version": "No agent",
    "error": "Succeeded",
    "run": "No run",
}
"""The name of an empty key."""


def labels_of(account: Org | User, dimension: str, keys: Iterable[str]) -> dict[str, str]:
    """A name for each key of a dimension in the usage of an organisation or a person, all different. Members, teams and API keys of
    others have no name."""
    known = [key for key in keys if key]
    found: dict[str, tuple[str, str]] = {}
    if dimension == "member":
        users = select(User.id, User.display_name, User.email).where(User.id.in_(known), _known_to(account))
        found = {id: (name, email) for id, name, email in db.session.execute(users)}
    elif dimension == "key":
        found = _keys(account, known)
    elif dimension == "team":
        teams = select(OrgTeam.id, OrgTeam.name).where(OrgTeam.org_id == account.id, OrgTeam.id.in_(known))
        found = {id: (name, id[:8]) for id, name in db.session.execute(teams)}
    elif dimension == "error":
        found = {key: (key.replace("_", " ").capitalize(), key) for key in known}
    elif dimension == "repository":
        found = {key: (key.removeprefix("https://"), key) for key in known}
    else:
        found = {key: (key, "") for key in known}
    missing = {key: (f"Deleted {dimension}", key[:8]) for key in known}
    return _unique({"": (NOTHING.get(dimension, "Unknown"), ""), **missing, **found})


def people(user_ids: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Name and e-mail address of users by id, `Unknown` if they have none (contract 2.8)."""
    users = select(User.id, User.name, User.email).where(User.id.in_(set(user_ids)))
    return {id: (name or "Unknown", email or "Unknown") for id, name, email in db.session.execute(users)}


def _keys(account: Org | User, known: list[str]) -> dict[str, tuple[str, str]]:
    query = select(Session.session_token, Session.name, Session.token_hint, Session.type)
    query = query.join(User, User.id == Session.user_id).where(Session.session_token.in_(known))
    own = _known_to(account)
    if isinstance(account, Org):
        own = or_(Session.org_id == account.id, own)
    rows = db.session.execute(query.where(own))
    kinds = {"pat": "API key", "cli": "Command line", "web": "Browser"}
    return {id: (name or f"{kinds.get(type, 'Key')} {hint}", hint) for id, name, hint, type in rows}


def _known_to(account: Org | User) -> ColumnElement[bool]:
    """Users who are or were members of the organisation, or the person."""
    if isinstance(account, User):
        return and_(User.id == account.id)
    member = select(OrgMember.user_id).where(OrgMember.org_id == account.id, OrgMember.user_id == User.id)
    called = select(GatewayCall.request_id).where(
        GatewayCall.account_id == account.id, GatewayCall.user_id == User.id
    )
    billed = select(Message.id).where(Message.org_id == account.id, Message.user_id == User.id)
    return or_(member.exists(), called.exists(), billed.exists())


def _unique(found: dict[str, tuple[str, str]]) -> dict[str, str]:
    """The names, with what tells them apart added to those that several share."""
    times = Counter(name for name, _ in found.values())
    return {
        key: f"{name} ({rest or key[:8]})" if times[name] > 1 and key else name
        for key, (name, rest) in found.items()
    }
