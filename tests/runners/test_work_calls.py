"""Model calls of programs at a runner: opened by the token of the lease and nothing else, made as the turn's, ended with the work, counted once."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select, update
from sqlalchemy.orm import Session as OrmSession

from models.core.db import now
from models.core.settings import Settings
from models.gateway import GatewayCall
from models.gateway.demo_model import DemoModel
from models.ledger import CreditHold
from models.runners import RunnerWork, TurnSocket, open_turn_socket, open_workplace, work_calls, work_queue
from models.runners.sandbox_command import find_program
from models.turns import Turn
from models.turns.engine import TurnHandle
from tests.factories import Person
from tests.runners.runner_calls import RunnerCalls, made_runner
from tests.runners.socket_calls import STOLEN
from tests.runners.test_machine_workplace import Program, connected, token_of
from tests.server import serving

DEMO = "stoa/demo"
HELLO = [{"role": "user", "content": "Say hello."}]
CHAT = "v1/chat/completions"
REQUEST = {"manifest_hash": None, "limits": {"wall_seconds": 60}}


@pytest.fixture
def opened(handle: TurnHandle) -> Iterator[TurnSocket]:
    made = open_turn_socket(handle)
    yield made
    made.close()


class LeasedWork:
    """A work with the turn's socket, that a runner has begun."""

    def __init__(
        self, session: OrmSession, client: FlaskClient, runner: RunnerCalls, opened: TurnSocket
    ) -> None:
        self.session, self.client, self.runner = session, client, runner
        account = opened.handle.account_id
        self.id = work_queue.open_work(account, "workplace", REQUEST, (), opened.calls_as).id
        session.commit()
        opened.serve_work(self.id)
        self.item = runner.poll()
        assert runner.about(self.item, "ack")[0] == 200
        self.token = self.item["model_token"]

    def ask(self, door: str = CHAT, token: str | None = None, **body: Any) -> Any:
        """An answer of a door, to a request with everything that would change who pays."""
        headers = {**STOLEN, "X-Stoa-Work": self.token if token is None else token}
        headers.pop("Authorization")
        sent = {"model": DEMO, "messages": HELLO, **body}
        return self.client.post(f"/v1/runners/work/{self.id}/models/{door}", json=sent, headers=headers)

    def change(self, **values: Any) -> None:
        self.session.execute(update(RunnerWork).where(RunnerWork.id == self.id).values(**values))
        self.session.commit()


@pytest.fixture
def work(session: OrmSession, client: FlaskClient, alice: Person, opened: TurnSocket) -> LeasedWork:
    return LeasedWork(session, client, made_runner(alice, client), opened)


@pytest.mark.parametrize(
    ("door", "body"),
    [
        (CHAT, {}),
        (CHAT, {"stream": True}),
        ("v1/messages", {"max_tokens": 50, "stream": True}),
        ("v1/responses", {"input": "Say hello.", "store": True}),
        ("api/v1/chat/completions", {"codebuff_metadata": {"run_id": "another-run", "cost_mode": "free"}}),
    ],
)
def test_a_call_is_the_turns_whatever_the_program_says(
    work: LeasedWork,
    handle: TurnHandle,
    alice: Person,
    session: OrmSession,
    opened: TurnSocket,
    door: str,
    body: Any,
) -> None:
    answer = work.ask(door, **body)
    assert answer.status_code == 200, answer.text
    assert answer.text
    opened.close()
    session.expire_all()
    made = session.scalars(select(GatewayCall)).one()
    assert (made.user_id, made.run_id) == (alice.id, handle.run_id)
    assert opened.spent == (made.credits or 0)


def test_models_are_listed_and_nothing_else_is_served(work: LeasedWork) -> None:
    headers = {"X-Stoa-Work": work.token}
    place = f"/v1/runners/work/{work.id}/models"
    found = work.client.get(f"{place}/v1/models", headers=headers).json
    assert DEMO in [each["id"] for each in (found or {})["data"]]
    assert work.ask("v1/messages/count_tokens").json["input_tokens"] > 0
    for door in ("v1/threads", "projects", "v1/images/generations", "v1/models/nothing"):
        assert work.client.get(f"{place}/{door}", headers=headers).status_code == 404
        assert work.ask(door).status_code == 404
    assert work.ask(previous_response_id="resp_1").status_code == 400


def test_only_the_token_of_the_lease_opens_the_doors(
    work: LeasedWork, session: OrmSession, client: FlaskClient, mallory: Person, opened: TurnSocket
) -> None:
    other = LeasedWork(session, client, work.runner, opened)
    runner_key = token_of(work.runner)
    for token in ("", "wk_", "wk_\xff", work.token[:-1], other.token, runner_key, mallory.token):
        assert work.ask(token=token).status_code == 401, token
    unknown, other.id = other.id, "work_00000000-0000-0000-0000-000000000000"
    assert other.ask().json["error"] == {**work.ask(token="x").json["error"]}
    other.id = unknown
    # a lease that came after: its number is another one
    work.change(attempts=2)
    assert work.ask().status_code == 401
    assert session.scalars(select(GatewayCall)).all() == []


def test_the_token_opens_nothing_else_and_works_without_a_turn_have_none(
    work: LeasedWork, session: OrmSession, alice: Person
) -> None:
    headers = {"authorization": f"Bearer {work.token}", "X-Stoa-Work": work.token}
    for path in ("/v1/projects", "/v1/models", "/api/v1/me"):
        assert work.client.get(path, headers=headers).status_code == 401, path
    assert (
        work.client.post(
            f"/v1/runners/work/{work.id}/heartbeat", json={"lease": 1}, headers=headers
        ).status_code
        == 401
    )
    work.change(state="done", lease_until=None, ended_at=now())
    work_queue.open_work(alice.id, "workplace", REQUEST, ())
    session.commit()
    assert work.runner.poll()["model_token"] is None


