"""The code snippets on an agent's page run unchanged, and the page counts their runs."""

import html
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from models.runs import AgentRun
from models.store import AgentVersion
from models.usage import Message
from tests import factories
from tests.clients.test_codebuff_sdk import sdk
from tests.factories import Person
from tests.server import running
from tests.store.ledger import count_waiting

__all__ = ["sdk"]

PAGE = "/publishers/acme/agents/greeter/1.0.0"
BASE = "http://localhost:8000"

pytestmark = [pytest.mark.clients, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def address(app: Flask, postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running(postgres_url, tmp_path_factory.mktemp("snippets"), workers=1) as address:
        yield address


@pytest.fixture
def greeter(session: OrmSession, alice: Person, bob: Person) -> Person:
    """alice with credits, and an agent of bob whose prompts contain quotes and shell syntax."""
    assert alice.user is not None
    assert bob.user is not None
    factories.grant(alice.user, 1000)
    publisher = factories.publisher(bob.user)
    data = {"systemPrompt": 'It\'s "you" who greets. `date` $(date) \\ done.', "spawnerPrompt": "Greets."}
    factories.agent(publisher, "greeter", data=data)
    return alice


def snippet(person: Person, client: str, address: str) -> str:
    """The program that the page's copy button copies; the first block is the line that runs the agent."""
    page = person.browser.get(f"{PAGE}?client={client}", headers={"HX-Request": "true"}).text
    return html.unescape(re.findall(r"<pre[^>]*><code>(.*?)</code>", page, re.DOTALL)[1]).replace(
        BASE, address
    )


def finished_run(session: OrmSession, person: Person) -> AgentRun:
    """The only run, already counted in the statistics of its version."""
    count_waiting(session)
    session.expire_all()
    run = session.scalars(select(AgentRun).where(AgentRun.user_id == person.id)).one()
    version = session.get_one(AgentVersion, ("acme", "greeter", "1.0.0"))
    assert (run.agent_id, run.status) == ("acme/greeter@1.0.0", "completed")
    assert (version.runs, version.unique_users) == (1, 1)
    billed = session.scalars(select(Message.credits).where(Message.client_request_id == run.id)).all()
    assert len(billed) == 1
    assert version.credits == sum(billed)
    return run


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_the_lines_for_curl(session: OrmSession, greeter: Person, address: str, tmp_path: Path) -> None:
    result = subprocess.run(
        ["sh", "-e", "-c", snippet(greeter, "curl", address)],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "STOA_KEY": greeter.token},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert '"choices"' in result.stdout
    run = finished_run(session, greeter)
    assert run.id in greeter.browser.get("/runs?agent=acme/greeter@").text


@pytest.mark.skipif(not (shutil.which("node") and shutil.which("npm")), reason="Node.js is not installed")
def test_the_program_for_the_sdk(session: OrmSession, greeter: Person, address: str, sdk: Path) -> None:
    (sdk / "app.mjs").write_text(snippet(greeter, "sdk", address))
    result = subprocess.run(
        ["node", "--import", "./stoa.mjs", "app.mjs"],
        cwd=sdk,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(sdk),
            "STOA_URL": address,
            "STOA_KEY": greeter.token,
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "lastMessage" in result.stdout, result.stdout
    finished_run(session, greeter)
