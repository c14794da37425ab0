"""Behaviour of the schema: generated columns, checks, append-only tables and cascades."""

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from flask import Flask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, text
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError
from sqlalchemy.orm import Session as OrmSession

from models.accounts import EncryptedApiKey, LoginLink, OAuthAccount, Session, User
from models.billing import AdImpression, LimitOverride, Subscription
from models.core.audit_log import AuditLog
from models.core.db import now
from models.gateway import GatewayCall
from models.ledger import CreditAccount, CreditEntry, CreditHold, CreditLedger
from models.orgs import Org, OrgFeature, OrgInvite, OrgMember, OrgRepo
from models.runs import AgentRun, AgentStep
from models.store import Publisher
from models.usage import Message, UsageRollup
from tests import factories

START = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def owner(session: OrmSession) -> User:
    return factories.user("alice")


# --- defaults -------------------------------------------------------------------------------------------------------


def test_a_new_user_has_a_uuid_a_referral_code_and_a_reset_in_a_month(session: OrmSession) -> None:
    made = factories.user("carol")
    uuid = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}"
    assert re.fullmatch(uuid, made.id)
    assert re.fullmatch(f"ref-{uuid}", made.referral_code or "")
    assert abs(made.created_at - now()) < timedelta(minutes=1)
    assert made.next_quota_reset is not None
    assert timedelta(days=27) < made.next_quota_reset - made.created_at < timedelta(days=32)
    assert (made.referral_limit, made.banned, made.auto_topup_enabled, made.fallback_to_a_la_carte) == (
        5,
        False,
        False,
        False,
    )


def test_a_timestamp_without_zone_holds_utc_whatever_the_session_speaks(engine: Engine, owner: User) -> None:
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL timezone = 'Asia/Tokyo'"))
        connection.execute(text("INSERT INTO fingerprint (id) VALUES ('tokyo')"))
        age = connection.execute(
            text("SELECT now() AT TIME ZONE 'utc' - created_at FROM fingerprint WHERE id = 'tokyo'")
        ).scalar_one()
    assert age == timedelta()


def test_a_naive_datetime_is_refused(session: OrmSession) -> None:
    with pytest.raises(Exception, match="with a time zone"):
        factories.user("carol", email_verified=datetime(2026, 1, 1))  # noqa: DTZ001


# --- agent_run, agent_step ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("agent_id", "parts"),
    [
        ("codebuff/base@0.0.1", ("codebuff", "base", "0.0.1")),
        ("acme/code-reviewer@12.3.45", ("acme", "code-reviewer", "12.3.45")),
        ("a/b@c", ("a", "b", "c")),
        ("büro/prüfer@1.0.0", ("büro", "prüfer", "1.0.0")),
        ("base", (None, "base", None)),
        ("codebuff/base", (None, "codebuff/base", None)),
        ("base@0.0.1", (None, "base@0.0.1", None)),
        ("codebuff/base@0.0.1@2", (None, "codebuff/base@0.0.1@2", None)),
        ("codebuff/base/deep@0.0.1", (None, "codebuff/base/deep@0.0.1", None)),
        ("/base@0.0.1", (None, "/base@0.0.1", None)),
        ("codebuff/@0.0.1", (None, "codebuff/@0.0.1", None)),
        ("codebuff/base@", (None, "codebuff/base@", None)),
        ("codebuff@1/base", (None, "codebuff@1/base", None)),
        ("", (None, "", None)),
    ],
)
def test_a_published_agent_id_is_split_and_any_other_is_a_name(
    session: OrmSession, owner: User, agent_id: str, parts: tuple[str | None, str, str | None]
) -> None:
    run = factories.run(owner, agent_id)
    assert (run.publisher_id, run.agent_name, run.agent_version) == parts


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    agent_id=st.text(
        st.characters(exclude_characters="\0", exclude_categories=["Cs"]) | st.sampled_from("/@"), max_size=20
    ),
    ancestors=st.none() | st.lists(st.text("abc-1", min_size=1, max_size=5), max_size=4),
)
def test_every_run_is_placed_as_the_contract_says(
    app: Flask, engine: Engine, agent_id: str, ancestors: list[str] | None
) -> None:
    with engine.connect() as connection:
        row = connection.execute(
            text(
                "INSERT INTO agent_run (id, agent_id, ancestor_run_ids) VALUES ('self', :agent_id, :ancestors)"
                " RETURNING publisher_id, agent_name, agent_version, root_run_id, parent_run_id, depth"
            ),
            {"agent_id": agent_id, "ancestors": ancestors},
        ).one()
        connection.rollback()
    found = re.fullmatch(r"([^/@]+)/([^/@]+)@([^/@]+)", agent_id)
    assert tuple(row[:3]) == (found.groups() if found else (None, agent_id, None))
    chain = ancestors or []
    assert tuple(row[3:]) == (
        chain[0] if chain else "self",
        chain[-1] if chain else None,
        len(chain) or 1,
    )


