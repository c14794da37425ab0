"""Find the account that an operator looks for: by address, name, id, the ending of a key, the id of a call or a run."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from sqlalchemy import ColumnElement, Select, func, select

from models.accounts.sessions import Session
from models.accounts.users import User
from models.core.db import db
from models.gateway.gateway_call import GatewayCall
from models.ledger import Account, CreditHold
from models.orgs import Org
from models.runs import AgentRun

MATCHES = 20
"""Matches of each kind, and in all."""
SHORTEST_ENDING = 4
LONGEST_TEXT = 320


@dataclass(frozen=True, slots=True)
class AccountMatch:
    """An account that matches, and why. `request_id` or `run_id` is the call or run that was searched for."""

    account: Account
    title: str
    detail: str
    """The address of a person, the slug of an organisation."""
    reason: str
    request_id: str | None = None
    run_id: str | None = None


def find_accounts(text: str) -> tuple[list[AccountMatch], bool]:
    """At most `MATCHES` accounts that match, exact ids first, each once, and whether there are more.

    Addresses, names and slugs match by their beginning, API keys and sessions by at least four last characters, ids as a whole;
    letter case matters only in ids. Every part of the search is an index lookup of at most `MATCHES` rows.
    """
    text = text.strip()
    if not text or "\0" in text or len(text) > LONGEST_TEXT:
        return [], False
    found: dict[tuple[str, str | None], AccountMatch] = {}
    for match in islice(_matches(text), 5 * MATCHES):
        found.setdefault((match.account.id, match.request_id or match.run_id), match)
    matches = list(found.values())
    exact = {match.account.id for match in matches if match.request_id or match.run_id}
    matches = [each for each in matches if each.request_id or each.run_id or each.account.id not in exact]
    return matches[:MATCHES], len(matches) > MATCHES


def _matches(text: str) -> Iterator[AccountMatch]:
    yield from _people(User.id == text, "Id")
    yield from _orgs(Org.id == text, "Id")
    yield from _calls(text)
    yield from _runs(text)
    start = like_beginning(text.lower())
    yield from _people(User.email.like(start), "Address")
    yield from _orgs(Org.slug.like(start), "Slug")
    yield from _orgs(func.lower(Org.name).like(start), "Name")
    yield from _people(func.lower(User.name).like(start), "Name")
    yield from _keys(text.lstrip("•.…"))


def like_beginning(text: str) -> str:
    """The LIKE pattern of texts that begin with `text`."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"


def _people(condition: ColumnElement[bool], reason: str) -> Iterator[AccountMatch]:
    for user in db.session.scalars(select(User).where(condition).limit(MATCHES + 1)):
        yield _person(user, reason)


def _orgs(condition: ColumnElement[bool], reason: str) -> Iterator[AccountMatch]:
    for org in db.session.scalars(select(Org).where(condition).limit(MATCHES + 1)):
        yield _organisation(org, reason)


def _calls(request_id: str) -> Iterator[AccountMatch]:
    settled = select(GatewayCall.account_id).where(GatewayCall.request_id == request_id)
    held = select(CreditHold.account_id).where(CreditHold.request_id == request_id)
    yield from _owners(settled, "Call", request_id=request_id)
    yield from _owners(held, "Call without an outcome", request_id=request_id)


def _runs(run_id: str) -> Iterator[AccountMatch]:
    yield from _owners(select(AgentRun.account_id).where(AgentRun.id == run_id), "Run", run_id=run_id)


def _keys(ending: str) -> Iterator[AccountMatch]:
    if len(ending) < SHORTEST_ENDING:
        return
    hint = func.reverse(Session.token_hint).like(like_beginning(ending[::-1]))
    query = select(Session, User).join(User, User.id == Session.user_id).where(hint).limit(MATCHES + 1)
    rows = db.session.execute(query).all()
    orgs = _by_id(Org, (key.org_id for key, _ in rows if key.org_id))
    for key, user in rows:
        reason = f"{'API key' if key.type == 'pat' else 'Session'} {key.name or ''}".strip()
        if key.org_id in orgs:
            yield _organisation(orgs[key.org_id], f"{reason} of {user.email}")
        else:
            yield _person(user, reason)


def _owners(query: Select[Any], reason: str, **ids: str) -> Iterator[AccountMatch]:
    for account_id in db.session.scalars(query):
        if user := db.session.get(User, account_id):
            yield _person(user, reason, **ids)
        elif org := db.session.get(Org, account_id):
            yield _organisation(org, reason, **ids)


def _by_id(table: type[Org], ids: Iterable[str]) -> dict[str, Org]:
    wanted = set(ids)
    rows = db.session.scalars(select(table).where(table.id.in_(wanted))) if wanted else ()
    return {row.id: row for row in rows}


def _person(user: User, reason: str, **ids: str) -> AccountMatch:
    return AccountMatch(Account(user_id=user.id), user.display_name, user.email, reason, **ids)


def _organisation(org: Org, reason: str, **ids: str) -> AccountMatch:
    return AccountMatch(Account(org_id=org.id), org.name, org.slug, reason, **ids)
