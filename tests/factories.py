"""Factories for committed rows. Keyword arguments override all defaults."""

import hashlib
import secrets
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import inspect
from sqlalchemy.orm import make_transient_to_detached

from models.accounts import Fingerprint, Session, User
from models.accounts.api_keys import KeyRules
from models.accounts.credentials import create_key
from models.billing import LimitOverride, Plan, PlanWindow, Referral, Subscription
from models.core.db import Base, db
from models.gateway import GatewayCall
from models.ledger import PRIORITIES, Account, CreditAccount, CreditEntry, CreditHold, CreditLedger
from models.orgs import Org, OrgMember
from models.runs import AgentRun, AgentStep
from models.store import Agent, AgentConfig, AgentVersion, Publisher
from models.store.catalogue import catalogue
from models.usage import Message

Row = TypeVar("Row", bound=Base)


ORGANISATIONS: dict[str, str] | None = None
"""Organisation by user id, while a test runs for organisations' accounts (fixture `kind`); otherwise None."""

own_account_only = pytest.mark.parametrize("kind", ["a person's account"], indirect=True)
"""For tests of features that organisations' accounts lack: monthly credits, grant types, cleared debts."""
an_organisations_only = pytest.mark.parametrize("kind", ["an organisation's account"], indirect=True)


def org_of(user_id: str) -> str | None:
    """The organisation whose account a user acts for in this test, or None."""
    return (ORGANISATIONS or {}).get(user_id)


def now() -> datetime:
    return datetime.now(UTC)


def new_id(prefix: str = "") -> str:
    return f"{prefix}{uuid.uuid4()}"


@contextmanager
def one_commit() -> Iterator[None]:
    """Commit the rows of the factories called within once, at the end: a commit, and reading back what it expired, take longer
    than writing a row."""
    session = db.session()
    session.info["commits later"] = session.info.get("commits later", 0) + 1
    try:
        yield
    finally:
        session.info["commits later"] -= 1
    _commit()


def _commits_later() -> bool:
    return bool(db.session().info.get("commits later"))


def _commit() -> None:
    if _commits_later():
        db.session.flush()
    else:
        db.session.commit()


def save(row: Row) -> Row:
    db.session.add(row)
    _commit()
    return row


def user(name: str = "alice", **kw: Any) -> User:
    """A user `<name>@example.org`, verified, without credits."""
    kw.setdefault("email", f"{name}@example.org")
    kw.setdefault("email_verified", now())
    created = save(User(name=name, **kw))
    if ORGANISATIONS is not None:
        owner = save(User(name="owner", email=f"owner-{new_id()}@example.org"))
        ORGANISATIONS[created.id] = org(owner, new_id("org-")).id
        join(db.session.get_one(Org, ORGANISATIONS[created.id]), created.id, "admin")
    return created


def org(owner: User, name: str = "Acme", members: tuple[User, ...] = (), **kw: Any) -> Org:
    """An organisation with its owner's membership and plain `members`."""
    kw.setdefault("slug", name.lower().replace(" ", "-"))
    kw.setdefault("auto_topup_threshold", 500)
    kw.setdefault("auto_topup_amount", 2000)
    created = Org(name=name, owner_id=id_of(owner), **kw)
    db.session.add(created)
    db.session.flush()
    db.session.add(OrgMember(org_id=created.id, user_id=id_of(owner), role="owner"))
    db.session.add_all(OrgMember(org_id=created.id, user_id=id_of(each), role="member") for each in members)
    _commit()
    return created


def join(org: Org, user_id: str, role: str = "member") -> OrgMember:
    """Make the user a member of the organisation."""
    return save(OrgMember(org_id=org.id, user_id=user_id, role=role))


def membership(org: Org, user_id: str) -> OrgMember:
    """The user's membership of the organisation."""
    return db.session.get_one(OrgMember, (org.id, user_id))


def fingerprint(id: str | None = None, **kw: Any) -> Fingerprint:
    return save(Fingerprint(id=id or new_id("fp-"), **kw))


def token(owner: User, type: str = "pat", **kw: Any) -> str:
    """A session row of `type`; returns the raw token, stored as SHA-256. With `org_id` it acts for that organisation, of
    which the owner must be a member."""
    raw = {"pat": _new_key(), "web": secrets.token_urlsafe(32)}.get(type) or new_id()
    kw.setdefault("expires", now() + timedelta(days=30))
    kw.setdefault("org_id", None if type == "web" else org_of(owner.id))
    kw.setdefault("token_hint", _hint(raw, type))
    db.session.add(Session(session_token=_hashed(raw), user_id=owner.id, type=type, **kw))
    if not _commits_later():  # nothing is read back, so several of them become one statement
        _commit()
    return raw