def test_depth_is_one_for_a_root_and_for_its_children(session: OrmSession, owner: User) -> None:
    root = factories.run(owner, ancestor_run_ids=[])
    child = factories.run(owner, parent=root)
    grandchild = factories.run(owner, parent=child)
    assert [each.depth for each in (root, child, grandchild)] == [1, 1, 2]
    assert [each.parent_run_id for each in (root, child, grandchild)] == [None, root.id, child.id]
    assert {each.root_run_id for each in (root, child, grandchild)} == {root.id}


@pytest.mark.parametrize(
    ("took", "milliseconds"),
    [
        (timedelta(), 0),
        (timedelta(milliseconds=1234), 1234),
        (timedelta(microseconds=1500), 2),
        (timedelta(seconds=-3), -3000),
        (timedelta(milliseconds=2**31 - 1), 2**31 - 1),
        (timedelta(milliseconds=2**31), 2**31 - 1),
        (timedelta(days=300_000), 2**31 - 1),
        (timedelta(days=-300_000), -(2**31)),
    ],
)
def test_durations_are_milliseconds_and_never_overflow(
    session: OrmSession, owner: User, took: timedelta, milliseconds: int
) -> None:
    run = factories.run(owner, status="completed", created_at=START, completed_at=START + took)
    assert run.duration_ms == milliseconds
    step = factories.step(run, created_at=START, completed_at=START + took)
    assert step.duration_ms == milliseconds


def test_a_running_run_has_no_duration_and_finishing_it_gives_one(session: OrmSession, owner: User) -> None:
    run = factories.run(owner, created_at=START)
    assert run.duration_ms is None
    run.completed_at = START + timedelta(seconds=2)
    session.commit()
    assert run.duration_ms == 2000


def test_credits_of_a_run_are_wide_enough_for_anything(session: OrmSession, owner: User) -> None:
    huge = Decimal("123456789012345678901234567890.123456789")
    run = factories.run(owner, direct_credits=huge, total_credits=huge * 10)
    assert (run.direct_credits, run.total_credits) == (huge, huge * 10)
    assert factories.step(run, credits=huge).credits == huge


@pytest.mark.parametrize(("children", "count"), [(None, None), ([], None), (["a"], 1), (["a", "b", "c"], 3)])
def test_spawned_count_counts_children_and_is_null_for_none(
    session: OrmSession, owner: User, children: list[str] | None, count: int | None
) -> None:
    step = factories.step(factories.run(owner), child_run_ids=children)
    assert step.spawned_count == count
    assert step.status == "completed"


def test_a_step_number_is_used_once_in_a_run(session: OrmSession, owner: User) -> None:
    run = factories.run(owner)
    factories.step(run, 1)
    factories.step(factories.run(owner), 1)
    with pytest.raises(IntegrityError, match="unique_step_number_per_run"):
        factories.step(run, 1)


def test_a_derived_column_cannot_be_written(engine: Engine, session: OrmSession, owner: User) -> None:
    run = factories.run(owner)
    with engine.connect() as connection, pytest.raises(DBAPIError, match="generated column"):
        connection.execute(text("UPDATE agent_run SET depth = 7 WHERE id = :id"), {"id": run.id})


# --- agent_config, message ------------------------------------------------------------------------------------------


def test_a_version_is_split_at_its_dots(session: OrmSession, owner: User) -> None:
    publisher = factories.publisher(owner)
    made = factories.agent_config(publisher, version="10.20.3")
    assert (made.major, made.minor, made.patch) == (10, 20, 3)
    with pytest.raises(DataError, match="invalid input syntax for type integer"):
        factories.agent_config(publisher, version="latest")


def test_a_version_is_published_once(session: OrmSession, owner: User) -> None:
    publisher = factories.publisher(owner)
    session.expunge(factories.agent_config(publisher, version="1.0.0"))
    with pytest.raises(IntegrityError, match="agent_config_pk"):
        factories.agent_config(publisher, version="1.0.0")


