"""Processes that drive a run are killed with SIGKILL: the run is taken over and paid once, and nothing of its scratch copy stays."""

import os
import signal
import subprocess
import sys
import time

import pytest
from flask import Flask
from sqlalchemy import select, update
from sqlalchemy.orm import Session as OrmSession

from models.core.settings import ROOT, Settings
from models.insights import ActionItemRun
from models.insights.item_run_applying import apply_run
from models.projects import ProjectCaller, Workspace, WorkspaceOperation
from models.projects.workspaces.head_moves import Mover
from models.runners import levels
from models.runners.process_workplace import sandbox_home
from models.turns import Turn, TurnEngine
from tests.insights.item_run_rows import MENDED, PAST, ItemPlace, Start, ended, ready_run, use_agent


def killed_at(point: str, run_id: str, postgres_url: str, settings: Settings) -> None:
    """Let another process work on the run up to this point, and kill it there."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("STOA_")},
        "DATABASE_URL": postgres_url,
        "STOA_DATA_DIR": str(settings.data_dir),
        "STOA_SECRET_KEY": settings.stoa_secret_key.get_secret_value(),
        "STOA_DEMO_DELAY_MS": "0",
    }
    command = [sys.executable, "-m", "tests.insights.killed_driver", point, run_id]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = []
        while (line := process.stdout.readline()) and line.strip() != "stopped":
            lines.append(line)
        assert line, lines
        os.kill(process.pid, signal.SIGKILL)


def take_over(session: OrmSession, turns: TurnEngine, run: ActionItemRun) -> ActionItemRun:
    """As if the time of the lease had passed: another worker looks, and does the rest."""
    session.execute(update(Turn).where(Turn.lease_until.is_not(None)).values(lease_until=PAST))
    session.commit()
    turns.tick()
    assert turns.idle(60)
    return ended(turns, run)


def paid(session: OrmSession, run: ActionItemRun) -> list[int | None]:
    """Credits of the agents' turns."""
    ids = [each["turn_id"] for each in run.attempts]
    assert len(set(ids)) == len(ids)
    rows = session.scalars(select(Turn).where(Turn.kind == "conversation")).all()
    assert {row.id for row in rows} == set(ids)
    assert run.credits == sum(row.credits or 0 for row in rows)
    return [row.credits for row in rows]


def test_killed_between_two_attempts(
    monkeypatch: pytest.MonkeyPatch,
    session: OrmSession,
    settings: Settings,
    postgres_url: str,
    start: Start,
    engine_of_turns: TurnEngine,
) -> None:
    run = start(run=False, level="virtual")
    killed_at("between", run.id, postgres_url, settings)
    agent = use_agent(monkeypatch, {"add.py": MENDED})
    run = take_over(session, engine_of_turns, run)
    assert (run.status, [each["state"] for each in run.attempts]) == ("ready", ["failed", "passed"])
    assert (paid(session, run), len(agent.prompts)) == ([7, 7], 1)


def test_killed_during_a_check(
    monkeypatch: pytest.MonkeyPatch,
    app: Flask,
    session: OrmSession,
    settings: Settings,
    postgres_url: str,
    start: Start,
    engine_of_turns: TurnEngine,
) -> None:
    state = levels()["process"]
    if not state.available:
        pytest.skip(f"level process: {state.sentence}")
    home = sandbox_home(settings)
    home.sweep(every=True)  # trees that earlier tests let it keep
    run = start(run=False, level="process")
    killed_at("checks", run.id, postgres_url, settings)
    session.expire_all()
    assert session.get_one(ActionItemRun, run.id).attempts[0]["state"] == "checking"
    until = time.monotonic() + 30  # the sandbox dies after the process that was killed
    while [*(home.base / "slots").iterdir()] and time.monotonic() < until:
        home.sweep()
        time.sleep(0.05)
    assert not [*(home.base / "slots").iterdir()]
    agent = use_agent(monkeypatch, {"a": "never"})
    monkeypatch.setattr(
        "models.insights.item_run_checking.run_checks", lambda *_, **__: []
    )  # what checks say is tried elsewhere
    run = take_over(session, engine_of_turns, run)
    assert (run.status, run.attempt_count, run.attempts[0]["restarts"]) == ("ready", 1, 2)
    assert (paid(session, run), agent.prompts) == ([7], [])


def test_killed_while_applying(
    session: OrmSession, settings: Settings, postgres_url: str, place: ItemPlace, caller: ProjectCaller
) -> None:
    run = ready_run(place, {"add.py": MENDED})
    session.commit()
    killed_at("apply", run.id, postgres_url, settings)
    session.expire_all()
    workspace = session.get_one(Workspace, place.workspace_id)
    assert (run.status, workspace.current_snapshot_id) == ("ready", place.base_id)
    done, _ = apply_run(caller, run.id, Mover(caller.user_id, "web"))
    session.commit()
    assert done.status == "applied"
    moves = select(WorkspaceOperation.id).where(WorkspaceOperation.kind == "turn")
    assert len(session.scalars(moves).all()) == 1
