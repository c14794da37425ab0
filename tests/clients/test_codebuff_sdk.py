"""The unmodified @codebuff/sdk from npm runs agents against the started server; what it did is on the page and billed."""

import json
import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from models import ledger
from models.core.settings import ROOT
from models.runs import AgentRun, AgentStep
from models.store.statistics import store_proof
from models.usage import Message
from tests import factories
from tests.factories import Person
from tests.server import running
from tests.store.ledger import count_waiting

HERE = Path(__file__).parent / "codebuff"

pytestmark = [
    pytest.mark.clients,
    pytest.mark.timeout(180),
    pytest.mark.skipif(not (shutil.which("node") and shutil.which("npm")), reason="Node.js is not installed"),
]


@pytest.fixture(scope="session")
def sdk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The SDK and its driver, installed by the lock file into a folder of the tests."""
    place = tmp_path_factory.mktemp("codebuff")
    for name in ("package.json", "package-lock.json", "drive.mjs"):
        shutil.copy(HERE / name, place)
    shutil.copy(ROOT / "static" / "clients" / "codebuff.mjs", place)  # the one that users download
    subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--silent"], cwd=place, check=True, timeout=150)
    return place


@pytest.fixture(scope="session")
def address(app: Flask, postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running(postgres_url, tmp_path_factory.mktemp("clients-server")) as address:
        yield address


@pytest.fixture
def rich(session: OrmSession, alice: Person) -> Person:
    assert alice.user is not None
    factories.grant(alice.user, 1000)
    return alice


def drive(sdk: Path, address: str, person: Person, scene: str) -> dict[str, Any]:
    done = subprocess.run(
        ["node", "--import", "./codebuff.mjs", "drive.mjs", scene],
        cwd=sdk,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(sdk),  # no credentials of whoever runs the tests
            "STOA_BASE_URL": address,
            "CODEBUFF_API_KEY": str(person.token),
        },
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    story: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    assert story["connected"] is True
    return story


def runs(session: OrmSession, person: Person) -> dict[str, AgentRun]:
    session.expire_all()
    rows = session.scalars(select(AgentRun).where(AgentRun.user_id == person.id)).all()
    return {run.agent_id: run for run in rows}


def check_books(session: OrmSession, person: Person, credits: int) -> None:
    """What the SDK thinks it spent is what was charged, and the books prove."""
    charged = session.scalars(select(Message.credits).where(Message.user_id == person.id)).all()
    assert sum(charged) == credits
    assert ledger.prove().clean


def finish(story: dict[str, Any]) -> int:
    return int(next(event["totalCost"] for event in story["events"] if event["type"] == "finish"))


def test_a_text_run_is_on_the_page_and_billed(
    sdk: Path, address: str, session: OrmSession, rich: Person
) -> None:
    story = drive(sdk, address, rich, "text")
    assert story["output"]["type"] == "lastMessage"
    run = runs(session, rich)["scribe"]
    assert (run.status, run.parent_run_id) == ("completed", None)
    assert run.total_credits == finish(story) >= 1
    steps = session.scalars(select(AgentStep).where(AgentStep.agent_run_id == run.id)).all()
    messages = session.scalars(select(Message).where(Message.client_request_id == run.id)).all()
    assert {step.message_id for step in steps if step.message_id} == {message.id for message in messages}
    check_books(session, rich, finish(story))
    page = rich.browser.get("/runs").get_data(as_text=True)
    assert "scribe" in page
    assert f"/runs/{run.id}" in page


def test_a_tool_run_calls_the_tool_and_ends(
    sdk: Path, address: str, session: OrmSession, rich: Person
) -> None:
    story = drive(sdk, address, rich, "tool")
    assert [call["column"] for call in story["called"]] == [3]
    assert "5.4" in json.dumps(story["output"])
    run = runs(session, rich)["surveyor"]
    assert run.status == "completed"
    page = rich.browser.get(f"/runs/{run.id}").get_data(as_text=True)
    assert "stoa/demo" in page
    assert ledger.prove().clean


def test_a_run_spawns_an_agent_and_both_are_one_tree(
    sdk: Path, address: str, session: OrmSession, rich: Person
) -> None:
    story = drive(sdk, address, rich, "spawn")
    kinds = [event["type"] for event in story["events"]]
    assert kinds.count("subagent_start") == kinds.count("subagent_finish") == 1
    found = runs(session, rich)
    parent, child = found["foreman"], found["mason"]
    assert child.parent_run_id == child.root_run_id == parent.id
    assert (parent.status, child.status) == ("completed", "completed")
    assert parent.total_credits >= child.total_credits
    page = rich.browser.get(f"/runs/{parent.id}").get_data(as_text=True)
    assert "mason" in page
    assert ledger.prove().clean


def ask(address: str, person: Person | None = None, body: dict[str, Any] | None = None) -> str:
    headers = {"content-type": "application/json", **(person.headers if person else {})}
    sent = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(address, sent, headers), timeout=30) as answer:
        text: str = answer.read().decode()
    return text


def listed(address: str) -> dict[str, Any]:
    """The agent `acme/herald` in the store's list."""
    found: dict[str, Any] = next(
        each for each in json.loads(ask(f"{address}/api/agents")) if each["id"] == "herald"
    )
    return found


def test_an_agent_published_with_one_post_is_found_runs_and_shows_the_run_in_its_figures(
    sdk: Path, address: str, session: OrmSession, rich: Person, mallory: Person
) -> None:
    assert rich.user is not None
    assert mallory.user is not None
    factories.grant(mallory.user, 1000)
    factories.publisher(rich.user, "acme", name="Acme")
    herald = {
        "id": "herald",
        "publisher": "acme",
        "displayName": "Herald",
        "description": "Announces what happens on the agora.",
        "model": "stoa/demo",
        "instructionsPrompt": "Announce it in a paragraph.",
    }
    told = json.loads(ask(f"{address}/api/agents/publish", rich, {"data": [herald]}))
    assert told["success"] is True
    assert "acme/agents/herald" in ask(f"{address}/store?search=agora")
    assert listed(address)["usage_count"] == 0

    full_id = f"acme/herald@{told['agents'][0]['version']}"
    story = drive(sdk, address, mallory, full_id)
    assert story["output"]["type"] == "lastMessage"
    run = runs(session, mallory)[full_id]
    assert (run.status, run.publisher_id, run.agent_name) == ("completed", "acme", "herald")
    check_books(session, mallory, finish(story))
    assert store_proof.prove().differences == []
    count_waiting(session)
    assert store_proof.prove().differences == []

    for _ in range(60):  # a worker keeps the list for some seconds when only figures moved
        figures = listed(address)
        if figures["usage_count"]:
            break
        time.sleep(0.5)
    assert (figures["usage_count"], figures["weekly_runs"], figures["unique_users"]) == (1, 1, 1)
    assert figures["total_spent"] == finish(story) / 100 > 0
    page = ask(f"{address}/publishers/acme/agents/herald/{full_id.partition('@')[2]}")
    assert "1 in 7 days" in page
    assert full_id in mallory.browser.get(f"/runs/{run.id}").get_data(as_text=True)
