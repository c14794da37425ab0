"""A thread of alice, and callers of the JSON API."""

from contextvars import Context
from typing import Any

import httpx2
import openai
import pytest
from flask import Flask
from flask.testing import FlaskClient

from models import threads
from models.core.db import db
from models.gateway.demo_model import DemoModel
from models.ledger import Account
from models.threads import Thread
from models.turns import TurnEngine
from tests import factories
from tests.factories import Person
from tests.threads.thread_calls import Caller, Gpt


@pytest.fixture
def thread(alice: Person) -> Thread:
    """An empty thread of alice, paid by her own account."""
    created = threads.create_thread(alice.id, Account(user_id=alice.id), name="Trees")
    db.session.commit()
    return created


@pytest.fixture
def call(client: FlaskClient, alice: Person) -> Caller:
    """Calls as alice."""
    return Caller(client, alice.token)


@pytest.fixture
def stranger(client: FlaskClient, mallory: Person) -> Caller:
    """Calls as mallory."""
    return Caller(client, mallory.token)


@pytest.fixture
def gpt(app: Flask) -> Gpt:
    """OpenAI's client with the key of a person, against the application in this process. Its requests have sessions of their own."""

    def apart(environ: Any, start_response: Any) -> Any:
        return Context().run(app, environ, start_response)

    def made(person: Person) -> openai.OpenAI:
        http = httpx2.Client(transport=httpx2.WSGITransport(app=apart))
        return openai.OpenAI(
            api_key=person.token, base_url="http://localhost:8000/v1", http_client=http, max_retries=0
        )

    return made


@pytest.fixture
def rich(alice: Person) -> Person:
    """Alice with credits."""
    factories.grant(alice.user, 100_000)
    db.session.commit()
    return alice


@pytest.fixture
def turns(app: Flask) -> TurnEngine:
    """What runs the turns of the application."""
    found: TurnEngine = app.extensions["turns"]
    return found


@pytest.fixture
def slow_demo(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo model writes slowly."""
    monkeypatch.setattr(app.extensions["gateway"].routes.demo, "upstream", DemoModel(0.05))
