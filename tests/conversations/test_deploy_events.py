"""Events of deployments on the stream of the conversation that began them: in order, once, also for who comes back."""

import threading
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy.orm import Session as OrmSession

from models.core.db import db
from models.deployments import Deployment
from models.deployments.deployment_running import fail, write_log
from models.turns import TurnEngine
from tests.conversations.test_conversations_api import EDIT, Api, streamed
from tests.factories import Person

STARTED, LOGGED, COMPLETED = "deployment_started", "deployment_log", "deployment_complete"


@pytest.fixture
def talk(session: OrmSession, client: FlaskClient, rich: Person, engine_of_turns: TurnEngine) -> Api:
    """A conversation whose workspace has a site."""
    api = Api(client, rich, engine_of_turns)
    files = {"index.html": "<p>pier", "README.md": "Twelve columns.\n"}
    api.push(api.project_id, api.tree(files), workspace_id=api.workspace_id)
    return api


def deploy(api: Api, **headers: str) -> dict[str, Any]:
    return dict(api("post", f"/conversations/{api.id}/deploy", headers=headers)[1])


def begin_waiting(api: Api, session: OrmSession) -> Deployment:
    """A deployment that waits for the report of a CI."""
    chosen = {"adapter": "webhook", "webhook_url": "https://ci.example.org/x", "webhook_secret": "s" * 16}
    api("put", f"/infrastructure/workspaces/{api.workspace_id}/deployment-settings", chosen)
    made = deploy(api)
    session.rollback()
    return session.get_one(Deployment, made["deploymentId"])


def report(api: Api, row: Deployment, **body: Any) -> int:
    return int(api("post", f"/infrastructure/deployments/{row.id}/status", body)[0])


def test_a_deployment_tells_its_beginning_log_and_end_once(talk: Api, session: OrmSession) -> None:
    row = begin_waiting(talk, session)
    assert report(talk, row, status="deploying") == 200
    told: list[tuple[str, str, dict[str, Any]]] = []
    reader = threading.Thread(target=lambda: told.extend(streamed(talk, until=COMPLETED)))
    reader.start()
    assert report(talk, row, status="success") == 200
    reader.join(timeout=30)
    assert [name for _, name, _ in told] == [STARTED, *[LOGGED] * (len(told) - 2), COMPLETED]
    begun, ended = told[0][2]["deployment"], told[-1][2]["deployment"]
    assert (begun["id"], begun["status"], begun["trigger"], begun["completedAt"]) == (
        row.id,
        "deploying",
        "chat",
        None,
    )
    assert (ended["id"], ended["status"], ended["error"]) == (row.id, "success", None)
    entries = [data["entry"] for _, _, data in told[1:-1]]
    log = talk.get(f"/deployments/{row.id}/logs")["log"]["entries"]
    assert entries == log
    assert {data["deploymentId"] for _, _, data in told[1:-1]} == {row.id}
    # whoever comes back goes on after what they have
    for place in (0, 2, len(told) - 2):
        assert list(streamed(talk, until=COMPLETED, after=told[place][0])) == told[place + 1 :]
    # what is written later, and deployments of others, are not told
    session.rollback()
    write_log(session.get_one(Deployment, row.id), "deploy", ["Taken offline."])
    session.commit()
    talk("post", f"/workspaces/{talk.workspace_id}/deploy")
    second = begin_waiting(talk, session)
    rest = list(streamed(talk, until=STARTED, after=told[-1][0]))
    assert [data["deployment"]["id"] for _, _, data in rest] == [second.id]


def test_what_is_live_or_failed_at_once_is_told_too(talk: Api, session: OrmSession) -> None:
    first = begin_waiting(talk, session)
    place = next(streamed(talk, until=STARTED))[0]
    report(talk, first, status="failed", error="The CI broke.")
    talk("put", f"/infrastructure/workspaces/{talk.workspace_id}/deployment-settings", {"adapter": None})
    made = [deploy(talk, **{"Idempotency-Key": "one"}) for _ in range(2)]
    told = list(streamed(talk, until=COMPLETED, after=place))
    assert told[-1][2]["deployment"]["error"] == "The CI broke."
    more = list(streamed(talk, until=COMPLETED, after=told[-1][0]))
    assert (more[0][1], more[0][2]["deployment"]["url"]) == (STARTED, None)
    assert more[-1][2]["deployment"] == talk.get("/deployments")["deployments"][0]
    assert made[0]["deploymentId"] == made[1]["deploymentId"] == more[-1][2]["deployment"]["id"]


def test_the_events_of_a_turn_are_told_once_around_those_of_a_deployment(
    talk: Api, session: OrmSession
) -> None:
    row = begin_waiting(talk, session)
    assert talk("post", f"/conversations/{talk.id}/messages", {"prompt": EDIT})[0] == 200
    told = list(streamed(talk, until="timeline_summary"))
    names = [name for _, name, _ in told]
    assert (names[0], names.count(STARTED), names.count("message_start")) == (STARTED, 1, 1)
    place = names.index("timeline_item")
    assert list(streamed(talk, until="timeline_summary", after=told[place][0])) == told[place + 1 :]
    session.rollback()
    fail(session.get_one(Deployment, row.id), "Nothing was heard.")
    db.session.commit()
    rest = list(streamed(talk, until=COMPLETED, after=told[-1][0]))
    assert [name for _, name, _ in rest] == [LOGGED, COMPLETED]
