"""The pages that stop all agents of an organisation, or all calls of a person, by role."""

from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from models.core.audit_log import AuditLog
from models.ledger import Account, AccountStop, current_stop
from models.orgs import Org
from tests import factories
from tests.factories import Person
from tests.orgs.forms import send

STATUSES = {"alice": 200, "carol": 200, "bob": 403, "dave": 403, "mallory": 404, "anonymous": 302}


def entries(session: OrmSession) -> list[tuple[str, str | None]]:
    session.rollback()
    found = session.scalars(select(AuditLog).order_by(AuditLog.id))
    return [(entry.action, entry.org_id) for entry in found if entry.action.startswith("agents.")]


def test_only_owners_and_admins_stop_and_resume(
    session: OrmSession, acme: Org, cast: dict[str, Person]
) -> None:
    account = Account(org_id=acme.id)
    for name, person in cast.items():
        allowed = STATUSES[name] == 200
        # anonymous: to sign-in
        posted = 303 if allowed or name == "anonymous" else STATUSES[name]
        for path in ("/orgs/acme/stop", "/orgs/acme/stop/confirmation"):
            assert person.browser.get(path).status_code == STATUSES[name], name
        stopped = send(person, "/orgs/acme/stop")
        assert stopped.status_code == posted, name
        assert (current_stop(account) is not None) is allowed, name
        if allowed:
            result = stopped.headers["Location"]
            assert person.browser.get(result).status_code == 200
            assert cast["mallory"].browser.get(result).status_code == 404
            assert cast["bob"].browser.get(result).status_code == 403
            # another organisation's id
            assert person.browser.get(result.replace("stops/", "stops/9")).status_code == 404
            assert "Resume calls" in person.browser.get("/orgs/acme/stop").text
        assert send(cast["bob"], "/orgs/acme/stop/end").status_code == 403
        ended = send(person, "/orgs/acme/stop/end")
        assert ended.status_code == posted, name
        session.rollback()
        assert current_stop(account) is None
    assert entries(session) == [("agents.stopped", acme.id), ("agents.resumed", acme.id)] * 2


def test_result_names_members_agents_and_runs(
    session: OrmSession, acme: Org, alice: Person, bob: Person
) -> None:
    assert bob.user is not None
    factories.grant(bob.user, 100, type="organization", org_id=acme.id)
    run = factories.run(bob.user, "codebuff/reviewer@1.0.0", org_id=acme.id)
    own = factories.run(bob.user)
    hold = factories.hold(bob.user, 12, account_id=acme.id, run_id=run.id, agent_id=run.agent_id)
    page = alice.browser.get(send(alice, "/orgs/acme/stop").headers["Location"]).text
    for text in ("bob", "codebuff/reviewer@1.0.0", run.id, "1 call is ending"):
        assert text in page
    session.refresh(run)
    session.refresh(own)
    assert (run.status, own.status) == ("cancelled", "running")
    stop = session.scalars(select(AccountStop)).one()
    assert [call["request_id"] for call in stop.calls] == [hold.request_id]
    # a second click changes nothing
    assert send(alice, "/orgs/acme/stop").headers["Location"].endswith(f"/{stop.id}")


def test_a_person_stops_their_own_calls_only(
    session: OrmSession, alice: Person, bob: Person, anonymous: Person, acme: Org
) -> None:
    assert alice.user is not None
    assert "/usage/stop" in alice.browser.get("/profile?tab=security").text
    result = send(alice, "/usage/stop").headers["Location"]
    assert "Holds freed" in alice.browser.get(result).text
    assert bob.browser.get(result).status_code == 404
    assert send(bob, "/usage/stop/end").status_code == 303
    assert current_stop(Account(user_id=alice.user.id)) is not None
    assert current_stop(Account(org_id=acme.id)) is None
    assert send(alice, "/usage/stop/end").status_code == 303
    session.rollback()
    assert current_stop(Account(user_id=alice.user.id)) is None
    assert [action for action, _ in entries(session)] == ["agents.stopped", "agents.resumed"]
    assert anonymous.browser.get("/usage/stop").status_code == 302