@pytest.mark.parametrize(
    ("request_", "last"),
    [
        ([{"role": "system"}, {"role": "user", "content": "hi"}], {"role": "user", "content": "hi"}),
        (["only"], "only"),
        ([], None),
        ({"not": "a list"}, None),
        (None, None),
    ],
)
def test_last_message_is_the_last_element_of_the_request(
    session: OrmSession, owner: User, request_: Any, last: Any
) -> None:
    assert factories.message(owner, request=request_).last_message == last


# --- checks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("owners", [(True, True), (False, False)])
def test_a_publisher_has_exactly_one_owner(
    session: OrmSession, owner: User, owners: tuple[bool, bool]
) -> None:
    org = factories.org(owner)
    user_id, org_id = (owner.id if owners[0] else None), (org.id if owners[1] else None)
    with pytest.raises(IntegrityError, match="publisher_single_owner"):
        factories.publisher(owner, user_id=user_id, org_id=org_id)


def test_an_account_is_a_user_or_an_organisation_and_has_its_id(session: OrmSession, owner: User) -> None:
    org = factories.org(owner)
    assert factories.account(owner).carry_micro == 0
    assert factories.account(org).org_id == org.id
    broken: list[tuple[str, dict[str, Any]]] = [
        ("single_owner", {"id": owner.id, "user_id": owner.id, "org_id": org.id}),
        ("single_owner", {"id": "nobody"}),
        ("id_is_owner", {"id": "other", "user_id": factories.user("carol").id}),
    ]
    for rule, values in broken:
        session.expunge_all()
        with pytest.raises(IntegrityError, match=f"credit_account_{rule}"):
            factories.save(CreditAccount(**values))
        session.rollback()


@pytest.mark.parametrize("carry", [-1, 1_000_000])
def test_the_carried_fraction_is_less_than_a_credit(session: OrmSession, owner: User, carry: int) -> None:
    with pytest.raises(IntegrityError, match="carry_micro_fraction"):
        factories.account(owner, carry_micro=carry)


def test_unknown_words_and_negative_holds_are_refused(session: OrmSession, owner: User) -> None:
    account = factories.account(owner).id
    broken: list[tuple[str, Any]] = [
        ("amount_not_negative", lambda: factories.hold(owner, -1)),
        ("credit_hold_state_known", lambda: factories.hold(owner, state="forgotten")),
        ("gateway_call_state_known", lambda: factories.call(owner, state="pending")),
        ("usage_source_known", lambda: factories.call(owner, usage_source="guessed")),
        ("credit_entry_kind_known", lambda: factories.save(entry(account, kind="gift"))),
        ("grain_known", lambda: factories.save(rollup(account, grain="month"))),
        ("latency_hist_buckets", lambda: factories.save(rollup(account, latency_hist=[0] * 15))),
    ]
    for rule, make in broken:
        with pytest.raises(IntegrityError, match=rule):
            make()
        session.rollback()


def test_a_rollup_starts_at_zero(session: OrmSession, owner: User) -> None:
    made = factories.save(rollup(factories.account(owner).id))
    assert made.latency_hist == [0] * 16
    assert (made.calls, made.credits, made.cost, made.agent_id) == (0, 0, Decimal(0), "")


def entry(account_id: str, **kw: Any) -> CreditEntry:
    values: dict[str, Any] = {"operation_id": "op", "kind": "grant", "cause": "test", "amount": 5}
    balances = {"grant_balance_after": 5, "balance_after": 5}
    return CreditEntry(account_id=account_id, **(values | balances | kw))


def rollup(account_id: str, **kw: Any) -> UsageRollup:
    values: dict[str, Any] = {"grain": "hour", "bucket": START, "user_id": account_id, "model": "stoa/demo"}
    return UsageRollup(account_id=account_id, **(values | kw))


# --- append-only ----------------------------------------------------------------------------------------------------

REFUSED = [
    "UPDATE {table} SET {column} = 'x'",
    "DELETE FROM {table}",
    "TRUNCATE {table}",
    "TRUNCATE {table} CASCADE",
]