def api_key(owner: User, *, org_id: str | None = None, **rules: Any) -> str:
    """A key with an id of its own; `rules` are fields of KeyRules. Returns the key."""
    raw, _ = create_key(
        owner,
        by=None,
        days=None,
        now=now(),
        org_id=org_id,
        name=rules.pop("name", None),
        rules=KeyRules(**rules),
    )
    _commit()
    return raw


def _new_key() -> str:
    return "cb-pat-" + secrets.token_hex(32)


def _hint(raw: str, type: str) -> str:
    return f"{raw[:15]}...{raw[-8:]}" if type == "pat" else raw[-4:]


def _hashed(raw: str) -> str:
    return hashlib.sha256(raw.encode()).hexdigest()


def browser_cookie(owner: User) -> Any:
    """The cookie of a new browser session on loopback, for Playwright."""
    value = token(owner, type="web")
    return {"name": "next-auth.session-token", "value": value, "domain": "127.0.0.1", "path": "/"}


@dataclass(frozen=True)
class Person:
    """One of the cast: user, signed-in browser, and headers with their API key."""

    id: str
    user: User | None
    browser: FlaskClient
    token: str
    headers: dict[str, str]
    home: str = ""
    """Start of the addresses of the account's pages: empty, or `/orgs/<slug>`."""

    @property
    def account(self) -> Account:
        """The account that the key acts for."""
        org_id = org_of(self.id)
        return Account(org_id=org_id) if org_id else Account(user_id=self.id)

    @property
    def account_id(self) -> str:
        return self.account.id


def person(app: Flask, name: str) -> Person:
    """A user with a signed-in browser and an API key. For an organisation's account the browser opens the organisation's runs,
    calls and statement instead of the person's own."""
    home = ""
    if ORGANISATIONS is None:
        created, key, web = _signed_in(name)
    else:
        with one_commit():
            created = user(name)
            key = token(created)
            web = token(created, type="web")
            home = f"/orgs/{db.session.get_one(Org, org_of(created.id)).slug}"
    browser = app.test_client()
    browser.__dict__["home"] = home
    browser.set_cookie("next-auth.session-token", web)
    return Person(id_of(created), created, browser, key, {"authorization": f"Bearer {key}"}, home)


_SIGNED_IN = """
WITH made AS (INSERT INTO "user" (id, name, email, "emailVerified") VALUES (%(id)s, %(name)s, %(email)s, %(now)s))
INSERT INTO session ("sessionToken", "userId", type, expires, token_hint)
VALUES (%(key)s, %(id)s, 'pat', %(expires)s, %(key_hint)s), (%(web)s, %(id)s, 'web', %(expires)s, %(web_hint)s)
"""


def _signed_in(name: str) -> tuple[User, str, str]:
    """A user, the API key and the web session. One statement: most tests begin with it, and the same through the ORM took
    longer than the rest of a small test."""
    key, web = _new_key(), secrets.token_urlsafe(32)
    made, at = User(id=new_id()), now().replace(tzinfo=None)
    parameters = {
        "id": made.id,
        "name": name,
        "email": f"{name}@example.org",
        "now": at,
        "expires": at + timedelta(days=30),
        "key": _hashed(key),
        "key_hint": _hint(key, "pat"),
        "web": _hashed(web),
        "web_hint": _hint(web, "web"),
    }
    db.session.connection().exec_driver_sql(_SIGNED_IN, parameters)
    # as after a commit: read when an attribute is used
    make_transient_to_detached(made)
    db.session.add(made)
    _commit()
    return made, key, web


def id_of(row: User | Org | AgentRun) -> str:
    """The primary key of a stored row, without reading the row again after a commit."""
    identity = inspect(row).identity
    return identity[0] if identity else row.id


def account(owner: User | Org, **kw: Any) -> CreditAccount:
    """The credit account of a user or an organisation; created if missing."""
    found = db.session.get(CreditAccount, owner.id)
    if found is None:
        key = "org_id" if isinstance(owner, Org) else "user_id"
        found = save(CreditAccount(id=owner.id, **{key: owner.id}, **kw))
    return found


def payer(owner: User, org_id: str | None) -> CreditAccount:
    """The organisation's account if given, or else the user's."""
    return account(db.session.get_one(Org, org_id) if org_id else owner)


_ACCOUNT = """
WITH made AS (INSERT INTO credit_account (id, user_id, org_id) VALUES (%(id)s, %(user)s, %(org)s) ON CONFLICT DO NOTHING)
SELECT coalesce(sum(balance), 0) FROM credit_ledger WHERE user_id = %(payer)s AND org_id IS NOT DISTINCT FROM %(org)s
"""


