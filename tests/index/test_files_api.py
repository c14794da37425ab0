"""The JSON routes of documents: who may do what, what is answered, and what is refused."""

import io
from hashlib import sha256
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text
from sqlalchemy.orm import Session as OrmSession

from models import index
from models.core.files import files
from models.core.job_queue import transaction
from models.index import DocumentReader, scope_access
from models.index.document_parsing import parse_document
from models.index.documents import FOLDER
from models.orgs import Org
from tests import factories
from tests.factories import Person
from tests.index.conftest import Upload, pdf

TEXT = b"The committee meets on Tuesday in the copper hall.\n"


def post(person: Person, data: bytes = TEXT, name: str = "notes.txt", **fields: Any) -> Any:
    form = {"file": (io.BytesIO(data), name), **fields}
    return person.browser.post("/api/v1/files", data=form, headers=person.headers)


@pytest.fixture
def rooms(monkeypatch: pytest.MonkeyPatch, alice: Person, bob: Person) -> None:
    """A thread `t1` of alice's, and an assistant `a1` of hers that bob may read."""
    threads, assistants = {"t1": alice.id}, {"a1": alice.id}

    def thread(reader: DocumentReader, id: str) -> str | None:
        return threads.get(id) if threads.get(id) == reader.account_id else None

    def read(reader: DocumentReader, id: str) -> str | None:
        return assistants.get(id) if reader.account_id in (alice.id, bob.id) else None

    def write(reader: DocumentReader, id: str) -> str | None:
        return assistants.get(id) if reader.account_id == alice.id else None

    kinds = {**scope_access._kinds, "thread": (thread, thread), "assistant": (read, write)}
    monkeypatch.setattr(scope_access, "_kinds", kinds)


def test_an_upload_is_read_searched_and_cited(app: Flask, alice: Person, session: OrmSession) -> None:
    answer = post(alice, pdf("Water pipes are made of copper.", "The committee meets on Tuesday."), "a.pdf")
    assert answer.status_code == 201
    uploaded = answer.get_json()
    assert uploaded["state"] == "queued"
    assert uploaded["media_type"] == "application/pdf"
    parse_document(transaction, uploaded["id"])
    got = alice.browser.get(f"/api/v1/files/{uploaded['id']}", headers=alice.headers).get_json()
    assert got["state"] == "ready"
    assert got["report"]["parts"] == 2
    found = alice.browser.post(
        "/api/v1/files/search", json={"query": "when does the committee meet"}, headers=alice.headers
    ).get_json()
    assert found["nothing_found"] is False
    assert found["data"][0]["first"] == 2
    spot = index.check_citation(found["data"][0]["citation"], "committee meets on Tuesday")
    assert spot is not None
    assert spot.first == 2


def test_the_upload_enqueues_its_job(alice: Person, session: OrmSession) -> None:
    post(alice)
    query = "SELECT task_name, lock, priority < 0 FROM procrastinate_jobs"
    found = session.connection().exec_driver_sql(query).all()
    assert [tuple(each) for each in found] == [("index.parse", f"index.parse {alice.id}", True)]


def test_content_is_returned_as_a_download_that_nothing_runs(alice: Person) -> None:
    page = b"<!doctype html><script>alert(1)</script>"
    id = post(alice, page, "evil; ü.html").get_json()["id"]
    answer = alice.browser.get(f"/api/v1/files/{id}/content", headers=alice.headers)
    assert answer.data == page
    assert answer.headers["Content-Disposition"].startswith(
        'attachment; filename="evil_ _.html"; filename*=UTF-8'
    )
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_only_the_account_reaches_its_files(
    alice: Person, bob: Person, mallory: Person, anonymous: Person, session: OrmSession
) -> None:
    id = post(alice).get_json()["id"]
    unknown = "file-" + "0" * 32
    for person, status in ((alice, 200), (bob, 404), (mallory, 404), (anonymous, 401)):
        for address in (f"/api/v1/files/{id}", f"/api/v1/files/{id}/content"):
            assert person.browser.get(address, headers=person.headers).status_code == status
    for method in ("get", "delete"):
        theirs, none = (
            getattr(mallory.browser, method)(f"/api/v1/files/{each}", headers=mallory.headers).get_json()
            for each in (id, unknown)
        )
        assert theirs["error"] == none["error"]
    assert anonymous.browser.delete(f"/api/v1/files/{id}").status_code == 401
    assert post(anonymous).status_code == 401
    for person, count in ((alice, 1), (bob, 0), (mallory, 0)):
        assert len(person.browser.get("/api/v1/files", headers=person.headers).get_json()["data"]) == count
    deleted = alice.browser.delete(f"/api/v1/files/{id}", headers=alice.headers)
    assert deleted.get_json() == {"id": id, "object": "file", "deleted": True}
    assert alice.browser.get(f"/api/v1/files/{id}", headers=alice.headers).status_code == 404


