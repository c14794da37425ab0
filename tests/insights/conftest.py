"""The API of projects as one of the cast, a model's answers, runs of an item of alice's, and the proof of projects after tests that move files."""

from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from models.accounts.key_format import present
from models.accounts.sessions import Session
from models.core.db import db
from models.insights import ActionItemRun, decision_extracting
from models.insights.item_run_starting import RunWishes, start_run
from models.ledger import Account
from models.projects import ProjectCaller
from models.turns import TurnEngine
from tests import factories
from tests.factories import Person
from tests.insights.item_run_rows import ItemPlace, Start, checks_end, item_place
from tests.insights.model_answers import ModelAnswers
from tests.projects.conftest import mine, proved
from views.insights.api import insights_api_blueprint
from views.insights.pages import model_pages

__all__ = ["answers", "mine", "proved"]


@pytest.fixture
def mason(session: OrmSession, alice: Person) -> str:
    """An agent of the store."""
    assert alice.user
    factories.agent_version(factories.publisher(alice.user, "harbor"), "mason")
    session.commit()
    return "harbor/mason"


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> ModelAnswers:
    """What the model says next."""
    found = ModelAnswers()
    monkeypatch.setattr(insights_api_blueprint, "complete_chat", found)
    monkeypatch.setattr(model_pages, "chat_once", found)
    monkeypatch.setattr(decision_extracting, "chat_once", found)
    return found


@pytest.fixture
def engine_of_turns(app: Flask) -> TurnEngine:
    """What runs turns in this process."""
    found: TurnEngine = app.extensions["turns"]
    return found


@pytest.fixture
def caller(session: OrmSession, alice: Person) -> ProjectCaller:
    """Alice with her key, and with credits."""
    factories.grant(alice.user, 100_000)
    key = db.session.scalars(select(Session).where(Session.session_token == present(alice.token).id)).one()
    return ProjectCaller(alice.id, Account(user_id=alice.id), key)


@pytest.fixture
def place(caller: ProjectCaller) -> ItemPlace:
    """An item of hers."""
    made = item_place(caller, caller.account)
    db.session.commit()
    return made


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The level process, whose test passes once add() adds."""
    with checks_end(monkeypatch):
        yield


@pytest.fixture
def start(alice: Person, caller: ProjectCaller, place: ItemPlace, engine_of_turns: TurnEngine) -> Start:
    """Start a run of the item with alice's key."""

    def start(*, run: bool = True, **wishes: Any) -> ActionItemRun:
        found, turn = start_run(
            caller,
            place.item_id,
            RunWishes(**wishes),
            key=present(alice.token),
            owner=engine_of_turns.owner,
        )
        db.session.commit()
        if run:
            engine_of_turns.run(turn.id)
        return found

    return start