@one_commit()
def grant(owner: User, amount: int = 1000, type: str = "free", **kw: Any) -> CreditLedger:
    """A grant with its account and ledger entries. A `balance` below `amount` is partly spent, below zero a debt; `org_id`
    makes it an organisation's."""
    kw.setdefault("operation_id", new_id(f"{type}-"))
    kw.setdefault("balance", amount)
    kw.setdefault("priority", PRIORITIES[type])
    user_id = id_of(owner)
    org_id = kw.setdefault("org_id", org_of(user_id))
    account_id = org_id or user_id
    holder = {"id": account_id, "user": None if org_id else user_id, "org": org_id, "payer": user_id}
    balance = int(db.session.connection().exec_driver_sql(_ACCOUNT, holder).scalar_one())
    created = CreditLedger(user_id=user_id, principal=amount, type=type, **kw)
    db.session.add(created)
    for kind, change, remaining in (
        ("grant", amount, amount),
        ("debit", created.balance - amount, created.balance),
    ):
        if kind == "debit" and change == 0:
            continue
        balance += change
        db.session.add(
            CreditEntry(
                account_id=account_id,
                operation_id=created.operation_id,
                kind=kind,
                amount=change,
                grant_balance_after=remaining,
                balance_after=balance,
                cause=created.operation_id,
            )
        )
        db.session.flush()
    _commit()
    return created


@one_commit()
def hold(owner: User, amount: int = 10, **kw: Any) -> CreditHold:
    """A live hold on the user's account that expires in a minute."""
    kw.setdefault("request_id", new_id())
    kw.setdefault("account_id", payer(owner, org_of(owner.id)).id)
    kw.setdefault("expires_at", now() + timedelta(minutes=1))
    defaults = {"model": "stoa/demo", "door": "openai", "worker": "test"}
    return save(CreditHold(user_id=owner.id, amount=amount, **(defaults | kw)))


WINDOWS = (("5 hours", 5, 350), ("Week", 168, 3_500), ("Month", None, 14_000))


def plan(*windows: tuple[str, int | None, int], **kw: Any) -> Plan:
    """An active plan with windows of (name, hours, credits), by default those of the contract's smallest tier."""
    kw.setdefault("id", new_id("pkg_"))
    kw.setdefault("name", kw["id"][-8:])
    defaults = {"price_cents": 10_000, "interval": "month", "tier": 100}
    made = Plan(**(defaults | kw))
    made.windows = [PlanWindow(name=name, hours=hours, credits=credits) for name, hours, credits in windows]
    return save(made)


def subscription(owner: User, of: Plan | None = None, **kw: Any) -> Subscription:
    """An active subscription to a plan, in the tenth day of a period of thirty."""
    of = of or plan(*WINDOWS)
    start = kw.pop("start", now() - timedelta(days=10))
    kw.setdefault("stripe_subscription_id", new_id("sub_"))
    kw.setdefault("billing_period_start", start)
    kw.setdefault("billing_period_end", start + timedelta(days=30))
    defaults = {
        "stripe_customer_id": "cus_1",
        "stripe_price_id": "price_1",
        "status": "active",
        "tier": of.tier,
    }
    return save(Subscription(user_id=owner.id, plan_id=of.id, **(defaults | kw)))


def limit_override(owner: User, credits_per_block: int, hours: int, weekly: int) -> LimitOverride:
    """Limits of one person in place of their plan's."""
    return save(
        LimitOverride(
            user_id=owner.id,
            credits_per_block=credits_per_block,
            block_duration_hours=hours,
            weekly_credit_limit=weekly,
        )
    )


def referral(referrer: User, referred: User, credits: int = 500, **kw: Any) -> Referral:
    return save(Referral(referrer_id=referrer.id, referred_id=referred.id, credits=credits, **kw))


def run(owner: User, agent_id: str = "codebuff/base@0.0.1", **kw: Any) -> AgentRun:
    """A running run; `parent=` makes it a child of another."""
    parent: AgentRun | None = kw.pop("parent", None)
    if parent is not None:
        kw.setdefault("ancestor_run_ids", [*(parent.ancestor_run_ids or []), parent.id])
    user_id = id_of(owner)
    kw.setdefault("org_id", org_of(user_id))
    return save(AgentRun(user_id=user_id, agent_id=agent_id, **kw))


def step(of: AgentRun, step_number: int = 1, **kw: Any) -> AgentStep:
    return save(AgentStep(agent_run_id=of.id, step_number=step_number, **kw))