def test_an_upload_in_a_thread_never_leaves_it(
    rooms: None, upload: Upload, alice: Person, bob: Person, session: OrmSession
) -> None:
    document = upload("secret.txt", TEXT, kind="thread", scope="t1")
    for person in (alice, bob):
        everywhere = person.browser.post(
            "/api/v1/files/search", json={"query": "committee copper"}, headers=person.headers
        )
        assert everywhere.get_json() == {"data": [], "nothing_found": True}
    there = {"query": "committee copper", "thread_id": "t1"}
    assert alice.browser.post("/api/v1/files/search", json=there, headers=alice.headers).get_json()["data"]
    assert bob.browser.post("/api/v1/files/search", json=there, headers=bob.headers).status_code == 404
    assert bob.browser.get(f"/api/v1/files/{document.id}", headers=bob.headers).status_code == 404


def test_a_file_of_an_assistant_is_read_by_whoever_may_run_it_and_changed_by_its_owner(
    rooms: None, upload: Upload, alice: Person, bob: Person, mallory: Person, session: OrmSession
) -> None:
    document = upload("handbook.txt", TEXT, kind="assistant", scope="a1")
    there = {"query": "committee copper", "assistant_id": "a1"}
    for person, status in ((alice, 200), (bob, 200), (mallory, 404)):
        answer = person.browser.post("/api/v1/files/search", json=there, headers=person.headers)
        assert answer.status_code == status
        address = f"/api/v1/files/{document.id}"
        assert person.browser.get(address, headers=person.headers).status_code == status
    for person, status in ((mallory, 404), (bob, 404), (alice, 201)):
        assert post(person, assistant_id="a1").status_code == status
    for person, status in ((mallory, 404), (bob, 404), (alice, 200)):
        assert person.browser.delete(address, headers=person.headers).status_code == status


def test_an_organisations_key_reaches_the_organisations_files(
    acme: Org, alice: Person, session: OrmSession
) -> None:
    token = factories.token(alice.user, org_id=acme.id)
    own = {"Authorization": f"Bearer {token}"}
    form = {"file": (io.BytesIO(TEXT), "a.txt")}
    made = alice.browser.post("/api/v1/files", data=form, headers=own).get_json()
    assert made["scope_id"] == acme.id
    assert alice.browser.get(f"/api/v1/files/{made['id']}", headers=own).status_code == 200
    assert alice.browser.get(f"/api/v1/files/{made['id']}", headers=alice.headers).status_code == 404


@pytest.mark.parametrize(
    ("role", "reads", "writes"),
    [("admin", True, True), ("member", True, True), ("viewer", True, False), ("billing", False, False)],
)
def test_the_role_says_who_reads_and_changes_an_organisations_files(
    upload: Upload,
    acme: Org,
    alice: Person,
    bob: Person,
    session: OrmSession,
    role: str,
    reads: bool,
    writes: bool,
) -> None:
    document = upload("a.txt", TEXT, account=acme.id)
    session.execute(
        text("UPDATE org_member SET role = :role WHERE user_id = :id"), {"role": role, "id": bob.id}
    )
    session.commit()
    bob.headers["authorization"] = f"Bearer {factories.token(bob.user, org_id=acme.id)}"
    address = f"/api/v1/files/{document.id}"
    for status in (
        bob.browser.get(address, headers=bob.headers).status_code,
        bob.browser.get("/api/v1/files", headers=bob.headers).status_code,
        bob.browser.post("/api/v1/files/search", json={"query": "copper"}, headers=bob.headers).status_code,
    ):
        assert status == (200 if reads else 404)
    assert post(bob, b"more", "b.txt").status_code == (201 if writes else 404)
    assert bob.browser.delete(address, headers=bob.headers).status_code == (200 if writes else 404)


@pytest.mark.parametrize(
    ("data", "name", "status", "words"),
    [
        (b"", "a.txt", 415, "empty"),
        (b" \n", "a.txt", 415, "empty"),
        (b"\x89PNG\r\n\x1a\n00", "a.txt", 415, "Pictures"),
        (b"\xff\xd8\xff\xe0", "a.pdf", 415, "Pictures"),
        (b"PK\x03\x04rest", "a.zip", 415, "archive"),
        (b"\xd0\xcf\x11\xe0rest", "a.doc", 415, "old or encrypted"),
        (b"{\\rtf1}", "a.rtf", 415, "RTF"),
        (b"\x7fELF\x00", "a", 415, "Programs"),
        (b"text\x00more", "a.txt", 415, "no text"),
    ],
)
def test_what_is_no_document_is_refused_with_a_reason(
    alice: Person, data: bytes, name: str, status: int, words: str
) -> None:
    answer = post(alice, data, name)
    assert answer.status_code == status
    assert words in answer.get_json()["error"]["message"]


