"""Alice's key at the API, a turn of hers, and where this machine can run the level `process`."""

from collections.abc import Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.orm import Session as OrmSession

from models.accounts.key_format import present
from models.core.db import db
from models.ledger.payers import PayerHint
from models.runners import levels
from models.threads.turn_run import start_run
from models.turns.engine import TurnEngine, TurnHandle
from models.turns.turn_verbs import NewTurn, begin_turn
from tests import factories
from tests.factories import Person
from tests.projects.project_calls import ProjectsApi


def begun_turn(app: Flask, person: Person) -> TurnHandle:
    """A turn of a person with credits, which this process runs, with a run."""
    factories.grant(person.user, 100_000)
    turns: TurnEngine = app.extensions["turns"]
    new = NewTurn(
        "test", "subject", factories.new_id("branch"), person.account.id, person.id, present(person.token), {}
    )
    turn = begin_turn(new, owner=turns.owner, busy=None)
    db.session.flush()
    turn.run_id = start_run(turn, "base", PayerHint(), app.extensions["settings"])
    db.session.commit()
    return TurnHandle(turns, turn)


@pytest.fixture
def handle(app: Flask, session: OrmSession, alice: Person) -> Iterator[TurnHandle]:
    """A turn of alice with a run."""
    made = begun_turn(app, alice)
    yield made
    made.close()


@pytest.fixture
def mine(session: OrmSession, client: FlaskClient, alice: Person) -> ProjectsApi:
    """Alice's key."""
    return ProjectsApi(client, alice)


@pytest.fixture
def sandboxed(app: Flask) -> None:
    """Skips the test with the probe's sentence where commands cannot be sandboxed."""
    with app.app_context():
        state = levels()["process"]
    if not state.available:
        pytest.skip(state.sentence)
