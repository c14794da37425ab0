"""Feedback of users, and what else Codebuff's clients send (contract 2.14, 2.15, A.5)."""

import uuid
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from models.accounts.account_deletion import account_erasing
from models.admin.feedback import Feedback
from models.core.db import now
from tests.factories import Person

PATH = "/api/v1/feedback"
GENERAL = {"text": "Great <b>tool</b>", "category": "good_result", "type": "general"}


def stored(session: OrmSession) -> list[Feedback]:
    session.expire_all()
    return list(session.scalars(select(Feedback).order_by(Feedback.created_at)))


def test_it_is_stored_once_and_shown_to_operators(
    client: FlaskClient, session: OrmSession, alice: Person, root: Person, auditor: Person, mallory: Person
) -> None:
    about = {**GENERAL, "type": "message", "messageId": "msg-1", "clientFeedbackId": str(uuid.uuid4())}
    for body in (about, about, {**GENERAL, "category": "app_bug", "source": "cli", "unknown": 1}):
        answer = client.post(PATH, json=body, headers=alice.headers)
        assert (answer.status_code, answer.json) == (200, {"success": True})
    assert [(row.category, row.message_id) for row in stored(session)] == [
        ("good_result", "msg-1"),
        ("app_bug", None),
    ]
    page = root.browser.get("/admin/feedback").text
    assert "Great &lt;b&gt;tool&lt;/b&gt;" in page
    assert "msg-1" in page
    assert "msg-1" not in root.browser.get("/admin/feedback?category=app_bug").text
    assert auditor.browser.get("/admin/feedback").status_code == 200
    assert mallory.browser.get("/admin/feedback").status_code == 403
    assert root.browser.get("/admin/feedback?category=x&before=x").status_code in (400, 422)
    assert alice.user is not None
    account_erasing.send(alice.user, now=now())
    session.commit()
    assert stored(session) == []


BAD: list[Any] = [
    {},
    [],
    {**GENERAL, "text": ""},
    {**GENERAL, "text": "x" * 20_001},
    {**GENERAL, "text": "a\u0000"},
    {**GENERAL, "category": "x"},
    {**GENERAL, "type": "message"},
    {**GENERAL, "clientFeedbackId": "x"},
    {**GENERAL, "source": "fax"},
]


@pytest.mark.parametrize("body", BAD)
def test_bad_bodies(client: FlaskClient, session: OrmSession, alice: Person, body: Any) -> None:
    assert client.post(PATH, json=body, headers=alice.headers).status_code == 400
    assert stored(session) == []


def test_who_may(client: FlaskClient, session: OrmSession) -> None:
    assert client.post(PATH, json=GENERAL).status_code == 401
    unknown = client.post(PATH, json=GENERAL, headers={"authorization": f"Bearer cb-pat-{'0' * 64}"})
    assert (unknown.status_code, unknown.json) == (401, {"error": "Invalid Codebuff API key"})


def test_what_this_server_has_none_of(client: FlaskClient, alice: Person) -> None:
    ads = client.post("/api/v1/ads", json={"messages": []}, headers=alice.headers)
    assert (ads.status_code, ads.json) == (200, {"ad": None, "ads": []})
    seen = client.post("/api/v1/ads/impression", json={"impUrl": "x"}, headers=alice.headers)
    assert (seen.status_code, seen.json["creditsGranted"]) == (404, 0)
    assert client.post("/api/v1/ads", json={}).status_code == 401
    assert client.post("/api/logs", json={"records": [{"level": "info"}]}).json == {"success": True}
    assert client.get("/api/feed").json == {"articles": []}
    download = client.get("/api/releases/download/1.2.3/codebuff-linux.tar.gz")
    assert (download.status_code, download.location) == (
        302,
        "https://github.com/CodebuffAI/codebuff-community/releases/download/v1.2.3/codebuff-linux.tar.gz",
    )
    assert client.get("/releases").status_code == 307
    assert client.get("/config").location.endswith("/docs/clients")
