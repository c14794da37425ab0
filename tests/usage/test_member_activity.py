"""What members spent this month and when they last called."""

from datetime import timedelta

from flask import Flask

from models.orgs import Org
from models.usage.member_activity import NO_ACTIVITY, member_activity
from tests import factories
from tests.factories import Person, now


def test_members_have_their_credits_and_last_call(app: Flask, acme: Org, alice: Person, bob: Person) -> None:
    moment = now()
    factories.account(acme)
    old = factories.message(alice.user, org_id=acme.id, credits=9, finished_at=moment - timedelta(days=100))
    factories.call(alice.user, org_id=acme.id, message=old, finished_at=moment - timedelta(days=100))
    assert member_activity(acme, [alice.id, bob.id], moment) == {alice.id: NO_ACTIVITY, bob.id: NO_ACTIVITY}
    own = factories.message(alice.user, credits=7, finished_at=moment)
    factories.call(alice.user, org_id=None, message=own, finished_at=moment)
    message = factories.message(alice.user, org_id=acme.id, credits=5, finished_at=moment)
    factories.call(alice.user, org_id=acme.id, message=message, finished_at=moment)
    factories.call(bob.user, org_id=acme.id, state="failed", finished_at=moment, cost=0, credits=0)
    found = member_activity(acme, [alice.id, bob.id], moment + timedelta(seconds=1))
    assert (found[alice.id].credits, found[bob.id].credits) == (5, 0)
    assert found[alice.id].last_call == found[bob.id].last_call == moment
    assert member_activity(acme, [], moment) == {}
