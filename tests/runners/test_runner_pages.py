"""The pages of runners: made once, shown once, removed by whom it may; of people and organisations."""

import html
import re
from datetime import timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import func, select
from sqlalchemy.orm import Session as OrmSession

from models.core.db import now
from models.orgs import Org
from models.runners import Runner, RunnerWork, work_queue
from tests.factories import Person
from tests.runners.runner_calls import RunnerCalls, made_runner


def post(who: Person, path: str, headers: dict[str, str] | None = None, **data: str) -> Any:
    """Send a form as its page does."""
    token = (who.browser.get("/api/auth/csrf").json or {}).get("csrfToken", "")
    return who.browser.post(path, data={"csrf_token": token, **data}, headers=headers or {})


def runner(session: OrmSession) -> Runner:
    session.expire_all()
    return session.scalars(select(Runner)).one()


def test_without_runners_the_page_says_the_next_step_and_where_commands_run(alice: Person) -> None:
    page = alice.browser.get("/runners").text
    assert "No runners yet" in page
    assert "Virtual:" in page
    assert "No runner of yours is connected" in page


def test_a_runner_is_made_its_key_shown_once_and_it_connects(
    session: OrmSession, alice: Person, client: FlaskClient
) -> None:
    answer = post(alice, "/runners", name="laptop", labels="gpu, linux")
    assert answer.status_code == 303
    made = runner(session)
    assert (made.name, made.labels, made.created_by) == ("laptop", ["gpu", "linux"], alice.id)
    first = alice.browser.get(answer.location)
    [token] = re.findall(r"STOA_RUNNER_TOKEN=(sk_live_\w+)", first.text)
    assert "Never connected" in first.text
    assert first.headers["Cache-Control"] == "no-store"
    again = alice.browser.get(answer.location).text
    assert token not in again
    assert "shown once" in again

    assert RunnerCalls(client, token).poll(isolation="bubblewrap, without a network") is None
    page = alice.browser.get("/runners").text
    assert "Connected" in page
    assert "bubblewrap, without a network" in page
    assert "your own runner laptop" in page
    runner(session).last_seen_at = now() - timedelta(minutes=5)
    session.commit()
    assert "Away" in alice.browser.get("/runners").text


def test_the_command_to_paste_is_harmless_whatever_the_name(session: OrmSession, alice: Person) -> None:
    answer = post(alice, "/runners", name="it's $(id)")
    page = html.unescape(alice.browser.get(answer.location).text)
    assert """runner --name 'it'"'"'s $(id)'""" in page


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({}, "Enter a name"),
        ({"name": "x" * 61}, "at most 60"),
        ({"name": "a", "labels": "b&d"}, "labels of letters"),
        ({"name": "taken"}, "is named"),
    ],
)
def test_a_form_that_is_wrong_says_so_and_keeps_what_was_entered(
    session: OrmSession, alice: Person, client: FlaskClient, data: dict[str, str], words: str
) -> None:
    made_runner(alice, client, "taken")
    answer = post(alice, "/runners", {"HX-Request": "true"}, **data)
    assert answer.status_code == 422
    assert words in answer.text
    assert 'aria-invalid="true"' in answer.text
    assert f'value="{data.get("name", "")}"' in answer.text
    assert session.scalar(select(func.count()).select_from(Runner)) == 1


def test_a_runner_is_removed_after_a_question(
    session: OrmSession, alice: Person, client: FlaskClient
) -> None:
    calls = made_runner(alice, client)
    address = f"/runners/{runner(session).id}/removal"
    assert "revoked" in alice.browser.get(address).text
    answer = post(alice, address)
    assert (answer.status_code, answer.location) == (303, "/runners")
    assert calls("/work/poll")[0] == 401
    assert post(alice, address).status_code == 404


def test_strangers_see_no_runner_of_others(
    session: OrmSession, alice: Person, mallory: Person, anonymous: Person, client: FlaskClient
) -> None:
    made_runner(alice, client)
    id = runner(session).id
    for path in (f"/runners/{id}", f"/runners/{id}/removal"):
        assert mallory.browser.get(path).status_code == 404
        assert anonymous.browser.get(path).status_code == 302
    assert post(mallory, f"/runners/{id}/removal").status_code == 404
    assert post(anonymous, "/runners", name="x").status_code in (303, 400, 403)
    assert "laptop" not in mallory.browser.get("/runners").text
    assert runner(session).id == id


def test_members_make_runners_of_an_organisation_and_only_makers_and_admins_remove_them(
    session: OrmSession, acme: Org, cast: dict[str, Person]
) -> None:
    base = f"/orgs/{acme.slug}/runners"
    assert cast["mallory"].browser.get(base).status_code == 404
    assert cast["dave"].browser.get(base).status_code == 403
    assert post(cast["dave"], base, name="no").status_code == 403
    assert post(cast["alice"], base, name="build").status_code == 303
    made = runner(session)
    assert (made.account_id, made.name) == (acme.id, "build")
    removal = f"{base}/{made.id}/removal"
    page = cast["bob"].browser.get(base).text
    assert "build" in page
    assert removal not in page
    assert cast["bob"].browser.get(removal).status_code == 403
    assert post(cast["bob"], removal).status_code == 403
    assert post(cast["carol"], removal).status_code == 303
    assert session.scalars(select(Runner)).all() == []


def test_latest_work_is_listed_with_what_became_of_it(
    session: OrmSession, alice: Person, client: FlaskClient
) -> None:
    made_runner(alice, client)
    kinds: list[tuple[str, str | None]] = [("done", None), ("lost", "It went."), ("queued", None)]
    for state, error in kinds:
        ended = None if state == "queued" else now()
        session.add(
            RunnerWork(
                account_id=alice.id,
                kind="workplace",
                state=state,
                error=error,
                ended_at=ended,
                opener_until=now(),
                request={},
            )
        )
    session.commit()
    page = alice.browser.get("/runners").text
    for words in ("Latest work", "Done", "Lost", "It went.", "Waiting"):
        assert words in page


def test_the_page_says_what_a_runner_does_now(
    session: OrmSession, alice: Person, client: FlaskClient
) -> None:
    runner = made_runner(alice, client)
    assert runner.poll() is None
    assert "Waits for work" in alice.browser.get("/runners").text
    row = work_queue.open_work(alice.id, "workplace", {"manifest_hash": None, "limits": {}}, ())
    session.commit()
    work = runner.poll()
    assert runner.about(work, "ack")[0] == 200
    assert "Waits for the next step" in alice.browser.get("/runners").text
    work_queue.ask_action(row.id, "run", {"command": "make secret-target"})
    session.commit()
    page = alice.browser.get("/runners").text
    assert "Runs a command" in page
    assert "secret-target" not in page
    row.lease_until = now() - timedelta(seconds=1)
    session.commit()
    assert "Runs a command" not in alice.browser.get("/runners").text
