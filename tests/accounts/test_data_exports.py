"""The export of a user's data: complete, without secrets, of its owner only, made once, in parts and without a transaction."""

import csv
import io
import json
import zipfile
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session as OrmSession

from models.accounts import DataExport, EncryptedApiKey, Passkey, Session, User, data_exports, export_making
from models.accounts.credentials import hash_token
from models.core import jobs, mail
from models.core.audit_log import AuditLog
from models.core.db import db
from models.core.files import Files, FilesUnavailable, files
from models.core.mail import Email
from models.core.settings import Settings
from models.gateway import CallBody, StoredResponse
from models.store.catalogue.stars import AgentStar
from tests import factories
from tests.accounts.browsing import token_of
from tests.factories import Person

ACCOUNT = "/profile?tab=account"


@pytest.fixture
def storage(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Files]:
    """The file storage, empty afterwards. Every write checks that no transaction is open."""
    found = files(settings)
    write = found.write

    def checked(path: str, content: bytes) -> None:
        assert not db.session().in_transaction()
        write(path, content)

    monkeypatch.setattr(found, "write", checked)
    yield found
    for name in found.names(data_exports.FOLDER):
        found.remove(f"{data_exports.FOLDER}/{name}")


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Email]:
    """The mails."""
    messages: list[Email] = []
    monkeypatch.setattr(mail, "send", lambda _settings, message: messages.append(message))
    return messages


def post(browser: FlaskClient, page: str = ACCOUNT) -> Any:
    return browser.post("/profile/exports", data={"csrf_token": token_of(browser.get(page))})


def requested(session: OrmSession, person: Person) -> str:
    assert post(person.browser).status_code == 303
    session.expire_all()
    query = select(DataExport.id).where(DataExport.user_id == person.id)
    return session.scalars(query.order_by(DataExport.created_at.desc())).first() or ""


def archive(person: Person, id: str) -> dict[str, str]:
    answer = person.browser.get(f"/profile/exports/{id}")
    assert answer.status_code == 200
    assert answer.headers["Content-Length"] == str(len(answer.data))
    with zipfile.ZipFile(io.BytesIO(answer.data)) as found:
        assert found.testzip() is None
        return {name: found.read(name).decode() for name in found.namelist()}


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def fill(session: OrmSession, person: Person, word: str) -> tuple[str, ...]:
    """Data of every kind, all with this word in it. Returns secrets of the user."""
    user = session.get_one(User, person.id)
    key = factories.token(user, name=f"{word} laptop")
    factories.api_key(user, name=f"{word} robot", permissions=["chat"])
    factories.grant(user, 500)
    run = factories.run(user, tags=[f"{word}-tag"], score=1)
    factories.step(run, 1)
    body = {
        "request": [{"role": "user", "content": f"{word} prompt"}],
        "response": {"content": f"{word} answer"},
    }
    message = factories.message(user, credits=2, **body)
    factories.call(user, message=message, run_id=run.id, key_id=hash_token(key), micro_credits=1_500_000)
    failed = factories.call(user, state="failed", error="provider_error", http_status=502)
    factories.save(
        CallBody(
            request_id=failed.request_id,
            finished_at=failed.finished_at,
            request=[{"content": f"{word} lost"}],
            error_message=f"{word} broke",
        )
    )
    factories.save(
        StoredResponse(
            id=f"resp_{word}",
            account_id=user.id,
            user_id=user.id,
            chain_id=f"resp_{word}",
            size=1,
            item_ids=[],
            input=[{"type": "message", "content": f"{word} input"}],
            response={"output": []},
        )
    )
    publisher = factories.publisher(user, f"{word}-works", bio=f"{word} bio")
    factories.agent(publisher, id="reviewer")
    factories.agent_config(publisher, version="9.0.0", data={"spawnerPrompt": f"{word} definition"})
    factories.save(AgentStar(publisher_id=publisher.id, agent_id="reviewer", user_id=user.id))
    factories.save(EncryptedApiKey(user_id=user.id, type="openai", api_key=f"sealed-{word}"))
    factories.save(
        Passkey(
            user_id=user.id,
            credential_id=word.encode(),
            public_key=b"",
            sign_count=0,
            transports=["usb"],
            name=f"{word} phone",
        )
    )
    session.execute(update(User).where(User.id == user.id).values(password=f"password-{word}"))
    session.commit()
    hashes = session.scalars(select(Session.session_token).where(Session.user_id == user.id)).all()
    return (key, key[15:-8], f"sealed-{word}", f"password-{word}", *hashes)


