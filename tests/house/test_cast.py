"""The fixtures and factories create committed, consistent rows."""

import hashlib

from sqlalchemy import text
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session as OrmSession

from models.orgs import Org
from tests import factories
from tests.factories import Person


def test_the_cast_is_three_users_and_anonymous(
    session: OrmSession, acme: Org, alice: Person, bob: Person, mallory: Person, anonymous: Person
) -> None:
    roles = session.execute(
        text("SELECT user_id, role::text AS role FROM org_member WHERE org_id = :o"), {"o": acme.id}
    )
    assert {each.user_id: each.role for each in roles} == {alice.id: "owner", bob.id: "member"}
    assert mallory.id not in (alice.id, bob.id)
    assert anonymous.user is None
    assert anonymous.headers == {}


def test_a_token_is_stored_as_its_hash_only(engine: Engine, alice: Person) -> None:
    with engine.connect() as connection:
        rows = connection.execute(
            text("SELECT \"sessionToken\", token_hint FROM session WHERE type = 'pat'")
        ).all()
    assert [row.sessionToken for row in rows] == [hashlib.sha256(alice.token.encode()).hexdigest()]
    assert rows[0].token_hint == f"{alice.token[:15]}...{alice.token[-8:]}"


def test_a_grant_is_explained_by_its_entries(engine: Engine, session: OrmSession, alice: Person) -> None:
    assert alice.user
    factories.grant(alice.user, 100, balance=-20)
    factories.grant(alice.user, 50, type="purchase")
    with engine.connect() as connection:
        entries = connection.execute(
            text("SELECT kind, amount, balance_after FROM credit_entry ORDER BY id")
        ).all()
    assert [tuple(entry) for entry in entries] == [
        ("grant", 100, 100),
        ("debit", -120, -20),
        ("grant", 50, 30),
    ]


def test_every_factory_makes_a_committed_row(
    engine: Engine, session: OrmSession, alice: Person, bob: Person
) -> None:
    assert alice.user
    assert bob.user
    org = factories.org(alice.user, "Umbrella", members=(bob.user,))
    run = factories.run(alice.user)
    child = factories.run(alice.user, "researcher", parent=run)
    assert child.root_run_id == run.id
    billed = factories.message(alice.user, client_request_id=run.id)
    factories.step(run, child_run_ids=[child.id], message_id=billed.id)
    factories.call(alice.user, message=billed, run_id=run.id)
    factories.hold(alice.user)
    factories.referral(alice.user, bob.user)
    factories.agent(factories.publisher(org))
    factories.grant(alice.user, type="organization", org_id=org.id)
    factories.token(bob.user, type="cli", fingerprint_id=factories.fingerprint().id)
    tables = "org agent_run agent_step message gateway_call credit_hold referral agent_config credit_ledger fingerprint"
    with engine.connect() as connection:
        for table in tables.split():
            assert connection.execute(text(f"SELECT count(*) FROM {table}")).scalar(), table