ENDS: dict[str, Callable[[LeasedWork, TurnHandle], None]] = {
    "its lease is over": lambda work, _: work.change(lease_until=now() - timedelta(seconds=1)),
    "it is to stop": lambda work, _: work.change(stop_asked=True),
    "it has ended": lambda work, _: work.change(state="done", lease_until=None, ended_at=now()),
    "its turn is to stop": lambda work, handle: turn_is(work, handle, stop="stop"),
    "its turn has ended": lambda work, handle: turn_is(
        work, handle, state="completed", lease_owner=None, lease_until=None
    ),
    "another worker has its turn": lambda work, handle: turn_is(work, handle, lease_owner="another"),
}


def turn_is(work: LeasedWork, handle: TurnHandle, **values: Any) -> None:
    work.session.execute(update(Turn).where(Turn.id == handle.id).values(**values))
    work.session.commit()


@pytest.mark.parametrize("why", ENDS)
def test_a_work_makes_no_call_when(
    work: LeasedWork, handle: TurnHandle, session: OrmSession, why: str
) -> None:
    ENDS[why](work, handle)
    answer = work.ask()
    assert (answer.status_code, answer.json["error"]["code"]) == (403, "WORK_OVER")
    assert session.scalars(select(GatewayCall)).all() == []


def test_a_call_in_flight_ends_with_its_work(
    app: Flask, work: LeasedWork, session: OrmSession, monkeypatch: pytest.MonkeyPatch, opened: TurnSocket
) -> None:
    monkeypatch.setattr(app.extensions["gateway"].routes.demo, "upstream", DemoModel(0.2))
    monkeypatch.setattr(work_calls, "LOOK_SECONDS", 0.05)
    answer = work.ask(stream=True, messages=[{"role": "user", "content": "Count to a thousand. " * 50}])
    blocks = iter(answer.response)
    assert next(blocks)
    work_queue.close_work(work.id)
    session.commit()
    rest = b"".join(read_on(blocks)).decode()
    assert "The turn ended" in rest
    opened.close()
    assert session.scalars(select(CreditHold).where(CreditHold.state == "live")).all() == []
    answer.close()


def read_on(blocks: Iterator[Any]) -> Iterator[bytes]:
    """What still comes, until the answer breaks off."""
    try:
        for block in blocks:
            yield block if isinstance(block, bytes) else block.encode()
    except ConnectionResetError:
        return


def test_bad_bodies_are_refused_with_a_reason(work: LeasedWork) -> None:
    for sent, status in ((b"", 400), (b"{", 400), (b"[" * 5_000, 400), (b'"\\u0000"', 400)):
        answer = work.client.post(
            f"/v1/runners/work/{work.id}/models/{CHAT}", data=sent, headers={"X-Stoa-Work": work.token}
        )
        assert answer.status_code == status, sent
        assert answer.json["error"]["message"]
    assert work.ask(model="no/such").status_code == 404


# -- the real program ------------------------------------------------------------------------------------------

SCRIPT = f"""
import json, os, urllib.request as u
for stream in (False, True):
    body = {{'model': '{DEMO}', 'messages': {HELLO}, 'stream': stream}}
    key = {{'authorization': 'Bearer ' + os.environ['OPENAI_API_KEY']}}
    q = u.Request(os.environ['OPENAI_BASE_URL'] + '/chat/completions', json.dumps(body).encode(), key)
    text = u.urlopen(q).read().decode()
    print(json.loads(text)['choices'][0]['message']['role'] if not stream else text.strip()[-6:])
print(os.path.exists(os.environ['STOA_SOCKET']))
q.headers['Authorization'] = 'Bearer wrong'
try:
    u.urlopen(q)
except u.HTTPError as error:
    print(error.code)
"""


@pytest.mark.parametrize("confined", [False, True], ids=["no sandbox", "sandbox"])
def test_a_command_at_the_real_runner_calls_models_without_a_key_of_the_server(
    app: Flask,
    session: OrmSession,
    client: FlaskClient,
    alice: Person,
    handle: TurnHandle,
    opened: TurnSocket,
    tmp_path: Path,
    settings: Settings,
    confined: bool,
) -> None:
    sandbox = find_program(settings) if confined else None
    if confined and sandbox is None:
        pytest.skip("bubblewrap is not installed")
    token = token_of(made_runner(alice, client))
    with serving(app) as url:
        program = Program(url, tmp_path, token, sandbox=sandbox)
        try:
            assert connected(session), program.said()
            place = open_workplace("machine", alice.account.id, None, socket=opened)
            place.write("ask.py", SCRIPT.encode())
            done = place.run("python3 ask.py; env | grep -c -e sk_ -e wk_", seconds=60)
            # in the sandbox any key will do: nobody else reaches the socket
            assert done.output == (
                "assistant\n[DONE]\nTrue\n0\n" if confined else "assistant\n[DONE]\nTrue\n401\n0\n"
            )
            place.close()
            assert program.end() == 0, program.said()
        finally:
            program.process.kill()
            program.process.wait()
            program.log.close()
    calls = session.scalars(select(GatewayCall)).all()
    assert [each.run_id for each in calls] == [handle.run_id] * len(calls)
    assert len(calls) == (3 if confined else 2)
    assert opened.spent == sum(each.credits or 0 for each in calls)
    assert not opened.path.exists()