@pytest.mark.parametrize("statement", REFUSED)
@pytest.mark.parametrize(("table", "column"), [("credit_entry", "cause"), ("audit_log", "action")])
def test_journals_refuse_to_be_rewritten(
    engine: Engine, session: OrmSession, table: str, column: str, statement: str
) -> None:
    factories.save(entry("acct"))
    factories.save(AuditLog(actor="root@example.org", action="ban", subject="user:x"))
    with (
        engine.connect() as connection,
        pytest.raises(IntegrityError, match=f"{table} is append-only: {statement.split()[0]} is refused"),
    ):
        connection.execute(text(statement.format(table=table, column=column)))
    assert session.execute(text(f"SELECT count(*) FROM {table}")).scalar() == 1


def test_only_the_journal_of_an_account_being_erased_may_go(engine: Engine, session: OrmSession) -> None:
    factories.save(entry("gone"))
    factories.save(entry("kept"))
    with engine.connect() as connection:
        connection.execute(text("SET LOCAL stoa.erase_account = 'gone'"))
        with pytest.raises(IntegrityError, match="append-only"):
            connection.execute(text("DELETE FROM credit_entry"))
        connection.rollback()
        connection.execute(text("SET LOCAL stoa.erase_account = 'gone'"))
        with pytest.raises(IntegrityError, match="append-only"):
            connection.execute(text("UPDATE credit_entry SET amount = 0 WHERE account_id = 'gone'"))
        connection.rollback()
        connection.execute(text("SET LOCAL stoa.erase_account = 'gone'"))
        connection.execute(text("DELETE FROM credit_entry WHERE account_id = 'gone'"))
        connection.commit()
        with pytest.raises(IntegrityError, match="append-only"):
            connection.execute(text("DELETE FROM credit_entry WHERE account_id = 'gone' OR true"))
    assert session.execute(text("SELECT account_id FROM credit_entry")).scalars().all() == ["kept"]


def test_entries_are_numbered_by_the_database_alone(engine: Engine, app: Flask) -> None:
    with engine.connect() as connection, pytest.raises(DBAPIError, match="GENERATED ALWAYS"):
        connection.execute(
            text(
                "INSERT INTO audit_log (id, actor, action, subject) VALUES (1, 'root', 'forge', 'user:x')",
            )
        )


# --- cascades (contract C.6) ----------------------------------------------------------------------------------------


def count(session: OrmSession, *models: type[Any]) -> dict[str, int]:
    session.expire_all()
    return {model.__tablename__: session.query(model).count() for model in models}


OF_A_USER = (
    OAuthAccount,
    Session,
    EncryptedApiKey,
    CreditLedger,
    CreditAccount,
    CreditHold,
    Org,
    OrgMember,
    AgentRun,
    AgentStep,
    Message,
    GatewayCall,
    UsageRollup,
    Subscription,
    LimitOverride,
    AdImpression,
)


def test_deleting_a_user_takes_all_of_theirs_and_nothing_of_others(session: OrmSession, owner: User) -> None:
    other = factories.user("bob")
    for each in (owner, other):
        belongings(session, each)
    assert set(count(session, *OF_A_USER).values()) == {2}
    session.execute(delete(User).where(User.id == owner.id))
    session.commit()
    assert count(session, *OF_A_USER) == {model.__tablename__: 1 for model in OF_A_USER}
    assert count(session, CreditEntry) == {"credit_entry": 2}


def belongings(session: OrmSession, owner: User) -> None:
    """One row in every table that references a user."""
    factories.org(owner, f"Org of {owner.name}")
    factories.token(owner)
    factories.grant(owner)
    factories.hold(owner)
    factories.step(factories.run(owner))
    factories.call(owner, message=factories.message(owner))
    period = {"billing_period_start": START, "billing_period_end": START + timedelta(days=30)}
    session.add_all(
        [
            OAuthAccount(user_id=owner.id, type="oauth", provider="github", provider_account_id=owner.id),
            EncryptedApiKey(user_id=owner.id, type="openai", api_key="v1:..."),
            rollup(owner.id),
            Subscription(
                stripe_subscription_id=f"sub_{owner.id}",
                stripe_customer_id="cus_1",
                stripe_price_id="price_1",
                user_id=owner.id,
                **period,
            ),
            LimitOverride(
                user_id=owner.id, credits_per_block=1, block_duration_hours=5, weekly_credit_limit=9
            ),
            AdImpression(
                user_id=owner.id,
                ad_text="An ad",
                title="Ad",
                url="https://example.org",
                favicon="",
                click_url="https://example.org/c",
                imp_url=f"https://example.org/{owner.id}",
                payout=Decimal("0.01"),
            ),
        ]
    )
    session.commit()


