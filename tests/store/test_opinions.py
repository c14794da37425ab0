"""Stars, reports and downloads of agents."""

import pytest
from flask.testing import FlaskClient
from sqlalchemy import delete, select, text
from sqlalchemy.orm import Session as OrmSession

from models.core import jobs
from models.core.audit_log import AuditLog
from models.core.db import db
from models.store import Agent, AgentVersion, Publisher
from models.store.catalogue.stars import AgentStar
from tests import factories
from tests.factories import Person
from tests.store.listings import post

PAGE = "/publishers/harbor/agents/note"


@pytest.fixture
def harbor(session: OrmSession, alice: Person) -> Publisher:
    made = factories.publisher(alice.user, "harbor")
    factories.agent(made, "note")
    factories.agent(made, "plan", weekly_credits=5)
    return made


def stars_of(session: OrmSession, agent: str = "note") -> int:
    session.expire_all()
    return session.get_one(Agent, ("harbor", agent)).stars


def test_one_star_a_person_however_often_it_is_sent(
    session: OrmSession, harbor: Publisher, alice: Person, bob: Person, mallory: Person, anonymous: Person
) -> None:
    for who in (alice, bob, bob, mallory):
        assert post(who, f"{PAGE}/star").status_code == 303
    assert stars_of(session) == 3
    assert "/login" in post(anonymous, f"{PAGE}/star").headers["Location"]
    for _ in range(2):
        post(bob, f"{PAGE}/star", do="undo")
    assert stars_of(session) == 2
    assert post(bob, "/publishers/harbor/agents/none/star").status_code == 404
    page = mallory.browser.get(f"{PAGE}/1.0.0").text
    assert 'aria-pressed="true"' in page
    assert "2 stars" in page
    assert 'aria-pressed="false"' in bob.browser.get(f"{PAGE}/1.0.0").text
    card = anonymous.browser.get("/store?sort=stars").text
    assert card.index("/agents/note/") < card.index("/agents/plan/")
    assert "2 stars" in card
    session.execute(delete(AgentStar).where(AgentStar.user_id == mallory.id))
    session.commit()
    assert stars_of(session) == 1


@pytest.mark.parametrize(
    ("method", "path", "status", "body"),
    [
        ("post", "harbor/note", 200, {"stars": 1, "starred": True}),
        ("delete", "harbor/note", 200, {"stars": 0, "starred": False}),
        ("post", "harbor/none", 404, None),
        ("post", "har%00bor/note", 404, None),
        ("delete", "nobody/note", 404, None),
    ],
)
def test_the_api_of_stars(
    harbor: Publisher, bob: Person, anonymous: Person, method: str, path: str, status: int, body: object
) -> None:
    csrf = (bob.browser.get("/api/auth/csrf").json or {})["csrfToken"]
    for _ in range(2):
        answer = getattr(bob.browser, method)(f"/api/agents/{path}/star", headers={"X-CSRF-Token": csrf})
        assert answer.status_code == status, answer.text
        if body:
            assert answer.json == body
    assert getattr(anonymous.browser, method)(f"/api/agents/{path}/star").status_code in (401, 403)


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ({"reason": "spam"}, 303),
        ({"reason": "other", "text": "It sends my files away."}, 303),
        ({"reason": "other"}, 422),
        ({"reason": "nonsense"}, 422),
        ({}, 422),
        ({"reason": "spam", "text": "x" * 1001}, 422),
        ({"reason": "spam", "text": "a\x00b"}, 422),
    ],
)
def test_a_report_goes_to_the_audit_log(
    session: OrmSession, harbor: Publisher, bob: Person, anonymous: Person, form: dict[str, str], status: int
) -> None:
    assert bob.browser.get(f"{PAGE}/report").status_code == 200
    assert "/login" in post(anonymous, f"{PAGE}/report", **form).headers["Location"]
    answer = post(bob, f"{PAGE}/report", **form)
    assert answer.status_code == status
    rows = session.scalars(select(AuditLog).where(AuditLog.action == "store.report")).all()
    assert [row.subject for row in rows] == (["harbor/note"] if status == 303 else [])
    if status == 422:
        assert "aria-invalid" in answer.text
    assert post(bob, "/publishers/harbor/agents/none/report", **form).status_code == 404


def test_reports_are_limited(harbor: Publisher, bob: Person) -> None:
    found = [post(bob, f"{PAGE}/report", reason="other", text=f"No. {n}").status_code for n in range(12)]
    assert found == [303] * 10 + [429] * 2


def test_a_download_counts_once_per_person_and_day(
    client: FlaskClient, session: OrmSession, harbor: Publisher, bob: Person
) -> None:
    def downloads() -> int:
        session.expire_all()
        return session.get_one(AgentVersion, ("harbor", "note", "1.0.0")).downloads

    address = f"{PAGE}/1.0.0/definition.json"
    for browser in (client, client, bob.browser, bob.browser):
        assert browser.get(address).status_code == 200
    assert client.head(address).status_code == 200
    assert client.get(f"{PAGE}/9.9.9/definition.json").status_code == 404
    assert downloads() == 2
    assert client.get(address, environ_base={"REMOTE_ADDR": "192.0.2.7"}).status_code == 200
    assert downloads() == 3
    session.execute(text("UPDATE agent_download SET day = day - 2"))
    session.commit()
    assert client.get(address).status_code == 200
    with client.application.app_context():
        jobs.forget_downloads(timestamp=0)
        db.session.commit()
    assert downloads() == 4
    assert session.execute(text("SELECT count(*) FROM agent_download")).scalar() == 1
    assert "<dd>4, all time, one a day" in client.get(f"{PAGE}/1.0.0").text
