"""Conversations on a real server: the WebSocket, and a worker that is killed in the middle of a turn."""

import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from flask import Flask
from sqlalchemy import func, select
from sqlalchemy.orm import Session as OrmSession
from websockets.sync.client import connect

from models.accounts.key_format import present
from models.conversations import TimelineItem, say, start_conversation
from models.core.db import db
from models.gateway import GatewayCall
from models.ledger import Account, CreditHold
from models.ledger.ledger import CreditLedger
from models.projects import Workspace
from models.projects.project_editing import create_project
from models.projects.workspaces.workspace_editing import create_workspace
from models.runners import levels
from models.turns import Turn, TurnEvent
from tests.conversations.acp_commands import AGENT
from tests.factories import Person
from tests.projects.project_rows import caller_of, pushed
from tests.server import running


@pytest.fixture
def server(postgres_url: str, tmp_path: Path) -> Iterator[str]:
    with running(postgres_url, tmp_path, workers=2, STOA_DEMO_DELAY_MS="100") as url:
        yield url


def test_a_killed_worker_loses_no_file_and_its_turn_is_paid_once(
    session: OrmSession, rich: Person, server: str
) -> None:
    account = Account(user_id=rich.id)
    caller = caller_of(rich.id, account)
    project = create_project(caller, account, "Pier")
    workspace = create_workspace(caller, project.id, "main")
    pushed(caller, project.id, workspace.id, {"README.md": "Twelve columns.\n"}, "Begin")
    found = start_conversation(caller, workspace.id)
    id, turn_id = found.conversation.id, ""
    session.commit()
    url = f"{server.replace('http', 'ws')}/v1/conversations/{id}/stream?token={rich.token}"
    with connect(url) as socket:
        # left behind by a worker that died before it began
        turn = say(
            caller,
            found,
            "Add a file notes.md saying 'Once.' Then write a long story of 900 words.",
            key=present(rich.token),
            owner="gone:1:x",
        )
        turn_id = turn.id
        session.commit()
        names = []
        while names[-8:] != ["content_delta"] * 8:
            names.append(json.loads(socket.recv(timeout=20))["type"])
    assert names[:2] == ["message_start", "message_status"]
    owner = session.scalars(select(CreditHold.worker)).one()
    worker = int(owner.rpartition(":")[2])
    assert psutil.pid_exists(worker)
    time.sleep(0.3)  # the text is in the table
    os.kill(worker, signal.SIGKILL)
    killed_at = time.monotonic()
    ended = until_ended(turn_id)
    assert time.monotonic() - killed_at < 60
    assert (ended.state, ended.error_code) == ("interrupted", "worker_died")
    item = session.scalars(select(TimelineItem)).one()
    assert (item.state, item.files) == ("interrupted", [{"path": "notes.md", "change": "added"}])
    assert session.get_one(Workspace, workspace.id).current_snapshot_id == item.snapshot_id
    calls = session.scalars(select(GatewayCall)).all()
    assert {call.state for call in calls} == {"settled"}
    assert ended.credits == sum(call.credits or 0 for call in calls)
    assert session.scalars(select(CreditHold)).all() == []


@pytest.fixture
def sandboxes() -> Iterator[Path]:
    """A folder that the users of sandboxes can reach."""
    folder = Path(tempfile.mkdtemp(prefix="stoa-test-sandboxes-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize(("command", "state"), [("plain", "completed"), ("forgetful", "failed")])
def test_a_command_whose_server_is_killed_goes_on_or_is_given_back(
    app: Flask,
    session: OrmSession,
    rich: Person,
    postgres_url: str,
    tmp_path: Path,
    sandboxes: Path,
    command: str,
    state: str,
) -> None:
    if not (process := levels()["process"]).available:
        pytest.skip(f"process: {process.sentence}")
    account = Account(user_id=rich.id)
    caller = caller_of(rich.id, account)
    project = create_project(caller, account, "Pier")
    workspace = create_workspace(caller, project.id, "main")
    session.commit()
    like = ["resume"] if command == "plain" else []
    agents = {command: {"command": "python3", "args": ["-c", AGENT, *like]}}
    settings = {"STOA_ACP_AGENTS": json.dumps(agents), "STOA_SANDBOX_DIR": str(sandboxes)}
    headers = {"Authorization": f"Bearer {rich.token}"}
    with running(postgres_url, tmp_path, workers=2, **settings) as server:
        new = {"workspace_id": workspace.id, "engine": "acp", "level": "process", "agent": command}
        made = httpx.post(f"{server}/v1/conversations", json=new, headers=headers, timeout=30)
        assert made.status_code == 200, made.text
        id = made.json()["conversation"]["id"]
        said = {"prompt": f"edit kept.md Kept\nmodel {'What is a pier? ' * 300}\nwait"}
        begun = httpx.post(f"{server}/v1/conversations/{id}/messages", json=said, headers=headers, timeout=30)
        assert begun.status_code == 200, begun.text
        turn_id = begun.json()["turnId"]
        told = select(TurnEvent.type, TurnEvent.data).where(TurnEvent.turn_id == turn_id)
        deadline, rows = time.monotonic() + 60, [("", {})]
        while "stoa/demo" not in "".join(data.get("text", "") for _, data in rows):
            assert time.monotonic() < deadline, rows
            assert rows[-1][0] != "turn.failed", rows
            session.rollback()
            time.sleep(0.1)
            rows = [("", {}), *(tuple(row) for row in session.execute(told.order_by(TurnEvent.seq)))]  # type: ignore[misc]
        owner = session.get_one(Turn, turn_id).lease_owner or ""
        session.rollback()
        os.kill(int(owner.split(":")[1]), signal.SIGKILL)
        killed_at = time.monotonic()
        ended = until_ended(turn_id)
        assert time.monotonic() - killed_at < 60
    assert (ended.state, ended.error_code) == (state, "worker_died" if state == "failed" else None)
    item = session.scalars(select(TimelineItem)).one()
    assert (item.state, item.files) == (state, [{"path": "kept.md", "change": "added"}])
    [call] = session.scalars(select(GatewayCall)).all()
    assert (call.state, call.run_id, ended.credits) == ("settled", ended.run_id, call.credits)
    assert (call.credits or 0) > 0
    given = select(func.coalesce(func.sum(CreditLedger.principal), 0)).where(
        CreditLedger.operation_id.startswith(f"returned-{turn_id}")
    )
    assert session.scalar(given) == (call.credits if state == "failed" else 0)
    assert session.scalars(select(CreditHold)).all() == []


def until_ended(turn_id: str) -> Turn:
    for _ in range(1_000):
        db.session.rollback()
        db.session.expire_all()
        found = db.session.get_one(Turn, turn_id)
        if found.ended_at is not None:
            return found
        time.sleep(0.05)
    raise AssertionError(f"the turn is {found.state}")