def test_an_export_has_everything_of_its_owner_and_no_secret(
    session: OrmSession, alice: Person, bob: Person, settings: Settings, storage: Files, sent: list[Email]
) -> None:
    secrets, others = fill(session, alice, "osprey"), fill(session, bob, "kestrel")
    id = requested(session, alice)
    assert "Requested" in alice.browser.get(ACCOUNT).text
    export_making.make_export(id, storage, settings)
    found = archive(alice, id)
    everything = "\n".join(found.values())
    for secret in (*secrets, *others, "kestrel", bob.id, "bob@example.org"):
        assert secret not in everything, secret
    assert lines(found["profile.jsonl"])[0]["email"] == "alice@example.org"
    settled, failed = sorted(table(found["calls.csv"]), key=lambda row: row["state"], reverse=True)
    assert (settled["credits"], settled["key"], settled["run"]) == (
        "1.5",
        "osprey laptop",
        lines(found["runs.jsonl"])[0]["id"],
    )
    assert (failed["error"], failed["status"]) == ("provider_error", "502")
    kept = {row["call"]: row for row in lines(found["prompts.jsonl"])}
    assert kept[settled["call"]]["response"] == {"content": "osprey answer"}
    assert kept[failed["call"]]["error"] == "osprey broke"
    run = lines(found["runs.jsonl"])[0]
    assert (run["tags"], run["score"], run["steps"][0]["number"]) == (["osprey-tag"], 1, 1)
    assert lines(found["responses.jsonl"])[0]["input"][0]["content"] == "osprey input"
    assert table(found["grants.csv"])[0]["principal"] == "500"
    assert [row["record"] for row in table(found["statement.csv"])] == ["opening", "entry", "closing"]
    assert lines(found["agent_versions.jsonl"])[-1]["definition"] == {"spawnerPrompt": "osprey definition"}
    assert [row["name"] for row in table(found["keys.csv"])].count("osprey laptop") == 1
    assert table(found["key_permissions.csv"])[0]["permissions"] == "inference:chat"
    assert table(found["stars.csv"])[0]["agent"] == "reviewer"
    assert table(found["passkeys.csv"])[0]["transports"] == "usb"
    assert [row["action"] for row in lines(found["audit.jsonl"])] == ["data.export_requested"]
    for name, text in found.items():
        assert name == "README.txt" or f"\n{name}\n" in found["README.txt"]
        if name.endswith(".csv") and len(table(text)):
            assert all(f"    {column}: " in found["README.txt"] for column in table(text)[0])
    assert [(each.to, each.subject) for each in sent] == [("alice@example.org", "Your data on Stoa is ready")]
    page = alice.browser.get(ACCOUNT).text
    assert f"/profile/exports/{id}" in page
    actions = session.scalars(select(AuditLog.action).order_by(AuditLog.id)).all()
    assert actions == ["data.export_requested", "data.export_downloaded"]


def test_only_its_owner_in_a_browser_gets_an_export(
    session: OrmSession, cast: dict[str, Person], settings: Settings, storage: Files, sent: list[Email]
) -> None:
    id = requested(session, cast["alice"])
    path = f"/profile/exports/{id}"
    assert cast["alice"].browser.get(path).status_code == 404  # not made yet
    export_making.make_export(id, storage, settings)
    for name in ("bob", "mallory", "carol"):
        assert cast[name].browser.get(path).status_code == 404
        assert path not in cast[name].browser.get(ACCOUNT).text
    for address in (path, "/profile/exports"):
        assert cast["anonymous"].browser.get(address).status_code == 302
    assert post(cast["anonymous"].browser, "/login").headers["Location"] == "/login"
    assert cast["alice"].browser.get("/profile/exports/%00").status_code == 404
    key = factories.token(session.get_one(User, cast["alice"].id))
    client = cast["anonymous"].browser
    client.set_cookie("next-auth.session-token", key)
    assert client.get(path).status_code == 403
    assert cast["alice"].browser.get(path).status_code == 200