def message(owner: User, credits: int = 5, **kw: Any) -> Message:
    """A billed message, without debit and rollup."""
    defaults: dict[str, Any] = {
        "id": new_id(),
        "finished_at": now(),
        "model": "stoa/demo",
        "request": [{"role": "user", "content": "Hello"}],
        "response": {"content": "Hello yourself"},
        "input_tokens": 100,
        "output_tokens": 50,
        "cost": Decimal(credits) / 100,
        "latency_ms": 900,
        "org_id": org_of(owner.id),
    }
    return save(Message(user_id=owner.id, credits=credits, **(defaults | kw)))


@one_commit()
def call(owner: User, **kw: Any) -> GatewayCall:
    """The record of a settled call. `message=` links its message, `org_id=` charges an organisation instead of the owner."""
    org_id = kw.pop("org_id", org_of(owner.id))
    billed: Message | None = kw.pop("message", None)
    if billed is not None:
        kw = {"message_id": billed.id, "cost": billed.cost, "credits": billed.credits} | kw
    defaults: dict[str, Any] = {
        "request_id": new_id(),
        "account_id": payer(owner, org_id).id,
        "door": "openai",
        "provider": "stoa",
        "requested_model": "stoa/demo",
        "model": "stoa/demo",
        "state": "settled",
        "http_status": 200,
        "usage_source": "provider",
        "latency_ms": 900,
        "started_at": now() - timedelta(seconds=1),
        "finished_at": now(),
    }
    return save(GatewayCall(user_id=owner.id, **(defaults | kw)))


def publisher(owner: User | Org, id: str = "acme", **kw: Any) -> Publisher:
    """A publisher that belongs to a user, or to an organisation (created by its owner)."""
    if isinstance(owner, Org):
        kw = {"org_id": owner.id, "created_by": owner.owner_id} | kw
    else:
        kw = {"user_id": owner.id, "created_by": owner.id} | kw
    return save(Publisher(id=id, **({"name": id.title()} | kw)))


def agent_config(of: Publisher, id: str = "reviewer", version: str = "1.0.0", **kw: Any) -> AgentConfig:
    """An agent version in the compatible table only, as other programs may write it."""
    kw.setdefault("data", definition(id, of.id, version))
    return save(AgentConfig(publisher_id=of.id, id=id, version=version, **kw))


def definition(
    id: str = "reviewer", publisher: str = "acme", version: str = "1.0.0", **kw: Any
) -> dict[str, Any]:
    """A definition as stored after publishing."""
    stored: dict[str, Any] = {
        "id": id,
        "version": version,
        "publisher": publisher,
        "displayName": id.title(),
        "model": "stoa/demo",
        "systemPrompt": "",
        "instructionsPrompt": "Read the change and say what is wrong.",
        "stepPrompt": "",
        "toolNames": [],
        "spawnableAgents": [],
        "mcpServers": {},
        "outputMode": "last_message",
        "includeMessageHistory": False,
        "inheritParentSystemPrompt": False,
    }
    return stored | kw


def agent(
    of: Publisher,
    id: str = "reviewer",
    version: str = "1.0.0",
    data: dict[str, Any] | None = None,
    **kw: Any,
) -> Agent:
    """A published agent with one version. `data` extends its definition, `kw` sets columns of the `agent` row, including those
    set by publishing (`name`, `latest_version` ...). Add versions with `agent_version`."""
    agent_version(of, id, version, data)
    created = db.session.get_one(Agent, (of.id, id), populate_existing=True)
    for name, value in kw.items():
        setattr(created, name, value)
    return save(created)


def agent_version(
    of: Publisher,
    id: str = "reviewer",
    version: str = "1.0.0",
    data: dict[str, Any] | None = None,
    **kw: Any,
) -> AgentVersion:
    """A published version in its three tables, with the agent row refreshed. `yanked_reason=` withdraws it."""
    db.session.add(
        AgentConfig(
            publisher_id=of.id, id=id, version=version, data=definition(id, of.id, version, **data or {})
        )
    )
    if db.session.get(Agent, (of.id, id)) is None:
        db.session.add(Agent(publisher_id=of.id, id=id, name=id, model="stoa/demo"))
    db.session.flush()
    if kw.get("yanked_reason"):
        kw.setdefault("yanked_at", now())
    kw = {"published_by": of.created_by, "credential": "pat"} | kw
    created = save(AgentVersion(publisher_id=of.id, agent_id=id, version=version, **kw))
    catalogue.refresh(of.id, [id])
    db.session.commit()
    db.session.get_one(Agent, (of.id, id), populate_existing=True)
    return created
