"""What ends with turns still open: they are stopped, and what they reserved of an organisation's budgets is given back."""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, update

from models import assistants, threads
from models.accounts.account_deletion import account_deleted, account_erasing
from models.accounts.key_format import present
from models.accounts.users import User
from models.core.db import db, extension, now
from models.ledger import Account
from models.ledger.budget_tables import RunBudget
from models.orgs import Org, org_deleted
from models.orgs.offboarding import member_leaving
from models.runs import AgentRun
from models.threads import Thread, TurnRequest
from models.threads.purging import purge_deleted
from models.turns import Turn
from tests import factories
from tests.factories import Person
from tests.fakes.upstream import FakeUpstream, silent
from tests.threads.inference.conftest import CLIENT_TOOL, MODEL, Turns, calls

SMALL = {"max_tokens": 100}


class OrgTurn:
    """A turn of bob that his organisation pays, with an assistant of it that has a budget."""

    def __init__(self, turns: Turns, fake: FakeUpstream, owner: Person, bob: Person) -> None:
        self.turns, self.fake, self.bob = turns, fake, bob
        assert owner.user is not None
        assert bob.user is not None
        self.org = factories.org(owner.user, "Umbrella", members=(bob.user,))
        account = Account(org_id=self.org.id)
        factories.grant(owner.user, 1_000_000, "organization", org_id=self.org.id)
        sent = {"name": "Helper", "instructions": "Be brief.", "model": MODEL}
        made = assistants.create_assistant(owner.id, account, sent, extension("settings"), budget=50_000)
        self.assistant_id = made.assistant.id
        self.thread = threads.create_thread(bob.id, account, name="Trees")
        self.key = factories.token(bob.user, org_id=self.org.id)
        db.session.commit()
        self.turn_id = ""

    def begin(self, state: str) -> None:
        """A turn in this state."""
        if state == "running":
            self.fake.will(silent(30))
        elif state == "requires_action":
            self.fake.will(calls(("c1", "ask_user")))
        if state == "queued":
            self._ask(budget=1)
            assert self.turns.after(self.turn_id).state == "paused"
        self._ask(budget=1 if state == "paused" else None, on_busy="queue")
        if state == "running":
            before = len(self.fake.requests)
            self._until(lambda: len(self.fake.requests) > before or self.fake.requests)
        elif state != "queued":
            assert self.turns.after(self.turn_id).state == state
        assert self.now().state == state

    def _ask(self, **options: Any) -> None:
        wanted = TurnRequest(model=MODEL, params=SMALL, tools=[CLIENT_TOOL], assistant_id=self.assistant_id)
        thread = db.session.get_one(Thread, self.thread.id, populate_existing=True)
        turn = threads.ask(
            thread,
            wanted,
            messages=[{"role": "user", "content": "Hi"}],
            key=present(self.key),
            owner=self.turns.engine.owner,
            **options,
        )
        db.session.commit()
        self.turn_id = turn.id
        if turn.state == "running":
            self.turns.engine.run(turn.id)

    def now(self) -> Turn:
        """The turn as it is."""
        db.session.rollback()
        return db.session.get_one(Turn, self.turn_id, populate_existing=True)

    def ends(self) -> None:
        """All turns end soon, and nothing stays reserved."""
        self._until(self._is_over)
        assert self.turns.engine.idle(10)
        db.session.rollback()
        assistant = db.session.get_one(assistants.Assistant, self.assistant_id, populate_existing=True)
        spent = sum(call.credits or 0 for call in self.turns.calls())
        assert (assistant.reserved, assistant.spent) == (0, spent)
        reserved = select(func.coalesce(func.sum(Thread.reserved), 0))
        assert db.session.scalar(reserved) == 0
        assert set(db.session.scalars(select(AgentRun.status))) <= {"cancelled", "failed"}
        open = select(func.count()).where(RunBudget.closed_at.is_(None))
        assert db.session.scalar(open) == 0

    def _is_over(self) -> bool:
        self.turns.engine.tick()
        db.session.rollback()
        open = select(func.count()).where(Turn.ended_at.is_(None))
        return db.session.scalar(open) == 0

    def _until(self, found: Callable[[], Any]) -> None:
        for _ in range(1_000):
            if found():
                return
            time.sleep(0.01)
        raise AssertionError("it did not happen")


@pytest.fixture
def of_org(turns: Turns, fake: FakeUpstream, mallory: Person, bob: Person) -> OrgTurn:
    return OrgTurn(turns, fake, mallory, bob)


def delete_account(of: OrgTurn) -> None:
    account_deleted.send(db.session.get_one(User, of.bob.id), now=now())


def leave(of: OrgTurn) -> None:
    member_leaving.send(of.org.id, user_id=of.bob.id, now=now())


def delete_org(of: OrgTurn) -> None:
    org_deleted.send(db.session.get_one(Org, of.org.id))


def delete_assistant(of: OrgTurn) -> None:
    owner_id = db.session.get_one(Org, of.org.id).owner_id
    assistants.delete_assistant(owner_id, Account(org_id=of.org.id), of.assistant_id)


@pytest.mark.parametrize("state", ["running", "requires_action", "paused", "queued"])
@pytest.mark.parametrize("end", [delete_account, leave, delete_org, delete_assistant])
def test_open_turns_are_stopped_and_give_back(
    of_org: OrgTurn, end: Callable[[OrgTurn], None], state: str
) -> None:
    of_org.begin(state)
    end(of_org)
    db.session.commit()
    of_org.ends()
    assert of_org.now().state == "cancelled"


def test_an_assistant_that_may_not_be_deleted_runs_on(of_org: OrgTurn, alice: Person) -> None:
    of_org.begin("paused")
    for caller, account in ((alice, Account(user_id=alice.id)), (alice, Account(org_id=of_org.org.id))):
        with pytest.raises(Exception, match=r"(?i)no such|not found"):
            assistants.delete_assistant(caller.id, account, of_org.assistant_id)
        db.session.rollback()
    assert of_org.now().state == "paused"


def test_a_purged_thread_stops_its_turns_first(of_org: OrgTurn) -> None:
    of_org.begin("requires_action")
    later = now() + timedelta(days=1)
    threads.delete_thread(db.session.get_one(Thread, of_org.thread.id))
    db.session.commit()
    assert purge_deleted(later) == 0
    db.session.commit()
    of_org.ends()
    assert purge_deleted(later) == 1
    db.session.commit()
    assert db.session.scalar(select(func.count()).select_from(Turn)) == 0


@pytest.mark.parametrize("state", ["running", "paused"])
def test_an_erased_account_leaves_nothing_reserved(of_org: OrgTurn, state: str) -> None:
    of_org.begin(state)
    account_erasing.send(db.session.get_one(User, of_org.bob.id), now=now())
    db.session.commit()
    of_org.ends()
    assert db.session.scalar(select(func.count()).select_from(Turn)) == 0


def test_turns_of_others_go_on(of_org: OrgTurn, turns: Turns, alice: Person) -> None:
    other = turns.ask(budget=1)
    assert other.state == "paused"
    of_org.begin("paused")
    for end in (leave, delete_org, delete_assistant, delete_account):
        end(of_org)
        db.session.commit()
    of_org._until(lambda: of_org._is_over() or of_org.now().state == "cancelled")
    assert turns.after(other).state == "paused"
    db.session.execute(update(Turn).values(state="cancelled", ended_at=now()))
    db.session.commit()