def test_one_is_made_at_a_time_and_a_finished_one_stays(
    session: OrmSession, alice: Person, settings: Settings, storage: Files, sent: list[Email]
) -> None:
    first = requested(session, alice)
    assert requested(session, alice) == first
    assert session.scalar(select(func.count()).select_from(DataExport)) == 1
    export_making.make_export(first, storage, settings)
    stored = storage.names(data_exports.FOLDER)
    export_making.make_export(first, storage, settings)
    assert storage.names(data_exports.FOLDER) == stored
    assert len(sent) == 1
    second = requested(session, alice)
    assert second != first
    assert alice.browser.get(f"/profile/exports/{first}").status_code == 404
    export_making.remove_old(storage)
    assert storage.names(data_exports.FOLDER) == {}
    export_making.make_export(second, storage, settings)
    session.execute(update(DataExport).values(expires_at=factories.now() - timedelta(seconds=1)))
    session.commit()
    assert "has expired" in alice.browser.get(ACCOUNT).text
    assert alice.browser.get(f"/profile/exports/{second}").status_code == 404
    export_making.remove_old(storage)
    assert storage.names(data_exports.FOLDER) == {}
    assert set(session.scalars(select(DataExport.state))) == {"expired"}


def test_a_killed_attempt_is_repeated_and_the_last_failure_shows(
    session: OrmSession,
    alice: Person,
    settings: Settings,
    storage: Files,
    sent: list[Email],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fill(session, alice, "osprey")
    monkeypatch.setattr(export_making, "PART", 1_000)
    monkeypatch.setattr(export_making, "NOTE_EVERY", timedelta(0))
    id = requested(session, alice)
    write, written = storage.write, []

    def breaking(path: str, content: bytes) -> None:
        if len(written) == 2:
            raise FilesUnavailable("broken")
        written.append(path)
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "write", breaking)
        with pytest.raises(FilesUnavailable):
            export_making.make_export(id, storage, settings)
    session.expire_all()
    row = session.scalars(select(DataExport)).one()
    assert (row.state, row.bytes > 0, row.steps > 20) == ("running", True, True)
    page = alice.browser.get("/profile/exports", headers={"HX-Request": "true"}).text
    assert f"file {row.step} of {row.steps}" in page
    assert 'hx-trigger="every 3s"' in page
    export_making.make_export(id, storage, settings)
    assert "osprey prompt" in archive(alice, id)["prompts.jsonl"]
    session.expire_all()
    assert session.scalars(select(DataExport.parts)).one() > 2

    id = requested(session, alice)
    session.execute(
        update(DataExport).where(DataExport.id == id).values(attempts=data_exports.MOST_ATTEMPTS - 1)
    )
    session.commit()
    written[:] = ["", ""]
    monkeypatch.setattr(storage, "write", breaking)
    export_making.make_export(id, storage, settings)
    assert "Try again" in alice.browser.get(ACCOUNT).text
    session.expire_all()
    assert session.get_one(DataExport, id).state == "failed"


def test_an_attempt_ends_when_nobody_waits_for_it(
    session: OrmSession,
    alice: Person,
    settings: Settings,
    storage: Files,
    sent: list[Email],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    id = requested(session, alice)
    monkeypatch.setattr(export_making, "NOTE_EVERY", timedelta(0))
    write = storage.write

    def replaced(path: str, content: bytes) -> None:
        write(path, content)
        session.execute(update(DataExport).values(attempts=4))
        session.commit()

    monkeypatch.setattr(storage, "write", replaced)
    export_making.make_export(id, storage, settings)
    session.expire_all()
    assert session.get_one(DataExport, id).state == "running"
    assert sent == []
    later = factories.now() + data_exports.STUCK_AFTER + timedelta(seconds=1)
    data_exports.expire_exports(later)
    session.commit()
    assert session.get_one(DataExport, id).state == "failed"


def test_the_jobs_make_and_remove_exports(
    session: OrmSession,
    alice: Person,
    settings: Settings,
    storage: Files,
    sent: list[Email],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jobs, "get_settings", lambda: settings)
    id = requested(session, alice)
    jobs.make_data_export(id)
    jobs.remove_data_exports(0)
    assert alice.browser.get(f"/profile/exports/{id}").status_code == 200
    session.delete(session.get_one(DataExport, id))
    session.commit()
    jobs.remove_data_exports(0)
    assert storage.names(data_exports.FOLDER) == {}
    jobs.make_data_export(id)
