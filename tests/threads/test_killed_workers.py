"""A web worker that is killed during an answer: its turn ends as interrupted, with its text, charged once; watchers of others see it."""

import json
import os
import signal
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from models import threads
from models.accounts.key_format import present
from models.core.db import db
from models.gateway import GatewayCall
from models.ledger import CreditHold
from models.threads import Thread, ThreadMessage, TurnRequest
from models.turns import Turn
from tests import factories
from tests.factories import Person
from tests.server import running


@pytest.fixture
def server(postgres_url: str, tmp_path: Path) -> Iterator[str]:
    with running(postgres_url, tmp_path, workers=2, STOA_DEMO_DELAY_MS="100") as url:
        yield url


def until(turn: Turn, *states: str) -> Turn:
    for _ in range(200):
        db.session.rollback()
        db.session.expire_all()
        found = db.session.get_one(Turn, turn.id)
        if found.state in states:
            return found
        time.sleep(0.05)
    raise AssertionError(f"the turn is {found.state}")


def test_a_killed_answer_is_kept_and_charged_once(
    session: OrmSession, alice: Person, thread: Thread, server: str
) -> None:
    factories.grant(alice.user, 100_000)
    # left behind by a worker that died before it began
    turn = threads.ask(
        thread,
        TurnRequest(model="stoa/demo"),
        messages=[{"role": "user", "content": "Tell me a long story."}],
        key=present(alice.token),
        owner="gone:1:x",
    )
    session.commit()
    request = urllib.request.Request(f"{server}/api/v1/turns/{turn.id}/events", headers=alice.headers)
    with urllib.request.urlopen(request, timeout=20) as stream:
        text = ""
        for line in stream:
            if line.startswith(b"data: ") and b'"text"' in line and len(text) < 40:
                text += json.loads(line[6:]).get("text", "")
                if len(text) >= 40:
                    break
    owner = session.scalars(select(CreditHold.worker)).one()
    worker = int(owner.rpartition(":")[2])
    assert psutil.pid_exists(worker)
    time.sleep(0.3)  # the text is in the table
    os.kill(worker, signal.SIGKILL)
    killed_at = time.monotonic()
    ended = until(turn, "interrupted", "completed", "failed")
    assert time.monotonic() - killed_at < 15
    assert (ended.state, ended.error_code) == ("interrupted", "worker_died")
    answer = session.scalars(select(ThreadMessage).where(ThreadMessage.role == "assistant")).one()
    assert answer.text.startswith(text)
    assert (answer.state, answer.finish_reason) == ("incomplete", "interrupted")
    call = session.scalars(select(GatewayCall)).one()
    assert (call.state, call.error, call.flags) == ("settled", "worker_died", ["output_counted_after_crash"])
    assert call.output_tokens > 0
    assert answer.message_id == call.message_id
    assert ended.credits == answer.credits == call.credits
    assert session.scalars(select(CreditHold)).all() == []
