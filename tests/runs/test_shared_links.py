"""Links to runs do not work while who made them, or whose run it is, is suspended or deleted."""

from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import update
from sqlalchemy.orm import Session as OrmSession

from models.accounts.users import User
from models.core.db import now
from models.orgs import Org, delete_org
from models.runs.run_share import share_run
from tests import factories
from tests.factories import Person


@pytest.mark.parametrize("of_org", [False, True])
@pytest.mark.parametrize(
    ("who", "values", "org_too"),
    [
        ("alice", {"banned": True}, True),
        ("alice", {"deleted_at": now()}, True),
        ("bob", {"banned": True}, False),
        ("bob", {"deleted_at": now()}, False),
    ],
)
def test_a_link_of_somebody_suspended_or_deleted_is_unknown(
    session: OrmSession,
    client: FlaskClient,
    alice: Person,
    bob: Person,
    of_org: bool,
    who: str,
    values: dict[str, Any],
    org_too: bool,
) -> None:
    """Alice made the link to a run of bob; an organisation's run is not its members'."""
    assert alice.user is not None
    assert bob.user is not None
    org = factories.org(alice.user, "Umbrella", members=(bob.user,)) if of_org else None
    run = factories.run(bob.user, org_id=org.id if org else None)
    path = f"/shared/{share_run(run, alice.user, 'week', with_messages=False).token}"
    session.commit()
    assert client.get(path).status_code == 200
    changed = {"alice": alice, "bob": bob}[who]
    session.execute(update(User).where(User.id == changed.id).values(values))
    session.commit()
    assert client.get(path).status_code == (404 if org_too or not of_org else 200)
    session.execute(update(User).values(banned=False, deleted_at=None))
    session.commit()
    assert client.get(path).status_code == 200


def test_a_link_of_a_deleted_organisation_is_unknown(
    session: OrmSession, client: FlaskClient, alice: Person
) -> None:
    assert alice.user is not None
    org: Org = factories.org(alice.user, "Umbrella")
    run = factories.run(alice.user, org_id=org.id)
    path = f"/shared/{share_run(run, alice.user, 'week', with_messages=False).token}"
    session.commit()
    assert client.get(path).status_code == 200
    delete_org(org)
    session.commit()
    assert client.get(path).status_code == 404
