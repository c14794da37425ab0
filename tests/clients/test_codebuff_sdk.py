"""The unmodified @codebuff/sdk runs agents against a real server: the runs are recorded, shown and billed."""

import json
import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from models import ledger
from models.core.settings import ROOT
from models.ledger import Account
from models.orgs import Org, OrgRepo
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
    """Directory with the SDK, installed from the lock file, and its driver script."""
    directory = tmp_path_factory.mktemp("codebuff")
    clients = ROOT / "static" / "clients"
    lock = clients / "codebuff-sdk-0.10.7.json"
    shutil.copy(HERE / "drive.mjs", directory)
    shutil.copy(clients / "stoa.mjs", directory)  # the file that users download
    shutil.copy(lock, directory / "package-lock.json")
    root = json.loads(lock.read_text())["packages"][""]
    (directory / "package.json").write_text(json.dumps(root))
    subprocess.run(
        ["npm", "ci", "--no-audit", "--no-fund", "--silent"], cwd=directory, check=True, timeout=150
    )
    return directory


@pytest.fixture(scope="module")
def address(app: Flask, postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running(postgres_url, tmp_path_factory.mktemp("clients-server"), workers=1) as address:
        yield address


@pytest.fixture
def rich(session: OrmSession, alice: Person) -> Person:
    assert alice.user is not None
    factories.grant(alice.user, 1000)
    return alice


def drive(
    sdk: Path, address: str, person: Person, scenario: str, *, folder: Path | None = None, **environment: str
) -> dict[str, Any]:
    """Run the scenario in `folder`, by default one without a Git repository."""
    done = subprocess.run(
        ["node", "--import", str(sdk / "stoa.mjs"), str(sdk / "drive.mjs"), scenario],
        cwd=folder or sdk,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(sdk),  # ignore the credentials of the current user
            "STOA_URL": address,
            "STOA_KEY": str(person.token),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    assert result["connected"] is True
    return result


def runs(session: OrmSession, person: Person) -> dict[str, AgentRun]:
    session.expire_all()
    rows = session.scalars(select(AgentRun).where(AgentRun.user_id == person.id)).all()
    return {run.agent_id: run for run in rows}


def check_ledger(session: OrmSession, person: Person, credits: int) -> None:
    """The cost that the SDK reports equals the charge, and the ledger is consistent."""
    charged = session.scalars(select(Message.credits).where(Message.user_id == person.id)).all()
    assert sum(charged) == credits
    assert ledger.prove().clean


def reported_cost(result: dict[str, Any]) -> int:
    return int(next(event["totalCost"] for event in result["events"] if event["type"] == "finish"))


def test_a_text_run_is_on_the_page_and_billed(
    sdk: Path, address: str, session: OrmSession, rich: Person
) -> None:
    result = drive(sdk, address, rich, "text")
    assert result["output"]["type"] == "lastMessage"
    run = runs(session, rich)["scribe"]
    assert (run.status, run.parent_run_id) == ("completed", None)
    assert run.total_credits == reported_cost(result) >= 1
    steps = session.scalars(select(AgentStep).where(AgentStep.agent_run_id == run.id)).all()
    messages = session.scalars(select(Message).where(Message.client_request_id == run.id)).all()
    assert {step.message_id for step in steps if step.message_id} == {message.id for message in messages}
    check_ledger(session, rich, reported_cost(result))
    page = rich.browser.get("/runs").get_data(as_text=True)
    assert "scribe" in page
    assert f"/runs/{run.id}" in page


def test_a_tool_run_calls_the_tool_and_ends(
    sdk: Path, address: str, session: OrmSession, rich: Person
) -> None:
    result = drive(sdk, address, rich, "tool")
    assert [call["column"] for call in result["called"]] == [3]
    assert "5.4" in json.dumps(result["output"])
    run = runs(session, rich)["surveyor"]
    assert run.status == "completed"
    page = rich.browser.get(f"/runs/{run.id}").get_data(as_text=True)
    assert "stoa/demo" in page
    assert ledger.prove().clean


def test_a_run_spawns_an_agent_and_both_are_one_tree(
    sdk: Path, address: str, session: OrmSession, rich: Person
) -> None:
    result = drive(sdk, address, rich, "spawn")
    kinds = [event["type"] for event in result["events"]]
    assert kinds.count("subagent_start") == kinds.count("subagent_finish") == 1
    found = runs(session, rich)
    parent, child = found["foreman"], found["mason"]
    assert child.parent_run_id == child.root_run_id == parent.id
    assert (parent.status, child.status) == ("completed", "completed")
    assert parent.total_credits >= child.total_credits
    page = rich.browser.get(f"/runs/{parent.id}").get_data(as_text=True)
    assert "mason" in page
    assert ledger.prove().clean


@pytest.fixture
def rich_acme(acme: Org, alice: Person) -> Org:
    """The organisation, with credits and an active repository."""
    assert alice.user is not None
    factories.grant(alice.user, 1000, "organization", org_id=acme.id)
    url = "https://github.com/acme/site"
    factories.save(
        OrgRepo(org_id=acme.id, repo_url=url, repo_name="site", repo_owner="acme", approved_by=alice.id)
    )
    return acme


@pytest.mark.parametrize("way", ["repository", "named", "key"])
def test_an_organisation_pays_for_its_members_run(
    sdk: Path, address: str, session: OrmSession, rich_acme: Org, bob: Person, tmp_path: Path, way: str
) -> None:
    """The SDK says nothing about its repository: the script that points it at Stoa does, or the key."""
    assert bob.user is not None
    factories.grant(bob.user, 100)
    origin = "https://bob:secret@github.com/Acme/Site.git" if way == "repository" else str(tmp_path)
    for command in (["init", "-q"], ["remote", "add", "origin", origin]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    key = factories.token(bob.user, org_id=rich_acme.id) if way == "key" else bob.token
    named = {"STOA_ORG": rich_acme.slug} if way == "named" else {}
    result = drive(sdk, address, replace(bob, token=key), "text", folder=tmp_path, **named)
    found = runs(session, bob)
    assert {run.org_id for run in found.values()} == {rich_acme.id}
    messages = session.scalars(select(Message).where(Message.user_id == bob.id)).all()
    repository = "https://github.com/acme/site" if way == "repository" else None
    assert {(each.org_id, each.paid_by, each.repo_url) for each in messages} == {
        (rich_acme.id, way, repository)
    }
    cost = reported_cost(result)
    assert cost == found["scribe"].total_credits >= 1
    balances = [
        ledger.balance(account).net_balance for account in (Account(org_id=rich_acme.id), bob.account)
    ]
    assert balances == [1000 - cost, 100]
    check_ledger(session, bob, cost)
    page = bob.browser.get(f"/orgs/{rich_acme.slug}/runs").get_data(as_text=True)
    assert found["scribe"].id in page
    assert found["scribe"].id not in bob.browser.get("/runs").get_data(as_text=True)


def fetch(address: str, person: Person | None = None, body: dict[str, Any] | None = None) -> str:
    headers = {"content-type": "application/json", **(person.headers if person else {})}
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(address, data, headers), timeout=30) as answer:
        text: str = answer.read().decode()
    return text


def listed(address: str) -> dict[str, Any]:
    """The agent `acme/herald` in the store's list."""
    found: dict[str, Any] = next(
        each for each in json.loads(fetch(f"{address}/api/agents")) if each["id"] == "herald"
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
    published = json.loads(fetch(f"{address}/api/agents/publish", rich, {"data": [herald]}))
    assert published["success"] is True
    assert "acme/agents/herald" in fetch(f"{address}/store?search=agora")
    assert listed(address)["usage_count"] == 0

    full_id = f"acme/herald@{published['agents'][0]['version']}"
    result = drive(sdk, address, mallory, full_id)
    assert result["output"]["type"] == "lastMessage"
    run = runs(session, mallory)[full_id]
    assert (run.status, run.publisher_id, run.agent_name) == ("completed", "acme", "herald")
    check_ledger(session, mallory, reported_cost(result))
    assert store_proof.prove().differences == []
    count_waiting(session)
    assert store_proof.prove().differences == []

    for _ in range(60):  # workers cache the list for some seconds when only statistics changed
        agent = listed(address)
        if agent["usage_count"]:
            break
        time.sleep(0.5)
    assert (agent["usage_count"], agent["weekly_runs"], agent["unique_users"]) == (1, 1, 1)
    assert agent["total_spent"] == reported_cost(result) / 100 > 0
    page = fetch(f"{address}/publishers/acme/agents/herald/{full_id.partition('@')[2]}")
    assert "1 in 7 days" in page
    assert full_id in mallory.browser.get(f"/runs/{run.id}").get_data(as_text=True)
