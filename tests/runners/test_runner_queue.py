"""The queue of work: who gets what, leases, what is lost with them, and what strangers may do."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import select, update
from sqlalchemy.orm import Session as OrmSession

from models.accounts import Session
from models.core.db import now
from models.orgs import Org
from models.runners import Runner, RunnerAction, RunnerWork, work_queue
from tests import factories
from tests.factories import Person
from tests.projects.project_calls import ProjectsApi, sha
from tests.runners.runner_calls import RunnerCalls, made_runner

REQUEST: dict[str, Any] = {"manifest_hash": None, "limits": {"wall_seconds": 60}}

QueueWork = Callable[..., str]


@pytest.fixture
def queue_work(session: OrmSession, alice: Person) -> QueueWork:
    """Queues a work of alice; returns its id."""
    assert alice.user
    factories.account(alice.user)

    def queue(*labels: str, request: dict[str, Any] = REQUEST) -> str:
        row = work_queue.open_work(alice.id, "workplace", request, labels)
        session.commit()
        return row.id

    return queue


def taken(runner: RunnerCalls) -> Any:
    """The work that the runner takes and begins."""
    work = runner.poll()
    assert runner.about(work, "ack")[0] == 200
    return work


def late(session: OrmSession, work_id: str, **more: Any) -> None:
    """Let the lease of a work be over."""
    past = now() - timedelta(seconds=1)
    session.execute(update(RunnerWork).where(RunnerWork.id == work_id).values(lease_until=past, **more))
    session.commit()


def state(session: OrmSession, work_id: str) -> str:
    session.expire_all()
    return session.get_one(RunnerWork, work_id).state


# -- runners -------------------------------------------------------------------------------------------------


def test_a_runner_is_made_listed_and_removed_with_its_key(
    session: OrmSession, mine: ProjectsApi, client: FlaskClient, alice: Person
) -> None:
    status, made = mine("post", "/runners", {"name": " my  laptop ", "labels": ["GPU", "gpu"]})
    assert status == 201
    assert made["runner"]["name"] == "my laptop"
    assert made["runner"]["labels"] == ["gpu"]
    assert not made["runner"]["connected"]
    runner = RunnerCalls(client, made["token"])
    assert runner.poll(version="1.2", platform="Linux", isolation="bubblewrap") is None

    [listed] = mine("get", "/runners")[1]["runners"]
    assert listed["connected"]
    assert (listed["version"], listed["isolation"]) == ("1.2", "bubblewrap")
    assert made["token"] not in str(listed)

    assert mine("delete", f"/runners/{listed['id']}")[0] == 204
    assert mine("delete", f"/runners/{listed['id']}")[0] == 404
    assert runner("/work/poll")[0] == 401
    assert session.scalars(select(Session).where(Session.name == "Runner my laptop")).all() == []


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422),
        ({"name": ""}, 422),
        ({"name": "x" * 61}, 422),
        ({"name": 3}, 422),
        ({"name": "a", "labels": ["not a word"]}, 422),
        ({"name": "a", "labels": [f"l{n}" for n in range(21)]}, 422),
        ({"name": "a", "labels": "gpu"}, 422),
        ({"name": "a\0"}, 400),
    ],
)
def test_a_runner_that_cannot_be_is_refused(mine: ProjectsApi, body: Any, status: int) -> None:
    assert mine("post", "/runners", body)[0] == status
    assert mine("get", "/runners")[1]["runners"] == []


def test_names_are_taken_once_in_an_account(mine: ProjectsApi, client: FlaskClient, mallory: Person) -> None:
    assert mine("post", "/runners", {"name": "laptop"})[0] == 201
    status, body = mine("post", "/runners", {"name": "laptop"})
    assert (status, body["error"]["code"]) == (409, "NAME_TAKEN")
    assert ProjectsApi(client, mallory)("post", "/runners", {"name": "laptop"})[0] == 201


def test_the_key_of_a_runner_opens_nothing_else(
    mine: ProjectsApi, client: FlaskClient, alice: Person
) -> None:
    runner = made_runner(alice, client)
    for path in ("/v1/projects", "/v1/runners", "/api/v1/me", "/v1/models"):
        assert client.get(path, headers=runner.headers).status_code == 403, path
    assert client.post("/v1/runners", json={"name": "b"}, headers=runner.headers).status_code == 403
    answer = client.post(
        "/v1/chat/completions", json={"model": "stoa/demo", "messages": []}, headers=runner.headers
    )
    assert answer.status_code == 403


def test_other_keys_are_no_runners(client: FlaskClient, alice: Person, anonymous: Person) -> None:
    assert client.post("/v1/runners/work/poll", json={}).status_code == 401
    answer = client.post("/v1/runners/work/poll", json={}, headers=alice.headers)
    assert (answer.status_code, answer.json["error"]["code"]) == (403, "NO_RUNNER")
    assert alice.user
    narrow = factories.api_key(alice.user, permissions=["projects:write"])
    answer = client.post("/v1/runners/work/poll", json={}, headers={"authorization": f"Bearer {narrow}"})
    assert answer.status_code == 403


def test_a_key_makes_no_runner_that_is_wider_than_itself(client: FlaskClient, alice: Person) -> None:
    assert alice.user
    for scopes, status in ((["keys:write"], 403), (["keys:write", "runners:work"], 201)):
        key = factories.api_key(alice.user, permissions=scopes)
        headers = {"authorization": f"Bearer {key}"}
        answer = client.post("/v1/runners", json={"name": "laptop"}, headers=headers)
        assert answer.status_code == status, answer.text


def test_runners_of_an_organisation_are_made_by_members_and_removed_by_their_makers_and_admins(
    session: OrmSession, client: FlaskClient, acme: Org, alice: Person, bob: Person, dave: Person
) -> None:
    def calls(person: Person) -> Any:
        assert person.user
        key = factories.api_key(
            person.user,
            org_id=acme.id,
            permissions=["keys:read", "keys:write", "runners:work", "projects:write"],
        )
        return lambda method, path, body=None: client.open(
            f"/v1/runners{path}", method=method, json=body, headers={"authorization": f"Bearer {key}"}
        )

    of_alice, of_bob, of_dave = calls(alice), calls(bob), calls(dave)
    assert of_dave("post", "", {"name": "no"}).status_code == 404
    first = of_bob("post", "", {"name": "bobs"}).json["runner"]["id"]
    other = of_alice("post", "", {"name": "alices"}).json["runner"]["id"]
    assert {each["name"] for each in of_bob("get", "").json["runners"]} == {"bobs", "alices"}
    assert ProjectsApi(client, alice)("get", "/runners")[1]["runners"] == []
    assert of_bob("delete", f"/{other}").status_code == 403
    assert of_alice("delete", f"/{first}").status_code == 204


# -- leases --------------------------------------------------------------------------------------------------


def test_work_goes_to_one_runner_of_the_account_that_has_its_labels(
    session: OrmSession, client: FlaskClient, queue_work: QueueWork, alice: Person, mallory: Person
) -> None:
    plain, gpu = made_runner(alice, client), made_runner(alice, client, "big", "gpu", "linux")
    stranger = made_runner(mallory, client, "evil", "gpu", "linux")
    id = queue_work("gpu")
    assert plain.poll() is None
    assert stranger.poll() is None
    work = gpu.poll()
    assert (work["id"], work["lease"], work["kind"], work["request"]) == (id, 1, "workplace", REQUEST)
    assert gpu.poll() is None
    for what in ("ack", "heartbeat", "result"):
        assert plain.about(work, what)[0] == 409
        assert stranger.about(work, what)[0] == 404
        assert stranger(f"/work/work_{'0' * 36}/{what}", lease=1)[0] == 404
    assert gpu.about(work, "ack")[1]["state"] == "running"
    assert gpu.about(work, "ack")[1]["state"] == "running"
    for _ in range(2):
        assert gpu.about(work, "result")[1] == {"state": "done"}
    assert gpu.about(work, "heartbeat")[0] == 409


def test_labels_can_be_changed_by_the_runner_itself(
    client: FlaskClient, queue_work: QueueWork, alice: Person
) -> None:
    runner = made_runner(alice, client)
    queue_work("gpu")
    assert runner.poll(labels=["linux", "gpu"])
    assert runner("/work/poll", labels=["?"])[0] == 422


def test_work_of_a_runner_that_never_began_goes_to_another_and_the_late_one_is_refused(
    session: OrmSession, client: FlaskClient, queue_work: QueueWork, alice: Person
) -> None:
    first, second = made_runner(alice, client), made_runner(alice, client, "second")
    id = queue_work()
    work = taken(first)
    late(session, id)
    assert first.about(work, "heartbeat")[0] == 409
    again = second.poll()
    assert (again["id"], again["lease"]) == (id, 2)
    for what, more in (("heartbeat", {}), ("actions", {}), ("events", {"seq": 1, "part": 0, "output": "x"})):
        status, body = first.about(work, what, **more)
        assert (status, body["error"]["code"]) == (409, "LEASE_LOST"), what
    assert first.about(work, "result")[0] == 409
    assert first(f"/work/{id}/result", lease=2)[0] == 409
    assert second.about(again, "ack")[0] == 200
    assert second.about(again, "result")[1]["state"] == "done"


def test_work_of_a_runner_that_began_is_lost_with_it(
    session: OrmSession, client: FlaskClient, queue_work: QueueWork, alice: Person
) -> None:
    first, second = made_runner(alice, client), made_runner(alice, client, "second")
    id = queue_work()
    taken(first)
    assert work_queue.ask_action(id, "list", {"folder": ""}) == 1
    late(session, id)
    assert work_queue.work_state(id)[0] == "lost"
    assert second.poll() is None
    assert state(session, id) == "lost"
    assert session.scalars(select(RunnerAction)).all() == []
    assert work_queue.ask_action(id, "list", {}) is None


def test_work_is_not_given_away_for_ever(
    session: OrmSession, client: FlaskClient, queue_work: QueueWork, alice: Person
) -> None:
    runner = made_runner(alice, client)
    id = queue_work()
    for lease in (1, 2, 3):
        assert runner.poll()["lease"] == lease
        late(session, id)
    assert runner.poll() is None
    assert state(session, id) == "lost"


def test_work_that_nobody_wants_any_more_ends(
    session: OrmSession, client: FlaskClient, queue_work: QueueWork, alice: Person
) -> None:
    runner = made_runner(alice, client)
    id = queue_work()
    work = taken(runner)
    waiting = queue_work()
    session.execute(update(RunnerWork).values(opener_until=now() - timedelta(seconds=1)))
    session.commit()
    assert work_queue.sweep_work() == 2
    session.commit()
    assert state(session, waiting) == "failed"
    assert runner.about(work, "heartbeat")[1]["stop"]
    assert runner.about(work, "result")[1]["state"] == "done"
    assert state(session, id) == "done"
    assert work_queue.sweep_work() == 0


def test_removing_a_runner_loses_its_work(
    session: OrmSession, client: FlaskClient, queue_work: QueueWork, mine: ProjectsApi, alice: Person
) -> None:
    runner = made_runner(alice, client)
    id = queue_work()
    taken(runner)
    mine("delete", f"/runners/{session.scalars(select(Runner.id)).one()}")
    assert state(session, id) == "lost"


def test_stop_is_asked_by_the_account_and_heard_by_the_runner(
    session: OrmSession,
    client: FlaskClient,
    queue_work: QueueWork,
    mine: ProjectsApi,
    alice: Person,
    mallory: Person,
) -> None:
    runner = made_runner(alice, client)
    id = queue_work()
    work = taken(runner)
    assert ProjectsApi(client, mallory)("post", f"/runners/work/{id}/stop")[0] == 404
    assert runner(f"/work/{id}/stop")[0] == 403
    for _ in range(2):
        assert mine("post", f"/runners/work/{id}/stop") == (200, {"state": "running", "stop_asked": True})
    assert runner.about(work, "actions") == (200, {"actions": [], "stop": True, "stop_seq": 0})
    assert work_queue.ask_action(id, "list", {}) is None
    queued = queue_work()
    assert mine("post", f"/runners/work/{queued}/stop")[1]["state"] == "failed"


# -- actions -------------------------------------------------------------------------------------------------


def test_actions_are_answered_once_and_in_order(
    session: OrmSession, client: FlaskClient, queue_work: QueueWork, alice: Person
) -> None:
    runner = made_runner(alice, client)
    id = queue_work()
    work = taken(runner)
    secret = {"command": "make", "env": {"TOKEN": "s3cret-value"}}
    assert work_queue.ask_action(id, "run", secret) == 1
    session.commit()
    assert "s3cret" not in session.get_one(RunnerAction, (id, 1)).sealed

    status, found = runner.about(work, "actions")
    assert status == 200
    assert found["actions"] == [{"seq": 1, "verb": "run", "arguments": secret}]
    assert runner.about(work, "actions")[1] == found

    for text, part in (("one ", 0), ("one ", 0), ("two", 1), ("late", 0)):
        assert runner.about(work, "events", seq=1, part=part, output=text)[0] == 200
    assert runner.about(work, "events", seq=1, part=7, output="x")[0] == 422
    assert runner.about(work, "events", seq=2, part=0, output="x")[0] == 422
    assert work_queue.action_progress(id, 1, 0) == (None, "one two")
    assert work_queue.action_progress(id, 1, 4) == (None, "two")

    assert runner.about(work, "actions", replies=[{"seq": 2, "reply": {}}])[0] == 422
    for answer in ({"ended": "exit"}, {"ended": "timeout"}):
        assert runner.about(work, "actions", replies=[{"seq": 1, "reply": answer}])[1]["actions"] == []
    session.expire_all()
    assert work_queue.action_progress(id, 1, 0) == ({"ended": "exit"}, "one two")
    work_queue.stop_command(id)
    session.commit()
    assert runner.about(work, "heartbeat")[1]["stop_seq"] == 1


@pytest.mark.parametrize(
    ("what", "body", "status"),
    [
        ("ack", {"lease": "1"}, 422),
        ("ack", {"lease": None}, 422),
        ("ack", {"lease": 10**12}, 422),
        ("ack", {"lease": -1}, 409),
        ("events", {"seq": 1, "part": 0, "output": "x" * (1 << 20) + "x"}, 422),
        ("events", {"seq": 1, "part": 0, "output": "x" * (5 << 20)}, 413),
        ("events", {"seq": 1, "part": 0, "output": "\0"}, 400),
        ("actions", {"replies": {}}, 422),
        ("actions", {"replies": [{"seq": 1}]}, 422),
        ("actions", {"replies": [{"seq": 1, "reply": {"x": "y" * (13 << 20)}}]}, 413),
        ("blobs", {"hashes": ["0" * 64] * 5_001}, 422),
        ("blobs", {"hashes": [3]}, 422),
        ("result", {"error": 3}, 422),
    ],
)
def test_wrong_and_oversized_requests_are_refused_with_words(
    client: FlaskClient, queue_work: QueueWork, alice: Person, what: str, body: Any, status: int
) -> None:
    runner = made_runner(alice, client)
    queue_work()
    work = taken(runner)
    found, answer = runner.about(work, what, **body)
    assert (found, bool(answer["error"]["message"])) == (status, True)


def test_a_runner_reads_the_tree_of_its_work(
    session: OrmSession, client: FlaskClient, queue_work: QueueWork, mine: ProjectsApi, alice: Person
) -> None:
    runner = made_runner(alice, client)
    tree = mine.tree({"a.txt": "hello", "b/c.txt": "there"})
    queue_work(request={**REQUEST, "manifest_hash": tree})
    work = taken(runner)
    path = f"/v1/runners/work/{work['id']}"
    text = client.get(f"{path}/manifest?lease=1", headers=runner.headers)
    assert sha(text.data) == tree
    for wrong, status in (("2", 409), ("", 422), ("x", 422), ("9" * 30, 422)):
        answer = client.get(f"{path}/manifest?lease={wrong}", headers=runner.headers)
        assert answer.status_code == status
    body = {"lease": 1, "hashes": [sha("hello"), sha("there"), "0" * 64]}
    files = client.post(f"{path}/blobs", json=body, headers=runner.headers).data
    each = [f"{sha(word)} 5\n{word}" for word in ("hello", "there")]
    assert files.decode() in ("".join(each), "".join(reversed(each)))
    assert client.get(f"{path}/manifest?lease=1", headers=alice.headers).status_code == 403