OF_AN_ORG = (OrgMember, OrgRepo, OrgInvite, OrgFeature, CreditLedger, CreditAccount, Message)


def test_deleting_an_organisation_takes_what_is_its_own(session: OrmSession, owner: User) -> None:
    org = factories.org(owner, members=(factories.user("bob"),))
    factories.grant(owner, type="organization", org_id=org.id)
    factories.message(owner, org_id=org.id)
    session.add_all(
        [
            OrgRepo(org_id=org.id, repo_url="github.com/a/b", repo_name="b", approved_by=owner.id),
            OrgInvite(
                org_id=org.id,
                email="carol@example.org",
                role="member",
                token="t",
                invited_by=owner.id,
                expires_at=START,
            ),
            OrgFeature(org_id=org.id, feature="sso", config={"on": True}),
        ]
    )
    session.commit()
    assert 0 not in count(session, *OF_AN_ORG).values()
    session.execute(delete(Org).where(Org.id == org.id))
    session.commit()
    assert set(count(session, *OF_AN_ORG).values()) == {0}
    assert count(session, User) == {"user": 2}


def test_an_owner_who_approved_repositories_goes_after_their_organisation(
    session: OrmSession, owner: User
) -> None:
    org = factories.org(owner)
    factories.save(OrgRepo(org_id=org.id, repo_url="github.com/a/b", repo_name="b", approved_by=owner.id))
    with pytest.raises(IntegrityError, match="org_repo_approved_by_fk"):
        session.execute(delete(User).where(User.id == owner.id))
    session.rollback()
    session.execute(delete(Org).where(Org.id == org.id))
    session.execute(delete(User).where(User.id == owner.id))
    session.commit()
    assert count(session, User, Org, OrgRepo) == {"user": 0, "org": 0, "org_repo": 0}


@pytest.mark.parametrize(
    "tie", ["referrer", "referred", "publisher", "creator", "approver", "inviter", "invitee"]
)
def test_what_others_still_need_keeps_a_user_from_being_deleted(session: OrmSession, tie: str) -> None:
    leaver, other = factories.user("alice"), factories.user("bob")
    org = factories.org(other)
    repo = {"org_id": org.id, "repo_url": "github.com/a/b", "repo_name": "b"}
    invite = {"org_id": org.id, "email": "x@example.org", "role": "member", "token": "t", "expires_at": START}
    {
        "referrer": lambda: factories.referral(leaver, other),
        "referred": lambda: factories.referral(other, leaver),
        "publisher": lambda: factories.publisher(leaver),
        "creator": lambda: factories.publisher(org, created_by=leaver.id),
        "approver": lambda: factories.save(OrgRepo(approved_by=leaver.id, **repo)),
        "inviter": lambda: factories.save(OrgInvite(invited_by=leaver.id, **invite)),
        "invitee": lambda: factories.save(OrgInvite(invited_by=other.id, accepted_by=leaver.id, **invite)),
    }[tie]()
    with pytest.raises(IntegrityError, match="violates foreign key"):
        session.execute(delete(User).where(User.id == leaver.id))


def test_an_organisation_with_a_publisher_cannot_be_deleted(session: OrmSession, owner: User) -> None:
    org = factories.org(owner)
    factories.publisher(org)
    with pytest.raises(IntegrityError, match="publisher_org_id_fk"):
        session.execute(delete(Org).where(Org.id == org.id))


def test_a_published_agent_keeps_its_publisher(session: OrmSession, owner: User) -> None:
    publisher = factories.publisher(owner)
    factories.agent_config(publisher)
    with pytest.raises(IntegrityError, match="agent_config_publisher_id_fk"):
        session.execute(delete(Publisher).where(Publisher.id == publisher.id))


def test_a_device_in_use_stays(session: OrmSession, owner: User) -> None:
    device = factories.fingerprint()
    factories.token(owner, type="cli", fingerprint_id=device.id)
    with pytest.raises(IntegrityError, match="session_fingerprint_id_fk"):
        session.execute(text("DELETE FROM fingerprint"))


def test_a_sign_in_link_is_known_by_its_hash_once(session: OrmSession) -> None:
    link = {"token_hash": "00", "email": "a@example.org", "expires_at": START}
    factories.save(LoginLink(**link))
    session.expunge_all()
    with pytest.raises(IntegrityError, match="login_link_pk"):
        factories.save(LoginLink(**link))