@pytest.mark.parametrize("more", [1, 10 << 20])
def test_a_file_of_more_than_20_mb_is_refused(alice: Person, more: int) -> None:
    """The form is written here: the test client would put it into a temporary file, and leave that open."""
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
    body = head + b"a" * (index.MAX_BYTES + more) + b"\r\n--x--\r\n"
    kind = "multipart/form-data; boundary=x"
    answer = alice.browser.post("/api/v1/files", data=body, content_type=kind, headers=alice.headers)
    assert answer.status_code == 413
    assert "larger than 20 MB" in answer.get_json()["error"]["message"]


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ({"data": {}}, 422),
        ({"data": {"file": "a text field"}}, 422),
        ({"json": {"file": "x"}}, 422),
        ({"data": b"\x00\xff", "content_type": "multipart/form-data; boundary=x"}, 422),
        ({"data": {"file": (io.BytesIO(TEXT), "a.txt"), "thread_id": "t", "assistant_id": "a"}}, 422),
        ({"data": {"file": (io.BytesIO(TEXT), "a.txt"), "thread_id": "\x00"}}, 404),
        ({"data": {"file": (io.BytesIO(TEXT), "a.txt"), "thread_id": "x" * 10_000}}, 404),
    ],
)
def test_a_wrong_form_is_refused(alice: Person, arguments: dict[str, Any], status: int) -> None:
    assert alice.browser.post("/api/v1/files", headers=alice.headers, **arguments).status_code == status


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"query": ""},
        {"query": 5},
        {"query": "x" * 1001},
        {"query": "x", "top_k": 0},
        {"query": "x", "top_k": 11},
        {"query": "x", "top_k": "5"},
        {"query": "x", "thread_id": None},
        [],
    ],
)
def test_a_wrong_search_is_refused(alice: Person, body: Any) -> None:
    assert alice.browser.post("/api/v1/files/search", json=body, headers=alice.headers).status_code == 422


def test_no_query_breaks_the_search(upload: Upload, alice: Person, session: OrmSession) -> None:
    upload("a.txt", TEXT)
    for query in ("?", "' | !x:*", "\\", "the", "\u0001", "'" * 1000, "a" * 1000, "😀 ﬁ İ", "@" + alice.id):
        answer = alice.browser.post("/api/v1/files/search", json={"query": query}, headers=alice.headers)
        assert answer.status_code == 200, query


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "limit=٣", "before=x", "before=2026~"])
def test_a_wrong_page_of_the_list_is_refused(alice: Person, query: str) -> None:
    assert alice.browser.get(f"/api/v1/files?{query}", headers=alice.headers).status_code == 422


def test_the_list_is_paged_newest_first(alice: Person, upload: Upload, session: OrmSession) -> None:
    for number in range(5):
        upload(f"{number}.txt", f"text {number}", parse=False)
    names: list[str] = []
    address = "/api/v1/files?limit=2"
    while address:
        page = alice.browser.get(address, headers=alice.headers).get_json()
        names += [each["name"] for each in page["data"]]
        following = page["next_cursor"]
        address = f"/api/v1/files?limit=2&before={following.replace('+', '%2B')}" if following else ""
    assert names == ["4.txt", "3.txt", "2.txt", "1.txt", "0.txt"]


def test_limits_of_files_and_bytes(
    app: Flask, alice: Person, session: OrmSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = {"stoa_documents_per_account": 2, "stoa_document_bytes_per_account": 100}
    monkeypatch.setitem(app.extensions, "settings", app.extensions["settings"].model_copy(update=limits))
    assert post(alice, b"x" * 60).status_code == 201
    assert "MB of documents" in post(alice, b"y" * 60).get_json()["error"]["message"]
    assert post(alice, b"z").status_code == 201
    refused = post(alice, b"z")
    assert refused.status_code == 409
    assert refused.get_json()["error"]["code"] == "document_limit_reached"
    stored = files(app.extensions["settings"]).names(FOLDER)
    assert len(stored.keys() & {sha256(each).hexdigest() for each in (b"x" * 60, b"y" * 60, b"z")}) == 2
    first = alice.browser.get("/api/v1/files", headers=alice.headers).get_json()["data"][0]["id"]
    alice.browser.delete(f"/api/v1/files/{first}", headers=alice.headers)
    assert post(alice, b"z").status_code == 201
